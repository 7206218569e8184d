// Not architectural. A set-associative cache in the heap: three key words, four value words, and a replacement rule.

import type { Heap } from '../../../machine/heap/heap.ts';

/** How a full set makes room. `random` is a seeded xorshift, part of the state. */
export type Replacement = 'lru' | 'fifo' | 'random';

export interface CacheShape {
  /** Entries in all: sets x ways, sets a power of two. */
  readonly entries: number;
  readonly ways: number;
  readonly replacement: Replacement;
}

const RECORD_WORDS = 8;
const KEY1 = 1;
const KEY2 = 2;
export const CACHE_VALUE = 3;
const AGE = 7;

// The header: the clock that ages are read from, the state of the random replacement, the number of live entries, and
// of those that made room for others.
const CLOCK = 0;
const RANDOM = 1;
const LIVE = 2;
const EVICTED = 3;
const HEADER_WORDS = 8;
/** The last age that the clock gives out before ages become ranks. */
const AGE_MAX = 0x7ffffffe;

export class AssociativeCache {
  readonly shape: CacheShape;
  /** Called with the record of a live entry just before it is evicted or removed. */
  onDrop: ((record: number) => void) | null = null;
  /**
   * All words: the header, then the records. An entry is named by the place of its record. Signed, for the engine's
   * sake: it reads them without a check for values that no small integer holds.
   */
  readonly words: Int32Array;
  readonly #end: number = 0;
  readonly #ways: number = 0;
  readonly #setMask: number = 0;
  readonly #setWords: number = 0;
  /** Whether a hit makes an entry younger. */
  readonly #ages: boolean;
  /** Counts entries that came and went: a memo of an entry is good only while this stands still. */
  changes = 0;

  constructor(heap: Heap, name: string, shape: CacheShape) {
    const sets = shape.entries / shape.ways;
    if (!Number.isInteger(sets) || sets < 1 || (sets & (sets - 1)) !== 0) {
      throw new RangeError(`${name}: ${shape.entries} entries of ${shape.ways} ways: expected a power of two of sets`);
    }
    this.shape = shape;
    this.#ways = shape.ways;
    this.#setMask = sets - 1;
    this.#setWords = shape.ways * RECORD_WORDS;
    this.#ages = shape.replacement === 'lru';
    const words = heap.reserveTransient(
      [
        { name: `${name}: clock`, words: LIVE },
        { name: `${name}: live`, words: HEADER_WORDS - LIVE, identity: { kind: 'unhashed' } },
        {
          name,
          words: shape.entries * RECORD_WORDS,
          identity: { kind: 'slots', recordWords: RECORD_WORDS },
        },
      ],
      (all) => (all[LIVE] === 0 ? HEADER_WORDS : all.length),
    );
    this.words = new Int32Array(words.buffer);
    this.#end = this.words.length;
  }

  /** Place of the first record of a key's set. */
  #set(key0: number, key1: number, key2: number): number {
    // Neighbouring pages fall into neighbouring sets, as in hardware; domains and sizes are set off by some.
    const set = (key1 + Math.imul(key0, 5) + key2) & this.#setMask;
    return (HEADER_WORDS + Math.imul(set, this.#setWords)) | 0;
  }

  /**
   * Place of the live record with this key, now the most recently used; 0 when there is none. Keys are 32-bit words,
   * signed; `key0` is never 0.
   */
  lookup(key0: number, key1: number, key2: number): number {
    const { words } = this;
    const first = this.#set(key0, key1, key2);
    const end = (first + this.#setWords) | 0;
    for (let record = first; record < end; record = (record + RECORD_WORDS) | 0) {
      if (words[record + KEY1] !== key1 || words[record] !== key0 || words[record + KEY2] !== key2) continue;
      if (this.#ages === true) this.#touch(record);
      return record;
    }
    return 0;
  }

  #touch(record: number): void {
    const { words } = this;
    const now = words[CLOCK]!;
    if (now !== 0 && words[record + AGE] === now) return;
    const next = (now < AGE_MAX ? now : this.#renumber()) + 1;
    words[CLOCK] = next;
    words[record + AGE] = next;
  }

  /** The clock is about to wrap: ages become ranks. */
  #renumber(): number {
    const live: number[] = [];
    for (let record = HEADER_WORDS; record < this.#end; record += RECORD_WORDS)
      if (this.words[record] !== 0) live.push(record);
    live.sort((a, b) => this.words[a + AGE]! - this.words[b + AGE]!);
    for (const [rank, record] of live.entries()) this.words[record + AGE] = rank + 1;
    return live.length;
  }

  /** A record with this key in the place of the set's victim; the caller writes its value. The key must not be live. */
  insert(key0: number, key1: number, key2: number): number {
    const { words } = this;
    const set = this.#set(key0, key1, key2);
    const victim = this.#victim(set);
    if (words[victim] !== 0) {
      words[EVICTED]! += 1;
      if (this.onDrop !== null) this.onDrop(victim);
    } else words[LIVE]! += 1;
    this.changes = (this.changes + 1) | 0;
    words[victim] = key0;
    words[victim + KEY1] = key1;
    words[victim + KEY2] = key2;
    this.#touch(victim);
    return victim;
  }

  /** The first free record of a set; else, by the rule of replacement, the one that makes room. */
  #victim(set: number): number {
    const { words } = this;
    const end = (set + this.#setWords) | 0;
    let oldest = set;
    let age = 0x7fffffff;
    for (let record = set; record < end; record = (record + RECORD_WORDS) | 0) {
      if (words[record] === 0) return record;
      const its = words[record + AGE]!;
      if (its >= age) continue;
      oldest = record;
      age = its;
    }
    return this.shape.replacement === 'random' ? set + (this.#random() % this.#ways) * RECORD_WORDS : oldest;
  }

  /** Entries that made room for others, since the machine was made. */
  get evicted(): number {
    return this.words[EVICTED]!;
  }

  #random(): number {
    let x = this.words[RANDOM]! || 0x9e3779b9;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.words[RANDOM] = x;
    return x >>> 0;
  }

  remove(record: number): void {
    this.onDrop?.(record);
    this.changes += 1;
    this.words[LIVE]! -= 1;
    this.words[record] = 0;
    // Who takes the place is not taken for one that was just used.
    this.words[record + AGE] = 0;
  }

  /**
   * The first live record at or after an address; 0 when there is none. Start at {@link first}, go on at `record +
   * stride`.
   */
  next(from: number): number {
    const { words } = this;
    if (words[LIVE] === 0) return 0;
    for (let record = from; record < this.#end; record += RECORD_WORDS) if (words[record] !== 0) return record;
    return 0;
  }

  get first(): number {
    return HEADER_WORDS;
  }

  get stride(): number {
    return RECORD_WORDS;
  }
}
