// References to frames and their types, and what follows from the first and the last: a PV domain's devices reach its
// frames while these are of the type writable, tables are validated before they count as such, and a frame that nobody
// refers to any more goes back to the free ones. xen: arch/x86/mm.c _get_page_type, put_page, cleanup_page_mappings.

import type { DomainView, PageReferences } from '../../grant/index.ts';
import type { Mfn } from '../../machine/frame-number.ts';
import { FrameType } from '../../machine/frame-table.ts';
import { DOMID_FIRST_RESERVED, type Domid, type Vcpu } from '../../machine/ids.ts';
import type { DriverAccess } from '../device-access.ts';
import type { Parts } from '../parts.ts';
import { Pte, pteFrame, tableType } from './pv-tables.ts';

const { writable: WRITABLE } = FrameType;
/** Entries of the top table that are the hypervisor's own: 0xffff800000000000 to 0xffff87ffffffffff. */
const XEN_FIRST = 256;
const XEN_LAST = 271;

export class PageTypes implements PageReferences {
  readonly #parts: Parts;
  readonly #access: DriverAccess;
  readonly #view: (domain: Domid) => DomainView | null;

  constructor(parts: Parts, access: DriverAccess, view: (domain: Domid) => DomainView | null) {
    this.#parts = parts;
    this.#access = access;
    this.#view = view;
  }

  take(vcpu: Vcpu, frame: Mfn, pages: number, types: number): boolean {
    const { frames } = this.#parts;
    // Without a reference it is only waiting for a flush to be free. xen: get_page.
    if (!frames.isAllocated(frame) || frames.references(frame) === 0) return false;
    if (types !== 0 && frames.type(frame) !== WRITABLE && !this.#retype(vcpu, frame, WRITABLE)) return false;
    return frames.takeReferences(frame, pages, types);
  }

  drop(vcpu: Vcpu, frame: Mfn, pages: number, types: number): void {
    if (this.#parts.frames.dropReferences(frame, pages, types)) this.#release(vcpu, frame);
  }

  /** Nobody refers to the frame: what maps it for devices goes, and once that is flushed the frame itself. */
  #release(vcpu: Vcpu, frame: Mfn): void {
    const { frames } = this.#parts;
    // What devices cannot be kept from is lost rather than handed out. xen: cleanup_page_mappings.
    if (frames.type(frame) === WRITABLE && this.#isFollowed(frame) && !this.#unmapOwn(vcpu, frame)) return;
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
   * A reference to a frame, of page and type, as a table of a level: the first validates it, its entries with it.
   * False, and nothing changed but perhaps the type of an unused frame, when it cannot be one.
   */
  getTable(vcpu: Vcpu, domain: Domid, frame: Mfn, level: number): boolean {
    if (!this.beginTable(vcpu, domain, frame, level)) return false;
    const { frames } = this.#parts;
    const isFirst = frames.typeCount(frame) === 0;
    // The type is held while its entries are looked at: a table that leads to itself is none of another level.
    frames.takeReferences(frame, 1, 0);
    frames.getType(frame, tableType(level));
    if (!isFirst || this.#validate(vcpu, domain, frame, level)) return true;
    frames.dropReferences(frame, 1, 1);
    frames.resetType(frame, FrameType.none);
    return false;
  }

  putTable(vcpu: Vcpu, frame: Mfn, level: number): void {
    const { frames } = this.#parts;
    if (frames.typeCount(frame) === 1)
      this.#eachEntry(frame, level, 512, (low, high) => this.putEntry(vcpu, low, high, level));
    this.drop(vcpu, frame, 1, 1);
  }

  #validate(vcpu: Vcpu, domain: Domid, frame: Mfn, level: number): boolean {
    let refused = -1;
    this.#eachEntry(frame, level, 512, (low, high, entry) => {
      if (refused < 0 && !this.getEntry(vcpu, domain, low, high, level)) refused = entry;
    });
    if (refused < 0) return true;
    this.#eachEntry(frame, level, refused, (low, high) => this.putEntry(vcpu, low, high, level));
    return false;
  }

  /** Present entries of a table below `end`, the hypervisor's own aside. */
  #eachEntry(frame: Mfn, level: number, end: number, visit: (low: number, high: number, entry: number) => void): void {
    const { frames } = this.#parts;
    for (let entry = 0; entry < end; entry += 1) {
      if (level === 4 && entry >= XEN_FIRST && entry <= XEN_LAST) continue;
      const low = frames.readWord(frame, entry * 2);
      if ((low & Pte.present) !== 0) visit(low, frames.readWord(frame, entry * 2 + 1), entry);
    }
  }

  /** References that an entry holds: to a page of the domain's own, or to a table. xen: get_page_from_l1e. */
  getEntry(vcpu: Vcpu, domain: Domid, low: number, high: number, level: number): boolean {
    if ((low & Pte.present) === 0) return true;
    const { frames } = this.#parts;
    const frame = pteFrame(low, high) as Mfn;
    if (level > 1) return this.getTable(vcpu, domain, frame, level - 1);
    if (!frames.isAllocated(frame)) return !frames.isMemory(frame) && (this.#view(domain)?.privileged ?? false);
    return frames.owner(frame) === domain && this.take(vcpu, frame, 1, (low & Pte.writable) === 0 ? 0 : 1);
  }

  /** xen: put_page_from_l1e. A writable mapping of an HVM domain's page holds no reference to its type. */
  putEntry(vcpu: Vcpu, low: number, high: number, level: number): void {
    const { frames } = this.#parts;
    const frame = pteFrame(low, high) as Mfn;
    if ((low & Pte.present) === 0 || !frames.isAllocated(frame)) return;
    if (level > 1) return this.putTable(vcpu, frame, level - 1);
    const isTyped = (low & Pte.writable) !== 0 && this.#view(frames.owner(frame))?.kind !== 'hvm';
    this.drop(vcpu, frame, 1, isTyped ? 1 : 0);
  }
}
