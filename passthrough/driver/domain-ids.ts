// Domain ids, per unit: which did a domain's translations carry on a unit. xen: vtd/iommu.c domid_bitmap, domid_map.

import { Errno } from '../../machine/errno.ts';
import { FreeSet } from '../../machine/heap/free-set.ts';
import type { Heap } from '../../machine/heap/heap.ts';
import type { Did, Domid } from '../../machine/ids.ts';

export class DomainIds {
  readonly #heap: Heap;
  readonly #used: FreeSet;
  /** Per domain: its did + 1, 0 when it has none. */
  readonly #didOf: number;
  /** Per did: the domain + 1. */
  readonly #domainOf: number;

  /** With caching mode did 0 is never handed out: absent context entries are cached under it. VT-d 6.2.2.1. */
  constructor(
    heap: Heap,
    options: { readonly unit: number; readonly dids: number; readonly domains: number; readonly reserveZero: boolean },
  ) {
    this.#heap = heap;
    this.#used = new FreeSet(heap, `unit ${options.unit} dids in use`, options.dids);
    this.#didOf = heap.reserve(`unit ${options.unit} did of domain`, options.domains).base;
    this.#domainOf = heap.reserve(`unit ${options.unit} domain of did`, options.dids).base;
    if (options.reserveZero) this.#used.take(0);
  }

  /** The domain's did on this unit; -1 when it has none. */
  didOf(domain: Domid): Did | -1 {
    return (this.#heap.words[this.#didOf + domain]! - 1) as Did | -1;
  }

  /** The domain that a did stands for; -1 when it is free. */
  domainOf(did: number): Domid | -1 {
    return (this.#heap.words[this.#domainOf + did]! - 1) as Domid | -1;
  }

  /** The domain's did, the lowest free one if it has none yet. -EBUSY when all are used. */
  obtain(domain: Domid): Did | typeof Errno.EBUSY {
    const known = this.didOf(domain);
    if (known >= 0) return known as Did;
    const did = this.#used.takeLowest();
    if (did < 0) return Errno.EBUSY;
    this.#heap.write(this.#didOf + domain, did + 1);
    this.#heap.write(this.#domainOf + did, domain + 1);
    return did as Did;
  }

  /** Gives the domain's did back. The map is cleared before the bitmap (xen: XSA-399). */
  release(domain: Domid): void {
    const did = this.didOf(domain);
    if (did < 0) return;
    this.#heap.write(this.#domainOf + did, 0);
    this.#heap.write(this.#didOf + domain, 0);
    this.#used.put(did);
  }
}
