// Memory as units see it: entries that were written and that some unit does not see yet (docs/hardware-axioms.md, H16).
//
// A unit whose walks do not snoop (ECAP.C = 0) sees what an entry was until its cache line is written back. A unit with
// a write buffer in front of it (CAP.RWBF) sees it until that is flushed, by command or by any invalidation that the
// unit carries out. VT-d 10.4.2, 10.4.3, 6.8. There is room for a few entries: the oldest drains by itself.

import type { Mfn } from '../../machine/frame-number.ts';
import { PAGE_WORDS } from '../../machine/frame-number.ts';
import type { LateMemory } from '../../machine/frame-table.ts';
import type { Heap } from '../../machine/heap/heap.ts';
import type { Capabilities } from './capabilities.ts';

// A record: the frame + 1, its first word and how many, the units that see the old words, the old words themselves.
const FRAME = 0;
const PLACE = 1;
const UNITS = 2;
const OLD = 3;
const RECORD_WORDS = 8;
const ENTRIES = 32;
const WORDS_SHIFT = 16;
/** Beside the units: the line is in the processor's cache. */
const CACHED = 0x80000000;

const HEAD = 0;
const COUNT = 1;

/** Told that units saw the old words of an entry up to now, and see the new ones from here on. */
export interface LagObserver {
  settled(units: number, frame: Mfn, word: number, old: readonly number[]): void;
}

/** An entry of which some units see old words; none are given of a whole page, of which nothing is known. */
export interface LateEntry {
  readonly frame: Mfn;
  readonly word: number;
  readonly old: readonly number[];
  /** Bitmap of the units that do not see what was written. */
  readonly units: number;
  /** Whether it is in the processor's cache; else it is in write buffers only. */
  readonly isCached: boolean;
}

/** The delay that units of these capabilities see memory with; null where they all see it as it is. */
export function memoryLagOf(heap: Heap, units: readonly Capabilities[]): MemoryLag | null {
  return units.every((unit) => unit.coherent && !unit.writeBufferFlush) ? null : new MemoryLag(heap, units);
}

export class MemoryLag implements LateMemory {
  observer: LagObserver | null = null;
  readonly #heap: Heap;
  readonly #base: number;
  readonly #window: number;
  /** Bitmaps of units: those that do not snoop, those behind a write buffer. */
  readonly #uncached: number;
  readonly #buffered: number;

  constructor(heap: Heap, units: readonly Capabilities[]) {
    const mask = (has: (unit: Capabilities) => boolean) =>
      units.reduce((bits, unit, index) => (has(unit) ? bits | (1 << index) : bits), 0);
    this.#heap = heap;
    this.#uncached = mask(({ coherent }) => !coherent);
    this.#buffered = mask(({ writeBufferFlush }) => writeBufferFlush);
    this.#window = heap.reserve('writes not seen: window', 2, { kind: 'unhashed' }).base;
    this.#base = heap.reserve('writes not seen', ENTRIES * RECORD_WORDS, {
      kind: 'ring',
      rings: 1,
      ringWords: ENTRIES * RECORD_WORDS,
      recordWords: RECORD_WORDS,
      window: () => ({ head: heap.words[this.#window + HEAD]!, count: this.size }),
    }).base;
  }

  /** Entries that some unit does not see yet. */
  get size(): number {
    return this.#heap.words[this.#window + COUNT]!;
  }

  /** Address of the record that is `at` places behind the oldest. */
  #record(at: number): number {
    return this.#base + ((this.#heap.words[this.#window + HEAD]! + at) % ENTRIES) * RECORD_WORDS;
  }

  written(frame: Mfn, word: number, words: number, now: readonly number[]): void {
    const old = this.#heap.blocks[frame]!;
    let isSame = true;
    for (let at = 0; at < words; at += 1) if (old[word + at] !== now[at]! >>> 0) isSame = false;
    if (isSame) return;
    const record = this.#add(frame, word, words);
    for (let at = 0; at < words; at += 1) this.#heap.write(record + OLD + at, old[word + at]!);
  }

  cleared(frame: Mfn): void {
    this.#add(frame, 0, PAGE_WORDS);
  }

  #add(frame: Mfn, word: number, words: number): number {
    if (this.size === ENTRIES) this.#settle(0, -1);
    const heap = this.#heap;
    const record = this.#record(this.size);
    heap.write(this.#window + COUNT, this.size + 1);
    heap.write(record + FRAME, frame + 1);
    heap.write(record + PLACE, word | (words << WORDS_SHIFT));
    heap.write(record + UNITS, this.#uncached | this.#buffered | (this.#uncached === 0 ? 0 : CACHED));
    for (let at = OLD; at < RECORD_WORDS; at += 1) heap.write(record + at, 0);
    return record;
  }

  /** Units see the new words of the record `at` places behind the oldest. True when no unit is left that does not. */
  #settle(at: number, units: number): boolean {
    const record = this.#record(at);
    const waiting = this.#heap.words[record + UNITS]! & ~CACHED;
    const done = waiting & units;
    if (done !== 0 && this.observer !== null) {
      const { frame, word, old } = this.#entry(record);
      if (old.length > 0) this.observer.settled(done, frame, word, old);
    }
    if ((waiting & ~units) === 0) {
      this.#remove(at);
      return true;
    }
    this.#heap.write(record + UNITS, this.#heap.words[record + UNITS]! & ~done);
    return false;
  }

  /** Takes a record out; those behind it close up. */
  #remove(at: number): void {
    const heap = this.#heap;
    const last = this.size - 1;
    if (at === 0) heap.write(this.#window + HEAD, (heap.words[this.#window + HEAD]! + 1) % ENTRIES);
    for (let place = at; at !== 0 && place < last; place += 1) {
      const [to, from] = [this.#record(place), this.#record(place + 1)];
      for (let word = 0; word < RECORD_WORDS; word += 1) heap.write(to + word, heap.words[from + word]!);
    }
    heap.write(this.#window + COUNT, last);
  }

  /** The cache lines of these words go to memory, or to the write buffers in front of it. xen: iommu_sync_cache. */
  writeBack(frame: Mfn, word: number, words: number): void {
    const heap = this.#heap;
    for (let at = 0; at < this.size; ) {
      const record = this.#record(at);
      if (!this.#isOf(record, frame, word, words)) {
        at += 1;
        continue;
      }
      heap.write(record + UNITS, heap.words[record + UNITS]! & ~CACHED);
      if (!this.#settle(at, this.#uncached & ~this.#buffered)) at += 1;
    }
  }

  /** A unit's write buffer is flushed: what lies in it is seen. What is in the processor's cache is not there yet. */
  flushBuffer(unit: number): void {
    this.#drain(unit, () => true);
  }

  /**
   * A unit is about to come to a frame for the first time, by an entry that was just written: by then it sees what was
   * written to the frame before, for a write buffer keeps the order.
   */
  reached(unit: number, frame: Mfn): void {
    this.#drain(unit, (record) => this.#heap.words[record + FRAME] === frame + 1);
  }

  #drain(unit: number, isMeant: (record: number) => boolean): void {
    if (this.size === 0 || (this.#buffered & (1 << unit)) === 0) return;
    const isBlind = (this.#uncached & (1 << unit)) !== 0;
    for (let at = 0; at < this.size; ) {
      const record = this.#record(at);
      const isInCache = isBlind && (this.#heap.words[record + UNITS]! & CACHED) !== 0;
      if (isInCache || !isMeant(record) || !this.#settle(at, 1 << unit)) at += 1;
    }
  }

  /** The frame is no table any more. */
  forget(frame: Mfn): void {
    for (let at = 0; at < this.size; ) {
      const isOf = this.#heap.words[this.#record(at) + FRAME] === frame + 1;
      if (!isOf || !this.#settle(at, -1)) at += 1;
    }
  }

  #isOf(record: number, frame: number, word: number, words: number): boolean {
    if (this.#heap.words[record + FRAME] !== frame + 1) return false;
    const place = this.#heap.words[record + PLACE]!;
    const first = place & 0xffff;
    return first < word + words && word < first + (place >>> WORDS_SHIFT);
  }

  #entry(record: number): LateEntry {
    const { words } = this.#heap;
    const count = words[record + PLACE]! >>> WORDS_SHIFT;
    const isPage = count === PAGE_WORDS;
    return {
      frame: (words[record + FRAME]! - 1) as Mfn,
      word: words[record + PLACE]! & 0xffff,
      old: isPage ? [] : Array.from({ length: count }, (_, at) => words[record + OLD + at]!),
      units: words[record + UNITS]! & ~CACHED,
      isCached: (words[record + UNITS]! & CACHED) !== 0,
    };
  }

  /** Everything that some unit does not see yet, the oldest first. */
  entries(): LateEntry[] {
    return Array.from({ length: this.size }, (_, at) => this.#entry(this.#record(at)));
  }

  /**
   * Where the heap has what a unit sees at a word of a frame, the next words behind it; 0: it sees the frame as it is.
   * Of a page that it does not see cleared nothing is known, and the model shows it as cleared.
   */
  seen(unit: number, frame: number, word: number): number {
    const { words } = this.#heap;
    for (let at = 0; at < this.size; at += 1) {
      const record = this.#record(at);
      if (words[record + FRAME] !== frame + 1 || (words[record + UNITS]! & (1 << unit)) === 0) continue;
      const place = words[record + PLACE]!;
      const behind = word - (place & 0xffff);
      if (behind >= 0 && behind < place >>> WORDS_SHIFT && place >>> WORDS_SHIFT !== PAGE_WORDS)
        return record + OLD + behind;
    }
    return 0;
  }
}
