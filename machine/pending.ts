// The operation in progress on each virtual CPU: a fixed record, and the arguments of its hypercall in guest memory.
//
// An operation runs in micro-steps. Between two of them everything that it knows lies here, never in a closure, so
// that a state with operations in flight can be rolled back, forked and compared.

import type { Heap } from './heap.ts';

/** How far a step got. `blocked` changes nothing: the step is not enabled. */
export const Progress = { done: 0, more: 1, blocked: 2 } as const;
export type Progress = (typeof Progress)[keyof typeof Progress];

/**
 * What a micro-step of an operation says: the phase to go on with, or one of these. A phase function is given the
 * phase's number and returns the next one; whoever runs it keeps the number, in the record when others may come
 * between.
 */
export const Step = { done: -1, blocked: -2 } as const;

/** Words of a pending record. Scratch words belong to the operation. */
export const Pending = {
  /** Operation code; 0: the virtual CPU is idle. */
  op: 0,
  phase: 1,
  /** Element of the batch, and how many there are. */
  index: 2,
  count: 3,
  /** Domain that runs the operation. */
  domain: 4,
  /** Return value of the operation. */
  result: 5,
  scratch: 6,
} as const;
const RECORD_WORDS = 16;

/** Words per element of a batch: the largest is map_grant_ref, 32 bytes. */
export const ARGUMENT_WORDS = 8;

export class PendingOperations {
  /** Elements that a batch may have. */
  readonly elementsMax: number;
  readonly vcpus: number;
  readonly #heap: Heap;
  readonly #records: number;
  readonly #arguments: number;

  constructor(heap: Heap, options: { readonly vcpus: number; readonly elementsMax: number }) {
    this.vcpus = options.vcpus;
    this.elementsMax = options.elementsMax;
    this.#heap = heap;
    this.#records = heap.reserve('pending operations', options.vcpus * RECORD_WORDS, {
      kind: 'slots',
      recordWords: RECORD_WORDS,
    }).base;
    const batchWords = options.elementsMax * ARGUMENT_WORDS;
    this.#arguments = heap.reserve('hypercall arguments', options.vcpus * batchWords, {
      kind: 'ring',
      rings: options.vcpus,
      ringWords: batchWords,
      recordWords: ARGUMENT_WORDS,
      // The arguments of an operation that is over count for nothing.
      window: (vcpu) => ({ head: 0, count: this.isIdle(vcpu) ? 0 : heap.words[this.record(vcpu) + Pending.count]! }),
    }).base;
  }

  /** Address of a virtual CPU's record. */
  record(vcpu: number): number {
    return this.#records + vcpu * RECORD_WORDS;
  }

  /** Address of element `index` of a virtual CPU's arguments. */
  argument(vcpu: number, index: number): number {
    return this.#arguments + (vcpu * this.elementsMax + index) * ARGUMENT_WORDS;
  }

  isIdle(vcpu: number): boolean {
    return this.#heap.words[this.record(vcpu)]! === 0;
  }

  /** An operation begins: its record is cleared, but for what the operation is. */
  open(vcpu: number, op: number, domain: number, count: number): number {
    const heap = this.#heap;
    const record = this.record(vcpu);
    heap.write(record, op);
    for (let word = 1; word < RECORD_WORDS; word += 1)
      if (heap.words[record + word] !== 0) heap.write(record + word, 0);
    heap.write(record + Pending.count, count);
    heap.write(record + Pending.domain, domain);
    return record;
  }

  /** The operation is over. What is left in the record counts for nothing. */
  close(vcpu: number): void {
    this.#heap.write(this.record(vcpu), 0);
  }
}
