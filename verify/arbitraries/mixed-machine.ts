// A machine of four domains, one of each kind: what draws are made for.

import { type FlushPolicy, Hypervisor, type MachineOptions, type Op, type Release } from '../../hypervisor/index.ts';

/** What each domain of a mixed machine is. */
export const MIXED_DOMAINS: readonly Extract<Op, { op: 'create_domain' }>[] = [
  { op: 'create_domain', domain: 0, kind: 'pv', frames: 4, iommu: true, hardware: true },
  { op: 'create_domain', domain: 1, kind: 'pv', frames: 4, iommu: true },
  { op: 'create_domain', domain: 2, kind: 'hvm', frames: 4, iommu: true },
  { op: 'create_domain', domain: 3, kind: 'pv', frames: 4 },
];

export const MIXED_DEVICES: readonly { readonly device: string; readonly unit: number; readonly owner: number }[] = [
  { device: '0000:01:00.0', unit: 0, owner: 0 },
  { device: '0000:02:00.0', unit: 1, owner: 1 },
  { device: '0000:03:00.0', unit: 0, owner: 2 },
];

/** What mixed machines differ in: whether the HVM guest shares its tables, and how the hardware domain is confined. */
export const MIXED_VARIANTS = {
  plain: { sharedTables: false, hardwareDomain: 'strict' },
  sharedTables: { sharedTables: true, hardwareDomain: 'strict' },
  relaxed: { sharedTables: false, hardwareDomain: 'relaxed' },
  passthrough: { sharedTables: false, hardwareDomain: 'passthrough' },
} as const;
export type MixedVariant = keyof typeof MIXED_VARIANTS;
export const mixedVariants = Object.keys(MIXED_VARIANTS) as readonly MixedVariant[];

export interface MixedOptions {
  readonly release?: Release;
  readonly variant?: MixedVariant;
  readonly machine?: MachineOptions;
}

/**
 * A PV hardware domain with a device; a PV guest with a device; an HVM guest with a device; a PV guest without. The
 * guests with devices begin with tables of version 2. Two units, two virtual CPUs, little memory.
 */
export function mixedMachine(policy: string | FlushPolicy = 'strict-page', options: MixedOptions = {}): Hypervisor {
  const { sharedTables, hardwareDomain } = MIXED_VARIANTS[options.variant ?? 'plain'];
  const { iommu, ...rest } = options.machine ?? {};
  const machine = new Hypervisor({
    domains: MIXED_DOMAINS.length,
    frames: 96,
    gfns: 10,
    vcpus: 2,
    windowPages: 6,
    grants: { grantFrames: 2 },
    units: [{}, { capabilities: { domainIds: 16, maxAddressMask: 0 } }],
    devices: MIXED_DEVICES.map(({ device, unit }) => ({ device, unit })),
    caches: { kind: 'adversary', mayEntries: 4096 },
    batchMax: 40,
    flushQueue: 256,
    iommu: { hardwareDomain, ...iommu },
    policy,
    ...(options.release ? { release: options.release } : {}),
    ...rest,
  });
  const assigned: Op[] = MIXED_DEVICES.filter(({ owner }) => owner !== 0).map(({ device, owner }) => ({
    op: 'assign_device',
    device,
    domain: owner,
  }));
  const versions: Op[] = [1, 2].map((domain) => ({ op: 'set_version', domain, version: 2 }));
  const domains = MIXED_DOMAINS.map((op) => (op.kind === 'hvm' ? { ...op, sharedTables } : op));
  for (const op of [...domains, ...assigned, ...versions]) {
    const { result } = machine.step(op);
    if (result !== 0) throw new RangeError(`mixed machine: ${op.op} gave ${result}`);
  }
  return machine;
}
