// The operation in progress on each virtual CPU: a fixed record, and the arguments of its hypercall in guest memory.
//
// An operation runs in micro-steps. Between two of them everything that it knows lies here, never in a closure, so
// that a state with operations in flight can be rolled back, forked and compared.

import type { Heap } from './heap.ts';

/** How far a micro-step got. `blocked` changes nothing: the step is not enabled. */
export const Progress = { done: 0, more: 1, blocked: 2 } as const;
export type Progress = (typeof Progress)[keyof typeof Progress];

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
const RECORD_WORDS = 24;

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
    this.#records = heap.reserve('pending operations', options.vcpus * RECORD_WORDS).base;
    this.#arguments = heap.reserve('hypercall arguments', options.vcpus * options.elementsMax * ARGUMENT_WORDS).base;
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
    return this.#heap.read(this.record(vcpu)) === 0;
  }

  /** The operation is over: the record and the arguments are cleared. */
  clear(vcpu: number): void {
    const heap = this.#heap;
    const record = this.record(vcpu);
    const end = this.argument(vcpu, heap.read(record + Pending.count));
    for (let word = 0; word < RECORD_WORDS; word += 1) heap.write(record + word, 0);
    for (let at = this.argument(vcpu, 0); at < end; at += 1) heap.write(at, 0);
  }
}
