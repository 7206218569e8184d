// Not architectural. The profile `lru`: a cache of a given size that holds what the device used last (for costs).

import { alignDown, pagesOf } from '../../../machine/frame-number.ts';
import type { FrameTable } from '../../../machine/frame-table.ts';
import type { Heap } from '../../../machine/heap/heap.ts';
import { highWord, joinWords } from '../../../machine/wide.ts';
import type { Capabilities } from '../capabilities.ts';
import type { MemoryLag } from '../memory-lag.ts';
import { Access, ContextGranularity, FaultReason, IotlbGranularity } from '../registers.ts';
import { ENTRY_PERMISSIONS, entryFrame, entryPages, TableWalker, TranslationType, tableIndex } from '../walk.ts';
import { AssociativeCache, CACHE_VALUE, type CacheShape } from './associative-cache.ts';
import type { TranslationCaches, TranslationObserver } from './translation-caches.ts';

/** Sizes of a unit's caches. Paging-structure caches are named by the level whose entries they hold: 2, 3, 4. */
export interface LruShape {
  readonly contextCache: CacheShape;
  readonly iotlb: CacheShape;
  readonly level2: CacheShape;
  readonly level3: CacheShape;
  readonly level4: CacheShape;
  /** A miss of permission in the IOTLB walks the tables again instead of faulting (docs/hardware-axioms.md, H6). */
  readonly rewalkOnPermissionMiss: boolean;
}

/**
 * 128 IOTLB entries and paging-structure caches of 4, 16 and 64 entries: pcie-bench (SIGCOMM 2018) shows 112 to 128
 * effective IOTLB entries on six Xeons; F&S (SOSP 2024) takes 64 to 128 for the lowest structure cache.
 */
export const defaultLruShape: LruShape = {
  contextCache: { entries: 64, ways: 4, replacement: 'lru' },
  iotlb: { entries: 128, ways: 4, replacement: 'lru' },
  level2: { entries: 64, ways: 4, replacement: 'lru' },
  level3: { entries: 16, ways: 4, replacement: 'lru' },
  level4: { entries: 4, ways: 4, replacement: 'lru' },
  rewalkOnPermissionMiss: true,
};

/** What a unit counts; nothing of it is part of a state's identity. The IOTLB itself counts its evictions. */
export const LRU_COUNTERS = ['contextMisses', 'iotlbHits', 'iotlbMisses', 'walkReads', 'faults', 'evictions'] as const;
export type LruCounter = (typeof LRU_COUNTERS)[number];
const CONTEXT_MISSES = 0;
const IOTLB_HITS = 1;
const IOTLB_MISSES = 2;
const WALK_READS = 3;
const FAULTS = 4;

/** A bit that every key has. Below bit 31, so that keys stay small integers of the engine. */
const VALID = 0x40000000;

export class LruCaches implements TranslationCaches {
  readonly profile = 'lru';
  #observer: TranslationObserver | null = null;
  lastDid = 0;
  readonly #unit: number;
  readonly #heap: Heap;
  readonly #walker: TableWalker;
  readonly #didMask: number;
  readonly #rootTable: () => number;
  readonly #contexts: AssociativeCache;
  readonly #iotlb: AssociativeCache;
  /** Paging-structure caches by the level of the entries that they hold; index 0 and 1 unused. */
  readonly #structures: readonly (AssociativeCache | null)[];
  readonly #rewalk: boolean;
  readonly #counters: Uint32Array;
  /** Whether superpage leaves were ever cached: until then one probe of the IOTLB is enough. */
  readonly #superpagesSeen: number;
  /** Requester whose context is in the walker, and what must not have moved since. No part of the state. */
  #memoSource = -1;
  #memoDid = 0;
  #memoKey = 0;
  #memoLevels = 0;
  #memoLimit = 0;
  #memoPassThrough = false;
  #memoChanges = 0;
  #memoJumps = 0;

  constructor(options: {
    readonly unit: number;
    readonly heap: Heap;
    readonly frames: FrameTable;
    readonly capabilities: Capabilities;
    readonly rootTable: () => number;
    readonly shape: LruShape;
    readonly lag?: MemoryLag | null;
  }) {
    const { unit, heap, shape, lag } = options;
    this.#unit = unit;
    this.#heap = heap;
    this.#walker = new TableWalker(options.frames, options.capabilities, lag ? { unit, heap, lag } : null);
    this.#didMask = options.capabilities.domainIds - 1;
    this.#rootTable = options.rootTable;
    this.#rewalk = shape.rewalkOnPermissionMiss;
    const cache = (name: string, of: CacheShape) => new AssociativeCache(heap, `unit ${unit} ${name}`, of);
    this.#contexts = cache('context cache', shape.contextCache);
    this.#iotlb = cache('IOTLB', shape.iotlb);
    this.#structures = [
      null,
      null,
      cache('level-2 cache', shape.level2),
      cache('level-3 cache', shape.level3),
      cache('level-4 cache', shape.level4),
    ];
    this.#counters = heap.reserveTransient([
      { name: `unit ${unit} counters`, words: LRU_COUNTERS.length, identity: { kind: 'unhashed' } },
    ]);
    this.#superpagesSeen = heap.reserve(`unit ${unit} superpages cached`, 1).base;
  }

  get observer(): TranslationObserver | null {
    return this.#observer;
  }

  set observer(observer: TranslationObserver | null) {
    this.#observer = observer;
    this.#iotlb.onDrop = observer ? (record) => this.#tellOfDropped(observer, record) : null;
  }

  /** Value of a counter since the machine was made. */
  counter(name: LruCounter): number {
    return name === 'evictions' ? this.#iotlb.evicted : this.#counters[LRU_COUNTERS.indexOf(name)]!;
  }

  translate(sourceId: number, dfn: number, access: Access): number {
    if (
      this.#memoSource !== sourceId ||
      this.#memoChanges !== this.#contexts.changes ||
      this.#memoJumps !== this.#heap.jumps
    ) {
      const fault = this.#findContext(sourceId);
      if (fault !== 0) return this.#fault(fault);
    }
    this.lastDid = this.#memoDid;
    if (dfn >= this.#memoLimit) return this.#fault(FaultReason.addressBeyondWidth);
    if (this.#memoPassThrough === true) return dfn;
    const { words } = this.#iotlb;
    const record = this.#iotlb.lookup(this.#memoKey, dfn | 0, highWord(dfn));
    if (record !== 0 && (words[record + CACHE_VALUE]! & access) !== 0) {
      this.#counters[IOTLB_HITS]! += 1;
      return entryFrame(words[record + CACHE_VALUE]!, words[record + CACHE_VALUE + 1]!);
    }
    return this.#translateSlowly(record, dfn, access);
  }

  contextType(sourceId: number): number {
    const fault = this.#findContext(sourceId);
    return fault !== 0 ? -fault : this.#walker.contextType();
  }

  /** No page is cached for the address, or (`record`) one without the right. */
  #translateSlowly(record: number, dfn: number, access: Access): number {
    const { words } = this.#iotlb;
    const found = record === 0 ? this.#lookupSuperpage(this.#memoDid, dfn) : record;
    if (found !== 0) {
      const low = words[found + CACHE_VALUE]!;
      if ((low & access) !== 0) {
        this.#counters[IOTLB_HITS]! += 1;
        const offset = dfn & (entryPages((words[found]! >>> 16) & 7) - 1);
        return entryFrame(low, words[found + CACHE_VALUE + 1]!) + offset;
      }
      if (!this.#rewalk) {
        return this.#fault(access === Access.write ? FaultReason.writeNotPermitted : FaultReason.readNotPermitted);
      }
      this.#iotlb.remove(found);
    }
    return this.#miss(this.#memoDid, this.#memoLevels, dfn, access);
  }

  #fault(reason: number): number {
    this.#counters[FAULTS]! += 1;
    return -reason;
  }

  /** Leaves the requester's context in the walker, and what is needed of it at every request in the memo. */
  #findContext(sourceId: number): number {
    this.#memoSource = -1;
    const fault = this.#cachedContext(sourceId);
    if (fault !== 0) return fault;
    const walker = this.#walker;
    this.#memoDid = walker.contextDid();
    this.#memoKey = VALID | (1 << 16) | this.#memoDid;
    this.#memoLevels = walker.contextLevels();
    this.#memoLimit = walker.limit(this.#memoLevels);
    this.#memoPassThrough = walker.contextType() === TranslationType.passThrough;
    this.#memoSource = sourceId;
    this.#memoChanges = this.#contexts.changes;
    this.#memoJumps = this.#heap.jumps;
    return 0;
  }

  #cachedContext(sourceId: number): number {
    const walker = this.#walker;
    const record = this.#contexts.lookup(VALID, sourceId, 0);
    if (record !== 0) {
      walker.context0 = this.#contexts.words[record + CACHE_VALUE]!;
      walker.context1 = this.#contexts.words[record + CACHE_VALUE + 1]!;
      walker.context2 = this.#contexts.words[record + CACHE_VALUE + 2]!;
      return 0;
    }
    this.#counters[CONTEXT_MISSES]! += 1;
    const fault = walker.findContext(this.#rootTable(), sourceId);
    if (fault !== 0) return fault;
    const fresh = this.#contexts.insert(VALID, sourceId, 0);
    this.#contexts.words[fresh + CACHE_VALUE] = walker.context0;
    this.#contexts.words[fresh + CACHE_VALUE + 1] = walker.context1;
    this.#contexts.words[fresh + CACHE_VALUE + 2] = walker.context2;
    return 0;
  }

  #lookupIotlb(did: number, dfn: number): number {
    const record = this.#iotlb.lookup(VALID | (1 << 16) | did, dfn | 0, highWord(dfn));
    return record === 0 ? this.#lookupSuperpage(did, dfn) : record;
  }

  #lookupSuperpage(did: number, dfn: number): number {
    if (this.#heap.words[this.#superpagesSeen] === 0) return 0;
    for (let level = 2; level <= 3; level += 1) {
      const base = firstOf(dfn, level);
      const large = this.#iotlb.lookup(VALID | (level << 16) | did, base | 0, highWord(base));
      if (large !== 0) return large;
    }
    return 0;
  }

  #miss(did: number, levels: number, dfn: number, access: Access): number {
    this.#counters[IOTLB_MISSES]! += 1;
    const walker = this.#walker;
    let table = walker.contextTable();
    let level = levels;
    // The lowest cached table pointer for this address saves the reads above it.
    const highest = levels < 4 ? levels : 4;
    for (let at = 2; at <= highest; at += 1) {
      const base = firstOf(dfn, at);
      const cache = this.#structures[at]!;
      const record = cache.lookup(VALID | did, base | 0, highWord(base));
      if (record === 0) continue;
      table = entryFrame(cache.words[record + CACHE_VALUE]!, cache.words[record + CACHE_VALUE + 1]!);
      level = at - 1;
      break;
    }
    const fault = walker.walk(table, level, dfn, access);
    this.#counters[WALK_READS]! += walker.reads;
    if (fault !== 0) return this.#fault(fault);
    this.#fillStructures(did, table, level, dfn);
    this.#fillIotlb(did, dfn);
    return walker.frame;
  }

  /** Caches each table pointer that the walk from `table` read on its way to the leaf. */
  #fillStructures(did: number, table: number, level: number, dfn: number): void {
    const leaf = this.#walker.level;
    for (let at = level, frame = table; at > leaf; at -= 1) {
      const word = tableIndex(dfn, at) * 2;
      const low = this.#walker.readWord(frame, word);
      const high = this.#walker.readWord(frame, word + 1);
      if (at <= 4) {
        const base = firstOf(dfn, at);
        const cache = this.#structures[at]!;
        const record = cache.insert(VALID | did, base | 0, highWord(base));
        cache.words[record + CACHE_VALUE] = low;
        cache.words[record + CACHE_VALUE + 1] = high;
      }
      frame = entryFrame(low, high);
    }
  }

  #fillIotlb(did: number, dfn: number): void {
    const { level, low, high } = this.#walker;
    const base = level === 1 ? dfn : firstOf(dfn, level);
    if (level > 1) this.#heap.write(this.#superpagesSeen, 1);
    const record = this.#iotlb.insert(VALID | (level << 16) | did, base | 0, highWord(base));
    this.#iotlb.words[record + CACHE_VALUE] = low;
    this.#iotlb.words[record + CACHE_VALUE + 1] = high;
    if (this.#observer === null) return;
    const rights = low & ENTRY_PERMISSIONS;
    this.#observer.cached(this.#unit, did, base, entryPages(level), entryFrame(low, high), rights);
  }

  #tellOfDropped(observer: TranslationObserver, record: number): void {
    const { words } = this.#iotlb;
    const key = words[record]!;
    const dfn = joinWords(words[record + 1]! >>> 0, words[record + 2]!);
    const low = words[record + CACHE_VALUE]!;
    const frame = entryFrame(low, words[record + CACHE_VALUE + 1]!);
    observer.dropped(this.#unit, key & 0xffff, dfn, entryPages((key >>> 16) & 7), frame, low & ENTRY_PERMISSIONS);
  }

  fetchInvalidation(): void {}

  /** In this profile device TLBs remember nothing. */
  fetchDeviceTlb(): void {}
  invalidateDeviceTlb(): void {}
  abandonDeviceTlb(): void {}

  invalidateContext(granularity: number, did: number, sourceId: number, functionMask: number): void {
    const cache = this.#contexts;
    for (let record = cache.next(cache.first); record !== 0; record = cache.next(record + cache.stride)) {
      const source = cache.words[record + 1]!;
      const tag = cache.words[record + CACHE_VALUE + 2]! >>> 8;
      if (granularity !== ContextGranularity.global && (tag & this.#didMask) !== did) continue;
      if (granularity === ContextGranularity.device && !sourceMatches(source, sourceId, functionMask)) continue;
      cache.remove(record);
    }
  }

  invalidateIotlb(granularity: number, did: number, dfn: number, order: number, hint: boolean): void {
    const base = alignDown(dfn, order);
    if (granularity === IotlbGranularity.page && order === 0) this.#invalidatePage(did, base);
    else this.#invalidateRange(this.#iotlb, granularity, did, base, pagesOf(order));
    if (hint && granularity === IotlbGranularity.page) return;
    for (let level = 2; level <= 4; level += 1) {
      this.#invalidateRange(this.#structures[level]!, granularity, did, base, pagesOf(order), level);
    }
  }

  #invalidatePage(did: number, dfn: number): void {
    const record = this.#lookupIotlb(did, dfn);
    if (record !== 0) this.#iotlb.remove(record);
    // A page and a superpage over it may both be cached.
    if (record !== 0 && this.#heap.words[this.#superpagesSeen]! !== 0) this.#invalidatePage(did, dfn);
  }

  #invalidateRange(
    cache: AssociativeCache,
    granularity: number,
    did: number,
    base: number,
    pages: number,
    of = 0,
  ): void {
    for (let record = cache.next(cache.first); record !== 0; record = cache.next(record + cache.stride)) {
      const key = cache.words[record]!;
      if (granularity !== IotlbGranularity.global && (key & 0xffff) !== did) continue;
      if (granularity === IotlbGranularity.page) {
        const first = joinWords(cache.words[record + 1]! >>> 0, cache.words[record + 2]!);
        const length = entryPages(of || (key >>> 16) & 7);
        if (first + length <= base || first >= base + pages) continue;
      }
      cache.remove(record);
    }
  }
}

/** Device frames less one that an entry of a level covers, as a mask. */
const OFFSETS = [0, 0, entryPages(2) - 1, entryPages(3) - 1, entryPages(4) - 1];

/** First device frame that the entry of a level, 2 to 4, covers. */
function firstOf(dfn: number, level: number): number {
  return dfn < 0x80000000 ? dfn & ~OFFSETS[level]! : dfn - (dfn & OFFSETS[level]!);
}

/**
 * Whether a source id is meant by a device-selective invalidation: the mask hides low bits of the function. VT-d
 * 6.5.2.1.
 */
export function sourceMatches(source: number, wanted: number, functionMask: number): boolean {
  const hidden = functionMask === 0 ? 0 : functionMask === 1 ? 4 : functionMask === 2 ? 6 : 7;
  return (source & ~hidden) === (wanted & ~hidden);
}
