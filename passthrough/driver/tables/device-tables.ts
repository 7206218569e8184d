// The second-level tables of each domain: one root per domain, walked by every unit that serves it.
//
// Table pages are frames of the machine's allocator, owned by the hypervisor. How leaves change, and what becomes of
// the tables around them, is table-changes.ts.

import { Errno } from '../../../machine/errno.ts';
import type { Dfn, Mfn } from '../../../machine/frame-number.ts';
import type { FrameTable } from '../../../machine/frame-table.ts';
import type { Heap } from '../../../machine/heap/heap.ts';
import type { Domid } from '../../../machine/ids.ts';
import { ENTRY_PERMISSIONS, entryFrame, entryPages, isLeaf, tableIndex } from '../../hardware/walk.ts';
import { TablePages } from './table-pages.ts';

/** Bits of a second-level entry that say what a device may do. */
export const ENTRY_READ = 1;
export const ENTRY_WRITE = 2;

const ROOT = 0;
const UNITS = 1;
/** How a domain's table is kept. */
const MANNER = 2;
const RECORD_WORDS = 3;
/** Leaves of 4 KiB only, and no table is taken out. */
const PLAIN = 1;
/** Devices of the domain are not translated. */
const PASS_THROUGH = 2;

export interface DeviceTablesOptions {
  readonly domains: number;
  readonly levels: number;
  /** Levels that the unit with the fewest of them walks: its root lies that far down. As many by default. */
  readonly fewestLevels?: number;
  /** Level of the largest leaves: 1 is 4 KiB (the default), 2 is 2 MiB, 3 is 1 GiB. */
  readonly largestLeaf?: number;
  /** Tables that have become empty are taken out. */
  readonly reclaim?: boolean;
  /** Leaves say that accesses through them snoop. Only where every unit knows snoop control. xen: iommu_snoop. */
  readonly snoops?: boolean;
}

export class DeviceTables {
  /** Levels of every domain's table. */
  readonly levels: number;
  /** Tables above this level stay where they are: some unit begins at the first of them. xen: min_pt_levels. */
  readonly fewestLevels: number;
  readonly largestLeaf: number;
  readonly reclaim: boolean;
  readonly pages: TablePages;
  /** Entry found by the last {@link find}: its table and the level of that, its place, and its words. */
  table = 0 as Mfn;
  level = 1;
  entry = 0;
  low = 0;
  high = 0;
  readonly #heap: Heap;
  readonly #frames: FrameTable;
  readonly #records: number;
  readonly #limit: number;
  /** The device frame asked for last. */
  #dfn = 0;
  /** The level 1 table found last, whose it is, and where; good until the heap jumps. No part of the state. */
  #lastDomain = -1;
  #lastRange = 0;
  #lastTable = 0 as Mfn;
  #lastJumps = 0;
  /** Pages that are about to become tables, the upper first. */
  readonly #fresh: Mfn[] = [];

  constructor(heap: Heap, frames: FrameTable, options: DeviceTablesOptions) {
    this.#heap = heap;
    this.#frames = frames;
    this.levels = options.levels;
    this.fewestLevels = options.fewestLevels ?? options.levels;
    this.largestLeaf = options.largestLeaf ?? 1;
    this.reclaim = options.reclaim ?? false;
    this.#limit = 2 ** (9 * options.levels);
    this.#records = heap.reserve('device tables', options.domains * RECORD_WORDS).base;
    this.pages = new TablePages(heap, frames, {
      counted: this.reclaim || this.largestLeaf > 1,
      snoops: options.snoops ?? false,
    });
  }

  /**
   * Gives a domain an empty table, down to where the unit with the fewest levels begins. -ENOMEM when memory is
   * exhausted. xen: addr_to_dma_page_maddr, "populate only down to min_pt_levels".
   */
  create(domain: Domid): 0 | typeof Errno.ENOMEM {
    if (!this.#takePages(1 + this.levels - this.fewestLevels)) return Errno.ENOMEM;
    const [root, ...below] = this.#fresh as [Mfn, ...Mfn[]];
    for (const [at, page] of below.entries()) this.pages.point(this.#fresh[at]!, this.levels - at, 0, page);
    this.#heap.write(this.#records + domain * RECORD_WORDS + ROOT, root + 1);
    return 0;
  }

  /** The root of a domain's table; -1 when it has none. */
  root(domain: Domid): Mfn | -1 {
    return (this.#heap.words[this.#records + domain * RECORD_WORDS + ROOT]! - 1) as Mfn | -1;
  }

  /** Where a unit begins that walks so many levels: the levels above are skipped. xen: domain_pgd_maddr. */
  rootOfLevels(domain: Domid, levels: number): Mfn {
    let table = this.root(domain) as Mfn;
    for (let level = this.levels; level > levels; level -= 1) {
      table = entryFrame(this.#frames.readWord(table, 0), this.#frames.readWord(table, 1)) as Mfn;
    }
    return table;
  }

  /** The last device frame that a domain's table maps; -1 when it maps none. */
  last(domain: Domid): number {
    return this.exists(domain) ? this.#lastIn(this.root(domain) as Mfn, this.levels) : -1;
  }

  #lastIn(table: Mfn, level: number): number {
    for (let entry = 511; entry >= 0; entry -= 1) {
      const low = this.#frames.readWord(table, entry * 2);
      if ((low & ENTRY_PERMISSIONS) === 0) continue;
      const first = entry * entryPages(level);
      if (isLeaf(level, low)) return first + entryPages(level) - 1;
      const below = entryFrame(low, this.#frames.readWord(table, entry * 2 + 1)) as Mfn;
      const last = this.#lastIn(below, level - 1);
      if (last >= 0) return first + last;
    }
    return -1;
  }

  exists(domain: Domid): boolean {
    return this.#heap.words[this.#records + domain * RECORD_WORDS + ROOT]! !== 0;
  }

  /** Bitmap of the units that serve a domain: a device of it is behind each. xen: iommu_bitmap. */
  units(domain: Domid): number {
    return this.#heap.words[this.#records + domain * RECORD_WORDS + UNITS]!;
  }

  setUnits(domain: Domid, units: number): void {
    this.#heap.write(this.#records + domain * RECORD_WORDS + UNITS, units);
  }

  /** A table that belongs to the processor, too (shared EPT), is not restructured for the sake of devices. */
  setPlain(domain: Domid): void {
    this.#setManner(domain, PLAIN);
  }

  /** The domain's devices reach what they like. xen: iommu_hwdom_passthrough. */
  setPassThrough(domain: Domid): void {
    this.#setManner(domain, PASS_THROUGH);
  }

  isPassThrough(domain: Domid): boolean {
    return (this.#manner(domain) & PASS_THROUGH) !== 0;
  }

  #manner(domain: Domid): number {
    return this.#heap.words[this.#records + domain * RECORD_WORDS + MANNER]!;
  }

  #setManner(domain: Domid, bit: number): void {
    this.#heap.write(this.#records + domain * RECORD_WORDS + MANNER, this.#manner(domain) | bit);
  }

  /** Level of a domain's largest leaves. */
  largestLeafOf(domain: Domid): number {
    return (this.#manner(domain) & PLAIN) === 0 ? this.largestLeaf : 1;
  }

  /** Whether tables of a domain that have become empty are taken out. */
  reclaims(domain: Domid): boolean {
    return this.reclaim && (this.#manner(domain) & PLAIN) === 0;
  }

  /** Device frames that the tables can map: those below 2^(9 * levels). */
  reaches(dfn: Dfn): boolean {
    return dfn < this.#limit;
  }

  /**
   * Finds the entry of a device frame in its table of a level, or the larger leaf that it lies in, and leaves it in the
   * fields.
   * @returns 1 when there is one, 0 when its table does not exist or the dfn is beyond the tables, -ENOMEM when it was
   *   to be made and memory is exhausted.
   */
  find(domain: Domid, dfn: Dfn, create: boolean, level = 1): number {
    if (!this.reaches(dfn)) return 0;
    this.#dfn = dfn;
    if (level !== 1) return this.#walk(domain, dfn, create, level);
    const range = dfn < 0x80000000 ? dfn >>> 9 : Math.floor(dfn / 512);
    if (this.#lastDomain !== domain || this.#lastRange !== range || this.#lastJumps !== this.#heap.jumps) {
      const found = this.#walk(domain, dfn, create, 1);
      if (found !== 1 || this.level !== 1) return found;
      // A table of level 1 stays where it is until it is dropped.
      this.#lastDomain = domain;
      this.#lastRange = range;
      this.#lastTable = this.table;
      this.#lastJumps = this.#heap.jumps;
      return 1;
    }
    this.level = 1;
    this.#select(this.#lastTable, dfn & 511);
    return 1;
  }

  #select(table: Mfn, entry: number): void {
    const words = this.#heap.blocks[table]!;
    this.table = table;
    this.entry = entry;
    this.low = words[entry * 2]!;
    this.high = words[entry * 2 + 1]!;
  }

  #walk(domain: Domid, dfn: Dfn, create: boolean, level: number): number {
    let depth = this.levels;
    this.#select(this.root(domain) as Mfn, tableIndex(dfn, depth));
    while (depth > level) {
      if ((this.low & ENTRY_PERMISSIONS) === 0) {
        this.level = depth;
        return create ? this.#extend(level) : 0;
      }
      if (isLeaf(depth, this.low)) break;
      depth -= 1;
      this.#select(entryFrame(this.low, this.high) as Mfn, tableIndex(dfn, depth));
    }
    this.level = depth;
    return 1;
  }

  /** A domain's table goes, all of its pages with it. xen: iommu_free_pgtables. */
  destroy(domain: Domid): void {
    const root = this.root(domain);
    if (root < 0) return;
    this.pages.release(root as Mfn, this.levels);
    this.#heap.write(this.#records + domain * RECORD_WORDS + ROOT, 0);
    this.#heap.write(this.#records + domain * RECORD_WORDS + MANNER, 0);
    this.#lastDomain = -1;
  }

  /** Makes the tables below the found entry, down to a level, and finds the entry there. */
  #extend(level: number): number {
    if (!this.#takePages(this.level - level)) return Errno.ENOMEM;
    this.#hookPages();
    return 1;
  }

  /**
   * Turns the found leaf into tables down to a level, which say the same, and finds the entry there. -ENOMEM, and
   * nothing done, when memory is exhausted. xen: vtd/iommu.c addr_to_dma_page_maddr.
   */
  split(level: number): 0 | typeof Errno.ENOMEM {
    if (!this.#takePages(this.level - level)) return Errno.ENOMEM;
    let { low, high } = this;
    for (const [at, page] of this.#fresh.entries()) {
      const depth = this.level - 1 - at;
      this.pages.fill(page, depth, low, high);
      const word = tableIndex(this.#dfn, depth) * 2;
      low = this.#frames.readWord(page, word);
      high = this.#frames.readWord(page, word + 1);
    }
    this.#hookPages();
    return 0;
  }

  #takePages(count: number): boolean {
    const fresh = this.#fresh;
    fresh.length = 0;
    while (fresh.length < count) {
      const page = this.pages.allocate();
      if (page < 0) {
        for (const taken of fresh) this.pages.free(taken);
        return false;
      }
      fresh.push(page as Mfn);
    }
    return true;
  }

  /** Hooks the new pages up from below, so that devices see all of them at once, and finds the entry in the lowest. */
  #hookPages(): void {
    const fresh = this.#fresh;
    for (let at = fresh.length - 1; at > 0; at -= 1) {
      const depth = this.level - at;
      this.pages.point(fresh[at - 1]!, depth, tableIndex(this.#dfn, depth), fresh[at]!);
    }
    this.pages.point(this.table, this.level, this.entry, fresh[0]!);
    this.level -= fresh.length;
    this.#select(fresh[fresh.length - 1]!, tableIndex(this.#dfn, this.level));
  }

  /** The frame that the found leaf gives for the device frame that was asked for. */
  get frame(): number {
    const first = entryFrame(this.low, this.high);
    return this.level === 1 ? first : first + (this.#dfn & (entryPages(this.level) - 1));
  }

  /** Writes the found entry as a leaf, at once. `rights` 0 makes it absent. */
  set(frame: number, rights: number): void {
    this.pages.leaf(this.table, this.level, this.entry, frame, rights);
  }

  /** A table is in use no more: what is remembered of where tables are may be wrong. */
  forget(): void {
    this.#lastDomain = -1;
  }
}
