// Not architectural. One unit of the profile `adversary`: what it may answer, and what each invalidation takes from
// that. The may-sets themselves are shared by all units: adversary.ts.

import { alignDown, pagesOf } from '../../../machine/frame-number.ts';
import type { Heap } from '../../../machine/heap/heap.ts';
import type { Capabilities } from '../capabilities.ts';
import { type Access, ContextGranularity, FaultReason, IotlbGranularity } from '../registers.ts';
import {
  ENTRY_PERMISSIONS,
  ENTRY_RESERVED,
  entryFrame,
  entryPages,
  isLeaf,
  TableWalker,
  TranslationType,
  tableIndex,
} from '../walk.ts';
import { type AdversarialUnit, type Adversary, CONTEXT_TABLE, ROOT_SEEN, ROOT_TABLE, type Scope } from './adversary.ts';
import { sourceMatches } from './lru-caches.ts';
import type { TranslationCaches, TranslationObserver } from './translation-caches.ts';

/** One thing that a device may get when it asks: a frame with these rights, or a fault. */
export interface MayTranslation {
  /** The frame, or minus a fault reason. */
  readonly frame: number;
  /** Bit 0 read, bit 1 write. */
  readonly rights: number;
  /** Whether it comes from the tables as they are now. */
  readonly current: boolean;
  /** Did of the context that it goes through; 0 where it fails before. */
  readonly did: number;
}
/** One unit's view of the adversary. */
export class AdversaryCaches implements TranslationCaches, AdversarialUnit {
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
    if (dfn >= walker.limit(walker.contextLevels())) return -FaultReason.addressBeyondWidth;
    if (walker.contextType() === TranslationType.passThrough) return dfn;
    const reason = walker.walk(walker.contextTable(), walker.contextLevels(), dfn, access);
    return reason !== 0 ? -reason : walker.frame;
  }

  /** Everything that the request may get now, the tables' own answer first. Each (frame, rights, did) once. */
  mayTranslate(sourceId: number, dfn: number): MayTranslation[] {
    const found = new Map<string, MayTranslation>();
    for (const context of this.#mayContexts(sourceId)) {
      const did = context.fault === 0 ? context.did : 0;
      const add = (frame: number, rights: number, current: boolean) => {
        const key = `${frame} ${rights} ${did}`;
        if (!found.has(key)) found.set(key, { frame, rights, current, did });
      };
      if (context.fault !== 0) {
        add(-context.fault, 0, context.current);
        continue;
      }
      if (dfn >= this.#walker.limit(context.levels)) add(-FaultReason.addressBeyondWidth, 0, context.current);
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
      else if ((low & ENTRY_RESERVED) !== 0) add(-FaultReason.entryReserved, 0, current);
      else descend(entryFrame(low, high), level - 1, rights & low, current);
    };
    // What was cached of another root of the did: its entries, if it has them, and from there on a walk like any other.
    const fromSeen = (table: number, level: number): void => {
      if (!frames.isMemory(table)) return;
      const word = tableIndex(dfn, level) * 2;
      const low = frames.readWord(table, word);
      if ((low & ENTRY_PERMISSIONS) !== 0 || this.cachesAbsent)
        follow(level, low, frames.readWord(table, word + 1), 3, false);
    };
    descend(context.table, context.levels, 3, context.current);
    retained.eachCovering(this.#unit, did, dfn, (level, low, high) => {
      if (level === ROOT_SEEN) fromSeen(entryFrame(low, high), low & 7);
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

  /** The root table register was set (-1: never before): watch the table, and what it leads to. */
  rootTableSet(table: number, old: number): void {
    if (table === old) return;
    const { frames } = this.#shared;
    const words = (root: number, bus: number) =>
      frames.isMemory(root) ? [0, 1, 2, 3].map((i) => frames.readWord(root, bus * 4 + i)) : [0, 0, 0, 0];
    this.#shared.addLink(table, this.#unit, 0, ROOT_TABLE, 0);
    for (let bus = 0; bus < 256; bus += 1) this.rootEntryChanged(bus, words(old, bus), words(table, bus));
    if (old >= 0) this.#shared.dropLink(old, this.#unit, 0, ROOT_TABLE, 0);
  }

  /**
   * A root entry names another context table. Cached contexts are what the context entries say, so only those matter.
   */
  rootEntryChanged(bus: number, old: readonly number[], now: readonly number[]): void {
    const table = (words: readonly number[]) => (words[0]! & 1 ? entryFrame(words[0]!, words[1]!) : -1);
    const [from, to] = [table(old), table(now)];
    if (from === to) return;
    const contexts = (frame: number, device: number) =>
      this.#shared.frames.isMemory(frame)
        ? [0, 1, 2, 3].map((i) => this.#shared.frames.readWord(frame, device * 4 + i))
        : [0, 0, 0, 0];
    if (to >= 0) this.#shared.addLink(to, this.#unit, 0, CONTEXT_TABLE, bus * 256);
    for (let device = 0; device < 256; device += 1) {
      this.contextEntryChanged(bus * 256 + device, contexts(from, device), contexts(to, device));
    }
    if (from >= 0) this.#shared.dropLink(from, this.#unit, 0, CONTEXT_TABLE, bus * 256);
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
    if (add) this.#shared.linkRoot(table, this.#unit, did, levels);
    else this.#shared.unlinkRoot(table, this.#unit, did, levels);
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
      (words) => this.#linkContext(words, false),
    );
    this.#completed();
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
    if (level === ROOT_SEEN) shared.rootInvalidated(this.#unit, did, low, high);
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
