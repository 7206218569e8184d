// A machine small enough to check after every operation.

import { GTF } from '../../grant/index.ts';
import { type FlushPolicy, Hypervisor, type MachineOptions, type Op, type Release } from '../../hypervisor/index.ts';

/** Pages of a window: few, so that operations meet. */
export const PAGES = 4;

/**
 * A machine small enough to check after every operation: two PV domains with a device each, a PV domain without, and
 * an HVM domain with a device, behind two units.
 */
export function smallMachine(
  policy: string | FlushPolicy,
  options: { readonly release?: Release; readonly machine?: MachineOptions } = {},
): Hypervisor {
  const machine = new Hypervisor({
    domains: 4,
    frames: 44,
    gfns: 12,
    vcpus: 2,
    windowPages: PAGES,
    units: [{}, { capabilities: { domainIds: 16, maxAddressMask: 0 } }],
    devices: [
      { device: '0000:01:00.0', unit: 0 },
      { device: '0000:02:00.0', unit: 1 },
      { device: '0000:03:00.0', unit: 0 },
    ],
    maptrackOrder: 'lowest-free',
    caches: { kind: 'adversary', mayEntries: 1024 },
    batchMax: 8,
    flushQueue: 64,
    policy,
    ...(options.release ? { release: options.release } : {}),
    ...options.machine,
  });
  const setUp: Op[] = [
    { op: 'create_domain', domain: 0, kind: 'pv', frames: 2, iommu: true },
    { op: 'create_domain', domain: 1, kind: 'pv', frames: 3 },
    { op: 'create_domain', domain: 2, kind: 'pv', frames: 2, iommu: true },
    { op: 'create_domain', domain: 3, kind: 'hvm', frames: 2, iommu: true },
    { op: 'assign_device', device: '0000:01:00.0', domain: 0 },
    { op: 'assign_device', device: '0000:02:00.0', domain: 2 },
    { op: 'assign_device', device: '0000:03:00.0', domain: 3 },
  ];
  const run = (op: Op) => {
    const { result } = machine.step(op);
    if (result !== 0) throw new RangeError(`small machine: ${op.op} gave ${result}`);
  };
  setUp.forEach(run);
  for (const granter of [1, 2, 3]) grantsOf(machine, granter).forEach(run);
  return machine;
}

/** What each granter offers from the start: refs 8 to 11 to domains 0, 0, 2 and 3, on two frames. */
function grantsOf(machine: Hypervisor, granter: number): Op[] {
  const first = granter === 3 ? 0 : ramOf(machine, granter);
  return [0, 0, 2, 3].map((grantee, at) => ({
    op: 'grant_write',
    domain: granter,
    ref: 8 + at,
    flags: GTF.permit_access,
    grantee,
    frame: first + (at & 1),
  }));
}

/** First frame of a domain's RAM in {@link smallMachine}. */
export function ramOf(machine: Hypervisor, domain: number): number {
  return machine.control.root.domains[domain]!.ram.first;
}
