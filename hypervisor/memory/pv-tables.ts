// The page tables of PV domains: four levels in frames of their own. VT-x is not needed to read them: the layout is
// AMD64's (xen: arch/x86/include/asm/x86_64/page.h).

import { GNTMAP } from '../../grant/index.ts';
import type { Mfn } from '../../machine/frame-number.ts';
import { type FrameTable, FrameType } from '../../machine/frame-table.ts';
import type { Heap } from '../../machine/heap/heap.ts';
import type { Domid } from '../../machine/ids.ts';

/** Virtual address of the first page of the window that `create_domain` makes for every PV domain. */
export const PV_WINDOW_BASE = 0x4000000000;

/** Bits of an entry, in its low word; no-execute is the top bit of the high word. `caching`: PWT, PCD and PAT. */
export const Pte = { present: 1, writable: 2, user: 4, accessedDirty: 0x60, caching: 0x98, global: 0x100 } as const;
/** In the high word: the guest's kernel alone uses the entry, which all the same is a user's for the processor. */
const GUEST_KERNEL = 1 << 20;
/** Bits that no guest's entry above L1 has: caching, large page, global. xen: base_disallow_mask. */
export const TABLE_FLAGS_REFUSED = 0x198;
const NO_EXECUTE = 0x80000000;
const { present: PRESENT, writable: WRITABLE } = Pte;

const TOP_LEVEL = 4;
/** Entries of a top table that are the hypervisor's own: 0xffff800000000000 to 0xffff87ffffffffff. */
export const XEN_ENTRIES = { first: 256, last: 271 } as const;
/** The one among them that leads back to the table. xen: LINEAR_PT_VIRT_START. */
const XEN_LINEAR = 258;
/** Tables of its level that one table may lead to, and be led to by. xen: linear_pt_count. */
const EQUALS_MAX = 0x7fff;

/** The type of a frame that is a table of a level. */
export function tableType(level: number): FrameType {
  return (FrameType.l1PageTable + level - 1) as FrameType;
}

/** The frame that an entry names. */
export function pteFrame(low: number, high: number): number {
  return (low >>> 12) + (high & 0xfffff) * 0x100000;
}

/** Low word of a present entry as it stands in a table that was validated. xen: adjust_guest_l1e and its like. */
export function adjustedLow(low: number, high: number, level: number): number {
  const isKernel = (low & Pte.user) === 0 || (high & GUEST_KERNEL) !== 0;
  return low | Pte.user | (level === 1 && !isKernel ? Pte.global : 0);
}

/** Its high word. */
export function adjustedHigh(low: number, high: number, level: number): number {
  return level === 1 && (low & Pte.user) === 0 ? (high | GUEST_KERNEL) >>> 0 : high;
}

export class PvTables {
  /** Frame and entry of the L1 entry found last. */
  frame = 0 as Mfn;
  entry = 0;
  readonly #heap: Heap;
  readonly #frames: FrameTable;
  /** Per domain: its top table + 1. */
  readonly #roots: number;
  /**
   * Per frame: how many tables of its own level a table leads to; below 0, how many lead to it. Never both, so that
   * no chain of them has to be followed.
   */
  readonly #equals: number;
  /** The L1 table found last, whose it is, and where; good until the heap jumps. No part of the state. */
  #lastDomain = -1;
  #lastRange = 0;
  #lastTable = 0 as Mfn;
  #lastJumps = 0;

  constructor(heap: Heap, frames: FrameTable, domains: number) {
    this.#heap = heap;
    this.#frames = frames;
    this.#roots = heap.reserve('page table roots', domains).base;
    this.#equals = heap.reserve('tables of one level', frames.frames).base;
  }

  /** A domain's top table; -1 when it has none. xen: guest_table. */
  root(domain: Domid): Mfn | -1 {
    return (this.#heap.words[this.#roots + domain]! - 1) as Mfn | -1;
  }

  /** Tables above the lowest level may have changed: what is remembered of where L1 tables are may be wrong. */
  forget(): void {
    this.#lastDomain = -1;
  }

  /**
   * What the hypervisor writes into a table that it has validated as a top one, and what stays there when it is none
   * any more. Of its entries only that one which is the same on every machine. xen: init_xen_l4_slots.
   */
  writeXenEntries(frame: Mfn): void {
    const low = (frame << 12) | PRESENT | WRITABLE | Pte.accessedDirty;
    this.#frames.writeEntry(frame, XEN_LINEAR, low >>> 0, ((frame >>> 20) | NO_EXECUTE) >>> 0);
  }

  /** A table is to lead to another of its level. False when one of them may not. xen: inc_linear_entries. */
  linkEqual(table: Mfn, frame: Mfn): boolean {
    const { words } = this.#heap;
    const leads = words[this.#equals + table]! | 0;
    const led = words[this.#equals + frame]! | 0;
    if (leads < 0 || leads >= EQUALS_MAX || led > 0 || led <= -EQUALS_MAX) return false;
    this.#heap.write(this.#equals + table, leads + 1);
    this.#heap.write(this.#equals + frame, (led - 1) >>> 0);
    return true;
  }

  /** It does so no more. */
  unlinkEqual(table: Mfn, frame: Mfn): void {
    const { words } = this.#heap;
    this.#heap.write(this.#equals + table, words[this.#equals + table]! - 1);
    this.#heap.write(this.#equals + frame, (words[this.#equals + frame]! + 1) >>> 0);
  }

  setRoot(domain: Domid, frame: Mfn | -1): void {
    this.forget();
    this.#heap.write(this.#roots + domain, frame + 1);
  }

  /**
   * Finds the L1 entry that maps an address. False where no L1 table does, for the hypervisor's own range (no guest
   * table has entries for it) and for addresses that are not canonical. xen: guest_map_l1e.
   */
  find(domain: Domid, low: number, high: number): boolean {
    const heap = this.#heap;
    const range = (low >>> 21) | (high << 11);
    const isKnown = domain === this.#lastDomain && range === this.#lastRange && high < 0x10000;
    if (!isKnown || heap.jumps !== this.#lastJumps) {
      if (!this.#walk(domain, low, high)) return false;
      this.#lastDomain = high < 0x10000 ? domain : -1;
      this.#lastRange = range;
      this.#lastJumps = heap.jumps;
    }
    this.frame = this.#lastTable;
    this.entry = (low >>> 12) & 511;
    return true;
  }

  #walk(domain: Domid, low: number, high: number): boolean {
    const { blocks } = this.#heap;
    const top = high >>> 15;
    if (top !== 0 && top !== 0x1ffff) return false;
    let at = this.root(domain) as number;
    if (at < 0) return false;
    for (let level = TOP_LEVEL; level > 1; level -= 1) {
      const entry = tableIndex(low, high, level);
      const word = blocks[at]![entry * 2]!;
      if ((word & PRESENT) === 0) return false;
      at = pteFrame(word, blocks[at]![entry * 2 + 1]!);
    }
    this.#lastTable = at as Mfn;
    // Through tables that lead to others of their level one arrives at tables that are no L1.
    return this.#frames.type(at as Mfn) === FrameType.l1PageTable;
  }

  /** Finds the L1 entry at a machine address: in a frame of the domain's own that is an L1 table. */
  findAt(domain: Domid, low: number, high: number): boolean {
    const frame = (low >>> 12) + high * 0x100000;
    if ((low & 7) !== 0 || !this.#frames.isAllocated(frame)) return false;
    this.frame = frame as Mfn;
    this.entry = (low & 0xfff) >>> 3;
    const isTable = this.#frames.type(this.frame) === FrameType.l1PageTable && this.#frames.typeCount(this.frame) > 0;
    return isTable && this.#frames.owner(this.frame) === domain;
  }

  /** The found entry's words. */
  get low(): number {
    return this.#frames.readWord(this.frame, this.entry * 2);
  }

  get high(): number {
    return this.#frames.readWord(this.frame, this.entry * 2 + 1);
  }

  write(low: number, high: number): void {
    if ((low & PRESENT) === 0) this.#frames.writeEntry(this.frame, this.entry, low, high);
    else this.#frames.writeEntry(this.frame, this.entry, adjustedLow(low, high, 1) >>> 0, adjustedHigh(low, high, 1));
  }

  /** Puts a grant's mapping into the entry found. */
  installGrant(frame: Mfn, flags: number): void {
    const rights = (flags & GNTMAP.readonly) === 0 ? WRITABLE : 0;
    const user = (flags & GNTMAP.application_map) !== 0 ? Pte.user : 0;
    const low = (frame << 12) | PRESENT | rights | user | Pte.accessedDirty;
    this.write(low >>> 0, ((frame >>> 20) | NO_EXECUTE) >>> 0);
  }

  /** Whether the entry found maps the frame with the rights of the grant. xen: replace_grant_pv_mapping, XSA-234. */
  holdsGrant(frame: Mfn, flags: number): boolean {
    const { low } = this;
    const rights = PRESENT | ((flags & GNTMAP.readonly) === 0 ? WRITABLE : 0);
    return (low & (PRESENT | WRITABLE)) === rights && pteFrame(low, this.high) === frame;
  }

  /**
   * Hooks tables into one another so that an address has an L1 table, taking missing ones from `next`, which gives
   * frames of a level (-1: none left). False then.
   */
  cover(domain: Domid, low: number, high: number, next: (level: number) => number): boolean {
    this.forget();
    let at = this.root(domain) as number;
    if (at < 0) {
      at = next(TOP_LEVEL);
      if (at < 0) return false;
      this.setRoot(domain, at as Mfn);
    }
    for (let level = TOP_LEVEL; level > 1; level -= 1) {
      const entry = tableIndex(low, high, level);
      const word = this.#frames.readWord(at, entry * 2);
      if ((word & PRESENT) === 0) {
        const fresh = next(level - 1);
        if (fresh < 0) return false;
        const flags = PRESENT | WRITABLE | Pte.user | Pte.accessedDirty;
        this.#frames.writeEntry(at as Mfn, entry, ((fresh << 12) | flags) >>> 0, fresh >>> 20);
        at = fresh;
      } else at = pteFrame(word, this.#frames.readWord(at, entry * 2 + 1));
    }
    return true;
  }
}

/** Entry of an address in the table of a level: 9 bits of it. */
function tableIndex(low: number, high: number, level: number): number {
  if (level === 1) return (low >>> 12) & 511;
  if (level === 2) return (low >>> 21) & 511;
  if (level === 3) return ((low >>> 30) | (high << 2)) & 511;
  return (high >>> 7) & 511;
}
