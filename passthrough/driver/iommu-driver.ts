// What the hypervisor does to its units: start them, put devices into domains, change device access.

import { Errno } from '../../machine/errno.ts';
import { alignDown, type Dfn, type Mfn, pagesOf } from '../../machine/frame-number.ts';
import type { FrameTable } from '../../machine/frame-table.ts';
import type { Heap } from '../../machine/heap/heap.ts';
import { DOMID_IO, type Domid, type Sbdf, type UnitIndex, type Vcpu } from '../../machine/ids.ts';
import { nextBit } from '../../machine/wide.ts';
import { type Capabilities, Register, type VtdUnit } from '../hardware/index.ts';
import type { FlushPolicy, Release } from '../policy/flush-policy.ts';
import type { Clock } from './clock.ts';
import { Contexts, type DeviceTlb } from './contexts.ts';
import {
  type DidsExhausted,
  type DomainIdSpaces,
  type DomainIds,
  domainIdsOf,
  isQuarantine,
  PseudoDomids,
  quarantineDomid,
  quarantineIndex,
} from './domain-ids.ts';
import type { DeviceTlbTimeout } from './flush/device-tlb-flush.ts';
import { FlushEngine } from './flush/flush-engine.ts';
import { type IdentityRange, QuarantineTables } from './quarantine.ts';
import { DeviceTables } from './tables/device-tables.ts';
import { leafLevel, TableChanges } from './tables/table-changes.ts';

/**
 * A domain's table may map device frames beyond the width of a unit. Such a mapping is made, and is unseen behind that
 * unit; or the mapping, or the device that would bring the unit, is refused (-EFAULT).
 */
export type BeyondReach = 'unseen' | 'refused';

export interface IommuDriverOptions {
  readonly heap: Heap;
  readonly frames: FrameTable;
  readonly clock: Clock;
  readonly units: readonly VtdUnit[];
  readonly domains: number;
  readonly vcpus: number;
  readonly ledgerCapacity: number;
  readonly isIdle?: (vcpu: number) => boolean;
  readonly policy: FlushPolicy;
  readonly release: Release;
  /** Invalidations go through the units' queues where they have them (the default), or through registers. */
  readonly queuedInvalidation?: boolean;
  /** Devices whose device TLBs are used, in the order in which they are invalidated; left out: none may be. */
  readonly deviceTlbs?: readonly DeviceTlb[];
  /** What is done about one that does not answer; the driver waits on by default. */
  readonly deviceTlbTimeout?: DeviceTlbTimeout;
  /** What devices have in quarantine: per endpoint its reserved regions, and whether the rest is a scratch page. */
  readonly quarantine?: { readonly devices: readonly (readonly IdentityRange[])[]; readonly scratch: boolean };
  /** Whose dids are: each unit's own (the default), or the platform's. */
  readonly domainIds?: DomainIdSpaces;
  /** What is said when no did is left; -EBUSY by default. */
  readonly didsExhausted?: DidsExhausted;
  /** What becomes of mappings that some unit of the domain cannot see; they are unseen by default. */
  readonly beyondReach?: BeyondReach;
  /** Device frames that those tables lead from, from 0 on; all there can be by default. */
  readonly quarantineReach?: number;
  /** Large leaves, of the sizes that all units have (xen: iommu=superpages). Off by default. */
  readonly superpages?: boolean;
  /** Tables that have become empty are taken out and freed. Off by default. */
  readonly reclaimTables?: boolean;
}

const GCMD_ENABLE = 0x80000000;
const GCMD_SET_ROOT = 0x40000000;
const GCMD_QUEUE_ENABLE = 0x04000000;
/** Order of all device frames that tables of 5 levels reach. */
const WHOLE_SPACE = 45;

export class IommuDriver {
  readonly units: readonly VtdUnit[];
  readonly tables: DeviceTables;
  /** By unit; the same for all where they share one space. */
  readonly ids: readonly DomainIds[];
  readonly flush: FlushEngine;
  readonly contexts: Contexts;
  readonly quarantine: QuarantineTables;
  readonly #changes: TableChanges;
  readonly #pseudo: PseudoDomids;
  readonly #heap: Heap;
  /** Word: units with caching mode that some quarantine with tables was ever behind. xen: iommu_bitmap of dom_io. */
  readonly #quarantineUnits: number;
  readonly #sharesIds: boolean;
  /** Per unit: levels that it walks, and device frames that it accepts, from 0 on. */
  readonly #levels: readonly number[];
  readonly #reach: readonly number[];
  /** Some unit does not see all that a table can map, and what it would not see is refused. */
  readonly #refusesUnseen: boolean;

  constructor(options: IommuDriverOptions) {
    const { heap, frames, units, domains, quarantine = { devices: [], scratch: false } } = options;
    this.units = units;
    // One table serves every unit: of 4 levels, as Xen has it, and more only for units that cannot do with those.
    this.#levels = units.map(({ capabilities }) => levelsOf(capabilities));
    const levels = Math.max(4, ...this.#levels);
    this.tables = new DeviceTables(heap, frames, {
      domains,
      levels,
      fewestLevels: Math.min(levels, ...this.#levels),
      largestLeaf: options.superpages ? largestLeafOf(units) : 1,
      reclaim: options.reclaimTables ?? false,
      snoops: units.length > 0 && units.every((unit) => unit.capabilities.snoopControl),
    });
    this.#reach = units.map(({ capabilities }, at) => reachOf(capabilities, this.#levels[at]!));
    this.#refusesUnseen =
      options.beyondReach === 'refused' && this.#reach.some((reach) => this.tables.reaches(reach as Dfn));
    this.#changes = new TableChanges(this.tables, frames);
    this.#sharesIds = options.domainIds === 'shared';
    this.#heap = heap;
    this.#quarantineUnits = heap.reserve('units of quarantines', 1).base;
    this.#pseudo = new PseudoDomids(heap, 'platform', quarantine.devices.length);
    this.ids = domainIdsOf(
      heap,
      units.map(({ capabilities }) => capabilities),
      {
        spaces: options.domainIds ?? 'per-unit',
        domains,
        quarantines: quarantine.devices.length,
        pseudo: this.#pseudo,
        ...(options.didsExhausted ? { exhausted: options.didsExhausted } : {}),
      },
    );
    this.quarantine = new QuarantineTables(heap, frames, {
      ...quarantine,
      levels,
      fewestLevels: this.tables.fewestLevels,
      reach: options.quarantineReach ?? 512 ** levels,
    });
    this.contexts = new Contexts({
      heap,
      frames,
      units,
      levels: this.#levels,
      deviceTlbUnits: units.map((unit) => options.deviceTlbs !== undefined && unit.capabilities.deviceTlb),
      deviceTlbs: options.deviceTlbs ?? [],
    });
    this.flush = new FlushEngine(
      {
        heap,
        frames,
        clock: options.clock,
        units,
        ids: this.ids,
        tables: this.tables,
        contexts: this.contexts,
        vcpus: options.vcpus,
        domains,
        ledgerCapacity: options.ledgerCapacity,
        deviceTlbTimeout: options.deviceTlbTimeout ?? 'spins',
        ...(options.isIdle ? { isIdle: options.isIdle } : {}),
      },
      options.policy,
      options.release,
    );
    for (const unit of units) this.#start(unit, options.queuedInvalidation ?? true);
  }

  /** Root table, queue, translation on. VT-d 10.4.5. */
  #start(unit: VtdUnit, queuedInvalidation: boolean): void {
    const root = this.contexts.rootTable(unit.index);
    unit.writeRegister(Register.RTADDR, (root << 12) >>> 0, Math.floor(root / 0x100000));
    unit.writeRegister(Register.GCMD, GCMD_SET_ROOT);
    let sticky = 0;
    if (queuedInvalidation && unit.capabilities.queuedInvalidation) {
      const queue = unit.ownQueueFrame;
      unit.writeRegister(Register.IQA, (queue << 12) >>> 0, Math.floor(queue / 0x100000));
      sticky = GCMD_QUEUE_ENABLE;
      unit.writeRegister(Register.GCMD, sticky);
    }
    unit.writeRegister(Register.GCMD, (GCMD_ENABLE | sticky) >>> 0);
  }

  /** Root table of a unit. */
  rootTable(unit: UnitIndex): Mfn {
    return this.contexts.rootTable(unit);
  }

  /**
   * Everything that {@link attach} may be refused for a requester: a did on the unit, a context table, tables of a
   * quarantine. What was made before a refusal stays; the caller undoes it.
   * @returns 0, -EBUSY (or `didsExhausted`) when the unit has no did left, -ENOMEM, -EFAULT (with `beyondReach`
   *   `refused`) when the domain's table maps what the unit cannot see.
   */
  prepare(domain: Domid, unit: UnitIndex, source: number): number {
    if (this.#refusesUnseen && !isQuarantine(domain) && this.tables.last(domain) >= this.#reach[unit]!)
      return Errno.EFAULT;
    if (this.contexts.makeTable(unit, source) < 0) return Errno.ENOMEM;
    if (isQuarantine(domain) && this.quarantine.prepare(quarantineIndex(domain)) < 0) return Errno.ENOMEM;
    const did = this.ids[unit]!.obtain(domain);
    return did < 0 ? did : 0;
  }

  /**
   * Puts a requester behind a unit into a domain (or a quarantine): a did on the unit, then the context entry in one
   * piece, then what that obliges to invalidate, left to the flush engine to carry out. An entry that is the domain's
   * already stays as it is, and one quarantine is as good as another. xen: domain_context_mapping_one.
   * @returns as {@link prepare}; -ESRCH when the entry is of a domain that has left the unit.
   */
  attach(vcpu: Vcpu, domain: Domid, unit: UnitIndex, device: Sbdf): number {
    const source = device % 0x10000;
    const errno = this.prepare(domain, unit, source);
    if (errno !== 0) return errno;
    const ids = this.ids[unit]!;
    const old = this.contexts.didOf(unit, source);
    const owner = old < 0 ? -1 : ids.domainOf(old);
    if (old >= 0 && owner < 0) return Errno.ESRCH;
    if (old >= 0 && isSameOwner(owner, domain)) return 0;
    // Who moves a device has reset it before, and what it kept is gone (linux: xen-pciback). The unit does not tell it
    // to forget: its entry has another did by then. xen: device_in_domain.
    this.contexts.enableDeviceTlb(unit, source, false);
    const isQuarantined = isQuarantine(domain);
    const levels = this.#levels[unit]!;
    const root = isQuarantined
      ? this.quarantine.rootOfLevels(quarantineIndex(domain), levels)
      : this.tables.rootOfLevels(domain, levels);
    this.contexts.set(unit, source, root, ids.didOf(domain), !isQuarantined && this.tables.isPassThrough(domain));
    // An entry that was not present may be cached as such under caching mode, tagged with did 0. VT-d 6.2.2.1.
    const isCached = old >= 0 || this.units[unit]!.capabilities.cachingMode;
    if (isCached) this.flush.requestContextFlush(vcpu, unit, Math.max(old, 0), source);
    else {
      this.flush.requestBufferFlush(vcpu, unit);
      this.contexts.enableDeviceTlb(unit, source, true);
    }
    if (!isQuarantined) this.tables.setUnits(domain, this.tables.units(domain) | (1 << unit));
    else if (this.units[unit]!.capabilities.cachingMode) this.#noteQuarantine(unit);
    return 0;
  }

  /**
   * Takes a requester's context entry away. What the domain has pending must be flushed before: see {@link barrier}.
   * xen: domain_context_unmap_one.
   */
  detach(vcpu: Vcpu, unit: UnitIndex, device: Sbdf): void {
    const source = device % 0x10000;
    const old = this.contexts.didOf(unit, source);
    if (old < 0) return;
    this.contexts.enableDeviceTlb(unit, source, false);
    this.contexts.clear(unit, source);
    this.flush.requestContextFlush(vcpu, unit, old, source);
  }

  /**
   * The domain has no device left behind the unit: its did goes, now that nothing cached carries it. One that all units
   * share goes with the last of them. xen: check_cleanup_domid_map.
   */
  leave(domain: Domid, unit: UnitIndex): void {
    const left = this.tables.units(domain) & ~(1 << unit);
    this.tables.setUnits(domain, left);
    if (left === 0 || !this.#sharesIds) this.ids[unit]!.release(domain);
    if (left === 0) this.flush.ledger.left(domain);
  }

  /** Device frames, from 0 on, that a unit can see. */
  reachOf(unit: number): number {
    return this.#reach[unit]!;
  }

  /** Device frames, from 0 on, that all units which serve a domain can see. */
  reach(domain: Domid): number {
    const units = this.tables.units(domain);
    let least = 512 ** this.tables.levels;
    for (let unit = nextBit(units, 0); unit >= 0; unit = nextBit(units, unit + 1)) {
      least = Math.min(least, this.#reach[unit]!);
    }
    return least;
  }

  #noteQuarantine(unit: UnitIndex): void {
    const known = this.#heap.words[this.#quarantineUnits]!;
    const units = (known | (1 << unit)) >>> 0;
    if (units !== known) this.#heap.write(this.#quarantineUnits, units);
  }

  /**
   * A device frame has been entered into new tables of a quarantine. Units that cache what is absent are told, if any
   * device with such tables was ever in quarantine behind them: by the did of DOMID_IO, which no entry has, as
   * recorded. Where dids are handed out it has none. xen: iommu_identity_mapping(dom_io), iommu_flush_iotlb.
   * @returns whether anything is to be flushed
   */
  quarantineMapped(vcpu: Vcpu, dfn: Dfn): boolean {
    const told = this.#heap.words[this.#quarantineUnits]!;
    let asked = false;
    for (let unit = nextBit(told, 0); unit >= 0; unit = nextBit(told, unit + 1)) {
      if (this.ids[unit]!.areHandedOut) continue;
      this.flush.requestPageOf(vcpu, unit, this.ids[unit]!.didOf(DOMID_IO), dfn);
      asked = true;
    }
    return asked;
  }

  /** A device is there again that was gone. */
  beginQuarantine(index: number): void {
    if (index >= 0) this.#pseudo.obtain(index);
  }

  /** A device is gone: its tables for quarantine go, if it has any, and their did. xen: quarantine_teardown. */
  endQuarantine(unit: UnitIndex, index: number): void {
    if (index < 0) return;
    if (this.quarantine.hasTables(index)) {
      this.quarantine.destroy(index);
      this.ids[unit]!.release(quarantineDomid(index));
    }
    this.#pseudo.release(index);
  }

  /** A unit goes that nothing goes by any more: it translates no longer, and takes no descriptors. */
  stop(unit: UnitIndex): void {
    this.units[unit]!.writeRegister(Register.GCMD, 0);
  }

  /** Whether the domain lost access to anything that may still be cached. */
  hasPending(domain: Domid): boolean {
    return this.flush.isPending(domain, 0 as Dfn, WHOLE_SPACE);
  }

  /** Asks for everything that the domain has pending to be flushed, whatever the policy. */
  barrier(vcpu: Vcpu, domain: Domid): void {
    this.flush.requestDomain(vcpu, domain);
    this.flush.requestWait(vcpu);
  }

  /**
   * Lets a domain's devices reach 2^order aligned frames at a device frame number: bit 0 of `rights` to read, bit 1 to
   * write. One change, of one leaf where the units have its size, of smaller ones otherwise. What says the same already
   * is no change. (1 GiB in smaller leaves is a change for each of them.) xen: intel_iommu_map_page.
   * @returns 0, or -ERANGE beyond what the tables reach, -EFAULT (with `beyondReach` `refused`) beyond what some unit
   *   of the domain sees, or -ENOMEM: then of a block nothing is mapped any more.
   */
  map(vcpu: Vcpu, domain: Domid, dfn: Dfn, frame: Mfn, rights: number, order = 0): number {
    // The tables of a dying domain are gone; those of a domain that is not translated count for nothing.
    if (!this.tables.exists(domain) || this.tables.isPassThrough(domain)) return 0;
    if (rights === 0) return Math.min(0, this.unmap(vcpu, domain, dfn, order));
    const pages = pagesOf(order);
    if (!this.tables.reaches((dfn + pages - 1) as Dfn)) return Errno.ERANGE;
    if (this.#refusesUnseen && dfn + pages > this.reach(domain)) return Errno.EFAULT;
    if (order > 9 && this.#leafOrder(domain, dfn, frame, pages) !== order)
      return this.mapRange(vcpu, domain, dfn, frame, pages, rights);
    const changes = this.#changes;
    changes.begin();
    let errno = 0;
    if (order === 0) errno = changes.map(domain, dfn, frame, rights, 1);
    else errno = this.#mapPieces(domain, dfn, frame, rights, pages);
    if (changes.changed > 0) this.#report(vcpu, domain, dfn, order, rights);
    if (errno !== 0 && order > 0) this.unmap(vcpu, domain, dfn, order);
    return errno;
  }

  #mapPieces(domain: Domid, dfn: Dfn, frame: Mfn, rights: number, pages: number): number {
    for (let done = 0; done < pages; ) {
      const piece = this.#leafOrder(domain, dfn + done, frame + done, pages - done);
      const errno = this.#changes.map(domain, (dfn + done) as Dfn, frame + done, rights, leafLevel(piece));
      if (errno !== 0) return errno;
      done += pagesOf(piece);
    }
    return 0;
  }

  /** Order of the largest leaf that can begin here. xen: mapping_order. */
  #leafOrder(domain: Domid, dfn: number, frame: number, pages: number): number {
    for (let order = 9 * (this.tables.largestLeafOf(domain) - 1); order > 0; order -= 9) {
      if (pages >= pagesOf(order) && alignDown(dfn, order) === dfn && alignDown(frame, order) === frame) return order;
    }
    return 0;
  }

  #report(vcpu: Vcpu, domain: Domid, dfn: Dfn, order: number, after: number): void {
    const { before, frameChanged, structure, dropped } = this.#changes;
    this.flush.changed(vcpu, domain, dfn, order, before, after, frameChanged, structure, dropped);
  }

  /**
   * Maps frames side by side, in the largest leaves that fit: for building a domain. Each leaf is a change of its own,
   * so a domain with devices may ask for more invalidations than there is room for. On failure what was mapped is
   * unmapped again. xen: iommu_map.
   */
  mapRange(vcpu: Vcpu, domain: Domid, dfn: Dfn, frame: Mfn, pages: number, rights: number): number {
    let errno = 0;
    let done = 0;
    while (done < pages && errno === 0) {
      const order = this.#leafOrder(domain, dfn + done, frame + done, pages - done);
      errno = this.map(vcpu, domain, (dfn + done) as Dfn, (frame + done) as Mfn, rights, order);
      if (errno === 0) done += pagesOf(order);
    }
    for (let at = 0; errno !== 0 && at < done; ) {
      const order = this.#leafOrder(domain, dfn + at, frame + at, pages - at);
      this.unmap(vcpu, domain, (dfn + at) as Dfn, order);
      at += pagesOf(order);
    }
    return errno;
  }

  /**
   * Takes access to 2^order aligned device frames away (order up to 9, or 18); those without access are passed over.
   * Reported as one change, its rights the strongest that were taken. xen: intel_iommu_unmap_page.
   * @returns frames that lost access; -ENOMEM, and nothing done, when a large leaf had to be split and memory is
   *   exhausted.
   */
  unmap(vcpu: Vcpu, domain: Domid, dfn: Dfn, order: number): number {
    if (order > 9 && order !== 18) throw new RangeError(`order ${order}: expected 0 to 9, or 18`);
    if (!this.tables.exists(domain)) return 0;
    const changes = this.#changes;
    changes.begin();
    const errno = changes.unmap(domain, dfn, order);
    if (errno !== 0) return errno;
    if (changes.removed > 0) this.#report(vcpu, domain, dfn, order, 0);
    return changes.removed;
  }

  /** The tables of a domain that no device is left of: their pages go, and nothing is flushed. */
  destroyTables(domain: Domid): void {
    this.tables.destroy(domain);
  }

  /** Rights (bits 0 and 1) and frame of a device frame as the tables say; rights 0 when absent. */
  lookup(domain: Domid, dfn: Dfn): { readonly rights: number; readonly frame: Mfn } {
    if (!this.tables.exists(domain) || this.tables.find(domain, dfn, false) !== 1)
      return { rights: 0, frame: 0 as Mfn };
    return { rights: this.tables.low & 3, frame: this.tables.frame as Mfn };
  }
}

function isSameOwner(domain: number, other: number): boolean {
  return domain === other || (isQuarantine(domain) && isQuarantine(other));
}

/** Levels that a unit walks: 4 if it can, else 3, or what else it has. xen: vtd_ops nr_pt_levels. */
function levelsOf({ levels }: Capabilities): number {
  return [4, 3].find((level) => levels.includes(level)) ?? levels[0]!;
}

/** Device frames that a unit accepts through tables of so many levels. VT-d 3.6: the lesser of both widths. */
function reachOf({ addressBits }: Capabilities, levels: number): number {
  return 2 ** (Math.min(addressBits, 12 + 9 * levels) - 12);
}

/** Level of the largest leaves that all units have. 1 GiB leaves are split into 2 MiB ones, so they need those, too. */
function largestLeafOf(units: readonly VtdUnit[]): number {
  if (!units.every(({ capabilities }) => capabilities.superpage2m)) return 1;
  return units.every(({ capabilities }) => capabilities.superpage1g) ? 3 : 2;
}
