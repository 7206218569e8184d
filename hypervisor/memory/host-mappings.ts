// Where grants are mapped for the processor: the answer to the grant tables' port.

import { GNTMAP, type HostMappings } from '../../grant/index.ts';
import type { Dfn, Gfn, Mfn } from '../../machine/frame-number.ts';
import type { Domid, Vcpu } from '../../machine/ids.ts';
import type { DomainControl } from '../control.ts';
import type { Parts } from '../parts.ts';
import { P2mType, p2mDeviceRights } from './p2m.ts';

export class HostMappingTables implements HostMappings {
  readonly #parts: Parts;
  readonly #domain: (domain: Domid) => DomainControl;
  readonly #crash: (domain: Domid, reason: string) => void;

  constructor(parts: Parts, domain: (domain: Domid) => DomainControl, crash: (domain: Domid, reason: string) => void) {
    this.#parts = parts;
    this.#domain = domain;
    this.#crash = crash;
  }

  create(vcpu: Vcpu, domain: Domid, low: number, high: number, frame: Mfn, flags: number): boolean {
    if (this.#domain(domain).kind === 'hvm')
      return this.#createGfn(vcpu, domain, (low >>> 12) + high * 0x100000, frame, flags);
    if (!this.#parts.windows.find(domain, low, high, flags)) return false;
    this.#parts.windows.install(frame, flags);
    return true;
  }

  /** xen: create_grant_p2m_mapping. Over another grant the domain is crashed; RAM is replaced without a word. */
  #createGfn(vcpu: Vcpu, domain: Domid, at: number, frame: Mfn, flags: number): boolean {
    const { p2m } = this.#parts;
    const gfn = at as Gfn;
    if (at >= p2m.gfns) return false;
    const type = p2m.type(domain, gfn);
    if (type === P2mType.grantReadonly || type === P2mType.grantWritable) {
      this.#crash(domain, `mapped a grant over the grant at gfn ${at}`);
      return false;
    }
    const isReadonly = (flags & GNTMAP.readonly) !== 0;
    return this.#setGfn(vcpu, domain, gfn, frame, isReadonly ? P2mType.grantReadonly : P2mType.grantWritable);
  }

  /**
   * The one writer of p2m entries of a running domain: devices see what the entry says, dfn = gfn.
   * False, and nothing done, when there is no memory for the device tables.
   */
  #setGfn(vcpu: Vcpu, domain: Domid, gfn: Gfn, frame: Mfn, type: P2mType): boolean {
    const { p2m, driver } = this.#parts;
    const { iommu, deviceTables } = this.#domain(domain);
    const dfn = gfn as number as Dfn;
    if (iommu && deviceTables === 'ram') {
      if (type === P2mType.hole) driver.unmap(vcpu, domain, dfn, 0);
      else if (driver.map(vcpu, domain, dfn, frame, p2mDeviceRights(type)) !== 0) return false;
    }
    p2m.set(domain, gfn, frame, type);
    return true;
  }

  destroy(vcpu: Vcpu, domain: Domid, low: number, high: number, frame: Mfn, flags: number): boolean {
    const { windows, p2m } = this.#parts;
    if (this.#domain(domain).kind === 'hvm') {
      const gfn = ((low >>> 12) + high * 0x100000) as Gfn;
      const type = p2m.type(domain, gfn);
      if (type !== P2mType.grantReadonly && type !== P2mType.grantWritable) return false;
      if (p2m.frame(domain, gfn) !== frame) return false;
      this.#setGfn(vcpu, domain, gfn, frame, P2mType.hole);
      return true;
    }
    if (!windows.find(domain, low, high, flags) || !windows.holds(frame, flags)) return false;
    windows.clear();
    return true;
  }
}
