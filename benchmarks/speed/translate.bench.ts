// What a device's access costs the model, profile lru.

import { Hypervisor } from '../../hypervisor/index.ts';
import { Access } from '../../passthrough/index.ts';
import type { SpeedCase } from './speed-case.ts';

const DEVICE = '0000:03:00.0';
const SOURCE = 0x0300;

function unitWithPages(pages: number) {
  const machine = new Hypervisor({
    domains: 1,
    frames: pages + 64,
    gfns: pages,
    windowPages: 0,
    devices: [{ device: DEVICE, unit: 0 }],
    caches: { kind: 'lru' },
    // The figures mean leaves of 4 KiB, in tables that stay.
    iommu: { superpages: false, reclaimTables: false },
  });
  machine.step({ op: 'create_domain', domain: 0, kind: 'hvm', frames: pages, iommu: true });
  machine.step({ op: 'assign_device', device: DEVICE, domain: 0 });
  return machine.units[0]!;
}

let sink = 0;

function walks(name: string, pages: number, stride: number, opsPerSecond: number, note: string): SpeedCase {
  const items = 4096;
  return {
    name,
    note,
    target: { opsPerSecond },
    items,
    prepare() {
      const unit = unitWithPages(pages);
      return {
        run() {
          let sum = 0;
          for (let i = 0, dfn = 0; i < items; i += 1) {
            sum += unit.translate(SOURCE, dfn, Access.write);
            dfn += stride;
            if (dfn >= pages) dfn -= pages;
          }
          sink = sum;
        },
      };
    },
  };
}

export const translations: readonly SpeedCase[] = [
  walks('translate/hit', 64, 1, 20e6, '64 pages in turn, all in the IOTLB (128 entries, 4 ways)'),
  walks(
    'translate/miss-hot',
    4096,
    129,
    8e6,
    '4,096 pages in turn by a stride of 129: every one a miss, tables and structure caches warm',
  ),
];

/** Keeps what was measured from being optimised away. */
export function lastSum(): number {
  return sink;
}
