// Platforms of one to four units, each with capabilities of its own, and moves of devices among many guests.

import { fc } from '@fast-check/vitest';
import type { Hypervisor, Op } from '../../hypervisor/index.ts';
import { capabilitiesArbitrary } from '../../verify/index.ts';
import { AssignmentMachine, type AssignmentOptions, QUARANTINE } from './assignment-machine.ts';

export type MoveOp = Extract<Op, { op: 'assign_device' | 'deassign_device' }>;

/** Domain 3 has no device tables. With quarantines these may want more dids than the smallest units have. */
const GUESTS = [1, 2, 4, 5, 6, 7, 8, 9] as const;
const DOMAINS = 10;

/** Those behind the bridge belong together; the others are behind the units in turn. */
const BEHIND_BRIDGE = [
  { device: '0000:03:00.0', type: 'pcie-to-pci-bridge', secondary: 4, subordinate: 4 },
  { device: '0000:04:01.0', type: 'pci-endpoint' },
  { device: '0000:04:02.0', type: 'pci-endpoint' },
] as const;
const ENDPOINTS = [
  { device: '0000:07:00.0', type: 'endpoint', ats: true },
  { device: '0000:00:05.0', type: 'pci-endpoint' },
  { device: '0000:00:06.0', type: 'pci-endpoint' },
  { device: '0000:01:00.0', type: 'endpoint', ats: true },
  { device: '0000:07:00.1', type: 'endpoint', ats: true },
  { device: '0000:07:00.2', type: 'endpoint', ats: true },
  { device: '0000:07:00.3', type: 'endpoint' },
] as const;
export const MOVABLE = [...ENDPOINTS, ...BEHIND_BRIDGE.slice(1)].map(({ device }) => device);

const device = fc.constantFrom(...MOVABLE);
const assign = fc.record({ op: fc.constant('assign_device' as const), device, domain: fc.nat({ max: DOMAINS - 1 }) });
const deassign = fc.record({ op: fc.constant('deassign_device' as const), device });
const deassignFrom = fc.record({
  op: fc.constant('deassign_device' as const),
  device,
  domain: fc.constantFrom(...GUESTS, QUARANTINE),
});
const move: fc.Arbitrary<MoveOp> = fc.oneof(
  { weight: 3, arbitrary: assign },
  { weight: 2, arbitrary: deassign },
  { weight: 1, arbitrary: deassignFrom },
);

/** A guest for each device, as far as there are dids. */
const crowd: readonly MoveOp[] = MOVABLE.map((name, at) => ({
  op: 'assign_device',
  device: name,
  domain: GUESTS[at % GUESTS.length]!,
}));

export const moves: fc.Arbitrary<readonly MoveOp[]> = fc
  .tuple(fc.boolean(), fc.array(move, { minLength: 1, maxLength: 20 }))
  .map(([isCrowded, random]) => (isCrowded ? [...crowd, ...random] : random));

export const platforms: fc.Arbitrary<AssignmentOptions> = fc
  .record({
    units: fc.array(capabilitiesArbitrary(fc), { minLength: 1, maxLength: 4 }),
    hardware: fc.boolean(),
    quarantine: fc.constantFrom('none' as const, 'basic' as const, 'scratch' as const),
    queuedInvalidation: fc.boolean(),
    ats: fc.boolean(),
    domainIds: fc.constantFrom('per-unit' as const, 'shared' as const),
  })
  .map(({ units, hardware, ...iommu }) => ({
    hardware,
    iommu,
    machine: {
      domains: DOMAINS,
      units: units.map((capabilities) => ({ capabilities })),
      devices: [
        ...BEHIND_BRIDGE.map((one) => ({ ...one, unit: 0 })),
        ...ENDPOINTS.map((one, at) => ({ ...one, unit: at % units.length })),
      ],
    },
  }));

/** The machine of a platform, with all its domains. */
export function machineOf(options: AssignmentOptions): Hypervisor {
  const { machine } = new AssignmentMachine(options);
  for (let domain = 4; domain < DOMAINS; domain += 1) {
    machine.step({ op: 'create_domain', domain, kind: 'pv', frames: 1, iommu: true });
  }
  return machine;
}
