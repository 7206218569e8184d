// What the hypervisor does to its units: start them, put devices into domains, change device access.

import { Errno } from '../../machine/errno.ts';
import { type Dfn, type Mfn, pagesOf } from '../../machine/frame-number.ts';
import type { FrameTable } from '../../machine/frame-table.ts';
import type { Heap } from '../../machine/heap/heap.ts';
import type { Domid, Sbdf, UnitIndex, Vcpu } from '../../machine/ids.ts';
import { Register, type VtdUnit } from '../hardware/index.ts';
import type { FlushPolicy, Release } from '../policy/flush-policy.ts';
import type { Clock } from './clock.ts';
import { Contexts, type DeviceTlb } from './contexts.ts';
import { DeviceTables } from './device-tables.ts';
import { DomainIds, isQuarantine, quarantineIndex } from './domain-ids.ts';
import { FlushEngine } from './flush-engine.ts';
import { QuarantineTables } from './quarantine.ts';

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
  /** Devices whose device TLBs are used, in the order in which they are invalidated; none: device TLBs are not used. */
  readonly deviceTlbs?: readonly DeviceTlb[];
  /** Devices that may be in quarantine with tables of their own. */
  readonly quarantines?: number;
  /** Device frames that those tables lead from, from 0 on; all there can be by default. */
  readonly quarantineReach?: number;
}

const GCMD_ENABLE = 0x80000000;
const GCMD_SET_ROOT = 0x40000000;
const GCMD_QUEUE_ENABLE = 0x04000000;
/** Order of all device frames that tables of 5 levels reach. */
const WHOLE_SPACE = 45;

export class IommuDriver {
  readonly units: readonly VtdUnit[];
  readonly tables: DeviceTables;
  readonly ids: readonly DomainIds[];
  readonly flush: FlushEngine;
  readonly contexts: Contexts;
  readonly quarantine: QuarantineTables;

  constructor(options: IommuDriverOptions) {
    const { heap, frames, units, domains, deviceTlbs = [], quarantines = 0 } = options;
    this.units = units;
    // One table serves every unit: 4 levels where all can walk them (as Xen has it), else what they have in common.
    const levels = [4, 3, 5].find((level) => units.every((unit) => unit.capabilities.levels.includes(level)));
    if (levels === undefined) throw new RangeError('units: expected a table depth that all of them support');
    this.tables = new DeviceTables(heap, frames, { domains, levels });
    this.ids = units.map(
      (unit) =>
        new DomainIds(heap, {
          unit: unit.index,
          dids: unit.capabilities.domainIds,
          domains,
          quarantines,
          reserveZero: unit.capabilities.cachingMode,
        }),
    );
    this.quarantine = new QuarantineTables(heap, frames, {
      devices: quarantines,
      levels,
      reach: options.quarantineReach ?? 512 ** levels,
    });
    this.contexts = new Contexts({
      frames,
      units: units.length,
      levels,
      deviceTlbUnits: units.map((unit) => deviceTlbs.length > 0 && unit.capabilities.deviceTlb),
      deviceTlbs,
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
   * @returns 0, -EBUSY when the unit has no did left, -ENOMEM.
   */
  prepare(domain: Domid, unit: UnitIndex, source: number): number {
    if (this.contexts.makeTable(unit, source) < 0) return Errno.ENOMEM;
    if (isQuarantine(domain) && this.quarantine.prepare(quarantineIndex(domain)) < 0) return Errno.ENOMEM;
    const did = this.ids[unit]!.obtain(domain);
    return did < 0 ? did : 0;
  }

  /**
   * Puts a requester behind a unit into a domain (or a quarantine): a did on the unit, then the context entry in one
   * piece, then what that obliges to invalidate, left to the flush engine to carry out. An entry that is the domain's
   * already stays as it is, and one quarantine is as good as another. xen: domain_context_mapping_one.
   * @returns as {@link prepare}.
   */
  attach(vcpu: Vcpu, domain: Domid, unit: UnitIndex, device: Sbdf): number {
    const source = device % 0x10000;
    const errno = this.prepare(domain, unit, source);
    if (errno !== 0) return errno;
    const ids = this.ids[unit]!;
    const old = this.contexts.didOf(unit, source);
    if (old >= 0 && isSameOwner(ids.domainOf(old), domain)) return 0;
    const isQuarantined = isQuarantine(domain);
    const root = isQuarantined ? this.quarantine.root(quarantineIndex(domain)) : (this.tables.root(domain) as Mfn);
    this.contexts.set(unit, source, root, ids.didOf(domain));
    // An entry that was not present may be cached as such under caching mode, tagged with did 0. VT-d 6.2.2.1.
    const isCached = old >= 0 || this.units[unit]!.capabilities.cachingMode;
    if (isCached) this.flush.requestContextFlush(vcpu, unit, Math.max(old, 0), source);
    if (!isQuarantined) this.tables.setUnits(domain, this.tables.units(domain) | (1 << unit));
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
    this.contexts.clear(unit, source);
    this.flush.requestContextFlush(vcpu, unit, old, source);
  }

  /** The domain has no device left behind the unit: its did goes, now that nothing cached carries it. */
  leave(domain: Domid, unit: UnitIndex): void {
    this.tables.setUnits(domain, this.tables.units(domain) & ~(1 << unit));
    this.ids[unit]!.release(domain);
    if (this.tables.units(domain) === 0) this.flush.ledger.left(domain);
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
   * Lets a domain's devices reach a frame at a device frame number: bit 0 of `rights` to read, bit 1 to write.
   * Writing an entry over itself changes nothing. xen: intel_iommu_map_page.
   * @returns 0, or -ENOMEM, or -ERANGE beyond what the tables reach.
   */
  map(vcpu: Vcpu, domain: Domid, dfn: Dfn, frame: Mfn, rights: number): number {
    const { tables } = this;
    // The tables of a dying domain are gone: there is nothing left to let at anything.
    if (!tables.exists(domain)) return 0;
    if (!tables.reaches(dfn)) return Errno.ERANGE;
    const found = tables.find(domain, dfn, true);
    if (found < 0) return found;
    const before = tables.low & 3;
    const old = tables.frame;
    if (before === rights && old === frame) return 0;
    tables.set(frame, rights);
    this.flush.changed(vcpu, domain, dfn, 0, before, rights, before !== 0 && old !== frame);
    return 0;
  }

  /**
   * Takes access to 2^order aligned device frames away; those without access are passed over. Reported as one change,
   * its rights the strongest that were taken. xen: intel_iommu_unmap_page.
   * @returns frames that lost access.
   */
  unmap(vcpu: Vcpu, domain: Domid, dfn: Dfn, order: number): number {
    const { tables } = this;
    if (!tables.exists(domain)) return 0;
    let strongest = 0;
    let removed = 0;
    for (let page = 0, pages = pagesOf(order); page < pages; page += 1) {
      const at = (dfn + page) as Dfn;
      if (tables.find(domain, at, false) !== 1) {
        page += tables.absentPages - (at % tables.absentPages) - 1;
        continue;
      }
      const before = tables.low & 3;
      if (before === 0) continue;
      tables.set(0, 0);
      strongest |= before;
      removed += 1;
    }
    if (removed > 0) this.flush.changed(vcpu, domain, dfn, order, strongest, 0, false);
    return removed;
  }

  /** Maps a range of device frames to a range of frames. @returns 0, or a negative errno: what was mapped stays. */
  mapRange(vcpu: Vcpu, domain: Domid, dfn: Dfn, frame: Mfn, count: number, rights: number): number {
    for (let page = 0; page < count; page += 1) {
      const errno = this.map(vcpu, domain, (dfn + page) as Dfn, (frame + page) as Mfn, rights);
      if (errno !== 0) return errno;
    }
    return 0;
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
