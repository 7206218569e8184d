// A million device mappings: time and memory of each.

import { Hypervisor } from '../../hypervisor/index.ts';
import type { SpeedCase } from './speed-case.ts';

const PAGES = 1_000_000;

function machineFor(pages: number): Hypervisor {
  const machine = new Hypervisor({
    domains: 1,
    frames: pages + 4096,
    gfns: 0,
    windowPages: 0,
    caches: { kind: 'lru' },
    // The figures mean leaves of 4 KiB, in tables that stay.
    iommu: { superpages: false, reclaimTables: false },
  });
  machine.step({ op: 'create_domain', domain: 0, kind: 'hvm', frames: 0, iommu: true, deviceTables: 'empty' });
  return machine;
}

/** Frames that the domain owns, taken without the p2m, so that only the mapping is measured. */
function ownFrames(machine: Hypervisor, pages: number): number {
  let first = -1;
  for (let page = 0; page < pages; page += 1) {
    const frame = machine.parts.frames.allocate(0 as never);
    if (first < 0) first = frame;
  }
  return first;
}

export const maps: readonly SpeedCase[] = [
  {
    name: 'map/1000000',
    note: 'dma_map of 1,000,000 single pages in one operation, then dma_unmap; bytes of tables per page',
    target: { bytesPerItem: 12 },
    items: PAGES,
    prepare() {
      const machine = machineFor(PAGES);
      const frame = ownFrames(machine, PAGES);
      const before = machine.parts.heap.residentBytes;
      const map = () => machine.step({ op: 'dma_map', domain: 0, dfn: 0, frame, pages: PAGES, access: 'rw' });
      const unmap = () => machine.step({ op: 'dma_unmap', domain: 0, dfn: 0, pages: PAGES });
      const { result } = map();
      if (result !== 0) throw new RangeError(`map/1000000: dma_map gave ${result}`);
      const bytesPerItem = (machine.parts.heap.residentBytes - before) / PAGES;
      unmap();
      return {
        bytesPerItem,
        run() {
          map();
          unmap();
        },
      };
    },
  },
];
