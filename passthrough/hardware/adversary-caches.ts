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

import { alignDown, type Mfn, pagesOf } from '../../machine/frame-number.ts';
import type { FrameTable, FrameWatcher } from '../../machine/frame-table.ts';
import type { Heap } from '../../machine/heap.ts';
import type { Capabilities } from './capabilities.ts';
import { sourceMatches } from './lru-caches.ts';
import { MaySet } from './may-set.ts';
import { type Access, ContextGranularity, FaultReason, IotlbGranularity } from './registers.ts';
import { RoleTable } from './role-table.ts';
import type { TranslationCaches, TranslationObserver } from './translation-caches.ts';
import { ENTRY_PERMISSIONS, entryFrame, entryPages, isLeaf, TableWalker, TranslationType, tableIndex } from './walk.ts';

/** Levels beyond the page tables: what a role or a retained value stands for. */
export const ROOT_TABLE = 8;
export const CONTEXT_TABLE = 7;
/** A table root that context entries no longer name, but whose leaves the IOTLB may still hold under the did. */
const ORPHANED_ROOT = 6;

/** One thing that a device may get when it asks: a frame with these rights, or a fault. */
export interface MayTranslation {
  /** The frame, or minus a fault reason. */
  readonly frame: number;
  /** Bit 0 read, bit 1 write. */
  readonly rights: number;
  /** Whether it comes from the tables as they are now. */
  readonly current: boolean;
}

/** What the machine's adversarial units share: the roles and the watch over the frames. */
export class Adversary implements FrameWatcher {
  readonly frames: FrameTable;
  readonly roles: RoleTable;
  readonly retained: MaySet;
  observer: TranslationObserver | null = null;
  readonly units: AdversaryCaches[] = [];
  /** Old words of the entries being written, between the two calls of a write. */
  readonly #old = new Uint32Array(4);

  constructor(
    heap: Heap,
    frames: FrameTable,
    options: { readonly units: number; readonly mayEntries: number; readonly dids?: number },
  ) {
    this.frames = frames;
    this.roles = new RoleTable(heap, frames, options.mayEntries);
    this.retained = new MaySet(heap, options, (unit) => this.units[unit]!.epochInFlight());
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
  retain(unit: number, did: number, level: number, dfn: number, low: number, high: number): boolean {
    const fresh = this.retained.add(unit, did, level, dfn, entryPages(level), low, high, this.units[unit]!.epoch());
    if (fresh && isLeaf(level, low) && (low & ENTRY_PERMISSIONS) !== 0) {
      this.observer?.cached(unit, did, dfn, entryPages(level), entryFrame(low, high), low & ENTRY_PERMISSIONS);
    }
    return fresh;
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
    if (!this.roles.link(frame as Mfn, unit, did, level, dfn)) return;
    if (level < 2 || level >= CONTEXT_TABLE) return;
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

  /** One entry less leads to a frame in a role. `scope` is the invalidation that made it so, if one did. */
  dropLink(frame: number, unit: number, did: number, level: number, dfn: number, scope: Scope | null = null): void {
    if (!this.frames.isMemory(frame)) return;
    if (!this.roles.unlink(frame as Mfn, unit, did, level, dfn)) return;
    for (let entry = 0; entry < 512; entry += 1) {
      const low = this.frames.readWord(frame, entry * 2);
      if ((low & ENTRY_PERMISSIONS) === 0) continue;
      const high = this.frames.readWord(frame, entry * 2 + 1);
      const first = dfn + entry * entryPages(level);
      if (!isLeaf(level, low)) this.dropLink(entryFrame(low, high), unit, did, level - 1, first, scope);
      // No walk reaches the leaf any more, but the IOTLB may hold it unless the invalidation covered it.
      else if (scope && !covers(scope, first, entryPages(level))) this.retain(unit, did, level, first, low, high);
    }
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

/** One unit's view of the adversary. */
export class AdversaryCaches implements TranslationCaches {
  readonly profile = 'adversary';
  lastDid = 0;
  readonly cachesAbsent: boolean;
  readonly #unit: number;
  readonly #shared: Adversary;
  readonly #heap: Heap;
  readonly #walker: TableWalker;
  readonly #rootTable: () => number;
  /** Word 0: number of the last invalidation fetched. Word 1: whether it is still in flight. */
  readonly #fetched: number;

  constructor(options: {
    readonly unit: number;
    readonly heap: Heap;
    readonly shared: Adversary;
    readonly capabilities: Capabilities;
    readonly rootTable: () => number;
  }) {
    this.#unit = options.unit;
    this.#shared = options.shared;
    this.#heap = options.heap;
    this.#walker = new TableWalker(options.shared.frames, options.capabilities);
    this.#rootTable = options.rootTable;
    this.cachesAbsent = options.capabilities.cachingMode;
    this.#fetched = options.heap.reserve(`unit ${options.unit} invalidation in flight`, 2, { kind: 'unhashed' }).base;
    options.shared.units.push(this);
  }

  get observer(): TranslationObserver | null {
    return this.#shared.observer;
  }

  set observer(observer: TranslationObserver | null) {
    this.#shared.observer = observer;
  }

  epoch(): number {
    return this.#heap.words[this.#fetched]!;
  }

  /** The epoch whose retained values outlive the invalidation in flight; -1 when none is. */
  epochInFlight(): number {
    return this.#heap.words[this.#fetched + 1]! === 0 ? -1 : this.epoch();
  }

  translate(sourceId: number, dfn: number, access: Access): number {
    const walker = this.#walker;
    const fault = walker.findContext(this.#rootTable(), sourceId);
    if (fault !== 0) return -fault;
    this.lastDid = walker.contextDid();
    if (!walker.reaches(dfn, walker.contextLevels())) return -FaultReason.addressBeyondWidth;
    if (walker.contextType() === TranslationType.passThrough) return dfn;
    const reason = walker.walk(walker.contextTable(), walker.contextLevels(), dfn, access);
    return reason !== 0 ? -reason : walker.frame;
  }

  /** Everything that the request may get now, the tables' own answer first. Each (frame, rights) once. */
  mayTranslate(sourceId: number, dfn: number): MayTranslation[] {
    const found = new Map<string, MayTranslation>();
    const add = (frame: number, rights: number, current: boolean) => {
      const key = `${frame} ${rights}`;
      if (!found.has(key)) found.set(key, { frame, rights, current });
    };
    for (const context of this.#mayContexts(sourceId)) {
      if (context.fault !== 0) {
        add(-context.fault, 0, context.current);
        continue;
      }
      if (!this.#walker.reaches(dfn, context.levels)) add(-FaultReason.addressBeyondWidth, 0, context.current);
      else if (context.passThrough) add(dfn, 3, context.current);
      else this.#mayWalk(context, dfn, add);
    }
    return [...found.values()];
  }

  #mayContexts(sourceId: number): MayContext[] {
    const walker = this.#walker;
    const describe = (fault: number, current: boolean): MayContext => ({
      fault,
      current,
      did: walker.contextDid(),
      levels: walker.contextLevels(),
      table: walker.contextTable(),
      passThrough: walker.contextType() === TranslationType.passThrough,
    });
    const contexts = [describe(walker.findContext(this.#rootTable(), sourceId), true)];
    this.#shared.retained.eachContext(this.#unit, (source, w0, w1, w2) => {
      if (source !== sourceId) return;
      walker.context0 = w0;
      walker.context1 = w1;
      walker.context2 = w2;
      contexts.push(describe(walker.checkContext(), false));
    });
    return contexts;
  }

  #mayWalk(context: MayContext, dfn: number, add: (frame: number, rights: number, current: boolean) => void): void {
    const { retained, frames } = this.#shared;
    const { did } = context;
    const leaf = (level: number, low: number, high: number, rights: number, current: boolean) => {
      if (!this.#walker.leafIsValid(level, low)) add(-FaultReason.entryReserved, 0, current);
      else add(entryFrame(low, high) + (dfn % entryPages(level)), rights & low & ENTRY_PERMISSIONS, current);
    };
    const descend = (table: number, level: number, rights: number, current: boolean) => {
      if (!frames.isMemory(table)) return add(-FaultReason.nextTableInvalid, 0, current);
      const word = tableIndex(dfn, level) * 2;
      follow(level, frames.readWord(table, word), frames.readWord(table, word + 1), rights, current);
    };
    const follow = (level: number, low: number, high: number, rights: number, current: boolean) => {
      if ((low & ENTRY_PERMISSIONS) === 0) add(-FaultReason.readNotPermitted, 0, current);
      else if (isLeaf(level, low)) leaf(level, low, high, rights, current);
      else descend(entryFrame(low, high), level - 1, rights & low, current);
    };
    descend(context.table, context.levels, 3, context.current);
    retained.eachCovering(this.#unit, did, dfn, (level, low, high) => {
      if (level === ORPHANED_ROOT) descend(entryFrame(low, high), low & 7, 3, false);
      else follow(level, low, high, 3, false);
    });
  }

  fetchInvalidation(): void {
    this.#heap.write(this.#fetched, this.epoch() + 1);
    this.#heap.write(this.#fetched + 1, 1);
  }

  #completed(): void {
    this.#heap.write(this.#fetched + 1, 0);
  }

  /** The root table register was set: watch the table, and what it leads to. */
  rootTableSet(table: number, old: number): void {
    if (table === old) return;
    if (old !== 0) this.#shared.dropLink(old, this.#unit, 0, ROOT_TABLE, 0);
    this.#shared.addLink(table, this.#unit, 0, ROOT_TABLE, 0);
    for (let bus = 0; bus < 256; bus += 1) {
      const words = [0, 1, 2, 3].map((i) => this.#shared.frames.readWord(table, bus * 4 + i));
      this.rootEntryChanged(bus, [0, 0, 0, 0], words);
    }
  }

  /**
   * A root entry names another context table. Cached contexts are what the context entries say, so only those matter.
   */
  rootEntryChanged(bus: number, old: readonly number[], now: readonly number[]): void {
    const table = (words: readonly number[]) => (words[0]! & 1 ? entryFrame(words[0]!, words[1]!) : -1);
    const [from, to] = [table(old), table(now)];
    if (from === to) return;
    const contexts = (frame: number, device: number) =>
      frame < 0 ? [0, 0, 0, 0] : [0, 1, 2, 3].map((i) => this.#shared.frames.readWord(frame, device * 4 + i));
    if (to >= 0) this.#shared.addLink(to, this.#unit, 0, CONTEXT_TABLE, bus * 256);
    for (let device = 0; device < 256; device += 1) {
      this.contextEntryChanged(bus * 256 + device, contexts(from, device), contexts(to, device));
    }
    if (from >= 0) this.#shared.roles.unlink(from as Mfn, this.#unit, 0, CONTEXT_TABLE, bus * 256);
  }

  contextEntryChanged(sourceId: number, old: readonly number[], now: readonly number[]): void {
    if (old.every((word, i) => word === now[i])) return;
    if ((old[0]! & 1) !== 0 || this.cachesAbsent) {
      // The link of the entry as it was passes to the retained one, unless that one stood already.
      const fresh = this.#shared.retained.addContext(this.#unit, sourceId, old, this.epoch());
      if (!fresh) this.#linkContext(old, false);
    }
    this.#linkContext(now, true);
  }

  #linkContext(words: readonly number[], add: boolean): void {
    const walker = this.#walker;
    [walker.context0, walker.context1, walker.context2] = [words[0]!, words[1]!, words[2]!];
    if (walker.checkContext() !== 0 || walker.contextType() === TranslationType.passThrough) return;
    const [table, did, levels] = [walker.contextTable(), walker.contextDid(), walker.contextLevels()];
    if (add) this.#shared.addLink(table, this.#unit, did, levels, 0);
    else this.#shared.dropLink(table, this.#unit, did, levels, 0, { dfn: 0, pages: 0 });
  }

  invalidateContext(granularity: number, did: number, sourceId: number, functionMask: number): void {
    const limit = this.epoch();
    this.#shared.retained.removeContexts(
      this.#unit,
      (source, words, epoch) => {
        const tag = words[0]! & 1 ? (words[2]! >>> 8) & 0xffff : 0;
        if (epoch >= limit) return false;
        if (granularity !== ContextGranularity.global && tag !== did) return false;
        return granularity !== ContextGranularity.device || sourceMatches(source, sourceId, functionMask);
      },
      (words) => this.#orphan(words),
    );
    this.#completed();
  }

  /** No context leads to the table by this entry any more, but its leaves may be in the IOTLB under the did. */
  #orphan(words: readonly number[]): void {
    const walker = this.#walker;
    [walker.context0, walker.context1, walker.context2] = [words[0]!, words[1]!, words[2]!];
    if (walker.checkContext() !== 0 || walker.contextType() === TranslationType.passThrough) return;
    const low = ((walker.context0 & 0xfffff000) | walker.contextLevels()) >>> 0;
    const did = walker.contextDid();
    const fresh = this.#shared.retained.add(this.#unit, did, ORPHANED_ROOT, 0, 0, low, walker.context1, this.epoch());
    if (!fresh) this.#linkContext(words, false);
  }

  invalidateIotlb(granularity: number, did: number, dfn: number, order: number, hint: boolean): void {
    const scope: Scope | null =
      granularity === IotlbGranularity.page ? { dfn: alignDown(dfn, order), pages: pagesOf(order) } : null;
    const { retained } = this.#shared;
    const remove = (tag: number) =>
      retained.remove(this.#unit, tag, this.epoch(), scope, hint, (level, first, pages, low, high) => {
        this.#forgotten(tag, level, first, pages, low, high, scope);
      });
    if (granularity === IotlbGranularity.global) retained.eachDid(this.#unit, remove);
    else remove(did);
    this.#completed();
  }

  #forgotten(
    did: number,
    level: number,
    dfn: number,
    pages: number,
    low: number,
    high: number,
    scope: Scope | null,
  ): void {
    const shared = this.#shared;
    const frame = entryFrame(low, high);
    if (level === ORPHANED_ROOT) shared.dropLink(frame, this.#unit, did, low & 7, 0, scope);
    else if ((low & ENTRY_PERMISSIONS) === 0) return;
    else if (!isLeaf(level, low)) shared.dropLink(frame, this.#unit, did, level - 1, dfn, scope);
    else
      shared.observer?.dropped(this.#unit, did, dfn, pages, frame + (dfn % entryPages(level)), low & ENTRY_PERMISSIONS);
  }
}

interface MayContext {
  readonly fault: number;
  readonly current: boolean;
  readonly did: number;
  readonly levels: number;
  readonly table: number;
  readonly passThrough: boolean;
}
