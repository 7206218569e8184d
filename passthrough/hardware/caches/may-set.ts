// Not architectural. What units may still remember though the tables say otherwise: the adversary's retained values.
//
// A record is (unit, did, level, first dfn, pages, value). Leaves of level 1 are found by hash, all others lie on a
// short list per (unit, did). A superpage may be cached in fragments, so an invalidation of a part leaves the rest.

import { mix32 } from '../../../machine/heap/fingerprint.ts';
import type { Heap } from '../../../machine/heap/heap.ts';
import { Pool } from '../../../machine/heap/pool.ts';
import { highWord, joinWords } from '../../../machine/wide.ts';

const LEVEL = 0;
const TAG = 1;
const DFN_LOW = 2;
const DFN_HIGH = 3;
const VALUE_LOW = 4;
const VALUE_HIGH = 5;
const PAGES = 6;
const EPOCH = 7;
const PREVIOUS = 8;
const NEXT = 9;
const CHAIN = 10;
const LIVE = 0x40000000;

// Per (unit, did): heads and lengths of its two lists, and the next did with records.
const SMALL = 0;
const SMALL_COUNT = 1;
const LARGE = 2;
const NEXT_DID = 3;
const IS_LISTED = 0x10000;

/** Page range of a page-selective invalidation. */
interface PageRange {
  readonly dfn: number;
  readonly pages: number;
}

type Forgotten = (level: number, dfn: number, pages: number, low: number, high: number) => void;

export class MaySet {
  readonly #heap: Heap;
  readonly #entries: Pool;
  readonly #contexts: Pool;
  readonly #tags: number;
  /** Dids of the unit that has most. */
  readonly #dids: number;
  readonly #didLists: number;
  readonly #buckets: number;
  readonly #bucketMask: number;

  /** `inFlight(unit)` is the epoch whose records outlive the invalidation in flight, -1 when there is none. */
  constructor(
    heap: Heap,
    options: { readonly units: number; readonly mayEntries: number; readonly dids?: number },
    inFlight: (unit: number) => number,
  ) {
    this.#heap = heap;
    this.#dids = options.dids ?? 0x10000;
    const isFresh = (epochWord: number, unitOf: (record: number) => number) => (record: number) =>
      Number(heap.words[record + epochWord]! === inFlight(unitOf(record)));
    this.#entries = new Pool(heap, 'retained entries', {
      capacity: options.mayEntries,
      recordWords: 12,
      countedWords: 7,
      extra: isFresh(EPOCH, (record) => heap.words[record + TAG]! >>> 16),
    });
    this.#contexts = new Pool(heap, 'retained contexts', {
      capacity: Math.min(options.mayEntries, 0x10000),
      recordWords: 8,
      countedWords: 6,
      extra: isFresh(6, (record) => (heap.words[record]! & 0x3fffffff) >>> 16),
    });
    this.#tags = heap.reserve('retained: lists', options.units * this.#dids * 4, { kind: 'unhashed' }).base;
    this.#didLists = heap.reserve('retained: dids', options.units, { kind: 'unhashed' }).base;
    const buckets = 2 ** Math.max(4, Math.ceil(Math.log2(options.mayEntries)) - 1);
    this.#bucketMask = buckets - 1;
    this.#buckets = heap.reserve('retained: hash', buckets, { kind: 'unhashed' }).base;
  }

  #list(unit: number, did: number): number {
    return this.#tags + (unit * this.#dids + (did % this.#dids)) * 4;
  }

  #bucket(tag: number, dfnLow: number, dfnHigh: number): number {
    return (
      this.#buckets + (mix32(dfnLow ^ Math.imul(tag, 0x9e3779b1) ^ Math.imul(dfnHigh, 0x85ebca6b)) & this.#bucketMask)
    );
  }

  /** Adds a record. False when the same one stood already. */
  add(
    unit: number,
    did: number,
    level: number,
    dfn: number,
    pages: number,
    low: number,
    high: number,
    epoch: number,
  ): boolean {
    const heap = this.#heap;
    const tag = unit * 0x10000 + did;
    const list = this.#list(unit, did);
    const known =
      level === 1 ? this.#findSmall(tag, dfn, low, high) : this.#findLarge(list, level, dfn, pages, low, high);
    if (known !== 0) {
      heap.write(known + EPOCH, epoch);
      return false;
    }
    const record = this.#entries.take();
    heap.write(record + LEVEL, LIVE | level);
    heap.write(record + TAG, tag);
    heap.write(record + DFN_LOW, dfn);
    heap.write(record + DFN_HIGH, highWord(dfn));
    heap.write(record + VALUE_LOW, low);
    heap.write(record + VALUE_HIGH, high);
    heap.write(record + PAGES, pages);
    heap.write(record + EPOCH, epoch);
    const head = list + (level === 1 ? SMALL : LARGE);
    const first = heap.words[head]!;
    heap.write(record + NEXT, first);
    heap.write(record + PREVIOUS, 0);
    if (first !== 0) heap.write(first + PREVIOUS, record);
    heap.write(head, record);
    if (level === 1) {
      heap.write(list + SMALL_COUNT, heap.words[list + SMALL_COUNT]! + 1);
      const bucket = this.#bucket(tag, dfn >>> 0, highWord(dfn));
      heap.write(record + CHAIN, heap.words[bucket]!);
      heap.write(bucket, record);
    }
    if (heap.words[list + NEXT_DID]! === 0) {
      heap.write(list + NEXT_DID, (IS_LISTED << 1) | heap.words[this.#didLists + unit]!);
      heap.write(this.#didLists + unit, IS_LISTED | did);
    }
    return true;
  }

  #findSmall(tag: number, dfn: number, low: number, high: number): number {
    const heap = this.#heap;
    const [dfnLow, dfnHigh] = [dfn >>> 0, highWord(dfn)];
    let record = heap.words[this.#bucket(tag, dfnLow, dfnHigh)]!;
    for (; record !== 0; record = heap.words[record + CHAIN]!) {
      if (
        heap.words[record + DFN_LOW]! === dfnLow &&
        heap.words[record + TAG]! === tag &&
        heap.words[record + DFN_HIGH]! === dfnHigh &&
        heap.words[record + VALUE_LOW]! === low &&
        heap.words[record + VALUE_HIGH]! === high
      ) {
        break;
      }
    }
    return record;
  }

  #findLarge(list: number, level: number, dfn: number, pages: number, low: number, high: number): number {
    const heap = this.#heap;
    for (let record = heap.words[list + LARGE]!; record !== 0; record = heap.words[record + NEXT]!) {
      if (
        this.#level(record) === level &&
        this.#dfn(record) === dfn &&
        heap.words[record + PAGES]! === pages &&
        heap.words[record + VALUE_LOW]! === low &&
        heap.words[record + VALUE_HIGH]! === high
      ) {
        return record;
      }
    }
    return 0;
  }

  #level(record: number): number {
    return this.#heap.words[record + LEVEL]! & 0xff;
  }

  #dfn(record: number): number {
    return joinWords(this.#heap.words[record + DFN_LOW]!, this.#heap.words[record + DFN_HIGH]!);
  }

  /**
   * Visits what may be remembered for an address: leaves, table pointers, orphaned roots (`pages` 0: all addresses).
   */
  eachCovering(
    unit: number,
    did: number,
    dfn: number,
    visit: (level: number, low: number, high: number) => void,
  ): void {
    const heap = this.#heap;
    const tag = unit * 0x10000 + did;
    const [dfnLow, dfnHigh] = [dfn >>> 0, highWord(dfn)];
    let record = heap.words[this.#bucket(tag, dfnLow, dfnHigh)]!;
    for (; record !== 0; record = heap.words[record + CHAIN]!) {
      if (heap.words[record + TAG]! !== tag || heap.words[record + DFN_LOW]! !== dfnLow) continue;
      if (heap.words[record + DFN_HIGH]! === dfnHigh)
        visit(1, heap.words[record + VALUE_LOW]!, heap.words[record + VALUE_HIGH]!);
    }
    record = heap.words[this.#list(unit, did) + LARGE]!;
    for (; record !== 0; record = heap.words[record + NEXT]!) {
      const pages = heap.words[record + PAGES]!;
      const first = this.#dfn(record);
      if (pages === 0 || (dfn >= first && dfn < first + pages)) {
        visit(this.#level(record), heap.words[record + VALUE_LOW]!, heap.words[record + VALUE_HIGH]!);
      }
    }
  }

  /** Dids of a unit that ever had records. */
  eachDid(unit: number, visit: (did: number) => void): void {
    const heap = this.#heap;
    for (let at = heap.words[this.#didLists + unit]!; at !== 0; ) {
      visit(at & 0xffff);
      at = heap.words[this.#list(unit, at & 0xffff) + NEXT_DID]! & (IS_LISTED | 0xffff);
    }
  }

  /** The level and the value of each record of a did. */
  eachRecord(unit: number, did: number, visit: (level: number, low: number, high: number) => void): void {
    const { words } = this.#heap;
    for (const head of [SMALL, LARGE]) {
      let record = words[this.#list(unit, did) + head]!;
      for (; record !== 0; record = words[record + NEXT]!)
        visit(this.#level(record), words[record + VALUE_LOW]!, words[record + VALUE_HIGH]!);
    }
  }

  /**
   * Removes what a completed invalidation of a did covers: records older than `limit`, in `range` (null: all).
   * With `leavesOnly` table pointers stay. `forgotten` is told of each record, or part of a superpage, that is gone.
   */
  remove(
    unit: number,
    did: number,
    limit: number,
    range: PageRange | null,
    leavesOnly: boolean,
    forgotten: Forgotten,
  ): void {
    const heap = this.#heap;
    const list = this.#list(unit, did);
    if (range && range.pages <= heap.words[list + SMALL_COUNT]!) {
      for (let page = 0; page < range.pages; page += 1)
        this.#removePage(unit * 0x10000 + did, range.dfn + page, limit, forgotten);
    } else {
      for (let record = heap.words[list + SMALL]!; record !== 0; ) {
        const next = heap.words[record + NEXT]!;
        const dfn = this.#dfn(record);
        const covered = !range || (dfn >= range.dfn && dfn < range.dfn + range.pages);
        if (covered && heap.words[record + EPOCH]! < limit) this.#forget(record, list, forgotten);
        record = next;
      }
    }
    for (let record = heap.words[list + LARGE]!; record !== 0; ) {
      const next = heap.words[record + NEXT]!;
      if (heap.words[record + EPOCH]! < limit) this.#removeLarge(record, list, range, leavesOnly, forgotten);
      record = next;
    }
  }

  #removePage(tag: number, dfn: number, limit: number, forgotten: Forgotten): void {
    const heap = this.#heap;
    const [dfnLow, dfnHigh] = [dfn >>> 0, highWord(dfn)];
    for (let record = heap.words[this.#bucket(tag, dfnLow, dfnHigh)]!; record !== 0; ) {
      const next = heap.words[record + CHAIN]!;
      const same = heap.words[record + TAG]! === tag && heap.words[record + DFN_LOW]! === dfnLow;
      if (same && heap.words[record + DFN_HIGH]! === dfnHigh && heap.words[record + EPOCH]! < limit) {
        this.#forget(record, this.#list(tag >>> 16, tag & 0xffff), forgotten);
      }
      record = next;
    }
  }

  #removeLarge(record: number, list: number, range: PageRange | null, leavesOnly: boolean, forgotten: Forgotten): void {
    const heap = this.#heap;
    const first = this.#dfn(record);
    const pages = heap.words[record + PAGES]!;
    const level = this.#level(record);
    const [low, high] = [heap.words[record + VALUE_LOW]!, heap.words[record + VALUE_HIGH]!];
    const isPage = level <= 3 && (low & 0x80) !== 0;
    if (leavesOnly && !isPage) return;
    if (!range) return this.#forget(record, list, forgotten);
    // An orphaned root (no pages) is not undone by page-selective invalidations.
    const [from, to] = [Math.max(first, range.dfn), Math.min(first + pages, range.dfn + range.pages)];
    if (from >= to) return;
    if (!isPage || to - from === pages) return this.#forget(record, list, forgotten);
    const epoch = heap.words[record + EPOCH]!;
    const [unit, did] = [heap.words[record + TAG]! >>> 16, heap.words[record + TAG]! & 0xffff];
    this.#unlist(record, list);
    if (from > first) this.add(unit, did, level, first, from - first, low, high, epoch);
    if (to < first + pages) this.add(unit, did, level, to, first + pages - to, low, high, epoch);
    forgotten(level, from, to - from, low, high);
  }

  #forget(record: number, list: number, forgotten: Forgotten): void {
    const heap = this.#heap;
    const level = this.#level(record);
    const dfn = this.#dfn(record);
    const pages = heap.words[record + PAGES]!;
    const low = heap.words[record + VALUE_LOW]!;
    const high = heap.words[record + VALUE_HIGH]!;
    this.#unlist(record, list);
    forgotten(level, dfn, pages, low, high);
  }

  #unlist(record: number, list: number): void {
    const heap = this.#heap;
    const next = heap.words[record + NEXT]!;
    const previous = heap.words[record + PREVIOUS]!;
    const isSmall = this.#level(record) === 1;
    if (next !== 0) heap.write(next + PREVIOUS, previous);
    if (previous !== 0) heap.write(previous + NEXT, next);
    else heap.write(list + (isSmall ? SMALL : LARGE), next);
    if (isSmall) {
      heap.write(list + SMALL_COUNT, heap.words[list + SMALL_COUNT]! - 1);
      const bucket = this.#bucket(
        heap.words[record + TAG]!,
        heap.words[record + DFN_LOW]!,
        heap.words[record + DFN_HIGH]!,
      );
      const after = heap.words[record + CHAIN]!;
      if (heap.words[bucket]! === record) heap.write(bucket, after);
      else {
        let before = heap.words[bucket]!;
        while (heap.words[before + CHAIN]! !== record) before = heap.words[before + CHAIN]!;
        heap.write(before + CHAIN, after);
      }
    }
    this.#entries.put(record);
  }

  /** Remembers a context entry that was replaced. False when it was remembered already. */
  addContext(unit: number, source: number, words: readonly number[], epoch: number): boolean {
    const heap = this.#heap;
    const key = (LIVE | (unit << 16)) + source;
    const { segment, slots, recordWords } = this.#contexts;
    for (let slot = 0; slot < slots; slot += 1) {
      const record = segment.base + slot * recordWords;
      if (heap.words[record]! !== key || words.some((word, i) => heap.words[record + 2 + i]! !== word)) continue;
      heap.write(record + 6, epoch);
      return false;
    }
    const fresh = this.#contexts.take();
    heap.write(fresh, key);
    heap.write(fresh + 1, 0);
    for (let i = 0; i < 4; i += 1) heap.write(fresh + 2 + i, words[i]!);
    heap.write(fresh + 6, epoch);
    return true;
  }

  /** Visits the context entries that a unit may still remember. */
  eachContext(unit: number, visit: (source: number, w0: number, w1: number, w2: number) => void): void {
    const heap = this.#heap;
    const { segment, slots, recordWords } = this.#contexts;
    for (let slot = 0; slot < slots; slot += 1) {
      const record = segment.base + slot * recordWords;
      const key = heap.words[record]!;
      if (key === 0 || (key & 0x3fffffff) >>> 16 !== unit) continue;
      visit(key & 0xffff, heap.words[record + 2]!, heap.words[record + 3]!, heap.words[record + 4]!);
    }
  }

  /** Removes the contexts that `matches` names, and tells of each. */
  removeContexts(
    unit: number,
    matches: (source: number, words: readonly number[], epoch: number) => boolean,
    forgotten: (source: number, words: readonly number[]) => void,
  ): void {
    const heap = this.#heap;
    const { segment, slots, recordWords } = this.#contexts;
    for (let slot = 0; slot < slots; slot += 1) {
      const record = segment.base + slot * recordWords;
      const key = heap.words[record]!;
      if (key === 0 || (key & 0x3fffffff) >>> 16 !== unit) continue;
      const words = [2, 3, 4, 5].map((i) => heap.words[record + i]!);
      if (!matches(key & 0xffff, words, heap.words[record + 6]!)) continue;
      this.#contexts.put(record);
      forgotten(key & 0xffff, words);
    }
  }
}
