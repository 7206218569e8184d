// A pool of fixed-size records in the heap, for things that are identified by what they say, not by where they lie.

import type { Heap } from './heap.ts';
import type { Segment } from './segment.ts';

const HIGH_WATER = 0;
const FREE_HEAD = 1;

export class Pool {
  readonly segment: Segment;
  readonly recordWords: number;
  readonly capacity: number;
  readonly #heap: Heap;
  readonly #index: number;
  readonly #name: string;

  constructor(
    heap: Heap,
    name: string,
    options: {
      readonly capacity: number;
      readonly recordWords: number;
      readonly countedWords: number;
      readonly extra?: (record: number) => number;
    },
  ) {
    this.#heap = heap;
    this.#name = name;
    this.capacity = options.capacity;
    this.recordWords = options.recordWords;
    this.#index = heap.reserve(`${name}: slots`, 2, { kind: 'unhashed' }).base;
    this.segment = heap.reserve(name, options.capacity * options.recordWords, {
      kind: 'pool',
      recordWords: options.recordWords,
      countedWords: options.countedWords,
      slots: () => this.slots,
      ...(options.extra ? { extra: options.extra } : {}),
    });
  }

  /** Number of slots that were ever in use. */
  get slots(): number {
    return this.#heap.words[this.#index + HIGH_WATER]!;
  }

  /**
   * Address of a free record. The caller writes all of its words, word 0 not 0.
   * @throws RangeError when the pool is full.
   */
  take(): number {
    const free = this.#heap.words[this.#index + FREE_HEAD]!;
    if (free !== 0) {
      this.#heap.write(this.#index + FREE_HEAD, this.#heap.words[free + 1]!);
      return free;
    }
    const slot = this.slots;
    if (slot === this.capacity) {
      throw new RangeError(`${this.#name}: more than ${this.capacity} records; give the machine a larger limit`);
    }
    this.#heap.write(this.#index + HIGH_WATER, slot + 1);
    return this.segment.base + slot * this.recordWords;
  }

  /** Gives a record back. */
  put(record: number): void {
    this.#heap.write(record, 0);
    this.#heap.write(record + 1, this.#heap.words[this.#index + FREE_HEAD]!);
    this.#heap.write(this.#index + FREE_HEAD, record);
  }
}
