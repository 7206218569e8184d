// The walk through root, context and second-level tables, as the specification lays it down. VT-d 3.4, 3.6.

import type { FrameTable } from '../../machine/frame-table.ts';
import type { Heap } from '../../machine/heap/heap.ts';
import type { Capabilities } from './capabilities.ts';
import { contextEntry, maskOf, secondLevelEntry, shiftOf } from './layouts.ts';
import type { MemoryLag } from './memory-lag.ts';
import { Access, FaultReason } from './registers.ts';

export const ENTRY_PERMISSIONS = maskOf(secondLevelEntry, 'read') | maskOf(secondLevelEntry, 'write');
export const ENTRY_SUPERPAGE = maskOf(secondLevelEntry, 'superpage');
export const ENTRY_SNOOP = maskOf(secondLevelEntry, 'snoop');
/** Bits that must be 0 in an entry that names a table. */
export const ENTRY_RESERVED = ENTRY_SUPERPAGE | ENTRY_SNOOP;
const TRANSLATION_TYPE = maskOf(contextEntry, 'translationType');
const TRANSLATION_TYPE_SHIFT = shiftOf(contextEntry, 'translationType');
const ADDRESS_WIDTH = maskOf(contextEntry, 'addressWidth');
const DOMAIN_ID_SHIFT = shiftOf(contextEntry, 'domainId');

/** Values of a context entry's translation type. VT-d 9.3. */
export const TranslationType = { tables: 0, tablesAndDeviceTlb: 1, passThrough: 2, reserved: 3 } as const;

/** The frame that an entry names. */
export function entryFrame(low: number, high: number): number {
  const top = high & 0xfffff;
  return top < 0x800 ? (low >>> 12) | (top << 20) : (low >>> 12) + top * 0x100000;
}

/** Index into the table of a level (1 is the lowest) for a device frame number. */
export function tableIndex(dfn: number, level: number): number {
  if (level <= 3) return (dfn >>> (9 * (level - 1))) & 511;
  return Math.floor(dfn / (level === 4 ? 0x8000000 : 0x1000000000)) & 511;
}

/** Frames covered by one entry of a table of this level. */
export function entryPages(level: number): number {
  return level === 1 ? 1 : level === 2 ? 512 : level === 3 ? 0x40000 : level === 4 ? 0x8000000 : 0x1000000000;
}

/** Whether a present entry of this level maps a page rather than naming a table. */
export function isLeaf(level: number, low: number): boolean {
  return level === 1 || (level <= 3 && (low & ENTRY_SUPERPAGE) !== 0);
}

/** What a unit sees of memory that it sees late. */
export interface UnitView {
  readonly unit: number;
  readonly heap: Heap;
  readonly lag: MemoryLag;
}

/**
 * Walks one unit's tables. Results stay in the fields until the next walk, so that nothing is allocated.
 */
export class TableWalker {
  /** The leaf found: its words, its level, and the frame for the address asked for. */
  low = 0;
  high = 0;
  level = 0;
  frame = 0;
  /** Entries read by the last second-level walk. */
  reads = 0;
  /** The last context entry found. */
  context0 = 0;
  context1 = 0;
  context2 = 0;

  readonly #frames: FrameTable;
  /** What the unit does not see yet; null: it sees memory as it is. */
  readonly #view: UnitView | null;
  readonly #levelsMask: number;
  readonly #superpages: number;
  readonly #snoopControl: boolean;
  readonly #passThrough: boolean;
  readonly #deviceTlb: boolean;
  /** Bits of a domain id that the unit implements. */
  readonly #didMask: number;
  /** First device frame beyond reach, by levels of the tables. */
  readonly #limits: readonly number[];

  constructor(frames: FrameTable, capabilities: Capabilities, view: UnitView | null = null) {
    this.#frames = frames;
    this.#view = view;
    this.#levelsMask = capabilities.levels.reduce((mask, level) => mask | (1 << level), 0);
    this.#superpages = (capabilities.superpage2m ? 1 << 2 : 0) | (capabilities.superpage1g ? 1 << 3 : 0);
    this.#snoopControl = capabilities.snoopControl;
    this.#passThrough = capabilities.passThrough;
    this.#deviceTlb = capabilities.deviceTlb;
    this.#didMask = capabilities.domainIds - 1;
    this.#limits = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9].map(
      (levels) => 2 ** (Math.min(capabilities.addressBits, 12 + 9 * levels) - 12),
    );
  }

  /** A word of a table as the unit sees it. */
  readWord(frame: number, word: number): number {
    const view = this.#view;
    if (view === null) return this.#frames.readWord(frame, word);
    const seen = view.lag.seen(view.unit, frame, word);
    return seen === 0 ? this.#frames.readWord(frame, word) : view.heap.words[seen]!;
  }

  /** Finds the context entry of a requester. 0, or the fault reason. VT-d 3.4.2, 3.4.3. */
  findContext(rootTable: number, sourceId: number): number {
    const frames = this.#frames;
    if (!frames.isMemory(rootTable)) return FaultReason.rootTableInvalid;
    const bus = (sourceId >>> 8) * 4;
    const root = this.readWord(rootTable, bus);
    if ((root & 1) === 0) return FaultReason.rootNotPresent;
    if ((root & 0xffe) !== 0) return FaultReason.rootReserved;
    const table = entryFrame(root, this.readWord(rootTable, bus + 1));
    if (!frames.isMemory(table)) return FaultReason.contextTableInvalid;
    const at = (sourceId & 0xff) * 4;
    this.context0 = this.readWord(table, at);
    this.context1 = this.readWord(table, at + 1);
    this.context2 = this.readWord(table, at + 2);
    return this.checkContext();
  }

  /** Whether the context entry in the fields can be used. 0, or the fault reason. */
  checkContext(): number {
    if ((this.context0 & 1) === 0) return FaultReason.contextNotPresent;
    if ((this.context0 & 0xff0) !== 0) return FaultReason.contextReserved;
    const type = (this.context0 & TRANSLATION_TYPE) >>> TRANSLATION_TYPE_SHIFT;
    if (type === TranslationType.reserved) return FaultReason.contextInvalid;
    // What passes through is as wide as the unit can walk. VT-d 9.3, AW.
    const isWidest = 1 << (this.contextLevels() + 1) > this.#levelsMask;
    if (type === TranslationType.passThrough && !(this.#passThrough && isWidest)) return FaultReason.contextInvalid;
    if (type === TranslationType.tablesAndDeviceTlb && !this.#deviceTlb) return FaultReason.contextInvalid;
    return this.#levelsMask & (1 << this.contextLevels()) ? 0 : FaultReason.contextInvalid;
  }

  contextType(): number {
    return (this.context0 & TRANSLATION_TYPE) >>> TRANSLATION_TYPE_SHIFT;
  }

  contextLevels(): number {
    return (this.context2 & ADDRESS_WIDTH) + 2;
  }

  /** Bits beyond those that the unit has ids for are ignored. VT-d 9.3. */
  contextDid(): number {
    return (this.context2 >>> DOMAIN_ID_SHIFT) & this.#didMask;
  }

  contextTable(): number {
    return entryFrame(this.context0, this.context1);
  }

  /** First device frame that a unit refuses through tables of so many levels: beyond one of both widths. VT-d 3.6. */
  limit(levels: number): number {
    return this.#limits[levels]!;
  }

  /**
   * Walks from a table of a level down to a leaf. 0, or the fault reason. Rights are those of every level together.
   * VT-d 3.6, 3.7.
   */
  walk(table: number, level: number, dfn: number, access: Access): number {
    const frames = this.#frames;
    const isLate = this.#view !== null;
    this.reads = 0;
    for (let at = table, depth = level; depth >= 1; depth -= 1) {
      if (!frames.isMemory(at)) return FaultReason.nextTableInvalid;
      const word = tableIndex(dfn, depth) * 2;
      const low = isLate ? this.readWord(at, word) : frames.readWord(at, word);
      const high = isLate ? this.readWord(at, word + 1) : frames.readWord(at, word + 1);
      this.reads += 1;
      if ((low & access) === 0)
        return access === Access.write ? FaultReason.writeNotPermitted : FaultReason.readNotPermitted;
      if (!isLeaf(depth, low)) {
        if ((low & ENTRY_RESERVED) !== 0) return FaultReason.entryReserved;
        at = entryFrame(low, high);
        continue;
      }
      if (!this.leafIsValid(depth, low)) return FaultReason.entryReserved;
      this.low = low;
      this.high = high;
      this.level = depth;
      this.frame = entryFrame(low, high) + (dfn & (entryPages(depth) - 1));
      return 0;
    }
    return FaultReason.nextTableInvalid;
  }

  /** Whether a leaf's reserved bits are clear: size supported, low address bits of a superpage 0, snoop if known. */
  leafIsValid(level: number, low: number): boolean {
    if ((low & ENTRY_SNOOP) !== 0 && !this.#snoopControl) return false;
    if (level === 1) return true;
    if ((this.#superpages & (1 << level)) === 0) return false;
    const offset = level === 2 ? 0x1ff000 : 0x3ffff000;
    return (low & offset) === 0;
  }
}
