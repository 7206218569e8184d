// What a domain has where: frames that come and go, and the one writer of p2m entries, with which go its devices'.
// xen: arch/x86/mm/p2m.c guest_physmap_add_entry, p2m_pt_set_entry; arch/x86/mm.c steal_page; common/page_alloc.c.

import { GrantStatus, type PageMoves } from '../../grant/index.ts';
import type { Dfn, Gfn, Mfn } from '../../machine/frame-number.ts';
import { FrameType } from '../../machine/frame-table.ts';
import { DOMID_INVALID, type Domid, type Vcpu } from '../../machine/ids.ts';
import type { DomainControl } from '../control.ts';
import type { DriverAccess } from '../device-access.ts';
import type { Parts } from '../parts.ts';
import { isGrantType, P2mType, p2mDeviceRights } from './p2m.ts';
import type { PageTypes } from './page-types.ts';

export class Physmap implements PageMoves {
  readonly #parts: Parts;
  readonly #access: DriverAccess;
  readonly #pages: PageTypes;
  readonly #domain: (domain: Domid) => DomainControl;
  readonly #crash: (vcpu: Vcpu, domain: Domid, reason: string) => void;

  constructor(
    parts: Parts,
    access: DriverAccess,
    pages: PageTypes,
    domain: (domain: Domid) => DomainControl,
    crash: (vcpu: Vcpu, domain: Domid, reason: string) => void,
  ) {
    this.#parts = parts;
    this.#access = access;
    this.#pages = pages;
    this.#domain = domain;
    this.#crash = crash;
  }

  /**
   * Puts a frame at a gfn of a translated domain. A frame that is RAM elsewhere goes from there; what is RAM here is
   * replaced and is nowhere then; over the mapping of a grant or a reserved region the domain is crashed. False when
   * it cannot be done.
   */
  add(vcpu: Vcpu, domain: Domid, gfn: Gfn, frame: Mfn, type: P2mType): boolean {
    const { p2m, frames } = this.#parts;
    if (gfn >= p2m.gfns) return false;
    const old = p2m.type(domain, gfn);
    if (isGrantType(old) || old === P2mType.direct) {
      const what = old === P2mType.direct ? 'reserved region' : 'grant';
      this.#crash(vcpu, domain, `mapped over the ${what} at gfn ${gfn}`);
      return false;
    }
    if (frames.owner(frame) === domain) {
      const elsewhere = p2m.gfnOf(frame);
      if (elsewhere >= 0 && elsewhere !== gfn && !this.remove(vcpu, domain, elsewhere as Gfn)) return false;
    }
    return this.#set(vcpu, domain, gfn, frame, type);
  }

  /**
   * The frame of the domain's own that a number names: a PV domain's frame itself; at a gfn of an HVM one its RAM, or
   * its RAM as it has mapped it by a grant. -1 where there is none. xen: get_page_from_gfn.
   */
  ownFrame(domain: Domid, number: number): Mfn | -1 {
    const { p2m, frames } = this.#parts;
    let frame = number as Mfn;
    if (this.#domain(domain).kind === 'hvm') {
      if (p2m.type(domain, number as Gfn) === P2mType.hole) return -1;
      frame = p2m.frame(domain, number as Gfn);
    }
    const isOwn = frames.isAllocated(frame) && frames.owner(frame) === domain;
    return isOwn && frames.references(frame) > 0 ? frame : -1;
  }

  /** Leaves a hole at a gfn. False, and nothing done, without memory for the tables of devices. */
  remove(vcpu: Vcpu, domain: Domid, gfn: Gfn): boolean {
    return this.#set(vcpu, domain, gfn, 0 as Mfn, P2mType.hole);
  }

  /** Devices see what the entry says, dfn = gfn. False, and nothing done, without memory for their tables. */
  #set(vcpu: Vcpu, domain: Domid, gfn: Gfn, frame: Mfn, type: P2mType): boolean {
    const { p2m } = this.#parts;
    const { iommu, deviceTables } = this.#domain(domain);
    const dfn = gfn as number as Dfn;
    if (iommu && deviceTables === 'ram') {
      if (this.#access.setFrame(vcpu, domain, dfn, frame, p2mDeviceRights(type)) !== 0) return false;
    }
    p2m.set(domain, gfn, frame, type);
    return true;
  }

  /** A frame that was just allocated for a domain becomes its RAM, at a gfn if it is translated. */
  populate(vcpu: Vcpu, domain: Domid, frame: Mfn, gfn: Gfn): boolean {
    if (this.#domain(domain).kind === 'hvm') return this.add(vcpu, domain, gfn, frame, P2mType.ram);
    return this.#pages.makeWritable(vcpu, frame);
  }

  hasRoom(domain: Domid): boolean {
    return this.#parts.frames.owned(domain) < this.#domain(domain).maxPages;
  }

  steal(vcpu: Vcpu, owner: Domid, low: number, high: number): GrantStatus {
    const { frames } = this.#parts;
    if (this.#domain(owner).kind === 'hvm') return GrantStatus.general_error;
    if (high !== 0 || !frames.isAllocated(low)) return GrantStatus.bad_page;
    const frame = low as Mfn;
    if (frames.owner(frame) !== owner || frames.isXenHeap(frame)) return GrantStatus.bad_page;
    if (!frames.isHeld(frame) || frames.references(frame) !== 1) return GrantStatus.bad_page;
    if (!this.#pages.strip(vcpu, frame)) return GrantStatus.general_error;
    frames.changeOwner(frame, DOMID_INVALID);
    return GrantStatus.okay;
  }

  assign(domain: Domid, frame: Mfn): void {
    this.#parts.frames.changeOwner(frame, domain);
  }

  place(vcpu: Vcpu, domain: Domid, frame: Mfn, gfnLow: number, gfnHigh: number): boolean {
    if (this.#domain(domain).kind === 'hvm' && gfnHigh !== 0) return false;
    return this.populate(vcpu, domain, frame, gfnLow as Gfn);
  }

  discard(vcpu: Vcpu, frame: Mfn): void {
    this.#parts.frames.resetType(frame, FrameType.none);
    this.#pages.drop(vcpu, frame, 1, 0);
  }

  withdraw(vcpu: Vcpu, domain: Domid, frame: Mfn): boolean {
    if (this.#domain(domain).kind === 'pv') return false;
    const gfn = this.#parts.p2m.gfnOf(frame);
    return gfn >= 0 && this.remove(vcpu, domain, gfn as Gfn);
  }

  /**
   * A domain gives a frame back: an HVM one by gfn. It stays while others refer to it. xen: guest_remove_page.
   * @returns false when there is nothing that it could give back.
   */
  giveBack(vcpu: Vcpu, domain: Domid, number: number): boolean {
    const { frames } = this.#parts;
    const found = this.ownFrame(domain, number);
    if (found < 0) return false;
    if (this.#domain(domain).kind === 'hvm' && !this.remove(vcpu, domain, number as Gfn)) return false;
    const frame = found as Mfn;
    if (!frames.isHeld(frame)) return true;
    frames.unhold(frame);
    this.#pages.drop(vcpu, frame, 1, 0);
    return true;
  }
}
