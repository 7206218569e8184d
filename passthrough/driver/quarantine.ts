// Tables for devices in quarantine. They hold the device's reserved regions, one to one; and with a scratch page every
// other device frame leads to that page, the device's alone, so that a device which goes on with its DMA harms nobody
// and sees no faults. xen: intel_iommu_quarantine_init, fill_qpt.

import { Errno } from '../../machine/errno.ts';
import { type Mfn, PAGE_WORDS } from '../../machine/frame-number.ts';
import type { FrameTable } from '../../machine/frame-table.ts';
import type { Heap } from '../../machine/heap/heap.ts';
import { DOMID_IO, DOMID_XEN } from '../../machine/ids.ts';
import { ENTRY_PERMISSIONS, entryFrame, entryPages } from '../hardware/walk.ts';
import { ENTRY_READ, ENTRY_WRITE } from './tables/device-tables.ts';

// Per device: its root table and its page, plus 1; 0: it has none.
const RECORD_WORDS = 2;
const ROOT = 0;
const PAGE = 1;
const ENTRIES = 512;

/** Device frames that lead to the frames of the same numbers. */
export interface IdentityRange {
  readonly firstFrame: number;
  readonly frames: number;
}

export interface QuarantineOptions {
  /** Per device: the reserved regions that are for it. */
  readonly devices: readonly (readonly IdentityRange[])[];
  /** Whether everything else leads to a page of the device's own. */
  readonly scratch: boolean;
  readonly levels: number;
  /** Levels that the unit with the fewest of them walks. */
  readonly fewestLevels: number;
  /** Device frames that lead to the scratch page, from 0 on. */
  readonly reach: number;
}

export class QuarantineTables {
  readonly #heap: Heap;
  readonly #frames: FrameTable;
  readonly #options: QuarantineOptions;
  readonly #records: number;

  constructor(heap: Heap, frames: FrameTable, options: QuarantineOptions) {
    this.#heap = heap;
    this.#frames = frames;
    this.#options = options;
    this.#records = heap.reserve('quarantine tables', options.devices.length * RECORD_WORDS).base;
  }

  /** Whether a device has tables of its own while it is in quarantine; else nothing of its is translated there. */
  hasTables(index: number): boolean {
    const { scratch, devices } = this.#options;
    return index >= 0 && index < devices.length && (scratch || devices[index]!.length > 0);
  }

  #word(index: number, word: number): number {
    return this.#heap.words[this.#records + index * RECORD_WORDS + word]!;
  }

  /** Whether a device's tables have been made. */
  isMade(index: number): boolean {
    return this.hasTables(index) && this.#word(index, ROOT) !== 0;
  }

  /** Root of a device's tables. They must have been prepared. */
  root(index: number): Mfn {
    return (this.#word(index, ROOT) - 1) as Mfn;
  }

  /** Where a unit begins that walks so many levels. xen: domain_pgd_maddr. */
  rootOfLevels(index: number, levels: number): Mfn {
    let table = this.root(index);
    for (let level = this.#options.levels; level > levels; level -= 1) table = this.#below(table, 0);
    return table;
  }

  #below(table: Mfn, entry: number): Mfn {
    const low = this.#frames.readWord(table, entry * 2);
    return entryFrame(low, this.#frames.readWord(table, entry * 2 + 1)) as Mfn;
  }

  /**
   * Makes a device's tables, unless it has them.
   * @returns 0; or -ENOMEM, and what was made is still taken.
   */
  prepare(index: number): 0 | typeof Errno.ENOMEM {
    if (this.#word(index, ROOT) !== 0) return 0;
    const { levels, scratch, devices } = this.#options;
    const building = new Building(this.#frames, this.#options, devices[index]!);
    const page = scratch ? building.page() : 0;
    const root = building.table(levels, 0);
    if (page < 0 || root < 0) return Errno.ENOMEM;
    const record = this.#records + index * RECORD_WORDS;
    if (scratch) this.#heap.write(record + PAGE, page + 1);
    this.#heap.write(record + ROOT, root + 1);
    return 0;
  }

  /** Clears a device's page of what it wrote there before. */
  wipe(index: number): void {
    const page = this.#word(index, PAGE) - 1;
    if (page >= 0) this.#frames.clearContents(page as Mfn);
  }

  /** The device is gone, and so are its tables. xen: quarantine_teardown. */
  destroy(index: number): void {
    if (this.#word(index, ROOT) === 0) return;
    const found = new Set<Mfn>();
    this.#collect(this.root(index), this.#options.levels, found);
    const page = this.#word(index, PAGE) - 1;
    if (page >= 0) found.add(page as Mfn);
    for (const frame of found) if (this.#frames.dropReferences(frame, 1, 0)) this.#frames.free(frame);
    this.#heap.write(this.#records + index * RECORD_WORDS + ROOT, 0);
    this.#heap.write(this.#records + index * RECORD_WORDS + PAGE, 0);
  }

  /** Tables, each once: those that only lead to the scratch page are named many times. */
  #collect(table: Mfn, level: number, found: Set<Mfn>): void {
    if (found.has(table)) return;
    found.add(table);
    for (let entry = 0; level > 1 && entry < ENTRIES; entry += 1) {
      if ((this.#frames.readWord(table, entry * 2) & ENTRY_PERMISSIONS) === 0) continue;
      this.#collect(this.#below(table, entry), level - 1, found);
    }
  }
}

/** The tables of one device in the making. Frames are -1 where memory is exhausted. */
class Building {
  readonly #frames: FrameTable;
  readonly #options: QuarantineOptions;
  readonly #regions: readonly IdentityRange[];
  /** Level 0: the scratch page. Above: a table all of whose entries lead to it. Made when they are first needed. */
  readonly #scratch: number[] = [];

  constructor(frames: FrameTable, options: QuarantineOptions, regions: readonly IdentityRange[]) {
    this.#frames = frames;
    this.#options = options;
    this.#regions = regions;
  }

  #allocate(owner: typeof DOMID_IO | typeof DOMID_XEN): number {
    return this.#frames.allocate(owner, { xenHeap: true });
  }

  page(): number {
    this.#scratch[0] ??= this.#allocate(DOMID_IO);
    return this.#scratch[0]!;
  }

  /** A table of a level, from a device frame on. Its own if it holds some of a region, or some unit begins below it. */
  table(level: number, first: number): number {
    const { levels, fewestLevels, scratch } = this.#options;
    const pages = entryPages(level);
    const isOwn = level === levels || this.#holds(first, pages * ENTRIES) || (first === 0 && level >= fewestLevels);
    if (!isOwn) return scratch ? this.#scratchTable(level) : 0;
    const table = this.#allocate(DOMID_XEN);
    for (let entry = 0; table >= 0 && entry < ENTRIES; entry += 1) {
      const to = this.#entry(level, first + entry * pages);
      if (to < 0) return -1;
      if (to > 0) this.#write(table, entry, to);
    }
    if (table >= 0) this.#frames.writeBack(table as Mfn, 0, PAGE_WORDS);
    return table;
  }

  /** What an entry of an own table leads to; 0: nothing. */
  #entry(level: number, first: number): number {
    const { fewestLevels, scratch, reach } = this.#options;
    const isNeeded = this.#holds(first, entryPages(level)) || (first === 0 && level > fewestLevels);
    if (!isNeeded && (!scratch || first >= reach)) return 0;
    if (level > 1) return this.table(level - 1, first);
    return isNeeded ? first : this.page();
  }

  #holds(first: number, pages: number): boolean {
    return this.#regions.some(({ firstFrame, frames }) => firstFrame < first + pages && first < firstFrame + frames);
  }

  #scratchTable(level: number): number {
    const known = this.#scratch[level];
    if (known !== undefined) return known;
    const below = level === 1 ? this.page() : this.#scratchTable(level - 1);
    const table = below < 0 ? -1 : this.#allocate(DOMID_XEN);
    const entries = Math.min(ENTRIES, Math.ceil(this.#options.reach / entryPages(level)));
    for (let entry = 0; table >= 0 && entry < entries; entry += 1) this.#write(table, entry, below);
    if (table >= 0) this.#frames.writeBack(table as Mfn, 0, PAGE_WORDS);
    this.#scratch[level] = table;
    return table;
  }

  #write(table: number, entry: number, to: number): void {
    const low = ((to << 12) | ENTRY_READ | ENTRY_WRITE) >>> 0;
    this.#frames.writeEntry(table as Mfn, entry, low, Math.floor(to / 0x100000));
  }
}
