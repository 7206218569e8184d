// What the first pass of an unmap leaves for the second: per virtual CPU, up to 32 ended uses of grants.
// xen: struct gnttab_unmap_common, common[GNTTAB_UNMAP_BATCH_SIZE].

import type { Heap } from '../machine/heap/heap.ts';

/** Elements between two ends of a batch. xen: GNTTAB_UNMAP_BATCH_SIZE. */
export const UNMAP_BATCH = 32;

/** Words of a batch: how many elements are in it, how many of them were completed, then the records. */
export const Batch = { count: 0, completed: 1, records: 2 } as const;

/**
 * Words of a record: GNTMAP bits of the halves that ended, and `readonly` as the handle had it (0: none did); the
 * granter; its ref; the frame.
 */
export const EndedUse = { halves: 0, granter: 1, ref: 2, frame: 3 } as const;
export const ENDED_USE_WORDS = 4;

export class UnmapBatches {
  readonly #batches: readonly Uint32Array[];

  constructor(heap: Heap, vcpus: number) {
    this.#batches = Array.from({ length: vcpus }, (_, vcpu) =>
      heap.reserveTransient(
        [
          { name: `vCPU ${vcpu} unmap batch`, words: Batch.records },
          {
            name: `vCPU ${vcpu} ended uses`,
            words: UNMAP_BATCH * ENDED_USE_WORDS,
            identity: { kind: 'slots', recordWords: ENDED_USE_WORDS },
          },
        ],
        (batch) => Batch.records + batch[Batch.count]! * ENDED_USE_WORDS,
      ),
    );
  }

  of(vcpu: number): Uint32Array {
    return this.#batches[vcpu]!;
  }
}
