// The operation in progress on each virtual CPU: a fixed record, and the arguments of its hypercall in guest memory.
//
// An operation runs in micro-steps. Between two of them everything that it knows lies here, never in a closure, so
// that a state with operations in flight can be rolled back, forked and compared.

import type { Heap } from './heap/heap.ts';

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
  /** The first element that cannot be read, and the first that cannot be written, plus 1; 0: all can. */
  unreadable: 6,
  unwritable: 7,
  /** Elements after which something more urgent waits; 0: nothing does. */
  preempt: 8,
  scratch: 9,
} as const;
const RECORD_WORDS = 24;

/** Words per element of a batch: the largest is copy, 40 bytes. */
export const ARGUMENT_WORDS = 10;
/** Where the elements begin, behind the record. */
export const ARGUMENTS = RECORD_WORDS;

export class PendingOperations {
  /** Elements that a batch may have. */
  readonly elementsMax: number;
  readonly vcpus: number;
  readonly #records: readonly Uint32Array[];

  constructor(heap: Heap, options: { readonly vcpus: number; readonly elementsMax: number }) {
    this.vcpus = options.vcpus;
    this.elementsMax = options.elementsMax;
    const batchWords = options.elementsMax * ARGUMENT_WORDS;
    this.#records = Array.from({ length: options.vcpus }, (_, vcpu) =>
      heap.reserveTransient(
        [
          {
            name: `vCPU ${vcpu} operation`,
            words: RECORD_WORDS,
            identity: { kind: 'slots', recordWords: RECORD_WORDS },
          },
          {
            name: `vCPU ${vcpu} hypercall arguments`,
            words: batchWords,
            identity: {
              kind: 'ring',
              rings: 1,
              ringWords: batchWords,
              recordWords: ARGUMENT_WORDS,
              // The arguments of an operation that is over count for nothing.
              window: () => ({ head: 0, count: this.isIdle(vcpu) ? 0 : this.record(vcpu)[Pending.count]! }),
            },
          },
        ],
        (record) => (record[Pending.op] === 0 ? 0 : ARGUMENTS + record[Pending.count]! * ARGUMENT_WORDS),
      ),
    );
  }

  /** A virtual CPU's record, and from word {@link ARGUMENTS} on the elements of its batch. */
  record(vcpu: number): Uint32Array {
    return this.#records[vcpu]!;
  }

  isIdle(vcpu: number): boolean {
    return this.#records[vcpu]![0] === 0;
  }

  /** An operation begins: its record is cleared, but for what the operation is. */
  open(vcpu: number, op: number, domain: number, count: number): Uint32Array {
    const record = this.#records[vcpu]!;
    for (let word = 1; word < RECORD_WORDS; word += 1) record[word] = 0;
    record[Pending.op] = op;
    record[Pending.count] = count;
    record[Pending.domain] = domain;
    return record;
  }

  /** The operation is over. What is left in the record counts for nothing. */
  close(vcpu: number): void {
    this.#records[vcpu]![0] = 0;
  }
}
