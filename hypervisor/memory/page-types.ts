// References to frames and their types, and what follows from the first and the last: a PV domain's devices reach its
// frames while these are of the type writable, tables are validated before they count as such, and a frame that nobody
// refers to any more goes back to the free ones. xen: arch/x86/mm.c _get_page_type, put_page, cleanup_page_mappings.

import type { DomainView, PageReferences } from '../../grant/index.ts';
import { Errno } from '../../machine/errno.ts';
import type { Mfn } from '../../machine/frame-number.ts';
import { FrameType } from '../../machine/frame-table.ts';
import { DOMID_FIRST_RESERVED, type Domid, type Vcpu } from '../../machine/ids.ts';
import type { DriverAccess } from '../device-access.ts';
import type { Parts } from '../parts.ts';
import type { IoMemory } from './io-memory.ts';
import { adjustedHigh, adjustedLow, Pte, pteFrame, TABLE_FLAGS_REFUSED, tableType, XEN_ENTRIES } from './pv-tables.ts';

const { writable: WRITABLE } = FrameType;

export class PageTypes implements PageReferences {
  readonly #parts: Parts;
  readonly #access: DriverAccess;
  readonly #view: (domain: Domid) => DomainView | null;
  readonly #io: IoMemory;

  constructor(parts: Parts, access: DriverAccess, view: (domain: Domid) => DomainView | null, io: IoMemory) {
    this.#parts = parts;
    this.#access = access;
    this.#view = view;
    this.#io = io;
  }

  take(vcpu: Vcpu, frame: Mfn, pages: number, types: number): boolean {
    const { frames } = this.#parts;
    if (frames.takeReferences(frame, pages, types)) return true;
    // A page of the hypervisor's that the guest gave back is there still, but nobody gets it. xen: get_page.
    if (frames.references(frame) === 0) return false;
    return this.#retype(vcpu, frame, WRITABLE) && frames.takeReferences(frame, pages, types);
  }

  drop(vcpu: Vcpu, frame: Mfn, pages: number, types: number): boolean {
    if (!this.#parts.frames.dropReferences(frame, pages, types)) return false;
    this.#release(vcpu, frame);
    return true;
  }

  /**
   * Nobody refers to the frame: what maps it for devices goes, and once that is flushed the frame itself. A page of the
   * hypervisor's is freed by it alone.
   */
  #release(vcpu: Vcpu, frame: Mfn): void {
    const { frames } = this.#parts;
    if (frames.isXenHeap(frame)) return;
    // What devices cannot be kept from is lost rather than handed out. xen: cleanup_page_mappings.
    if (frames.type(frame) === WRITABLE && this.#isFollowed(frame) && !this.#unmapOwn(vcpu, frame)) return;
    this.#access.freeFrame(vcpu, frame);
  }

  freeShared(vcpu: Vcpu, frame: Mfn): void {
    const { frames } = this.#parts;
    frames.dropReferences(frame, frames.isHeld(frame) ? 1 : 0, 1);
    this.#access.freeFrame(vcpu, frame);
  }

  /** Whether devices of the frame's owner follow its type. Pages of the hypervisor's heap are never mapped so. */
  #isFollowed(frame: Mfn): boolean {
    const { frames } = this.#parts;
    const owner = frames.owner(frame);
    if (frames.isXenHeap(frame) || owner >= DOMID_FIRST_RESERVED) return false;
    return this.#view(owner)?.syncOwnFrames ?? false;
  }

  #unmapOwn(vcpu: Vcpu, frame: Mfn): boolean {
    return this.#access.unmap(vcpu, this.#parts.frames.owner(frame), frame) === 0;
  }

  /** Another type, if nothing needs the old one; the owner's devices follow. */
  #retype(vcpu: Vcpu, frame: Mfn, type: FrameType): boolean {
    const { frames } = this.#parts;
    const before = frames.type(frame);
    if (frames.typeCount(frame) !== 0) return false;
    if ((before === WRITABLE) !== (type === WRITABLE) && this.#isFollowed(frame)) {
      const done =
        type === WRITABLE ? this.#access.map(vcpu, frames.owner(frame), frame, 3) === 0 : this.#unmapOwn(vcpu, frame);
      if (!done) return false;
    }
    frames.resetType(frame, type);
    return true;
  }

  /** The writable type, as a frame that was just given to a domain has it: with nothing that needs it. */
  makeWritable(vcpu: Vcpu, frame: Mfn): boolean {
    if (this.#parts.frames.type(frame) === WRITABLE) return true;
    return this.#retype(vcpu, frame, WRITABLE);
  }

  /** Takes a frame from its owner's devices and leaves it without type. xen: steal_page. */
  strip(vcpu: Vcpu, frame: Mfn): boolean {
    const { frames } = this.#parts;
    if (frames.type(frame) === WRITABLE && this.#isFollowed(frame) && !this.#unmapOwn(vcpu, frame)) return false;
    frames.resetType(frame, FrameType.none);
    return true;
  }

  /** Whether a frame can become a table: the first half of {@link getTable}, before what it unmaps is flushed. */
  beginTable(vcpu: Vcpu, domain: Domid, frame: Mfn, level: number): boolean {
    const { frames } = this.#parts;
    if (!frames.isAllocated(frame) || frames.references(frame) === 0) return false;
    if (frames.owner(frame) !== domain || frames.isXenHeap(frame)) return false;
    return frames.type(frame) === tableType(level) || this.#retype(vcpu, frame, tableType(level));
  }

  /**
   * A reference to a frame, of page and type, as a table of a level: the first validates it, its entries with it. While
   * that is done it counts as a table already, so that no entry can give it another use.
   * @returns 0; or an errno, and nothing changed but perhaps the type of unused frames. -EAGAIN: one of those has just
   *   been taken from devices, and that must be flushed before anything is validated.
   */
  getTable(vcpu: Vcpu, domain: Domid, frame: Mfn, level: number): number {
    this.#parts.pvTables.forget();
    if (!this.beginTable(vcpu, domain, frame, level)) return Errno.EINVAL;
    if (!this.#access.isFlushed(vcpu)) return Errno.EAGAIN;
    const { frames } = this.#parts;
    const isFirst = frames.typeCount(frame) === 0;
    frames.takeReferences(frame, 1, 0);
    frames.getType(frame, tableType(level));
    const refused = isFirst ? this.#validate(vcpu, domain, frame, level) : 0;
    if (refused === 0) {
      if (isFirst && level === 4) this.#parts.pvTables.writeXenEntries(frame);
      return 0;
    }
    frames.putType(frame);
    frames.dropReferences(frame, 1, 0);
    frames.resetType(frame, FrameType.none);
    return refused;
  }

  putTable(vcpu: Vcpu, frame: Mfn, level: number): void {
    this.#parts.pvTables.forget();
    const { frames } = this.#parts;
    if (frames.typeCount(frame) === 1)
      this.#eachEntry(frame, level, 512, (low, high) => this.putEntry(vcpu, frame, low, high, level));
    this.drop(vcpu, frame, 1, 1);
  }

  #validate(vcpu: Vcpu, domain: Domid, frame: Mfn, level: number): number {
    let errno = 0;
    let refused = 0;
    this.#eachEntry(frame, level, 512, (low, high, entry) => {
      if (errno !== 0) return;
      errno = this.getEntry(vcpu, domain, frame, low, high, level);
      refused = entry;
      if (errno === 0) this.#adjust(frame, entry, low, high, level);
    });
    if (errno !== 0)
      this.#eachEntry(frame, level, refused, (low, high) => this.putEntry(vcpu, frame, low, high, level));
    return errno;
  }

  #adjust(frame: Mfn, entry: number, low: number, high: number, level: number): void {
    const newLow = adjustedLow(low, high, level) >>> 0;
    const newHigh = adjustedHigh(low, high, level);
    if (newLow !== low || newHigh !== high) this.#parts.frames.writeEntry(frame, entry, newLow, newHigh);
  }

  /** Present entries of a table below `end`, the hypervisor's own aside. */
  #eachEntry(frame: Mfn, level: number, end: number, visit: (low: number, high: number, entry: number) => void): void {
    const { frames } = this.#parts;
    for (let entry = 0; entry < end; entry += 1) {
      if (level === 4 && entry >= XEN_ENTRIES.first && entry <= XEN_ENTRIES.last) continue;
      const low = frames.readWord(frame, entry * 2);
      if ((low & Pte.present) !== 0) visit(low, frames.readWord(frame, entry * 2 + 1), entry);
    }
  }

  /**
   * References that an entry of a table holds: to a page of the domain's own, or to a table. @returns 0, or an errno.
   * xen: get_page_from_l2e, get_page_from_l3e, get_page_from_l4e.
   */
  getEntry(vcpu: Vcpu, domain: Domid, table: Mfn, low: number, high: number, level: number): number {
    if ((low & Pte.present) === 0) return 0;
    if (level === 1) return this.getMapping(vcpu, domain, domain, low, high);
    if ((low & TABLE_FLAGS_REFUSED) !== 0) return Errno.EINVAL;
    const frame = pteFrame(low, high) as Mfn;
    const refused = this.getTable(vcpu, domain, frame, level - 1);
    const isWritable = (low & Pte.writable) !== 0;
    return refused === Errno.EINVAL && !isWritable && this.#getEqual(domain, table, frame, level) ? 0 : refused;
  }

  /**
   * An entry, to read only, that leads to a table of the same level: to its own, which takes no reference; or to a
   * valid one that leads to none itself, from one that no other leads to. xen: get_l4_linear_pagetable and its like.
   */
  #getEqual(domain: Domid, table: Mfn, frame: Mfn, level: number): boolean {
    if (frame === table) return true;
    const { frames, pvTables } = this.#parts;
    if (!frames.isAllocated(frame) || frames.owner(frame) !== domain) return false;
    if (frames.type(frame) !== tableType(level) || frames.typeCount(frame) === 0) return false;
    if (!pvTables.linkEqual(table, frame)) return false;
    frames.takeReferences(frame, 1, 0);
    frames.getType(frame, tableType(level));
    return true;
  }

  /**
   * References that an L1 entry of a domain's holds to a page of another's, or of its own; to what is no memory there
   * are none. @returns 0, or an errno. xen: get_page_from_l1e.
   */
  getMapping(vcpu: Vcpu, mapper: Domid, owner: Domid, low: number, high: number): number {
    const caching = low & Pte.caching;
    if (caching !== 0 && !this.#io.mayChooseCaching(mapper)) return Errno.EINVAL;
    const { frames } = this.#parts;
    const frame = pteFrame(low, high) as Mfn;
    if (!frames.isMemory(frame) || this.#io.holds(frame)) return this.#io.refusal(mapper, owner, frame);
    if (!frames.isAllocated(frame) || frames.owner(frame) !== owner) return Errno.EBUSY;
    const types = (low & Pte.writable) !== 0 && this.#countsMappings(owner) ? 1 : 0;
    if (!this.take(vcpu, frame, 1, types)) return Errno.EBUSY;
    if (caching === 0 || !frames.isXenHeap(frame)) return 0;
    this.drop(vcpu, frame, 1, types);
    return Errno.EACCES;
  }

  /** A writable mapping of an HVM domain's page holds no reference to its type. */
  #countsMappings(owner: Domid): boolean {
    return this.#view(owner)?.kind !== 'hvm';
  }

  /** xen: put_page_from_l1e, put_page_from_l4e and their like. */
  putEntry(vcpu: Vcpu, table: Mfn, low: number, high: number, level: number): void {
    const { frames, pvTables } = this.#parts;
    const frame = pteFrame(low, high) as Mfn;
    if ((low & Pte.present) === 0 || !frames.isAllocated(frame)) return;
    if (level === 1) {
      if (this.#io.holds(frame)) return;
      const isTyped = (low & Pte.writable) !== 0 && this.#countsMappings(frames.owner(frame));
      this.drop(vcpu, frame, 1, isTyped ? 1 : 0);
    } else if (frames.type(frame) !== tableType(level)) this.putTable(vcpu, frame, level - 1);
    else if (frame !== table) {
      pvTables.unlinkEqual(table, frame);
      this.putTable(vcpu, frame, level);
    }
  }
}
