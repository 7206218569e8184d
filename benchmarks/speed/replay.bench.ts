// Events of the shipped trace through the model, parsed beforehand, without timing.

import { fileURLToPath } from 'node:url';
import { Hypervisor, type Op } from '../../hypervisor/index.ts';
import { importFtrace } from '../trace/ftrace.ts';
import type { SpeedCase } from './speed-case.ts';

const DEVICE = '0000:01:00.0';
/** From the compiled file and from the source alike: the package's root lies above `benchmarks` or `dist`. */
const here = fileURLToPath(new URL('.', import.meta.url));
const root = here.slice(0, here.search(/(dist[\\/])?benchmarks[\\/]speed[\\/]?$/));

async function operations(): Promise<{ ops: Op[]; frames: number }> {
  const frames = new Map<number, number>();
  const ops: Op[] = [];
  await importFtrace(`${root}examples/data/nvme-randread-4k-qd32.strict.txt.gz`, {
    map({ dfn, pages, mfn }) {
      for (let page = 0; page < pages; page += 1) if (!frames.has(mfn + page)) frames.set(mfn + page, frames.size);
      for (let page = 0; page < pages; page += 1) {
        ops.push({ op: 'dma_map', domain: 0, dfn: dfn + page, frame: frames.get(mfn + page)!, pages: 1, access: 'rw' });
      }
    },
    unmap({ dfn, pages }) {
      ops.push({ op: 'dma_unmap', domain: 0, dfn, pages });
    },
  });
  return { ops, frames: frames.size };
}

const { ops, frames } = await operations();

export const replays: readonly SpeedCase[] = [
  {
    name: 'replay/untimed',
    note: 'map and unmap events of the shipped trace, parsed beforehand, strict-page, unit lru',
    target: { opsPerSecond: 1e6 },
    items: ops.length,
    prepare() {
      const machine = new Hypervisor({
        domains: 1,
        frames: frames + 256,
        gfns: 0,
        windowPages: 0,
        devices: [{ device: DEVICE, unit: 0 }],
        caches: { kind: 'lru' },
        // The figures mean leaves of 4 KiB, in tables that stay.
        iommu: { superpages: false, reclaimTables: false },
      });
      machine.step({ op: 'create_domain', domain: 0, kind: 'hvm', frames: 0, iommu: true, deviceTables: 'empty' });
      machine.step({ op: 'assign_device', device: DEVICE, domain: 0 });
      let first = -1;
      for (let frame = 0; frame < frames; frame += 1) {
        const taken = machine.parts.frames.allocate(0 as never);
        if (first < 0) first = taken;
      }
      const placed = ops.map((op) => (op.op === 'dma_map' ? { ...op, frame: op.frame + first } : op));
      return {
        run() {
          for (const op of placed) machine.step(op);
        },
      };
    },
  },
];
