// What the hypervisor does to its units: start them, put devices into domains, change device access.

import { Errno } from '../../machine/errno.ts';
import { type Dfn, type Mfn, pagesOf } from '../../machine/frame-number.ts';
import type { FrameTable } from '../../machine/frame-table.ts';
import type { Heap } from '../../machine/heap/heap.ts';
import { DOMID_XEN, type Domid, type Sbdf, type UnitIndex, type Vcpu } from '../../machine/ids.ts';
import { Register, type VtdUnit } from '../hardware/index.ts';
import { contextEntry, encode } from '../hardware/layouts.ts';
import type { FlushPolicy, Release } from '../policy/flush-policy.ts';
import type { Clock } from './clock.ts';
import { DeviceTables } from './device-tables.ts';
import { DomainIds } from './domain-ids.ts';
import { FlushEngine } from './flush-engine.ts';

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
}

const GCMD_ENABLE = 0x80000000;
const GCMD_SET_ROOT = 0x40000000;
const GCMD_QUEUE_ENABLE = 0x04000000;

export class IommuDriver {
  readonly units: readonly VtdUnit[];
  readonly tables: DeviceTables;
  readonly ids: readonly DomainIds[];
  readonly flush: FlushEngine;
  readonly #frames: FrameTable;
  /** Per unit: its root table. */
  readonly #roots: Mfn[] = [];

  constructor(options: IommuDriverOptions) {
    const { heap, frames, units, domains } = options;
    this.#frames = frames;
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
          reserveZero: unit.capabilities.cachingMode,
        }),
    );
    this.flush = new FlushEngine(
      {
        heap,
        frames,
        clock: options.clock,
        units,
        ids: this.ids,
        tables: this.tables,
        vcpus: options.vcpus,
        domains,
        ledgerCapacity: options.ledgerCapacity,
        ...(options.isIdle ? { isIdle: options.isIdle } : {}),
      },
      options.policy,
      options.release,
    );
    for (const unit of units) this.#start(unit);
  }

  /** Root table, queue, translation on. VT-d 10.4.5. */
  #start(unit: VtdUnit): void {
    const root = this.#frames.allocate(DOMID_XEN, { xenHeap: true });
    if (root < 0) throw new RangeError('frames: expected room for a root table per unit');
    this.#roots[unit.index] = root as Mfn;
    unit.writeRegister(Register.RTADDR, (root << 12) >>> 0, Math.floor(root / 0x100000));
    unit.writeRegister(Register.GCMD, GCMD_SET_ROOT);
    let sticky = 0;
    if (unit.capabilities.queuedInvalidation) {
      const queue = unit.ownQueueFrame;
      unit.writeRegister(Register.IQA, (queue << 12) >>> 0, Math.floor(queue / 0x100000));
      sticky = GCMD_QUEUE_ENABLE;
      unit.writeRegister(Register.GCMD, sticky);
    }
    unit.writeRegister(Register.GCMD, (GCMD_ENABLE | sticky) >>> 0);
  }

  /** Root table of a unit. */
  rootTable(unit: UnitIndex): Mfn {
    return this.#roots[unit]!;
  }

  /**
   * Puts a device behind a unit into a domain: a did on the unit, then the context entry, then what that obliges to
   * invalidate, left to the flush engine to carry out. xen: domain_context_mapping_one.
   * @returns 0, -EBUSY when the unit has no did left, -ENOMEM.
   */
  attach(vcpu: Vcpu, domain: Domid, unit: UnitIndex, device: Sbdf): number {
    const source = device % 0x10000;
    const table = this.#contextTable(unit, source >>> 8);
    if (table < 0) return Errno.ENOMEM;
    const did = this.ids[unit]!.obtain(domain);
    if (did < 0) return did;
    const root = this.tables.root(domain);
    const entry = encode(contextEntry, {
      present: 1,
      secondLevelTable: root,
      addressWidth: this.tables.levels - 2,
      domainId: did,
    });
    this.#replaceContext(vcpu, unit, table as Mfn, source, entry);
    this.tables.setUnits(domain, this.tables.units(domain) | (1 << unit));
    return 0;
  }

  /** Takes a device's context entry away. What the domain has pending must be flushed before: see {@link barrier}. */
  detach(vcpu: Vcpu, unit: UnitIndex, device: Sbdf): void {
    const source = device % 0x10000;
    const table = this.#contextTable(unit, source >>> 8);
    if (table >= 0) this.#replaceContext(vcpu, unit, table as Mfn, source, [0, 0, 0, 0]);
  }

  /** The domain has no device left behind the unit: its did goes, now that nothing cached carries it. */
  leave(domain: Domid, unit: UnitIndex): void {
    this.tables.setUnits(domain, this.tables.units(domain) & ~(1 << unit));
    this.ids[unit]!.release(domain);
    if (this.tables.units(domain) === 0) this.flush.ledger.left(domain);
  }

  /** Asks for everything that the domain has pending to be flushed, whatever the policy. */
  barrier(vcpu: Vcpu, domain: Domid): void {
    this.flush.requestDomain(vcpu, domain);
    this.flush.requestWait(vcpu);
  }

  #replaceContext(vcpu: Vcpu, unit: UnitIndex, table: Mfn, source: number, words: readonly number[]): void {
    const frames = this.#frames;
    const at = (source & 0xff) * 4;
    const wasPresent = (frames.readWord(table, at) & 1) !== 0;
    const oldDid = (frames.readWord(table, at + 2) >>> 8) & 0xffff;
    frames.writeWideEntry(table, source & 0xff, words[0]!, words[1]!, words[2]!, words[3]!);
    // An entry that was not present may be cached as such under caching mode, tagged with did 0. VT-d 6.2.2.1.
    if (!wasPresent && !this.units[unit]!.capabilities.cachingMode) return;
    this.flush.requestContextFlush(vcpu, unit, wasPresent ? oldDid : 0, source);
    this.flush.requestWait(vcpu);
  }

  #contextTable(unit: UnitIndex, bus: number): number {
    const frames = this.#frames;
    const root = this.#roots[unit]!;
    const low = frames.readWord(root, bus * 4);
    if ((low & 1) !== 0) return (low >>> 12) + (frames.readWord(root, bus * 4 + 1) & 0xfffff) * 0x100000;
    const table = frames.allocate(DOMID_XEN, { xenHeap: true });
    if (table < 0) return -1;
    frames.writeWideEntry(root, bus, ((table << 12) | 1) >>> 0, Math.floor(table / 0x100000), 0, 0);
    return table;
  }

  /**
   * Lets a domain's devices reach a frame at a device frame number: bit 0 of `rights` to read, bit 1 to write.
   * Writing an entry over itself changes nothing. xen: intel_iommu_map_page.
   * @returns 0, or -ENOMEM, or -ERANGE beyond what the tables reach.
   */
  map(vcpu: Vcpu, domain: Domid, dfn: Dfn, frame: Mfn, rights: number): number {
    const { tables } = this;
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

  /** Rights (bits 0 and 1) and frame of a device frame as the tables say; rights 0 when absent. */
  lookup(domain: Domid, dfn: Dfn): { readonly rights: number; readonly frame: Mfn } {
    if (!this.tables.exists(domain) || this.tables.find(domain, dfn, false) !== 1)
      return { rights: 0, frame: 0 as Mfn };
    return { rights: this.tables.low & 3, frame: this.tables.frame as Mfn };
  }
}
