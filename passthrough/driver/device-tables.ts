// The second-level tables of each domain: one root per domain, walked by every unit that serves it.
//
// Table pages are frames of the machine's allocator, owned by the hypervisor.

import { Errno } from '../../machine/errno.ts';
import type { Dfn, Mfn } from '../../machine/frame-number.ts';
import type { FrameTable } from '../../machine/frame-table.ts';
import type { Heap } from '../../machine/heap/heap.ts';
import { DOMID_XEN, type Domid } from '../../machine/ids.ts';

/** Bits of a second-level entry that say what a device may do. */
export const ENTRY_READ = 1;
export const ENTRY_WRITE = 2;

/** The entry is a leaf above the lowest level. */
const LARGE = 1 << 7;

const ROOT = 0;
const UNITS = 1;
const RECORD_WORDS = 2;

export class DeviceTables {
  /** Levels of every domain's table. */
  readonly levels: number;
  /** Leaf found by the last {@link find}: its table and entry, and the entry's words. */
  table = 0 as Mfn;
  entry = 0;
  low = 0;
  high = 0;
  /** After a {@link find} that gave 0: aligned frames around the one asked for that have no table either. */
  absentPages = 0;
  readonly #heap: Heap;
  readonly #frames: FrameTable;
  readonly #records: number;
  readonly #limit: number;
  /** The leaf table found last, whose it is, and where; good until the heap jumps. No part of the state. */
  #lastDomain = -1;
  #lastRange = 0;
  #lastTable = 0 as Mfn;
  #lastJumps = 0;

  constructor(heap: Heap, frames: FrameTable, options: { readonly domains: number; readonly levels: number }) {
    this.#heap = heap;
    this.#frames = frames;
    this.levels = options.levels;
    this.#limit = 2 ** (9 * options.levels);
    this.#records = heap.reserve('device tables', options.domains * RECORD_WORDS).base;
  }

  /** Gives a domain an empty table. -ENOMEM when memory is exhausted. */
  create(domain: Domid): 0 | typeof Errno.ENOMEM {
    const root = this.#frames.allocate(DOMID_XEN, { xenHeap: true });
    if (root < 0) return Errno.ENOMEM;
    this.#heap.write(this.#records + domain * RECORD_WORDS + ROOT, root + 1);
    return 0;
  }

  /** The root of a domain's table; -1 when it has none. */
  root(domain: Domid): Mfn | -1 {
    return (this.#heap.words[this.#records + domain * RECORD_WORDS + ROOT]! - 1) as Mfn | -1;
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

  /** Device frames that the tables can map: those below 2^(9 * levels). */
  reaches(dfn: Dfn): boolean {
    return dfn < this.#limit;
  }

  /**
   * Finds the leaf entry of a device frame, and leaves it in the fields.
   * @returns 1 when its table exists, 0 when it does not or the dfn is beyond the tables, -ENOMEM when it was to be
   *   made and memory is exhausted.
   */
  find(domain: Domid, dfn: Dfn, create: boolean): number {
    this.absentPages = 1;
    if (!this.reaches(dfn)) return 0;
    const range = dfn < 0x80000000 ? dfn >>> 9 : Math.floor(dfn / 512);
    if (this.#lastDomain !== domain || this.#lastRange !== range || this.#lastJumps !== this.#heap.jumps) {
      const found = this.#findTable(domain, dfn, create);
      if (found !== 1) return found;
      // A leaf table stays where it is as long as its domain has tables.
      this.#lastDomain = domain;
      this.#lastRange = range;
      this.#lastJumps = this.#heap.jumps;
    }
    const words = this.#heap.blocks[this.#lastTable]!;
    this.table = this.#lastTable;
    this.entry = dfn & 511;
    this.low = words[this.entry * 2]!;
    this.high = words[this.entry * 2 + 1]!;
    return 1;
  }

  /** Walks to the leaf table, and makes what is missing on the way if so wished. */
  #findTable(domain: Domid, dfn: Dfn, create: boolean): number {
    const frames = this.#frames;
    this.#lastDomain = -1;
    let at = this.root(domain) as number;
    for (let level = this.levels; level > 1; level -= 1) {
      const entry =
        level <= 3
          ? (dfn >>> (9 * (level - 1))) & 511
          : Math.floor(dfn / (level === 4 ? 0x8000000 : 0x1000000000)) & 511;
      const low = frames.readWord(at, entry * 2);
      if ((low & (ENTRY_READ | ENTRY_WRITE)) !== 0) {
        at = (low >>> 12) + (frames.readWord(at, entry * 2 + 1) & 0xfffff) * 0x100000;
        continue;
      }
      this.absentPages = level === 2 ? 512 : 0x40000;
      if (!create) return 0;
      const fresh = frames.allocate(DOMID_XEN, { xenHeap: true });
      if (fresh < 0) return Errno.ENOMEM;
      frames.writeEntry(
        at as Mfn,
        entry,
        ((fresh << 12) | ENTRY_READ | ENTRY_WRITE) >>> 0,
        Math.floor(fresh / 0x100000),
      );
      at = fresh;
    }
    this.#lastTable = at as Mfn;
    return 1;
  }

  /** A domain's table goes, all of its pages with it. xen: iommu_free_pgtables. */
  destroy(domain: Domid): void {
    const root = this.root(domain);
    if (root < 0) return;
    this.#freeTable(root as Mfn, this.levels);
    this.#heap.write(this.#records + domain * RECORD_WORDS + ROOT, 0);
    this.#lastDomain = -1;
  }

  #freeTable(table: Mfn, level: number): void {
    const frames = this.#frames;
    for (let entry = 0; level > 1 && entry < 512; entry += 1) {
      const low = frames.readWord(table, entry * 2);
      if ((low & 3) === 0 || (low & LARGE) !== 0) continue;
      this.#freeTable(((low >>> 12) + (frames.readWord(table, entry * 2 + 1) & 0xfffff) * 0x100000) as Mfn, level - 1);
    }
    frames.dropReferences(table, 1, 0);
    frames.free(table);
  }

  /** The frame that the found entry names. */
  get frame(): number {
    return (this.low >>> 12) + (this.high & 0xfffff) * 0x100000;
  }

  /** Writes the found entry at once. `rights` 0 makes it absent. */
  set(frame: number, rights: number): void {
    const present = rights !== 0;
    this.#frames.writeEntry(this.table, this.entry, present ? (frame << 12) | rights : 0, present ? frame >>> 20 : 0);
  }
}
