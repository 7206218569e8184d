// Which device frames a map gets. That is the address allocator's choice, and depends on the policy: an allocator does
// not hand out device frames whose removal is not flushed, unless the policy says that it may.

import type { Hypervisor } from '../../../hypervisor/index.ts';
import type { Dfn } from '../../../machine/frame-number.ts';
import type { Domid } from '../../../machine/ids.ts';
import type { ImportedTrace, WorkloadDomain } from '../workload/workload.ts';

/** Device frames that tables of 4 levels reach. */
const DFN_LIMIT = 2 ** 36;
/** Shifts that are tried per CPU: a flush queue of Linux holds 256 removals. */
const SHIFTS_PER_CPU = 320;
/** Table pages that shifted addresses may take. */
const TABLES_MAX = 2 ** 15;

/** How far a domain's addresses can be shifted. */
export interface AddressShifts {
  /** Device frames from one shift to the next: no two overlap. Negative: downwards, as Linux allocates. */
  readonly stepPages: number;
  /** Number of shifts, the recorded addresses (shift 0) among them. */
  readonly count: number;
  /** Table pages that all of them together need at most. */
  readonly tables: number;
}

/** The shifts that there is room for. */
export function addressShifts(domain: WorkloadDomain, cpus: number): AddressShifts {
  const span = 2 ** Math.ceil(Math.log2(domain.spanPages));
  // Each region of 512 device frames needs a leaf table, and at worst a table at each level above it.
  const tablesPerShift = span < 512 ? 1 : domain.leafTables * 3;
  const below = Math.floor(domain.firstDfn / span);
  const above = Math.floor((DFN_LIMIT - domain.firstDfn) / span) - 1;
  const wanted = Math.min(SHIFTS_PER_CPU * cpus, Math.floor(TABLES_MAX / tablesPerShift));
  const isDown = below >= Math.min(wanted, above);
  const count = Math.max(1, Math.min(wanted, isDown ? below : above));
  return { stepPages: isDown ? -span : span, count, tables: tablesPerShift * count + domain.leafTables * 3 + 8 };
}

/** Chooses the addresses of each group when the first of it is mapped. */
export class AddressChoice {
  readonly #trace: ImportedTrace;
  readonly #machine: Hypervisor;
  readonly #shifts: readonly AddressShifts[];
  /** Per group: 1 plus its shift; 0 before its first map. */
  readonly #shiftOf: Uint32Array;
  /** Per domain: when each device frame was unmapped last. */
  readonly #unmappedUs: readonly Map<number, number>[];
  /** Groups that were shifted away from the recorded addresses. */
  shifted = 0;

  constructor(trace: ImportedTrace, machine: Hypervisor, shifts: readonly AddressShifts[]) {
    this.#trace = trace;
    this.#machine = machine;
    this.#shifts = shifts;
    this.#shiftOf = new Uint32Array(trace.groups.first.length);
    this.#unmappedUs = trace.domains.map(() => new Map());
  }

  /** An unmap of these device frames has run. */
  unmapped(domain: number, dfn: number, pages: number): void {
    if (this.#machine.config.policy.onReuse === 'allow') return;
    const unmappedUs = this.#unmappedUs[domain]!;
    const { nowUs } = this.#machine;
    if (this.#oldestPendingUs() > nowUs) unmappedUs.clear();
    else for (let page = 0; page < pages; page += 1) unmappedUs.set(dfn + page, nowUs);
  }

  /** When the oldest removal was made that is still to be flushed. */
  #oldestPendingUs(): number {
    const { clock, driver } = this.#machine.parts;
    const { ledger } = driver.flush;
    let oldest = Number.POSITIVE_INFINITY;
    for (let vcpu = 0; vcpu < this.#machine.config.vcpus; vcpu += 1) {
      if (ledger.uncovered(vcpu) > 0) oldest = Math.min(oldest, clock.nowUs - ledger.ageUs(vcpu));
    }
    return oldest;
  }

  /** What to add to the recorded device frames of a group. */
  offset(domain: number, group: number): number {
    let shift = this.#shiftOf[group]! - 1;
    if (shift < 0) {
      shift = this.#choose(domain, group);
      this.#shiftOf[group] = shift + 1;
      if (shift > 0) this.shifted += 1;
    }
    return shift * this.#shifts[domain]!.stepPages;
  }

  #choose(domain: number, group: number): number {
    if (this.#machine.config.policy.onReuse === 'allow') return 0;
    const { count, stepPages } = this.#shifts[domain]!;
    const oldestPendingUs = this.#oldestPendingUs();
    for (let shift = 0; shift < count; shift += 1) {
      if (this.#isFree(domain, group, shift * stepPages, oldestPendingUs)) return shift;
    }
    return 0;
  }

  /** A device frame that was unmapped no earlier than the oldest removal still pending counts as pending too. */
  #isFree(domain: number, group: number, offset: number, oldestPendingUs: number): boolean {
    const { driver } = this.#machine.parts;
    const unmappedUs = this.#unmappedUs[domain]!;
    const { first, pages } = this.#trace.groups;
    const from = first[group]! + offset;
    for (let dfn = from; dfn < from + pages[group]!; dfn += 1) {
      if ((unmappedUs.get(dfn) ?? -1) >= oldestPendingUs) return false;
      if (driver.lookup(domain as Domid, dfn as Dfn).rights !== 0) return false;
    }
    return true;
  }
}
