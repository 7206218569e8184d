// Where grants are mapped for the processor: the answer to the grant tables' port.

import { type DomainView, GNTMAP, type HostMappings } from '../../grant/index.ts';
import type { Gfn, Mfn } from '../../machine/frame-number.ts';
import type { Domid, Vcpu } from '../../machine/ids.ts';
import type { Parts } from '../parts.ts';
import { isGrantType, P2mType } from './p2m.ts';
import type { PageTypes } from './page-types.ts';
import type { Physmap } from './physmap.ts';
import { Pte } from './pv-tables.ts';

/** Flags that a mapping in a p2m can have. */
const GFN_FLAGS = GNTMAP.host_map | GNTMAP.readonly;

export class HostMappingTables implements HostMappings {
  readonly #parts: Parts;
  readonly #pages: PageTypes;
  readonly #physmap: Physmap;
  readonly #domain: (domain: Domid) => DomainView | null;

  constructor(parts: Parts, pages: PageTypes, physmap: Physmap, domain: (domain: Domid) => DomainView | null) {
    this.#parts = parts;
    this.#pages = pages;
    this.#physmap = physmap;
    this.#domain = domain;
  }

  create(vcpu: Vcpu, domain: Domid, low: number, high: number, frame: Mfn, flags: number): boolean {
    if (this.#domain(domain)!.kind === 'hvm') {
      return this.#createGfn(vcpu, domain, ((low >>> 12) + high * 0x100000) as Gfn, frame, flags);
    }
    if (!this.#findPte(domain, low, high, flags)) return false;
    const { pvTables } = this.#parts;
    const table = pvTables.frame;
    const old = pvTables.low;
    const oldHigh = pvTables.high;
    pvTables.installGrant(frame, flags);
    // What was mapped here is dropped without a word, a grant's handle left behind (release builds).
    if ((old & Pte.present) !== 0) this.#pages.putEntry(vcpu, table, old, oldHigh, 1);
    return true;
  }

  #findPte(domain: Domid, low: number, high: number, flags: number): boolean {
    const { pvTables } = this.#parts;
    return (flags & GNTMAP.contains_pte) === 0 ? pvTables.find(domain, low, high) : pvTables.findAt(domain, low, high);
  }

  /** xen: create_grant_p2m_mapping. */
  #createGfn(vcpu: Vcpu, domain: Domid, gfn: Gfn, frame: Mfn, flags: number): boolean {
    if ((flags & ~GFN_FLAGS) !== 0) return false;
    const isReadonly = (flags & GNTMAP.readonly) !== 0;
    return this.#physmap.add(vcpu, domain, gfn, frame, isReadonly ? P2mType.grantReadonly : P2mType.grantWritable);
  }

  destroy(vcpu: Vcpu, domain: Domid, low: number, high: number, frame: Mfn, flags: number): boolean {
    const { pvTables, p2m } = this.#parts;
    if (this.#domain(domain)!.kind === 'hvm') {
      const gfn = ((low >>> 12) + high * 0x100000) as Gfn;
      if (!isGrantType(p2m.type(domain, gfn)) || p2m.frame(domain, gfn) !== frame) return false;
      return this.#physmap.remove(vcpu, domain, gfn);
    }
    if (!this.#findPte(domain, low, high, flags) || !pvTables.holdsGrant(frame, flags)) return false;
    pvTables.write(0, 0);
    return true;
  }

  /**
   * xen: replace_grant_pv_mapping, steal_linear_address. A PTE that was taken from the new address is not put back,
   * and what it held is dropped.
   */
  replace(
    vcpu: Vcpu,
    domain: Domid,
    low: number,
    high: number,
    newLow: number,
    newHigh: number,
    frame: Mfn,
    flags: number,
  ): boolean {
    const { pvTables } = this.#parts;
    if (this.#domain(domain)!.kind === 'hvm' || (flags & GNTMAP.contains_pte) !== 0) return false;
    if (!pvTables.find(domain, newLow, newHigh)) return false;
    const table = pvTables.frame;
    const taken = pvTables.low;
    const takenHigh = pvTables.high;
    pvTables.write(0, 0);
    if (!pvTables.find(domain, low, high) || !pvTables.holdsGrant(frame, flags)) {
      this.#pages.putEntry(vcpu, table, taken, takenHigh, 1);
      return false;
    }
    pvTables.write(taken, takenHigh);
    return true;
  }
}
