// What the hypervisor does to its units: start them, put devices into domains, change device access.

import { Errno } from '../../machine/errno.ts';
import { alignDown, type Dfn, type Mfn, pagesOf } from '../../machine/frame-number.ts';
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
import { leafLevel, TableChanges } from './table-changes.ts';

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
  /** Large leaves, of the sizes that all units have (xen: iommu=superpages). Off by default. */
  readonly superpages?: boolean;
  /** Tables that have become empty are taken out and freed. Off by default. */
  readonly reclaimTables?: boolean;
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
  readonly #changes: TableChanges;
  /** Per unit: its root table. */
  readonly #roots: Mfn[] = [];

  constructor(options: IommuDriverOptions) {
    const { heap, frames, units, domains } = options;
    this.#frames = frames;
    this.units = units;
    // One table serves every unit: 4 levels where all can walk them (as Xen has it), else what they have in common.
    const levels = [4, 3, 5].find((level) => units.every((unit) => unit.capabilities.levels.includes(level)));
    if (levels === undefined) throw new RangeError('units: expected a table depth that all of them support');
    this.tables = new DeviceTables(heap, frames, {
      domains,
      levels,
      largestLeaf: options.superpages ? largestLeafOf(units) : 1,
      reclaim: options.reclaimTables ?? false,
    });
    this.#changes = new TableChanges(this.tables, frames);
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
   * Lets a domain's devices reach 2^order aligned frames at a device frame number: bit 0 of `rights` to read, bit 1 to
   * write. One change, of one leaf where the units have its size, of smaller ones otherwise. What says the same already
   * is no change. (1 GiB in smaller leaves is a change for each of them.) xen: intel_iommu_map_page.
   * @returns 0, or -ERANGE beyond what the tables reach, or -ENOMEM: then of a block nothing is mapped any more.
   */
  map(vcpu: Vcpu, domain: Domid, dfn: Dfn, frame: Mfn, rights: number, order = 0): number {
    if (rights === 0) return Math.min(0, this.unmap(vcpu, domain, dfn, order));
    const pages = pagesOf(order);
    if (!this.tables.reaches((dfn + pages - 1) as Dfn)) return Errno.ERANGE;
    if (order > 9 && this.#leafOrder(dfn, frame, pages) !== order)
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
      const piece = this.#leafOrder(dfn + done, frame + done, pages - done);
      const errno = this.#changes.map(domain, (dfn + done) as Dfn, frame + done, rights, leafLevel(piece));
      if (errno !== 0) return errno;
      done += pagesOf(piece);
    }
    return 0;
  }

  /** Order of the largest leaf that can begin here. xen: mapping_order. */
  #leafOrder(dfn: number, frame: number, pages: number): number {
    for (let order = 9 * (this.tables.largestLeaf - 1); order > 0; order -= 9) {
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
      const order = this.#leafOrder(dfn + done, frame + done, pages - done);
      errno = this.map(vcpu, domain, (dfn + done) as Dfn, (frame + done) as Mfn, rights, order);
      if (errno === 0) done += pagesOf(order);
    }
    for (let at = 0; errno !== 0 && at < done; ) {
      const order = this.#leafOrder(dfn + at, frame + at, pages - at);
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
    const changes = this.#changes;
    changes.begin();
    const errno = changes.unmap(domain, dfn, order);
    if (errno !== 0) return errno;
    if (changes.removed > 0) this.#report(vcpu, domain, dfn, order, 0);
    return changes.removed;
  }

  /** Rights (bits 0 and 1) and frame of a device frame as the tables say; rights 0 when absent. */
  lookup(domain: Domid, dfn: Dfn): { readonly rights: number; readonly frame: Mfn } {
    if (!this.tables.exists(domain) || this.tables.find(domain, dfn, false) !== 1)
      return { rights: 0, frame: 0 as Mfn };
    return { rights: this.tables.low & 3, frame: this.tables.frame as Mfn };
  }
}

/** Level of the largest leaves that all units have. 1 GiB leaves are split into 2 MiB ones, so they need those, too. */
function largestLeafOf(units: readonly VtdUnit[]): number {
  if (!units.every(({ capabilities }) => capabilities.superpage2m)) return 1;
  return units.every(({ capabilities }) => capabilities.superpage1g) ? 3 : 2;
}
