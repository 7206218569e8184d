// Tables for devices in quarantine: every device frame leads to one page that is the device's alone, so that a device
// which goes on with its DMA harms nobody and sees no faults. xen: iommu=quarantine=scratch-page, fill_qpt.

import { Errno } from '../../machine/errno.ts';
import { type Mfn, PAGE_WORDS } from '../../machine/frame-number.ts';
import type { FrameTable } from '../../machine/frame-table.ts';
import type { Heap } from '../../machine/heap/heap.ts';
import { DOMID_IO, DOMID_XEN } from '../../machine/ids.ts';
import { ENTRY_READ, ENTRY_WRITE } from './tables/device-tables.ts';

// Per device: its root table and its page, plus 1; 0: it has none.
const RECORD_WORDS = 2;
const ROOT = 0;
const PAGE = 1;
const ENTRIES = 512;

export interface QuarantineOptions {
  readonly devices: number;
  readonly levels: number;
  /** Device frames that the tables lead from, from 0 on. */
  readonly reach: number;
}

export class QuarantineTables {
  readonly #heap: Heap;
  readonly #frames: FrameTable;
  readonly #levels: number;
  readonly #reach: number;
  readonly #records: number;

  constructor(heap: Heap, frames: FrameTable, options: QuarantineOptions) {
    this.#heap = heap;
    this.#frames = frames;
    this.#levels = options.levels;
    this.#reach = options.reach;
    this.#records = heap.reserve('quarantine tables', options.devices * RECORD_WORDS).base;
  }

  /** Root of a device's tables. It must have been prepared. */
  root(index: number): Mfn {
    return (this.#heap.words[this.#records + index * RECORD_WORDS + ROOT]! - 1) as Mfn;
  }

  /**
   * Makes a device's tables, unless it has them: one table per level, full of the same entry.
   * @returns 0; or -ENOMEM, and what was made is still taken.
   */
  prepare(index: number): 0 | typeof Errno.ENOMEM {
    const record = this.#records + index * RECORD_WORDS;
    if (this.#heap.words[record + ROOT] !== 0) return 0;
    const made: Mfn[] = [];
    for (let level = 0; level <= this.#levels; level += 1) {
      const frame = this.#frames.allocate(level === 0 ? DOMID_IO : DOMID_XEN, { xenHeap: true });
      if (frame < 0) return Errno.ENOMEM;
      const below = made.at(-1);
      if (below !== undefined) this.#fill(frame as Mfn, level, below);
      made.push(frame as Mfn);
    }
    this.#heap.write(record + PAGE, made[0]! + 1);
    this.#heap.write(record + ROOT, made.at(-1)! + 1);
    return 0;
  }

  #fill(table: Mfn, level: number, below: Mfn): void {
    const entries = Math.min(ENTRIES, Math.ceil(this.#reach / ENTRIES ** (level - 1)));
    const low = ((below << 12) | ENTRY_READ | ENTRY_WRITE) >>> 0;
    for (let entry = 0; entry < entries; entry += 1) this.#frames.writeEntry(table, entry, low, below >>> 20);
    this.#frames.writeBack(table, 0, PAGE_WORDS);
  }

  /** Clears a device's page of what it wrote there before. */
  wipe(index: number): void {
    this.#frames.clearContents((this.#heap.words[this.#records + index * RECORD_WORDS + PAGE]! - 1) as Mfn);
  }
}
