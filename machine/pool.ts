// A pool of fixed-size records in the heap, for things that are identified by what they say, not by where they lie.

import type { Heap, Segment } from './heap.ts';

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
    return this.#heap.read(this.#index + HIGH_WATER);
  }

  /**
   * Address of a fresh record of zeros. The caller makes word 0 non-zero.
   * @throws RangeError when the pool is full.
   */
  take(): number {
    const free = this.#heap.read(this.#index + FREE_HEAD);
    if (free !== 0) {
      this.#heap.write(this.#index + FREE_HEAD, this.#heap.read(free + 1));
      this.#heap.write(free + 1, 0);
      return free;
    }
    const slot = this.slots;
    if (slot === this.capacity) {
      throw new RangeError(`${this.#name}: more than ${this.capacity} records; give the machine a larger limit`);
    }
    this.#heap.write(this.#index + HIGH_WATER, slot + 1);
    return this.segment.base + slot * this.recordWords;
  }

  /** Gives a record back, cleared. */
  put(record: number): void {
    for (let word = 0; word < this.recordWords; word += 1) this.#heap.write(record + word, 0);
    this.#heap.write(record + 1, this.#heap.read(this.#index + FREE_HEAD));
    this.#heap.write(this.#index + FREE_HEAD, record);
  }
}
