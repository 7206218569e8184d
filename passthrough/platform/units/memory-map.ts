// Whether a reserved region (RMRR) lies in reserved memory. xen: drivers/passthrough/x86/iommu.c iommu_unity_region_ok

import type { Hex64 } from '../dmar-layout.ts';

/** A range of the firmware's memory map (E820), from byte `base` to byte `limit` inclusive. */
export interface MemoryRange {
  readonly base: Hex64;
  readonly limit: Hex64;
  readonly type: 'ram' | 'reserved' | 'acpi' | 'unusable';
}

/** Pages, last one included. */
type Pages = readonly [first: bigint, last: bigint];

const PAGE_BITS = 12n;
const pagesOf = ({ base, limit }: { readonly base: Hex64; readonly limit: Hex64 }): Pages => [
  BigInt(base) >> PAGE_BITS,
  BigInt(limit) >> PAGE_BITS,
];

/**
 * `ram`: a page of it is RAM, and in no range of another type. `converted`: none is, but some are in no range that is
 * reserved, and Xen adds those to the map. `reserved`: all is well.
 */
export function regionMemory(
  region: { readonly base: Hex64; readonly limit: Hex64 },
  memory: readonly MemoryRange[],
): 'ram' | 'converted' | 'reserved' {
  const ofTypes = (...types: readonly MemoryRange['type'][]) =>
    memory.filter(({ type }) => types.includes(type)).map(pagesOf);
  const whole = pagesOf(region);
  const doubtful = without([whole], ofTypes('reserved', 'acpi', 'unusable'));
  const isRam = ofTypes('ram').some((ram) => doubtful.some((part) => part[0] <= ram[1] && ram[0] <= part[1]));
  if (isRam) return 'ram';
  return without([whole], ofTypes('reserved')).length > 0 ? 'converted' : 'reserved';
}

function without(parts: readonly Pages[], taken: readonly Pages[]): readonly Pages[] {
  return taken.reduce(
    (left, [first, last]) =>
      left
        .flatMap((part): Pages[] => [
          [part[0], part[1] < first ? part[1] : first - 1n],
          [part[0] > last ? part[0] : last + 1n, part[1]],
        ])
        .filter((part) => part[0] <= part[1]),
    parts,
  );
}
