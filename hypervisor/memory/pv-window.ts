// Where a PV domain maps grants: L1 page tables of its own, in frames that it owns. xen: create_grant_pv_mapping.

import { GNTMAP } from '../../grant/index.ts';
import type { Mfn } from '../../machine/frame-number.ts';
import { type FrameTable, FrameType } from '../../machine/frame-table.ts';
import type { Heap } from '../../machine/heap/heap.ts';
import type { Domid } from '../../machine/ids.ts';

/** Virtual address of the first page of every PV domain's window. */
export const PV_WINDOW_BASE = 0x4000000000;
const WINDOW_PAGE = PV_WINDOW_BASE / 4096;

// x86 page-table entry: present, writable, user, accessed, dirty; no-execute in the top bit.
const PRESENT = 1;
const WRITABLE = 2;
const USER = 4;
const ACCESSED_DIRTY = 0x60;
const NO_EXECUTE = 0x80000000;

export class PvWindows {
  readonly pages: number;
  /** Frame and entry of the PTE found last. */
  frame = 0 as Mfn;
  entry = 0;
  readonly #heap: Heap;
  readonly #frames: FrameTable;
  readonly #tables: number;
  readonly #perDomain: number;

  constructor(heap: Heap, frames: FrameTable, options: { readonly domains: number; readonly pages: number }) {
    this.pages = options.pages;
    this.#heap = heap;
    this.#frames = frames;
    this.#perDomain = Math.max(1, Math.ceil(options.pages / 512));
    this.#tables = heap.reserve('window page tables', options.domains * this.#perDomain).base;
  }

  /** Number of L1 tables that a window needs. */
  get tables(): number {
    return Math.ceil(this.pages / 512);
  }

  /** Makes a domain's frame its L1 table number `index`. */
  addTable(domain: Domid, index: number, frame: Mfn): void {
    this.#heap.write(this.#tables + domain * this.#perDomain + index, frame + 1);
  }

  /** Finds the PTE that a host address names: a page of the window, or with contains_pte the entry itself. */
  find(domain: Domid, low: number, high: number, flags: number): boolean {
    if ((flags & GNTMAP.contains_pte) !== 0) {
      const frame = (low >>> 12) + high * 0x100000;
      if ((low & 7) !== 0 || !this.#frames.isAllocated(frame)) return false;
      this.frame = frame as Mfn;
      this.entry = (low & 0xfff) >>> 3;
      return this.#frames.owner(this.frame) === domain && this.#frames.type(this.frame) === FrameType.l1PageTable;
    }
    const page = (low >>> 12) + high * 0x100000 - WINDOW_PAGE;
    if (page < 0 || page >= this.pages) return false;
    const table = this.#heap.words[this.#tables + domain * this.#perDomain + (page >>> 9)]!;
    if (table === 0) return false;
    this.frame = (table - 1) as Mfn;
    this.entry = page & 511;
    return true;
  }

  /** Puts a grant's mapping into the PTE found. */
  install(frame: Mfn, flags: number): void {
    const rights = (flags & GNTMAP.readonly) === 0 ? WRITABLE : 0;
    const user = (flags & GNTMAP.application_map) !== 0 ? USER : 0;
    const low = (frame << 12) | PRESENT | rights | user | ACCESSED_DIRTY;
    this.#frames.writeEntry(this.frame, this.entry, low, (frame >>> 20) | NO_EXECUTE);
  }

  /** Whether the PTE found maps the frame with the rights of the grant. xen: replace_grant_pv_mapping, XSA-234. */
  holds(frame: Mfn, flags: number): boolean {
    const low = this.#frames.readWord(this.frame, this.entry * 2);
    const high = this.#frames.readWord(this.frame, this.entry * 2 + 1);
    const rights = PRESENT | ((flags & GNTMAP.readonly) === 0 ? WRITABLE : 0);
    return (low & (PRESENT | WRITABLE)) === rights && (low >>> 12) + (high & 0xfffff) * 0x100000 === frame;
  }

  clear(): void {
    this.#frames.writeEntry(this.frame, this.entry, 0, 0);
  }
}
