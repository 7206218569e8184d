// Changes of leaves, and what they entail for the tables: large leaves are split and formed, tables replaced and
// unhooked. xen: vtd/iommu.c intel_iommu_map_page, intel_iommu_unmap_page.
//
// A change writes the tables and remembers what it did, until the next one. What units may have cached of it is the
// flush engine's business, and so is the end of the tables that it took out: they must outlive what is cached.

import { Errno } from '../../../machine/errno.ts';
import { type Dfn, type Mfn, pagesOf } from '../../../machine/frame-number.ts';
import type { FrameTable } from '../../../machine/frame-table.ts';
import type { Domid } from '../../../machine/ids.ts';
import { ENTRY_PERMISSIONS, entryFrame, entryPages, isLeaf } from '../../hardware/walk.ts';
import type { Structure } from '../../policy/flush-policy.ts';
import type { DeviceTables } from './device-tables.ts';

// What a change did to the tables; of several the last in this order is told.
const NONE = 0;
const SPLIT = 1;
const REPLACED = 2;
const UNHOOKED = 3;
const FORMED = 4;
const STRUCTURES: readonly Structure[] = ['none', 'split', 'replaced', 'unhooked', 'formed'];

/** Level of the table whose entries are leaves of an order, or in which smaller blocks lie side by side. */
export function leafLevel(order: number): number {
  return order < 9 ? 1 : order < 18 ? 2 : 3;
}

export class TableChanges {
  /** The strongest rights that were there before. */
  before = 0;
  /** A present entry names another frame now. */
  frameChanged = false;
  /** Entries that changed; pages that lost access. */
  changed = 0;
  removed = 0;
  /** Tables that were taken out, from below: table x 16 + level, plus 8 when there are tables below it. */
  readonly dropped: number[] = [];
  #structure = NONE;
  readonly #tables: DeviceTables;
  readonly #frames: FrameTable;

  constructor(tables: DeviceTables, frames: FrameTable) {
    this.#tables = tables;
    this.#frames = frames;
  }

  get structure(): Structure {
    return STRUCTURES[this.#structure]!;
  }

  /** Forgets the last change. */
  begin(): void {
    this.before = 0;
    this.frameChanged = false;
    this.changed = 0;
    this.removed = 0;
    this.#structure = NONE;
    if (this.dropped.length > 0) this.dropped.length = 0;
  }

  #restructured(how: number): void {
    if (how > this.#structure) this.#structure = how;
  }

  #drop(table: Mfn, level: number, isTree: boolean): void {
    this.dropped.push(table * 16 + level + (isTree ? 8 : 0));
    this.#tables.forget();
  }

  /**
   * Makes one leaf of a level say frame and rights; `dfn` and `frame` are aligned to it. Can follow another map of the
   * same change.
   * @returns 0, or -ENOMEM when nothing was done.
   */
  map(domain: Domid, dfn: Dfn, frame: number, rights: number, level: number): number {
    const tables = this.#tables;
    const found = tables.find(domain, dfn, true, level);
    if (found < 0) return found;
    const before = tables.low & ENTRY_PERMISSIONS;
    if (before !== 0 && !isLeaf(tables.level, tables.low)) this.#supersede(frame, rights);
    else {
      const isOther = before !== 0 && tables.frame !== frame;
      if (before === rights && !isOther) return 0;
      if (tables.level > level) {
        if (tables.split(level) !== 0) return Errno.ENOMEM;
        this.#restructured(SPLIT);
      }
      this.before |= before;
      if (isOther) this.frameChanged = true;
      tables.set(frame, rights);
    }
    this.changed += 1;
    if (tables.level < tables.largestLeafOf(domain)) this.#form(domain, dfn);
    return 0;
  }

  /** A large leaf takes the place of the found table. */
  #supersede(frame: number, rights: number): void {
    const tables = this.#tables;
    const { level } = tables;
    const table = entryFrame(tables.low, tables.high) as Mfn;
    this.#sweep(table, level - 1, frame, rights);
    tables.set(frame, rights);
    this.#restructured(REPLACED);
    this.#drop(table, level - 1, level > 2);
  }

  /**
   * Makes the present leaves of a table say frame and rights (-1 and 0: absent), and notes what they said. Devices may
   * walk the table until it is flushed, so it is put in order though it goes.
   */
  #sweep(table: Mfn, level: number, frame: number, rights: number): void {
    const pages = entryPages(level);
    for (let entry = 0; entry < 512; entry += 1) {
      const low = this.#frames.readWord(table, entry * 2);
      const was = low & ENTRY_PERMISSIONS;
      if (was === 0) continue;
      const old = entryFrame(low, this.#frames.readWord(table, entry * 2 + 1));
      const wanted = frame < 0 ? -1 : frame + entry * pages;
      if (!isLeaf(level, low)) {
        this.#sweep(old as Mfn, level - 1, wanted, rights);
        continue;
      }
      this.before |= was;
      if (old === wanted && was === rights) continue;
      if (frame >= 0 && old !== wanted) this.frameChanged = true;
      this.removed += pages;
      this.#tables.pages.leaf(table, level, entry, wanted, rights);
    }
  }

  /** While the found table says what one leaf above it would say, that leaf takes its place. */
  #form(domain: Domid, dfn: Dfn): void {
    const tables = this.#tables;
    const largest = tables.largestLeafOf(domain);
    while (tables.level < largest && tables.pages.isContiguous(tables.table, tables.level)) {
      const { table, level } = tables;
      const low = this.#frames.readWord(table, 0);
      const first = entryFrame(low, this.#frames.readWord(table, 1));
      tables.find(domain, dfn, false, level + 1);
      tables.set(first, low & ENTRY_PERMISSIONS);
      this.#restructured(FORMED);
      this.#drop(table, level, false);
    }
  }

  /**
   * Makes 2^order aligned device frames absent: up to 9, or 18.
   * @returns 0, or -ENOMEM when a leaf had to be split and nothing was done.
   */
  unmap(domain: Domid, dfn: Dfn, order: number): number {
    const tables = this.#tables;
    const level = leafLevel(order);
    if (tables.find(domain, dfn, false, level) !== 1) return 0;
    if (tables.level > level) {
      if (tables.split(level) !== 0) return Errno.ENOMEM;
      this.#restructured(SPLIT);
    }
    if (level === 1) this.#clear(pagesOf(order));
    else if (isLeaf(level, tables.low) || (tables.low & ENTRY_PERMISSIONS) === 0) this.#clear(1);
    else this.#clearBelow(domain);
    if (this.removed > 0 && tables.reclaims(domain)) this.#unhookEmpty(domain, dfn);
    return 0;
  }

  /** Clears leaves side by side, from the found one on. */
  #clear(count: number): void {
    const tables = this.#tables;
    const { table, level, entry } = tables;
    for (let at = entry; at < entry + count; at += 1) {
      const was = this.#frames.readWord(table, at * 2) & ENTRY_PERMISSIONS;
      if (was === 0) continue;
      tables.pages.leaf(table, level, at, 0, 0);
      this.before |= was;
      this.removed += entryPages(level);
    }
  }

  /** Clears what lies below the found table, and takes that out if tables are reclaimed. */
  #clearBelow(domain: Domid): void {
    const tables = this.#tables;
    const table = entryFrame(tables.low, tables.high) as Mfn;
    const below = tables.level - 1;
    this.#sweep(table, below, -1, 0);
    if (this.removed === 0 || !tables.reclaims(domain)) return;
    tables.set(0, 0);
    this.#restructured(REPLACED);
    this.#drop(table, below, below > 1);
  }

  /** While the found table is empty it is taken out: up to the level that Xen keeps (min_pt_levels - 2). */
  #unhookEmpty(domain: Domid, dfn: Dfn): void {
    const tables = this.#tables;
    while (tables.level <= tables.fewestLevels - 2 && tables.pages.isEmpty(tables.table)) {
      const { table, level } = tables;
      tables.find(domain, dfn, false, level + 1);
      tables.set(0, 0);
      this.#restructured(UNHOOKED);
      this.#drop(table, level, false);
    }
  }
}
