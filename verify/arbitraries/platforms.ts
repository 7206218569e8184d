// Random platforms for property tests with fast-check, which the caller brings along (an optional peer): one to four
// units, each with capabilities of its own, and devices of every kind behind them.

import type * as FastCheck from 'fast-check';
import type { MachineOptions } from '../../hypervisor/index.ts';
import type { Capabilities } from '../../passthrough/index.ts';
import { MIXED_DEVICES } from './mixed-machine.ts';

type Devices = NonNullable<MachineOptions['devices']>;

/** Behind one bridge, all on one unit. */
const BEHIND_BRIDGE: readonly Omit<Devices[number], 'unit'>[] = [
  { device: '0000:10:00.0', type: 'pcie-to-pci-bridge', secondary: 0x11, subordinate: 0x11 },
  { device: '0000:11:01.0', type: 'pci-endpoint' },
  { device: '0000:11:02.0', type: 'pci-endpoint' },
];
const ENDPOINTS: readonly Omit<Devices[number], 'unit'>[] = [
  { device: '0000:04:00.0', phantomStride: 4 },
  { device: '0000:05:00.0', ats: true },
  { device: '0000:05:00.1' },
  { device: '0000:06:00.0', physicalFunction: '0000:05:00.0' },
];

/**
 * Beyond the memory and the gfns of a mixed machine; in memory; where an HVM guest has its RAM; at the edge of what
 * three levels reach.
 */
const REGIONS: NonNullable<MachineOptions['reservedRegions']> = [
  { firstFrame: 2, frames: 3, devices: ['0000:07:00.0'] },
  { firstFrame: 2 ** 27 - 1, frames: 2, devices: ['0000:06:00.0'] },
  { firstFrame: 0x200, frames: 2, devices: ['0000:04:00.0'] },
  { firstFrame: 0x300, frames: 1, devices: ['0000:05:00.0', '0000:05:00.1'] },
  { firstFrame: 0x80, frames: 1, devices: ['0000:05:00.1'] },
];

/** What a unit can do, as real ones differ in it. */
export function capabilitiesArbitrary(fc: typeof FastCheck): FastCheck.Arbitrary<Partial<Capabilities>> {
  return fc
    .record({
      cachingMode: fc.boolean(),
      domainIds: fc.oneof({ weight: 4, arbitrary: fc.constant(16) }, fc.constant(64), fc.constant(65536)),
      width: fc.constantFrom([[3], 39] as const, [[4], 48] as const, [[3, 4], 48] as const, [[4], 40] as const),
      pageSelective: fc.boolean(),
      maxAddressMask: fc.constantFrom(0, 9, 18),
      superpage2m: fc.boolean(),
      deviceTlb: fc.boolean(),
      queuedInvalidation: fc.boolean(),
      coherent: fc.boolean(),
      writeBufferFlush: fc.boolean(),
      snoopControl: fc.boolean(),
    })
    .map(({ width: [levels, addressBits], pageSelective, superpage2m, ...rest }) => ({
      ...rest,
      levels,
      addressBits,
      pageSelective,
      maxAddressMask: pageSelective ? rest.maxAddressMask : 0,
      superpage2m,
      superpage1g: false,
      deviceTlb: rest.deviceTlb && rest.queuedInvalidation,
    }));
}

/** Options of a machine that make a mixed one a random platform: `mixedMachine(policy, { machine })`. */
export function platformArbitrary(fc: typeof FastCheck): FastCheck.Arbitrary<MachineOptions> {
  return fc
    .record({
      units: fc.array(capabilitiesArbitrary(fc), { minLength: 1, maxLength: 4 }),
      quarantine: fc.constantFrom('none' as const, 'basic' as const, 'scratch' as const),
      queuedInvalidation: fc.boolean(),
      ats: fc.boolean(),
      domainIds: fc.constantFrom('per-unit' as const, 'shared' as const),
      hidden: fc.boolean(),
      regions: fc.boolean(),
    })
    .map(({ units, hidden, regions, ...iommu }) => {
      const unitOf = (at: number) => at % units.length;
      return {
        frames: 224,
        units: units.map((capabilities) => ({ capabilities })),
        devices: [
          ...MIXED_DEVICES.map(({ device }, at) => ({ device, unit: unitOf(at) })),
          ...BEHIND_BRIDGE.map((one) => ({ ...one, unit: 0 })),
          ...ENDPOINTS.map((one, at) => ({ ...one, unit: unitOf(at) })),
          { device: '0000:07:00.0', unit: unitOf(1), hidden },
        ],
        reservedRegions: regions ? REGIONS : [],
        caches: { kind: 'adversary', mayEntries: 1 << 15 },
        iommu,
      };
    });
}
