// What devices can reach beside what the workload holds, and for how long. The definitions: README.md, "Exposure".

import { type AccessTime, DfnUse, StalePages } from './stale-pages.ts';
import { WindowLengths, type WindowSummary } from './window-lengths.ts';

/** Domains that keys have room for. */
const DOMAINS = 1024;
const NOTHING = 0;

/** A translation that a unit may use: of one domain, a device frame and the frame behind it. */
interface Entry {
  readonly key: number;
  readonly frame: number;
  /** Units that have it, by access: an entry of two units is one way to the frame. */
  readers: number;
  writers: number;
  /** Rights that were held through this mapping, and were given up and released since. */
  released: number;
  /** What of it is stale, as last counted: rights, and where the device frame led to. */
  stale: number;
  use: DfnUse;
  staleSinceUs: number;
  next: Entry | null;
}

/** Page-microseconds of exposure, and the windows that they consist of. */
export interface ExposureTally {
  readonly excess: Readonly<AccessTime>;
  readonly harmful: Readonly<AccessTime>;
  readonly unheld: Readonly<AccessTime>;
  readonly window: WindowSummary;
  readonly pagesReleased: number;
  /** Released pages that a window followed. */
  readonly pagesExposed: number;
  readonly reusedBeforeFlush: number;
  readonly reusedBeforeRelease: number;
}

/**
 * Follows three things: what the workload holds (from the return of a map to the call of an unmap), what is released,
 * and which translations units may use beside the tables. Times are whole microseconds, sums exact.
 */
export class ExposureTracker {
  readonly #pages: StalePages;
  readonly #physical: Uint32Array;
  /** Live mappings by domain and device frame: frame * 4 + rights. */
  readonly #live = new Map<number, number>();
  readonly #entries = new Map<number, Entry>();
  /** Frames of removed mappings that are not released, by domain and device frame, the oldest first. */
  readonly #unreleased = new Map<number, number[]>();
  readonly #unreleasedFrames: Int32Array;
  readonly #windows = new WindowLengths();
  #pagesReleased = 0;
  #reusedBeforeFlush = 0;
  #reusedBeforeRelease = 0;

  /** @param physical the recorded frame that each frame stands for */
  constructor(physical: Uint32Array) {
    this.#pages = new StalePages(physical);
    this.#physical = physical;
    this.#unreleasedFrames = new Int32Array(physical.reduce((most, frame) => Math.max(most, frame), 0) + 1);
  }

  /** Time passes. What happens from here on happens then. */
  advanceTo(us: number): void {
    this.#pages.nowUs = us;
  }

  /** A map returned: `pages` frames from `frame` on at as many device frames. */
  mapped(domain: number, dfn: number, pages: number, frame: number, rights: number): void {
    let isStale = false;
    let isUnreleased = false;
    for (let page = 0; page < pages; page += 1) {
      const key = keyOf(domain, dfn + page);
      isUnreleased ||= this.#unreleased.has(key) || this.#unreleasedFrames[this.#physical[frame + page]!]! > 0;
      isStale ||= this.#pages.isStale(frame + page) || this.#staleElsewhere(key, frame + page);
      this.#live.set(key, (frame + page) * 4 + rights);
      this.#pages.hold(frame + page, rights, 1);
      this.#recount(key);
    }
    if (isStale) this.#reusedBeforeFlush += 1;
    if (isUnreleased) this.#reusedBeforeRelease += 1;
  }

  /** An unmap is called. Pages that are not mapped are passed over. */
  unmapped(domain: number, dfn: number, pages: number): void {
    for (let page = 0; page < pages; page += 1) {
      const key = keyOf(domain, dfn + page);
      const live = this.#live.get(key);
      if (live === undefined) continue;
      const frame = live >>> 2;
      this.#live.delete(key);
      this.#pages.hold(frame, live & 3, -1);
      const waiting = this.#unreleased.get(key);
      if (waiting) waiting.push(frame);
      else this.#unreleased.set(key, [frame]);
      this.#unreleasedFrames[this.#physical[frame]!]! += 1;
      this.#recount(key);
    }
  }

  /** What was unmapped at these device frames is free to be used again. */
  released(domain: number, dfn: number, pages: number): void {
    for (let page = 0; page < pages; page += 1) {
      const key = keyOf(domain, dfn + page);
      const waiting = this.#unreleased.get(key);
      if (!waiting) continue;
      const frame = waiting.shift()!;
      if (waiting.length === 0) this.#unreleased.delete(key);
      this.#unreleasedFrames[this.#physical[frame]!]! -= 1;
      this.#pagesReleased += 1;
      const entry = this.#entry(key, frame);
      // The same frame may have been mapped there again, and that removal may still wait.
      if (!entry || waiting.includes(frame)) continue;
      entry.released = 3;
      this.#recount(key);
    }
  }

  /** A unit may use a translation from now on. */
  cached(domain: number, dfn: number, frame: number, rights: number): void {
    const key = keyOf(domain, dfn);
    let entry = this.#entry(key, frame);
    if (!entry) {
      const next = this.#entries.get(key) ?? null;
      entry = { key, frame, readers: 0, writers: 0, released: 0, stale: 0, use: DfnUse.none, staleSinceUs: 0, next };
      this.#entries.set(key, entry);
    }
    entry.readers += rights & 1;
    entry.writers += rights >>> 1;
    this.#recount(key);
  }

  /** ... and no longer. */
  dropped(domain: number, dfn: number, frame: number, rights: number): void {
    const key = keyOf(domain, dfn);
    const entry = this.#entry(key, frame);
    if (!entry) return;
    entry.readers -= rights & 1;
    entry.writers -= rights >>> 1;
    this.#recount(key);
    if (entry.readers + entry.writers === 0) this.#forget(entry);
  }

  /** Frame * 4 + rights of a live mapping; undefined where none is. */
  liveAt(domain: number, dfn: number): number | undefined {
    return this.#live.get(keyOf(domain, dfn));
  }

  /** Whether a released mapping can still be used for an access (bit 1 read, bit 2 write). */
  isStale(domain: number, dfn: number, frame: number, access: number): boolean {
    return ((this.#entry(keyOf(domain, dfn), frame)?.stale ?? 0) & access) !== 0;
  }

  /** The end: windows that are open stay so. The tracker is not to be used further. */
  finish(): ExposureTally {
    const { excess, harmful, unheld, nowUs } = this.#pages;
    this.#pages.settleAll();
    for (const first of this.#entries.values()) {
      for (let entry: Entry | null = first; entry; entry = entry.next) {
        if (entry.stale !== NOTHING) this.#windows.add(nowUs - entry.staleSinceUs, true);
      }
    }
    const window = this.#windows.summary();
    return {
      excess,
      harmful,
      unheld,
      window,
      pagesReleased: this.#pagesReleased,
      pagesExposed: window.pages,
      reusedBeforeFlush: this.#reusedBeforeFlush,
      reusedBeforeRelease: this.#reusedBeforeRelease,
    };
  }

  #entry(key: number, frame: number): Entry | null {
    let entry = this.#entries.get(key) ?? null;
    while (entry && entry.frame !== frame) entry = entry.next;
    return entry;
  }

  /** Whether a device frame has a stale entry for another frame than the one it is about to map. */
  #staleElsewhere(key: number, frame: number): boolean {
    for (let entry = this.#entries.get(key) ?? null; entry; entry = entry.next) {
      if (entry.stale !== NOTHING && entry.frame !== frame) return true;
    }
    return false;
  }

  #forget(entry: Entry): void {
    const first = this.#entries.get(entry.key)!;
    if (first === entry) {
      if (entry.next) this.#entries.set(entry.key, entry.next);
      else this.#entries.delete(entry.key);
      return;
    }
    let before = first;
    while (before.next !== entry) before = before.next!;
    before.next = entry.next;
  }

  /** Something changed at a device frame: what of its entries is stale, and where does it lead now? */
  #recount(key: number): void {
    const live = this.#live.get(key);
    for (let entry = this.#entries.get(key) ?? null; entry; entry = entry.next) {
      const isSame = live !== undefined && live >>> 2 === entry.frame;
      // What is held through this very mapping is not stale, and has to be released anew.
      if (isSame) entry.released &= ~(live & 3);
      const has = (entry.readers > 0 ? 1 : 0) | (entry.writers > 0 ? 2 : 0);
      const use = isSame ? DfnUse.sameFrame : live === undefined ? DfnUse.none : DfnUse.otherFrame;
      this.#setStale(entry, has & entry.released, use);
    }
  }

  #setStale(entry: Entry, stale: number, use: DfnUse): void {
    if (stale === entry.stale && (use === entry.use || stale === NOTHING)) {
      entry.use = use;
      return;
    }
    const { nowUs } = this.#pages;
    if (entry.stale !== NOTHING) this.#pages.stale(entry.frame, entry.stale, entry.use, -1);
    if (stale !== NOTHING) this.#pages.stale(entry.frame, stale, use, 1);
    if (entry.stale === NOTHING) entry.staleSinceUs = nowUs;
    else if (stale === NOTHING) this.#windows.add(nowUs - entry.staleSinceUs, false);
    entry.stale = stale;
    entry.use = use;
  }
}

const keyOf = (domain: number, dfn: number): number => dfn * DOMAINS + domain;
