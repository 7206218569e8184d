// Not architectural. The profile `adversary`: everything that a unit may remember, kept as may-sets.
//
// A walk may have used, at every level, any value that an entry held since the last completed invalidation that covers
// it. So the current tables are always reachable, and beside them live *retained* values: what an entry held before it
// was written, for every (unit, did, level, address) under which the unit could have read it. A write adds to the set,
// a completed invalidation takes from it; fills and evictions need not be enumerated.
//
// To know under which addresses a frame can be read, each frame that may be walked carries *roles*: (unit, did, level,
// first dfn). A role is held by links: the entries, current or retained, that lead to the frame in that role. A table
// page that was unhooked, even freed and handed out again, keeps its role while a retained upper entry leads to it.

import type { Mfn } from '../../../machine/frame-number.ts';
import type { FrameTable, FrameWatcher } from '../../../machine/frame-table.ts';
import type { Heap } from '../../../machine/heap/heap.ts';
import type { LagObserver, MemoryLag } from '../memory-lag.ts';
import { ENTRY_PERMISSIONS, entryFrame, entryPages, isLeaf } from '../walk.ts';
import { MaySet } from './may-set.ts';
import { RoleTable } from './role-table.ts';
import type { TranslationObserver } from './translation-caches.ts';

/** Levels beyond the page tables: what a role or a retained value stands for. */
export const ROOT_TABLE = 8;
export const CONTEXT_TABLE = 7;
/** A table root that some context leads, or led, to: the IOTLB may hold its leaves for every device of the did. */
export const ROOT_SEEN = 6;

/** What the adversary needs of each of its units. */
export interface AdversarialUnit {
  /** It may cache that an entry is absent (caching mode). */
  readonly cachesAbsent: boolean;
  /** Number of the last invalidation that it fetched. */
  epoch(): number;
  /** That number while it is not complete; -1 otherwise. */
  epochInFlight(): number;
  rootEntryChanged(bus: number, old: readonly number[], now: readonly number[]): void;
  contextEntryChanged(sourceId: number, old: readonly number[], now: readonly number[]): void;
  /** It may have read a context entry up to now that memory no longer has. */
  contextKept(sourceId: number, words: readonly number[]): void;
}

/** What the machine's adversarial units share: the roles and the watch over the frames. */
export class Adversary implements FrameWatcher, LagObserver {
  readonly frames: FrameTable;
  readonly roles: RoleTable;
  readonly retained: MaySet;
  observer: TranslationObserver | null = null;
  /** By number; behind them the device TLBs of each, where units know them. */
  readonly units: AdversarialUnit[] = [];
  readonly lag: MemoryLag | null;
  readonly #count: number;
  /** Old words of the entries being written, between the two calls of a write. */
  readonly #old = new Uint32Array(4);

  constructor(
    heap: Heap,
    frames: FrameTable,
    options: {
      readonly units: number;
      readonly mayEntries: number;
      readonly dids?: number;
      /** Whether some unit knows device TLBs, which are told apart by source id. */
      readonly deviceTlbs?: boolean;
      readonly lag?: MemoryLag | null;
    },
  ) {
    this.frames = frames;
    this.lag = options.lag ?? null;
    this.#count = options.units;
    if (this.lag !== null) this.lag.observer = this;
    this.roles = new RoleTable(heap, frames, options.mayEntries);
    const { units, mayEntries, dids } = options;
    const sizes = options.deviceTlbs
      ? { units: units * 2, mayEntries }
      : { units, mayEntries, ...(dids ? { dids } : {}) };
    this.retained = new MaySet(heap, sizes, (unit) => this.units[unit]!.epochInFlight());
    frames.watchWith(this);
  }

  beforeWrite(frame: Mfn, word: number): void {
    const first = word & ~3;
    for (let i = 0; i < 4; i += 1) this.#old[i] = this.frames.readWord(frame, first + i);
  }

  afterWrite(frame: Mfn, word: number, words: number): void {
    const first = this.roles.first(frame);
    if (this.roles.next(first) === 0) return this.#written(first, frame, word, words);
    // The frame's list of roles may change under way: a table can name itself.
    const all: number[] = [];
    for (let role = first; role !== 0; role = this.roles.next(role)) all.push(role);
    for (const role of all) if (this.roles.isRoleOf(role, frame)) this.#written(role, frame, word, words);
  }

  #written(role: number, frame: Mfn, word: number, words: number): void {
    const level = this.roles.level(role);
    if (level >= CONTEXT_TABLE) return this.#contextWritten(role, level, frame, word);
    for (let entry = word >>> 1; entry <= (word + words - 1) >>> 1; entry += 1)
      this.#entryWritten(role, level, frame, entry);
  }

  #entryWritten(role: number, level: number, frame: Mfn, entry: number): void {
    const { roles } = this;
    const at = (entry * 2) & 3;
    const oldLow = this.#old[at]!;
    const oldHigh = this.#old[at + 1]!;
    const low = this.frames.readWord(frame, entry * 2);
    const high = this.frames.readWord(frame, entry * 2 + 1);
    if (oldLow === low && oldHigh === high) return;
    const unit = roles.unit(role);
    const did = roles.did(role);
    const dfn = roles.dfn(role) + entry * entryPages(level);
    const wasPresent = (oldLow & ENTRY_PERMISSIONS) !== 0;
    if (wasPresent || this.units[unit]!.cachesAbsent) {
      const fresh = this.retain(unit, did, level, dfn, oldLow, oldHigh);
      // The link of the table as it was passes to the retained value; one that was retained already has its own.
      if (!fresh && wasPresent && !isLeaf(level, oldLow))
        this.dropLink(entryFrame(oldLow, oldHigh), unit, did, level - 1, dfn);
    }
    if ((low & ENTRY_PERMISSIONS) !== 0 && !isLeaf(level, low))
      this.addLink(entryFrame(low, high), unit, did, level - 1, dfn);
  }

  /** Remembers a value that the tables no longer hold. False when it was remembered already. */
  retain(
    unit: number,
    did: number,
    level: number,
    dfn: number,
    low: number,
    high: number,
    pages = entryPages(level),
  ): boolean {
    const fresh = this.retained.add(unit, did, level, dfn, pages, low, high, this.units[unit]!.epoch());
    if (fresh && isLeaf(level, low) && (low & ENTRY_PERMISSIONS) !== 0) {
      const frame = entryFrame(low, high) + (dfn % entryPages(level));
      this.observer?.cached(unit, did, dfn, pages, frame, low & ENTRY_PERMISSIONS);
    }
    return fresh;
  }

  /** The number by which the device TLBs behind a unit go. */
  deviceTlbsOf(unit: number): number {
    return this.#count + unit;
  }

  /** Units may have read these words of a frame up to now, whatever was written since. */
  settled(units: number, frame: Mfn, word: number, old: readonly number[]): void {
    const all: number[] = [];
    for (let role = this.roles.first(frame); role !== 0; role = this.roles.next(role)) all.push(role);
    for (const role of all) {
      if (!this.roles.isRoleOf(role, frame)) continue;
      if ((units & (1 << (this.roles.unit(role) % this.#count))) !== 0) this.#kept(role, word, old);
    }
  }

  /** A unit that completes an invalidation may read at once again what memory, as it sees it, still says. */
  stillSeen(unit: number): void {
    for (const { units, frame, word, old } of this.lag?.entries() ?? []) {
      if ((units & (1 << (unit % this.#count))) !== 0)
        this.settled(units & (1 << (unit % this.#count)), frame, word, old);
    }
  }

  #kept(role: number, word: number, old: readonly number[]): void {
    const { roles } = this;
    const [unit, did, level, dfn] = [roles.unit(role), roles.did(role), roles.level(role), roles.dfn(role)];
    // A root entry leads nowhere before it leads to its context table, and then for good.
    if (level === ROOT_TABLE) return;
    if (level === CONTEXT_TABLE) return this.units[unit]!.contextKept(dfn + (word >>> 2), old);
    for (let at = 0; at < old.length; at += 2) {
      const [low, high] = [old[at]!, old[at + 1]!];
      const first = dfn + ((word + at) >>> 1) * entryPages(level);
      const isPresent = (low & ENTRY_PERMISSIONS) !== 0;
      if (!isPresent && !this.units[unit]!.cachesAbsent) continue;
      const fresh = this.retain(unit, did, level, first, low, high);
      if (fresh && isPresent && !isLeaf(level, low)) this.addLink(entryFrame(low, high), unit, did, level - 1, first);
    }
  }

  #contextWritten(role: number, level: number, frame: Mfn, word: number): void {
    const unit = this.units[this.roles.unit(role)]!;
    const entry = word >>> 2;
    const at = entry * 4;
    const now = [0, 1, 2, 3].map((i) => this.frames.readWord(frame, at + i));
    const old = Array.from(this.#old);
    if (now.every((value, i) => value === old[i])) return;
    if (level === ROOT_TABLE) unit.rootEntryChanged(entry, old, now);
    else unit.contextEntryChanged(this.roles.dfn(role) + entry, old, now);
  }

  /** One more entry leads to a frame in a role. */
  addLink(frame: number, unit: number, did: number, level: number, dfn: number): void {
    if (!this.frames.isMemory(frame)) return;
    if (this.lag !== null && !this.#comesTo(frame as Mfn, unit)) this.lag.reached(unit % this.#count, frame as Mfn);
    if (!this.roles.link(frame as Mfn, unit, did, level, dfn)) return;
    if (level >= CONTEXT_TABLE) return;
    if (this.lag !== null) this.#lateIn(frame as Mfn, unit);
    if (level < 2) return;
    for (let entry = 0; entry < 512; entry += 1) {
      const low = this.frames.readWord(frame, entry * 2);
      if ((low & ENTRY_PERMISSIONS) === 0 || isLeaf(level, low)) continue;
      this.addLink(
        entryFrame(low, this.frames.readWord(frame, entry * 2 + 1)),
        unit,
        did,
        level - 1,
        dfn + entry * entryPages(level),
      );
    }
  }

  /** Whether a unit comes to a frame already, in whichever role. */
  #comesTo(frame: Mfn, unit: number): boolean {
    let role = this.roles.first(frame);
    while (role !== 0 && this.roles.unit(role) % this.#count !== unit % this.#count) role = this.roles.next(role);
    return role !== 0;
  }

  /** A unit comes to a table whose entries it may not see as they were written. */
  #lateIn(frame: Mfn, unit: number): void {
    const bit = 1 << (unit % this.#count);
    for (const late of this.lag!.entries()) {
      if (late.frame === frame && (late.units & bit) !== 0) this.settled(bit, frame, late.word, late.old);
    }
  }

  /** One entry less leads to a frame in a role. `scope` is the invalidation that made it so, if one did. */
  dropLink(frame: number, unit: number, did: number, level: number, dfn: number, scope: Scope | null = null): void {
    if (!this.frames.isMemory(frame)) return;
    if (!this.roles.unlink(frame as Mfn, unit, did, level, dfn) || level >= CONTEXT_TABLE) return;
    for (let entry = 0; entry < 512; entry += 1) {
      const low = this.frames.readWord(frame, entry * 2);
      if ((low & ENTRY_PERMISSIONS) === 0 && !this.units[unit]!.cachesAbsent) continue;
      const high = this.frames.readWord(frame, entry * 2 + 1);
      this.#unreached(unit, did, level, dfn + entry * entryPages(level), low, high, scope);
    }
  }

  /** No walk reads this entry any more, but what the invalidation did not cover of it may be cached. */
  #unreached(
    unit: number,
    did: number,
    level: number,
    dfn: number,
    low: number,
    high: number,
    scope: Scope | null,
  ): void {
    const pages = entryPages(level);
    if ((low & ENTRY_PERMISSIONS) === 0) {
      if (scope && !covers(scope, dfn, pages)) this.retain(unit, did, level, dfn, low, high);
      return;
    }
    if (isLeaf(level, low)) {
      if (scope) this.#retainOutside(scope, unit, did, level, dfn, low, high);
      return;
    }
    const kept = scope !== null && !covers(scope, dfn, pages);
    // The entry's link passes to the retained value, unless that one stood already.
    if (kept && this.retain(unit, did, level, dfn, low, high)) return;
    this.dropLink(entryFrame(low, high), unit, did, level - 1, dfn, scope);
  }

  /** Remembers the parts of a leaf that lie outside of an invalidation. */
  #retainOutside(scope: Scope, unit: number, did: number, level: number, dfn: number, low: number, high: number): void {
    const end = dfn + entryPages(level);
    const [from, to] = [Math.max(dfn, scope.dfn), Math.min(end, scope.dfn + scope.pages)];
    if (from >= to) {
      this.retain(unit, did, level, dfn, low, high);
      return;
    }
    if (from > dfn) this.retain(unit, did, level, dfn, low, high, from - dfn);
    if (to < end) this.retain(unit, did, level, to, low, high, end - to);
  }

  /** A context leads to a table under a did. */
  linkRoot(table: number, unit: number, did: number, levels: number): void {
    this.addLink(table, unit, did, levels, 0);
    if (this.#rootSeen(table, unit, did, levels)) this.addLink(table, unit, did, levels, 0);
  }

  /** A context leads to it no more. Its leaves stay under the did until the IOTLB is invalidated for it. */
  unlinkRoot(table: number, unit: number, did: number, levels: number): void {
    this.#rootSeen(table, unit, did, levels);
    this.dropLink(table, unit, did, levels, 0);
  }

  #rootSeen(table: number, unit: number, did: number, levels: number): boolean {
    if (!this.frames.isMemory(table)) return false;
    const low = ((table << 12) | levels) >>> 0;
    return this.retained.add(unit, did, ROOT_SEEN, 0, 0, low, Math.floor(table / 0x100000), this.units[unit]!.epoch());
  }

  /** The IOTLB was invalidated for a did: a root that contexts lead to is seen again at once, another is forgotten. */
  rootInvalidated(unit: number, did: number, low: number, high: number): void {
    const table = entryFrame(low, high);
    if (this.roles.links(table as Mfn, unit, did, low & 7, 0) > 1) this.#rootSeen(table, unit, did, low & 7);
    else this.dropLink(table, unit, did, low & 7, 0);
  }
}

/** Frames that a page-selective invalidation covers; null for all of a did. */
export interface Scope {
  readonly dfn: number;
  readonly pages: number;
}

function covers(scope: Scope, first: number, pages: number): boolean {
  return first < scope.dfn + scope.pages && scope.dfn < first + pages;
}
