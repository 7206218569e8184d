// What a unit remembers of its tables. Not architectural: two profiles answer differently (docs/hardware-axioms.md).

import type { DeviceTlbRange } from '../device-tlbs.ts';
import type { Access } from '../registers.ts';

/**
 * Told when a cached leaf comes to exist beside the tables, and when it, or a part of it, is gone.
 * For `adversary` that is a leaf which the tables no longer hold but the unit may; for `lru`, an IOTLB entry.
 * `frame` is the machine frame of `dfn`; `rights` has bit 0 for read and bit 1 for write.
 */
export interface TranslationObserver {
  cached(unit: number, did: number, dfn: number, pages: number, frame: number, rights: number): void;
  dropped(unit: number, did: number, dfn: number, pages: number, frame: number, rights: number): void;
}

/** A unit's context cache, IOTLB and paging-structure caches, in one of the profiles. */
export interface TranslationCaches {
  readonly profile: 'adversary' | 'lru';
  observer: TranslationObserver | null;

  /** The frame that the unit finds for a request, or minus a {@link FaultReason}. */
  translate(sourceId: number, dfn: number, access: Access): number;
  /** Translation type of the context that a requester's go by, or minus a fault reason. */
  contextType(sourceId: number): number;
  /** Did of the context that the last {@link translate} went through. */
  readonly lastDid: number;

  /** An invalidation was fetched: what is cached from here on need not be covered by it. */
  fetchInvalidation(): void;
  /** Completes a context-cache invalidation. VT-d 6.5.2.1. */
  invalidateContext(granularity: number, did: number, sourceId: number, functionMask: number): void;
  /** Completes an IOTLB invalidation. `order` is the address mask; a hint keeps upper-level entries. VT-d 6.5.2.3. */
  invalidateIotlb(granularity: number, did: number, dfn: number, order: number, hint: boolean): void;

  /** A device-TLB invalidation was fetched, and completed (`range` null: everything). VT-d 6.5.2.5. */
  fetchDeviceTlb(): void;
  invalidateDeviceTlb(sourceId: number, range: DeviceTlbRange | null): void;
  /** The one that was fetched is given up. */
  abandonDeviceTlb(): void;
}
