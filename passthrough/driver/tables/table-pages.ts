// The pages that device tables consist of.
//
// Two counts are kept of each: its present entries, and those that go on where the entry before them ends, with the
// same rights. So whether a table is empty, or says what one larger leaf would say, is known without reading it. (Xen
// keeps marks in ignored bits of the entries to the same end: pt-contig-markers.h. Here a unit would see them written.)

import { type Mfn, PAGE_WORDS } from '../../../machine/frame-number.ts';
import type { FrameTable } from '../../../machine/frame-table.ts';
import type { Heap } from '../../../machine/heap/heap.ts';
import { DOMID_XEN } from '../../../machine/ids.ts';
import { ENTRY_PERMISSIONS, ENTRY_SNOOP, ENTRY_SUPERPAGE, entryFrame, isLeaf } from '../../hardware/walk.ts';

const PRESENT = 1;
const PRESENT_MASK = 0xffff;
const CONTINUES_SHIFT = 16;
const ENTRIES = 512;
const FULL = ENTRIES | ((ENTRIES - 1) << CONTINUES_SHIFT);

/** Low words of neighbouring leaves of a level differ by this. */
function stepOf(level: number): number {
  return 0x1000 << (9 * (level - 1));
}

/** 1 when a leaf goes on where the entry before it ends. */
function continues(level: number, low: number, high: number, nextLow: number, nextHigh: number): number {
  if ((low & ENTRY_PERMISSIONS) === 0 || !isLeaf(level, low)) return 0;
  const sum = low + stepOf(level);
  return sum >>> 0 === nextLow && high + (sum > 0xffffffff ? 1 : 0) === nextHigh ? 1 : 0;
}

export class TablePages {
  readonly #heap: Heap;
  readonly #frames: FrameTable;
  /** A word per frame: present entries, and above them those that continue. 0 when nobody needs to know. */
  readonly #counts: number;
  /** Set in every leaf. */
  readonly #leafBits: number;

  constructor(heap: Heap, frames: FrameTable, options: { readonly counted: boolean; readonly snoops?: boolean }) {
    this.#heap = heap;
    this.#frames = frames;
    this.#leafBits = options.snoops ? ENTRY_SNOOP : 0;
    this.#counts = options.counted
      ? heap.reserve('device tables: counts', frames.frames, { kind: 'unhashed' }).base
      : 0;
  }

  /** An empty page that no table names yet; -1 when memory is exhausted. */
  allocate(): Mfn | -1 {
    const page = this.#frames.allocate(DOMID_XEN, { xenHeap: true });
    if (page < 0) return page;
    this.#frames.writeBack(page as Mfn, 0, PAGE_WORDS);
    if (this.#counts !== 0) this.#heap.write(this.#counts + page, 0);
    return page;
  }

  free(page: Mfn): void {
    if (this.#frames.dropReferences(page, 1, 0)) this.#frames.free(page);
  }

  /** Frees a table that nothing leads to any more, and the tables that it names. */
  release(table: Mfn, level: number): void {
    for (let entry = 0; level > 1 && entry < ENTRIES; entry += 1) {
      const low = this.#frames.readWord(table, entry * 2);
      if ((low & ENTRY_PERMISSIONS) === 0 || isLeaf(level, low)) continue;
      this.release(entryFrame(low, this.#frames.readWord(table, entry * 2 + 1)) as Mfn, level - 1);
    }
    this.free(table);
  }

  /** Writes an entry at once, and back to memory. xen: iommu_sync_cache. */
  write(table: Mfn, level: number, entry: number, low: number, high: number): void {
    if (this.#counts !== 0) this.#count(table, level, entry, low >>> 0, high);
    this.#frames.writeEntry(table, entry, low, high);
    this.#frames.writeBack(table, entry * 2, 2);
  }

  #count(table: Mfn, level: number, entry: number, low: number, high: number): void {
    const words = this.#heap.blocks[table]!;
    const at = entry * 2;
    const oldLow = words[at]!;
    const oldHigh = words[at + 1]!;
    let more = 0;
    if (entry > 0) {
      const beforeLow = words[at - 2]!;
      const beforeHigh = words[at - 1]!;
      more += continues(level, beforeLow, beforeHigh, low, high);
      more -= continues(level, beforeLow, beforeHigh, oldLow, oldHigh);
    }
    if (entry < ENTRIES - 1) {
      const nextLow = words[at + 2]!;
      const nextHigh = words[at + 3]!;
      more += continues(level, low, high, nextLow, nextHigh);
      more -= continues(level, oldLow, oldHigh, nextLow, nextHigh);
    }
    more <<= CONTINUES_SHIFT;
    if ((low & ENTRY_PERMISSIONS) !== 0) more += PRESENT;
    if ((oldLow & ENTRY_PERMISSIONS) !== 0) more -= PRESENT;
    const address = this.#counts + table;
    this.#heap.write(address, this.#heap.words[address]! + more);
  }

  /** Makes an entry a leaf; `rights` 0 makes it absent. */
  leaf(table: Mfn, level: number, entry: number, frame: number, rights: number): void {
    if (rights === 0) return this.write(table, level, entry, 0, 0);
    const low = (frame << 12) | rights | this.#leafBits | (level > 1 ? ENTRY_SUPERPAGE : 0);
    this.write(table, level, entry, low >>> 0, frame >>> 20);
  }

  /** Makes an entry name a table, readable and writable as Xen has all of them. */
  point(table: Mfn, level: number, entry: number, to: Mfn): void {
    this.write(table, level, entry, ((to << 12) | ENTRY_PERMISSIONS) >>> 0, Math.floor(to / 0x100000));
  }

  /** Fills a page that no table names yet with the leaves that together say what a leaf one level up says. */
  fill(table: Mfn, level: number, leafLow: number, leafHigh: number): void {
    const step = stepOf(level);
    let low = level === 1 ? leafLow & ~ENTRY_SUPERPAGE : leafLow;
    let high = leafHigh;
    for (let entry = 0; entry < ENTRIES; entry += 1) {
      this.#frames.writeEntry(table, entry, low >>> 0, high);
      const next = (low >>> 0) + step;
      if (next > 0xffffffff) high += 1;
      low = next >>> 0;
    }
    this.#frames.writeBack(table, 0, PAGE_WORDS);
    if (this.#counts !== 0) this.#heap.write(this.#counts + table, FULL);
  }

  isEmpty(table: Mfn): boolean {
    return (this.#heap.words[this.#counts + table]! & PRESENT_MASK) === 0;
  }

  /** Whether one leaf of the level above would say the same: all present, without a gap, the first frame aligned. */
  isContiguous(table: Mfn, level: number): boolean {
    if (this.#heap.words[this.#counts + table]! !== FULL) return false;
    const offset = stepOf(level + 1) - 0x1000;
    return (this.#heap.blocks[table]![0]! & offset) === 0;
  }
}
