// The frames that a device gets mapped for a reserved region. xen: x86/iommu.c iommu_identity_mapping

import type { Hex64 } from '../dmar-layout.ts';

const PAGE_BITS = 12n;
const PAGE_MASK = (1n << PAGE_BITS) - 1n;

/**
 * First frame and number of frames. Xen rounds the last byte up to a page, so that a limit that starts a page leaves
 * that page out: a region of one byte at most maps nothing.
 */
export function mappedFrames({ base, limit }: { readonly base: Hex64; readonly limit: Hex64 }): {
  readonly first: number;
  readonly count: number;
} {
  const first = BigInt(base) >> PAGE_BITS;
  const end = BigInt.asUintN(64, BigInt(limit) + PAGE_MASK) >> PAGE_BITS;
  return { first: Number(first), count: end > first ? Number(end - first) : 0 };
}
