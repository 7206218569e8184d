// Grant map and unmap through the door: the whole hypercall, its flush, and the hardware that carries it out.

import { GNTMAP, GTF } from '../../grant/index.ts';
import { Hypervisor, type Op, type OpResult, PV_WINDOW_BASE, rollback, snapshot } from '../../hypervisor/index.ts';
import type { SpeedCase } from './speed-case.ts';

const BATCH = 32;
const DEVICE = '0000:03:00.0';

/** A mapper with `live` grants of its neighbour mapped, and one batch of further pairs to map and unmap. */
function prepare(live: number, iommu: boolean): { machine: Hypervisor; map: Op; unmap: Op } {
  const refs = live + BATCH;
  const machine = new Hypervisor({
    domains: 2,
    frames: refs + Math.ceil(refs / 256) * 4 + 1024,
    windowPages: refs,
    gfns: 0,
    devices: [{ device: DEVICE, unit: 0 }],
    caches: { kind: 'lru' },
    // The figures mean leaves of 4 KiB, in tables that stay.
    iommu: { superpages: false, reclaimTables: false },
    maptrackOrder: 'lowest-free',
    grants: { grantFrames: Math.ceil((refs + 8) / 512), maptrackFrames: Math.ceil((refs + 1) / 256) },
  });
  machine.step({ op: 'create_domain', domain: 0, kind: 'pv', frames: 8, iommu });
  machine.step({ op: 'create_domain', domain: 1, kind: 'pv', frames: refs });
  if (iommu) machine.step({ op: 'assign_device', device: DEVICE, domain: 0 });
  const { first } = machine.control.root.domains[1]!.ram;
  for (let at = 0; at < refs; at += 1) {
    machine.step({
      op: 'grant_write',
      domain: 1,
      ref: 8 + at,
      flags: GTF.permit_access,
      grantee: 0,
      frame: first + at,
    });
  }
  const element = (at: number) => ({
    hostAddress: PV_WINDOW_BASE + at * 4096,
    flags: GNTMAP.host_map,
    ref: 8 + at,
    domain: 1,
  });
  for (let at = 0; at < live; at += 1) machine.step({ op: 'map_grant_ref', domain: 0, elements: [element(at)] });
  const batch = Array.from({ length: BATCH }, (_, at) => live + at);
  return {
    machine,
    map: { op: 'map_grant_ref', domain: 0, elements: batch.map(element) },
    unmap: {
      op: 'unmap_grant_ref',
      domain: 0,
      elements: batch.map((handle) => ({ handle, hostAddress: PV_WINDOW_BASE + handle * 4096 })),
    },
  };
}

/** A refusal would be fast, and measure nothing. */
function assertAllOkay({ elements }: OpResult): void {
  const refused = elements?.find(({ status }) => status !== 0);
  if (!elements || refused) throw new RangeError(`grant-pair: expected every element done, got ${refused?.status}`);
}

function pairs(name: string, live: number, iommu: boolean, note: string, opsPerSecond?: number): SpeedCase {
  const rounds = 16;
  return {
    name,
    note,
    ...(opsPerSecond === undefined ? {} : { target: { opsPerSecond } }),
    items: rounds * BATCH,
    prepare() {
      const { machine, map, unmap } = prepare(live, iommu);
      const taken = snapshot(machine);
      for (const op of [map, unmap, map, unmap]) assertAllOkay(machine.step(op));
      rollback(machine, taken);
      return {
        run() {
          for (let round = 0; round < rounds; round += 1) {
            machine.step(map);
            machine.step(unmap);
          }
          rollback(machine, taken);
        },
      };
    },
  };
}

export const grantPairs: readonly SpeedCase[] = [
  pairs(
    'grant-pair/65536',
    65536,
    true,
    'map + unmap of one element in batches of 32, strict-page, undo on, 65,536 live grants, unit lru',
    3e6,
  ),
  pairs(
    'grant-pair/no-iommu',
    64,
    false,
    'the same by a guest without IOMMU, 64 live grants: no table write, no command',
  ),
];
