// What the operations of a replay made the driver and the units do, attributed to maps and unmaps.

import type { Hypervisor } from '../../../hypervisor/index.ts';

/** Invalidation work, summed over the units. */
export interface InvalidationWork {
  pages: number;
  domains: number;
  globals: number;
  waits: number;
  /** Waits, each for one page-selective invalidation at least. */
  pageWaits: number;
  /** Page-selective invalidations that such a wait begins with; the rest lie behind the same wait. */
  firstPages: number;
}

export interface WorkCounts {
  readonly maps: number;
  readonly unmaps: number;
  readonly mappedPages: number;
  readonly unmappedPages: number;
  /** Unmaps whose invalidation is left for later, or that do the work left by earlier ones. */
  readonly deferredUnmaps: number;
  /** Invalidations by maps; by unmaps, for what they remove themselves; and for removals of earlier unmaps. */
  readonly byMaps: Readonly<InvalidationWork>;
  readonly byUnmaps: Readonly<InvalidationWork>;
  readonly deferred: Readonly<InvalidationWork>;
}

const noWork = (): InvalidationWork => ({ pages: 0, domains: 0, globals: 0, waits: 0, pageWaits: 0, firstPages: 0 });

/** Reads the units' counters around each operation. */
export class WorkMeter {
  readonly #machine: Hypervisor;
  /** Per unit: pages, domains, globals, waits as last read. */
  readonly #read: Float64Array;
  readonly #byMaps = noWork();
  readonly #byUnmaps = noWork();
  readonly #deferred = noWork();
  #maps = 0;
  #unmaps = 0;
  #mappedPages = 0;
  #unmappedPages = 0;
  #deferredUnmaps = 0;
  #hadPending = false;

  constructor(machine: Hypervisor) {
    this.#machine = machine;
    this.#read = new Float64Array(machine.units.length * 4);
    this.#collect(noWork());
  }

  /** An operation is about to run on a virtual CPU. */
  before(vcpu: number): void {
    this.#hadPending = this.#isPending(vcpu);
  }

  mapped(vcpu: number, pages: number): void {
    this.#maps += 1;
    this.#mappedPages += pages;
    this.#collect(this.#hadPending || this.#isPending(vcpu) ? this.#deferred : this.#byMaps);
  }

  unmapped(vcpu: number, pages: number): void {
    this.#unmaps += 1;
    this.#unmappedPages += pages;
    const isDeferred = this.#hadPending || this.#isPending(vcpu);
    if (isDeferred) this.#deferredUnmaps += 1;
    this.#collect(isDeferred ? this.#deferred : this.#byUnmaps);
  }

  ticked(): void {
    this.#collect(this.#deferred);
  }

  counts(): WorkCounts {
    return {
      maps: this.#maps,
      unmaps: this.#unmaps,
      mappedPages: this.#mappedPages,
      unmappedPages: this.#unmappedPages,
      deferredUnmaps: this.#deferredUnmaps,
      byMaps: this.#byMaps,
      byUnmaps: this.#byUnmaps,
      deferred: this.#deferred,
    };
  }

  #isPending(vcpu: number): boolean {
    return this.#machine.parts.driver.flush.ledger.uncovered(vcpu) > 0;
  }

  #collect(into: InvalidationWork): void {
    for (const unit of this.#machine.units) {
      const at = unit.index * 4;
      const pages = this.#since(at, unit.counter('pageInvalidations'));
      const domains = this.#since(at + 1, unit.counter('domainInvalidations'));
      const globals = this.#since(at + 2, unit.counter('globalInvalidations'));
      const waits = this.#since(at + 3, unit.counter('waits'));
      const pageWaits = Math.max(0, waits - domains - globals);
      into.pages += pages;
      into.domains += domains;
      into.globals += globals;
      into.waits += waits;
      into.pageWaits += pageWaits;
      into.firstPages += Math.min(pages, pageWaits);
    }
  }

  #since(at: number, count: number): number {
    const since = count - this.#read[at]!;
    this.#read[at] = count;
    return since;
  }
}
