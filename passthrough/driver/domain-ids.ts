// Domain ids: which did a domain's translations carry on a unit. Each unit has a space of ids of its own, or all units
// share one. xen: vtd/iommu.c domid_bitmap, domid_map, get_iommu_did.
//
// A unit with 65536 ids has one for every domid there can be: the did is the domid (identity), or with caching mode its
// complement, which keeps did 0 out of use. A smaller unit hands its ids out and takes them back.

import { Errno } from '../../machine/errno.ts';
import { FreeSet } from '../../machine/heap/free-set.ts';
import type { Heap } from '../../machine/heap/heap.ts';
import type { Did, Domid } from '../../machine/ids.ts';
import type { Capabilities } from '../hardware/index.ts';

/** First of the domids that stand for devices in quarantine, one each. xen: DOMID_MASK + 1, pseudo_domid. */
const QUARANTINE_FIRST = 0x8000;
const IDENTITY_DIDS = 0x10000;
/** All but the last of their domids: its complement, with caching mode, would be did 0. xen: iommu_init_domid. */
const QUARANTINES_MAX = 0x7fff;

/** The domid by which the driver knows the quarantine of a device that has tables of its own there. */
export function quarantineDomid(index: number): Domid {
  return (QUARANTINE_FIRST + index) as Domid;
}

export function isQuarantine(domain: number): boolean {
  return domain >= QUARANTINE_FIRST;
}

/** Which device a domid of {@link quarantineDomid} stands for. */
export function quarantineIndex(domain: Domid): number {
  return domain - QUARANTINE_FIRST;
}

/**
 * Whose the ids are: each unit's own (xen: vtd/iommu.c since 2009, b9c20c7878), or one space for the platform, where a
 * domain has the same did on all units (before).
 */
export type DomainIdSpaces = 'per-unit' | 'shared';

/** What is said of a domain that cannot have a did. */
export type DidsExhausted = typeof Errno.EBUSY | typeof Errno.EFAULT;

export interface DomainIdsOptions {
  /** Whose they are: `unit 0`, `platform`. */
  readonly name: string;
  readonly dids: number;
  readonly domains: number;
  /** Devices that may be in quarantine under a did of their own. */
  readonly quarantines?: number;
  /** The domids of those; some of its own by default. */
  readonly pseudo?: PseudoDomids;
  /** With caching mode did 0 is never handed out: absent context entries are cached under it. VT-d 6.2.2.1. */
  readonly reserveZero: boolean;
  /** -EBUSY by default. */
  readonly exhausted?: DidsExhausted;
}

/** The ids that each unit's translations carry. One space is as large as the smallest unit's. */
export function domainIdsOf(
  heap: Heap,
  units: readonly Capabilities[],
  options: Omit<DomainIdsOptions, 'name' | 'dids' | 'reserveZero'> & {
    readonly spaces: DomainIdSpaces;
    readonly pseudo: PseudoDomids;
  },
): readonly DomainIds[] {
  const space = (name: string, served: readonly Capabilities[]) =>
    new DomainIds(heap, {
      ...options,
      name,
      dids: Math.min(...served.map(({ domainIds }) => domainIds)),
      reserveZero: served.some(({ cachingMode }) => cachingMode),
    });
  if (options.spaces === 'per-unit') return units.map((unit, index) => space(`unit ${index}`, [unit]));
  const platform = space('platform', units);
  return units.map(() => platform);
}

/** A device that is not there has none. */
const GONE = 0x80000000;

/**
 * The domids that stand for devices in quarantine, as they show in dids that are made from domids: in the order of the
 * devices' addresses at first; one that is removed and added again takes the next free one, from a search that goes
 * round, so that none soon comes again. xen: pseudo_domid, iommu_alloc_domid.
 */
export class PseudoDomids {
  readonly #heap: Heap;
  readonly #count: number;
  /** Per device: how far its domid is from the first one it had; then where the search goes on. */
  readonly #base: number;

  constructor(heap: Heap, name: string, devices: number) {
    this.#heap = heap;
    this.#count = devices;
    this.#base = heap.reserve(`${name} pseudo domids`, devices + 1).base;
  }

  /** Of a device; -1: it is not there. */
  of(index: number): Domid | -1 {
    const moved = this.#heap.words[this.#base + index]!;
    return moved === GONE ? -1 : quarantineDomid((index + moved) >>> 0);
  }

  /** The device that one stands for; -1: none. */
  indexOf(domain: Domid): number {
    for (let index = 0; index < this.#count; index += 1) if (this.of(index) === domain) return index;
    return -1;
  }

  release(index: number): void {
    if (index < this.#count) this.#heap.write(this.#base + index, GONE);
  }

  obtain(index: number): void {
    if (index >= this.#count || this.of(index) >= 0) return;
    const search = this.#base + this.#count;
    let next = (this.#heap.words[search]! + this.#count) >>> 0;
    while (this.indexOf(quarantineDomid(next % QUARANTINES_MAX)) >= 0) next += 1;
    next %= QUARANTINES_MAX;
    this.#heap.write(this.#base + index, (next - index) >>> 0);
    this.#heap.write(search, (next + 1 - this.#count) >>> 0);
  }
}

export class DomainIds {
  /** Ids that there are. */
  readonly size: number;
  readonly reservesZero: boolean;
  readonly #heap: Heap;
  readonly #domains: number;
  readonly #quarantines: number;
  readonly #pseudo: PseudoDomids;
  /** What a did differs in from its domid, bit by bit, where they are the same for all; -1: ids are handed out. */
  readonly #identity: number;
  readonly #used: FreeSet | null = null;
  /** Per domain, then per quarantine: its did + 1, 0 when it has none. */
  readonly #didOf: number = 0;
  /** Per did: the domid + 1. */
  readonly #domainOf: number = 0;
  readonly #exhausted: DidsExhausted;

  constructor(heap: Heap, options: DomainIdsOptions) {
    this.size = options.dids;
    this.reservesZero = options.reserveZero;
    this.#heap = heap;
    this.#exhausted = options.exhausted ?? Errno.EBUSY;
    this.#domains = options.domains;
    this.#quarantines = options.quarantines ?? 0;
    this.#pseudo = options.pseudo ?? new PseudoDomids(heap, options.name, this.#quarantines);
    if (this.#quarantines > QUARANTINES_MAX)
      throw new RangeError(`quarantines ${this.#quarantines}: expected at most ${QUARANTINES_MAX}`);
    this.#identity = options.dids < IDENTITY_DIDS ? -1 : options.reserveZero ? 0xffff : 0;
    if (this.#identity >= 0) return;
    this.#used = new FreeSet(heap, `${options.name} dids in use`, options.dids);
    this.#didOf = heap.reserve(`${options.name} did of domain`, this.#domains + this.#quarantines).base;
    this.#domainOf = heap.reserve(`${options.name} domain of did`, options.dids).base;
    if (options.reserveZero) this.#used.take(0);
  }

  #place(domain: Domid): number {
    return this.#didOf + (isQuarantine(domain) ? this.#domains + quarantineIndex(domain) : domain);
  }

  /** The domain's did on this unit; -1 when it has none. */
  didOf(domain: Domid): Did | -1 {
    if (this.#identity >= 0) {
      const known = isQuarantine(domain) ? this.#pseudo.of(quarantineIndex(domain)) : domain;
      return known < 0 ? -1 : ((known ^ this.#identity) as Did);
    }
    return (this.#heap.words[this.#place(domain)]! - 1) as Did | -1;
  }

  /** The domain that a did stands for; -1 when it is free. */
  domainOf(did: number): Domid | -1 {
    if (this.#identity < 0) return (this.#heap.words[this.#domainOf + did]! - 1) as Domid | -1;
    const domain = (did ^ this.#identity) as Domid;
    if (!isQuarantine(domain)) return domain < this.#domains ? domain : -1;
    const index = this.#pseudo.indexOf(domain);
    return index < 0 ? -1 : quarantineDomid(index);
  }

  /** Whether ids are handed out and taken back, rather than made from domids. xen: domid_mapping. */
  get areHandedOut(): boolean {
    return this.#used !== null;
  }

  /** Whether a did is out of use for further domains. */
  isUsed(did: number): boolean {
    return this.#used === null ? this.domainOf(did) >= 0 : this.#used.has(did);
  }

  /** 0 while there is a did for one more domain, else what {@link obtain} would say. */
  headroom(): 0 | DidsExhausted {
    return this.#used === null || this.#used.lowestFree() >= 0 ? 0 : this.#exhausted;
  }

  /** The domain's did, the lowest free one if it has none yet; or an errno, when all are used. */
  obtain(domain: Domid): Did | DidsExhausted {
    const known = this.didOf(domain);
    if (known >= 0) return known as Did;
    const did = this.#used!.takeLowest();
    if (did < 0) return this.#exhausted;
    this.#heap.write(this.#place(domain), did + 1);
    this.#heap.write(this.#domainOf + did, domain + 1);
    return did as Did;
  }

  /** Gives the domain's did back. The map is cleared before the bitmap (xen: XSA-399). */
  release(domain: Domid): void {
    if (this.#used === null) return;
    const did = this.didOf(domain);
    if (did < 0) return;
    this.#heap.write(this.#domainOf + did, 0);
    this.#heap.write(this.#place(domain), 0);
    this.#used.put(did);
  }
}
