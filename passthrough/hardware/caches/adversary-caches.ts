// Not architectural. One unit of the profile `adversary`: what it may answer, and what each invalidation takes from
// that. The may-sets themselves are shared by all units: adversary.ts.

import { alignDown, pagesOf } from '../../../machine/frame-number.ts';
import type { Heap } from '../../../machine/heap/heap.ts';
import type { Capabilities } from '../capabilities.ts';
import type { DeviceTlbObserver, DeviceTlbRange, DeviceTlbs } from '../device-tlbs.ts';
import type { MemoryLag } from '../memory-lag.ts';
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
import { DeviceTlbSet } from './device-tlb-set.ts';
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
  /** Kept by the device itself. Left out of what its unit may answer as well. */
  readonly deviceTlb?: true;
}

/** One unit's view of the adversary. */
export class AdversaryCaches implements TranslationCaches, AdversarialUnit, DeviceTlbObserver {
  readonly profile = 'adversary';
  lastDid = 0;
  readonly cachesAbsent: boolean;
  readonly #unit: number;
  readonly #shared: Adversary;
  readonly #heap: Heap;
  readonly #walker: TableWalker;
  readonly #rootTable: () => number;
  readonly #didMask: number;
  readonly #deviceTlbs: DeviceTlbs | null;
  /** What those may hold; null on a unit that knows none. */
  readonly #kept: DeviceTlbSet | null;
  /** Word 0: number of the last invalidation fetched. Word 1: whether it is still in flight. */
  readonly #fetched: number;

  constructor(options: {
    readonly unit: number;
    readonly heap: Heap;
    readonly shared: Adversary;
    readonly capabilities: Capabilities;
    readonly rootTable: () => number;
    readonly deviceTlbs: DeviceTlbs | null;
  }) {
    this.#unit = options.unit;
    this.#shared = options.shared;
    this.#heap = options.heap;
    this.#walker = new TableWalker(options.shared.frames, options.capabilities);
    this.#rootTable = options.rootTable;
    this.cachesAbsent = options.capabilities.cachingMode;
    this.#fetched = options.heap.reserve(`unit ${options.unit} invalidation in flight`, 2, { kind: 'unhashed' }).base;
    this.#didMask = options.capabilities.domainIds - 1;
    options.shared.units[options.unit] = this;
    this.#deviceTlbs = options.deviceTlbs;
    this.#kept = options.deviceTlbs ? new DeviceTlbSet(options.heap, options.shared, options.unit) : null;
    if (options.deviceTlbs) options.deviceTlbs.observer = this;
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

  contextType(sourceId: number): number {
    const fault = this.#walker.findContext(this.#rootTable(), sourceId);
    return fault !== 0 ? -fault : this.#walker.contextType();
  }

  /** Everything that the request may get now, the tables' own answer first. Each (frame, rights, did) once. */
  mayTranslate(sourceId: number, dfn: number): MayTranslation[] {
    const found = new Map<string, MayTranslation>();
    const contexts = this.#mayContexts(sourceId);
    for (const context of contexts) {
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
    // A device uses what it has kept where the unit lets translated requests through.
    const through = contexts.find(({ fault, deviceTlb }) => fault === 0 && deviceTlb);
    if (through && this.#deviceTlbs!.isEnabled(sourceId)) {
      this.#walkKept(
        dfn,
        false,
        this.#walkerOf((frame, rights) => {
          const known = [...found.values()].some((one) => one.frame === frame && (rights & ~one.rights) === 0);
          if (frame < 0 || rights === 0 || known) return;
          found.set(`${frame} ${rights} kept`, { frame, rights, current: false, did: through.did, deviceTlb: true });
        }, dfn),
        (visit) => this.#kept!.eachCovering(sourceId, dfn, visit),
      );
    }
    return [...found.values()];
  }

  /** The context entry of a requester as it is, then those that the unit remembers. */
  #linkedContexts(sourceId: number): MayContext[] {
    const walker = this.#walker;
    const contexts = [this.#describe(walker.findContext(this.#rootTable(), sourceId), true)];
    this.#shared.retained.eachContext(this.#unit, (source, w0, w1, w2) => {
      if (source !== sourceId) return;
      walker.context0 = w0;
      walker.context1 = w1;
      walker.context2 = w2;
      const fault = walker.checkContext();
      // One that cannot be used is remembered by caching mode only, like an absent one.
      if (fault === 0 || this.cachesAbsent) contexts.push(this.#describe(fault, false));
    });
    return contexts;
  }

  #describe(fault: number, current: boolean): MayContext {
    const walker = this.#walker;
    return {
      fault,
      current,
      did: walker.contextDid(),
      levels: walker.contextLevels(),
      table: walker.contextTable(),
      passThrough: walker.contextType() === TranslationType.passThrough,
      deviceTlb: walker.contextType() === TranslationType.tablesAndDeviceTlb,
    };
  }

  #mayContexts(sourceId: number): MayContext[] {
    const { lag } = this.#shared;
    const linked = this.#linkedContexts(sourceId);
    return lag === null ? linked : [...linked, ...this.#lateContexts(lag, sourceId)];
  }

  /** Contexts by entries of the root and context table that the unit may still see as they were. */
  #lateContexts(lag: MemoryLag, sourceId: number): MayContext[] {
    const { frames } = this.#shared;
    const walker = this.#walker;
    const root = this.#rootTable();
    const bus = (sourceId >>> 8) * 4;
    const found: MayContext[] = [];
    for (const { units, frame, word, old } of lag.entries()) {
      if ((units & (1 << this.#unit)) === 0 || old.length === 0) continue;
      if (frame === root && word === bus && (old[0]! & 1) === 0)
        found.push(this.#describe(FaultReason.rootNotPresent, false));
      if (!frames.isMemory(root) || (frames.readWord(root, bus) & 1) === 0) continue;
      const table = entryFrame(frames.readWord(root, bus), frames.readWord(root, bus + 1));
      if (frame !== table || word !== (sourceId & 0xff) * 4) continue;
      [walker.context0, walker.context1, walker.context2] = [old[0]!, old[1]!, old[2]!];
      found.push(this.#describe(walker.checkContext(), false));
    }
    return found;
  }

  #mayWalk(context: MayContext, dfn: number, add: Add): void {
    const walk = this.#walkerOf(add, dfn);
    walk.descend(context.table, context.levels, 3, context.current);
    this.#walkKept(dfn, this.cachesAbsent, walk, (visit) =>
      this.#shared.retained.eachCovering(this.#unit, context.did, dfn, visit),
    );
  }

  /** Whether a present entry gives a fault and nothing else. */
  #isErroneous(level: number, low: number): boolean {
    return isLeaf(level, low) ? !this.#walker.leafIsValid(level, low) : (low & ENTRY_RESERVED) !== 0;
  }

  /** Walks from everything that is remembered for an address: absent and erroneous entries too, or not. */
  #walkKept(
    dfn: number,
    alsoFaults: boolean,
    { follow }: MayWalk,
    each: (visit: (level: number, low: number, high: number) => void) => void,
  ): void {
    const { frames } = this.#shared;
    // What was cached of another root of the did: its entries, if it has them, and from there on a walk like any other.
    const fromSeen = (table: number, level: number): void => {
      if (!frames.isMemory(table)) return;
      const word = tableIndex(dfn, level) * 2;
      const low = frames.readWord(table, word);
      if ((low & ENTRY_PERMISSIONS) !== 0 || alsoFaults) kept(level, low, frames.readWord(table, word + 1));
    };
    const kept = (level: number, low: number, high: number): void => {
      if (alsoFaults || !this.#isErroneous(level, low)) follow(level, low, high, 3, false);
    };
    each((level, low, high) => {
      if (level === ROOT_SEEN) fromSeen(entryFrame(low, high), low & 7);
      else kept(level, low, high);
    });
  }

  /** All that a walk may come to for an address, from a table or from an entry on. */
  #walkerOf(add: Add, dfn: number): MayWalk {
    const { frames, lag } = this.#shared;
    const entries = lag === null || lag.size === 0 ? [] : lag.entries();
    const late = entries.filter(({ units, old }) => (units & (1 << this.#unit)) !== 0 && old.length > 0);
    const leaf = (level: number, low: number, high: number, rights: number, current: boolean) => {
      if (!this.#walker.leafIsValid(level, low)) add(-FaultReason.entryReserved, 0, current);
      else add(entryFrame(low, high) + (dfn % entryPages(level)), rights & low & ENTRY_PERMISSIONS, current);
    };
    const descend = (table: number, level: number, rights: number, current: boolean) => {
      if (!frames.isMemory(table)) return add(-FaultReason.nextTableInvalid, 0, current);
      const word = tableIndex(dfn, level) * 2;
      follow(level, frames.readWord(table, word), frames.readWord(table, word + 1), rights, current);
      for (const { frame, word: at, old } of late) {
        if (frame === table && at === word) follow(level, old[0]!, old[1]!, rights, false);
      }
    };
    const follow = (level: number, low: number, high: number, rights: number, current: boolean) => {
      if ((low & ENTRY_PERMISSIONS) === 0) add(-FaultReason.readNotPermitted, 0, current);
      else if (isLeaf(level, low)) leaf(level, low, high, rights, current);
      else if ((low & ENTRY_RESERVED) !== 0) add(-FaultReason.entryReserved, 0, current);
      else descend(entryFrame(low, high), level - 1, rights & low, current);
    };
    return { descend, follow };
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
      if (!fresh) this.#linkContext(sourceId, old, false);
    }
    this.#linkContext(sourceId, now, true);
  }

  contextKept(sourceId: number, words: readonly number[]): void {
    if ((words[0]! & 1) === 0 && !this.cachesAbsent) return;
    const fresh = this.#shared.retained.addContext(this.#unit, sourceId, words, this.epoch());
    if (fresh) this.#linkContext(sourceId, words, true);
  }

  #linkContext(sourceId: number, words: readonly number[], add: boolean): void {
    const walker = this.#walker;
    [walker.context0, walker.context1, walker.context2] = [words[0]!, words[1]!, words[2]!];
    if (walker.checkContext() !== 0 || walker.contextType() === TranslationType.passThrough) return;
    const [table, did, levels] = [walker.contextTable(), walker.contextDid(), walker.contextLevels()];
    const isKept = walker.contextType() === TranslationType.tablesAndDeviceTlb;
    if (add) this.#shared.linkRoot(table, this.#unit, did, levels);
    else this.#shared.unlinkRoot(table, this.#unit, did, levels);
    if (isKept && this.#deviceTlbs!.isEnabled(sourceId)) this.#kept!.linkRoot(sourceId, table, levels, add);
  }

  deviceTlbChanged(sourceId: number, enabled: boolean): void {
    for (const { fault, deviceTlb, table, levels } of this.#linkedContexts(sourceId)) {
      if (fault === 0 && deviceTlb) this.#kept!.linkRoot(sourceId, table, levels, enabled);
    }
    if (!enabled) this.#kept!.forget(sourceId);
  }

  fetchDeviceTlb(): void {
    this.#kept!.fetch();
  }

  invalidateDeviceTlb(sourceId: number, range: DeviceTlbRange | null): void {
    this.#kept!.invalidated(sourceId, range);
  }

  abandonDeviceTlb(): void {
    this.#kept!.abandoned();
  }

  invalidateContext(granularity: number, did: number, sourceId: number, functionMask: number): void {
    const limit = this.epoch();
    this.#shared.stillSeen(this.#unit);
    this.#shared.retained.removeContexts(
      this.#unit,
      (source, words, epoch) => {
        const tag = words[0]! & 1 ? (words[2]! >>> 8) & this.#didMask : 0;
        if (epoch >= limit) return false;
        if (granularity !== ContextGranularity.global && tag !== did) return false;
        return granularity !== ContextGranularity.device || sourceMatches(source, sourceId, functionMask);
      },
      (source, words) => this.#linkContext(source, words, false),
    );
    this.#completed();
  }

  invalidateIotlb(granularity: number, did: number, dfn: number, order: number, hint: boolean): void {
    const scope: Scope | null =
      granularity === IotlbGranularity.page ? { dfn: alignDown(dfn, order), pages: pagesOf(order) } : null;
    const { retained } = this.#shared;
    this.#shared.stillSeen(this.#unit);
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
    if (this.#kept !== null) this.#keepForDevices(did, level, dfn, pages, low, high);
    if (level === ROOT_SEEN) shared.rootInvalidated(this.#unit, did, low, high);
    else if ((low & ENTRY_PERMISSIONS) === 0) return;
    else if (!isLeaf(level, low)) shared.dropLink(frame, this.#unit, did, level - 1, dfn, scope);
    else
      shared.observer?.dropped(this.#unit, did, dfn, pages, frame + (dfn % entryPages(level)), low & ENTRY_PERMISSIONS);
  }

  /** What goes by a did is lost to the unit, but not to the devices of the did that could keep it. */
  #keepForDevices(did: number, level: number, dfn: number, pages: number, low: number, high: number): void {
    for (const source of this.#deviceTlbs!.enabled()) {
      const uses = this.#linkedContexts(source).some((one) => one.fault === 0 && one.deviceTlb && one.did === did);
      if (uses) this.#kept!.keep(source, level, dfn, pages, low, high);
    }
  }
}

type Add = (frame: number, rights: number, current: boolean) => void;

interface MayWalk {
  descend(table: number, level: number, rights: number, current: boolean): void;
  follow(level: number, low: number, high: number, rights: number, current: boolean): void;
}

interface MayContext {
  readonly fault: number;
  readonly current: boolean;
  readonly did: number;
  readonly levels: number;
  readonly table: number;
  readonly passThrough: boolean;
  readonly deviceTlb: boolean;
}
