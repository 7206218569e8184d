// What the first pass of an unmap leaves for the second: per virtual CPU, up to 32 ended uses of grants.
// xen: struct gnttab_unmap_common, common[GNTTAB_UNMAP_BATCH_SIZE].

import type { Mfn } from '../machine/frame-number.ts';
import type { Heap } from '../machine/heap.ts';
import type { Domid } from '../machine/ids.ts';

/** Elements between two ends of a batch. xen: GNTTAB_UNMAP_BATCH_SIZE. */
export const UNMAP_BATCH = 32;

const HALVES = 0;
const GRANTER = 1;
const REF = 2;
const FRAME = 3;
const RECORD_WORDS = 4;

export class UnmapBatches {
  readonly #heap: Heap;
  readonly #base: number;

  constructor(heap: Heap, vcpus: number) {
    this.#heap = heap;
    const words = vcpus * UNMAP_BATCH * RECORD_WORDS;
    this.#base = heap.reserve('unmap batches', words, { kind: 'slots', recordWords: RECORD_WORDS }).base;
  }

  #record(vcpu: number, index: number): number {
    return this.#base + (vcpu * UNMAP_BATCH + index) * RECORD_WORDS;
  }

  /** Notes what ended: GNTMAP bits of the halves, and `readonly` as the handle had it. 0 halves: nothing did. */
  put(vcpu: number, index: number, halves: number, granter: Domid, ref: number, frame: Mfn): void {
    const record = this.#record(vcpu, index);
    this.#heap.write(record + HALVES, halves);
    this.#heap.write(record + GRANTER, granter);
    this.#heap.write(record + REF, ref);
    this.#heap.write(record + FRAME, frame);
  }

  halves(vcpu: number, index: number): number {
    return this.#heap.words[this.#record(vcpu, index) + HALVES]!;
  }

  granter(vcpu: number, index: number): Domid {
    return this.#heap.words[this.#record(vcpu, index) + GRANTER] as Domid;
  }

  ref(vcpu: number, index: number): number {
    return this.#heap.words[this.#record(vcpu, index) + REF]!;
  }

  frame(vcpu: number, index: number): Mfn {
    return this.#heap.words[this.#record(vcpu, index) + FRAME] as Mfn;
  }

  clear(vcpu: number, index: number): void {
    this.#heap.write(this.#record(vcpu, index), 0);
  }
}
