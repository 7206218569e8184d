// An oracle for the adversary, naive on purpose: a device that walks every address through everything after every
// event, and a unit of unlimited size that keeps all of it. What may be reached is then what its cache holds, no more
// and no less; nothing of roles, links, epochs or lists.
//
// While an invalidation is in flight a second cache stands beside the first: what may have been read after the fetch,
// by walks that used nothing the invalidation covers. When the invalidation completes, that is what is left.

import type { FrameTable } from '../../../machine/frame-table.ts';
import type { ContextInvalidation, Invalidation } from './tables.ts';

const SUPERPAGE = 0x80;
const RIGHTS = 3;
/** Rights as a walk leaves them: those of the entry alone, and of all entries that the walk passed. */
interface Found {
  readonly frame: number;
  readonly own: number;
  readonly path: number;
}

interface CachedEntry {
  readonly did: number;
  readonly level: number;
  /** First page that the entry stands for. A leaf is kept page by page, so that any part of it can go alone. */
  readonly dfn: number;
  readonly low: number;
  readonly high: number;
  readonly path: number;
}

interface CachedContext {
  readonly source: number;
  readonly present: boolean;
  readonly did: number;
  readonly levels: number;
  readonly table: number;
}

const pagesOf = (level: number) => 512 ** (level - 1);
const frameOf = (low: number, high: number) => (low >>> 12) + (high & 0xfffff) * 0x100000;
const leafAt = (level: number, low: number) => level === 1 || (level <= 3 && (low & SUPERPAGE) !== 0);
const aligned = (dfn: number, pages: number) => Math.floor(dfn / pages) * pages;

export interface GreedyOptions {
  readonly frames: FrameTable;
  /** Where the contexts of the one bus lie. */
  readonly contexts: number;
  readonly sources: readonly number[];
  /** The pages that are ever asked for. */
  readonly pages: readonly number[];
  readonly cachingMode: boolean;
}

/** What a unit of unlimited size holds. */
class Cache {
  readonly contexts = new Map<string, CachedContext>();
  readonly entries = new Map<string, CachedEntry>();
  /** Faults that a walk meets now, per did and page; nothing keeps them. */
  faults = new Map<string, Set<number>>();
  readonly #options: GreedyOptions;

  constructor(options: GreedyOptions) {
    this.#options = options;
  }

  copy(): Cache {
    const twin = new Cache(this.#options);
    for (const [key, value] of this.contexts) twin.contexts.set(key, value);
    for (const [key, value] of this.entries) twin.entries.set(key, value);
    return twin;
  }

  /** Walks everything until nothing new is found. */
  fill(): void {
    for (const source of this.#options.sources) this.#readContext(source);
    for (let before = -1; before !== this.entries.size; ) {
      before = this.entries.size;
      this.faults = new Map();
      for (const page of this.#options.pages) this.#walkPage(page);
    }
  }

  #readContext(source: number): void {
    const at = (source & 0xff) * 4;
    const [w0, w1, w2] = [0, 1, 2].map((word) => this.#options.frames.readWord(this.#options.contexts, at + word));
    const present = (w0! & 1) !== 0;
    if (!present && !this.#options.cachingMode) return;
    const context = {
      source,
      present,
      did: present ? (w2! >>> 8) & 0xffff : 0,
      levels: (w2! & 7) + 2,
      table: frameOf(w0!, w1!),
    };
    this.contexts.set(JSON.stringify(context), context);
  }

  #walkPage(page: number): void {
    const dids = new Set<number>();
    for (const context of this.contexts.values()) {
      if (!context.present) continue;
      dids.add(context.did);
      if (page < pagesOf(context.levels + 1)) this.#read(context.did, context.table, context.levels, page, RIGHTS);
    }
    for (const entry of [...this.entries.values()]) {
      const isTable = (entry.low & RIGHTS) !== 0 && !leafAt(entry.level, entry.low);
      if (!isTable || !dids.has(entry.did) || aligned(page, pagesOf(entry.level)) !== entry.dfn) continue;
      this.#read(entry.did, frameOf(entry.low, entry.high), entry.level - 1, page, entry.path);
    }
  }

  /** Reads the entry of a table for a page, keeps it, and goes on below it. */
  #read(did: number, table: number, level: number, page: number, rights: number): void {
    const { frames, cachingMode } = this.#options;
    if (!frames.isMemory(table)) return this.#faults(did, page, 7);
    const word = (Math.floor(page / pagesOf(level)) % 512) * 2;
    const low = frames.readWord(table, word);
    const high = frames.readWord(table, word + 1);
    const isLeaf = leafAt(level, low);
    if ((low & RIGHTS) === 0) {
      this.#faults(did, page, 6);
      if (cachingMode) this.#keep({ did, level, dfn: aligned(page, pagesOf(level)), low, high, path: 0 });
      return;
    }
    const dfn = isLeaf ? page : aligned(page, pagesOf(level));
    this.#keep({ did, level, dfn, low, high, path: rights & low });
    if (!isLeaf) this.#read(did, frameOf(low, high), level - 1, page, rights & low);
  }

  #keep(entry: CachedEntry): void {
    const { did, level, dfn, low, high, path } = entry;
    this.entries.set(`${did} ${level} ${dfn} ${low} ${high} ${path}`, entry);
  }

  #faults(did: number, page: number, reason: number): void {
    const key = `${did} ${page}`;
    if (!this.faults.has(key)) this.faults.set(key, new Set());
    this.faults.get(key)!.add(reason);
  }

  /** Forgets what an IOTLB invalidation covers. */
  dropEntries(of: Invalidation): void {
    const order = of.order ?? 0;
    const first = aligned(of.dfn ?? 0, 2 ** order);
    for (const [key, entry] of this.entries) {
      if (of.granularity !== 'global' && entry.did !== (of.did ?? 0)) continue;
      const isPage = leafAt(entry.level, entry.low) && (entry.low & RIGHTS) !== 0;
      const length = isPage || entry.level === 1 ? 1 : pagesOf(entry.level);
      if (of.granularity === 'page' && !(entry.dfn < first + 2 ** order && first < entry.dfn + length)) continue;
      if (of.hint && !isPage && entry.level > 1) continue;
      this.entries.delete(key);
    }
  }

  dropContexts(of: ContextInvalidation): void {
    const hidden = [0, 4, 6, 7][of.functionMask ?? 0]!;
    for (const [key, context] of this.contexts) {
      if (of.granularity !== 'global' && context.did !== (of.did ?? 0)) continue;
      if (of.granularity === 'device' && (context.source & ~hidden) !== ((of.source ?? 0) & ~hidden)) continue;
      this.contexts.delete(key);
    }
  }
}

/** The oracle. Tell it of each event; ask it what a request may get. */
export class GreedyDevice {
  #cache: Cache;
  /** While an invalidation is in flight: what is left when it completes. */
  #after: Cache | null = null;
  readonly #options: GreedyOptions;

  constructor(options: GreedyOptions) {
    this.#options = options;
    this.#cache = new Cache(options);
    this.changed();
  }

  /** Memory changed. */
  changed(): void {
    this.#cache.fill();
    this.#after?.fill();
  }

  fetched(of: { readonly iotlb: Invalidation } | { readonly context: ContextInvalidation }): void {
    const after = this.#cache.copy();
    if ('iotlb' in of) after.dropEntries(of.iotlb);
    else after.dropContexts(of.context);
    this.#after = after;
    this.changed();
  }

  completed(): void {
    this.#cache = this.#after!;
    this.#after = null;
    this.changed();
  }

  /** What a request may get, as the text of {@link answers}; rights of the leaf alone, or of the whole walk. */
  may(page: number, source: number, rights: 'own' | 'path'): string[] {
    const found = new Set<string>();
    for (const context of this.#cache.contexts.values()) {
      if (context.source !== source) continue;
      if (!context.present) found.add('fault 2');
      else if (page >= pagesOf(context.levels + 1)) found.add('fault 4');
      else for (const text of this.#under(context.did, page, rights)) found.add(text);
    }
    const current = this.#options.frames.readWord(this.#options.contexts, (source & 0xff) * 4);
    if ((current & 1) === 0) found.add('fault 2');
    return [...found].sort();
  }

  #under(did: number, page: number, rights: 'own' | 'path'): string[] {
    const texts = [...(this.#cache.faults.get(`${did} ${page}`) ?? [])].map((reason) => `fault ${reason}`);
    for (const entry of this.#cache.entries.values()) {
      if (entry.did !== did) continue;
      if ((entry.low & RIGHTS) === 0) {
        if (aligned(page, pagesOf(entry.level)) === entry.dfn) texts.push('fault 6');
      } else if (leafAt(entry.level, entry.low) && entry.dfn === page) texts.push(this.#leaf(entry, page, rights));
    }
    return texts;
  }

  #leaf(entry: CachedEntry, page: number, rights: 'own' | 'path'): string {
    const found: Found = {
      frame: frameOf(entry.low, entry.high) + (page % pagesOf(entry.level)),
      own: entry.low & RIGHTS,
      path: entry.path,
    };
    return `${found.frame} ${['none', 'r', 'w', 'rw'][found[rights]]!}`;
  }
}
