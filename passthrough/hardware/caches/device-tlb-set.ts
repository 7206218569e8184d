// Not architectural. What the device TLBs behind one unit may hold, in the profile `adversary`.
//
// A device that translates ahead may keep anything that it could have got since the last invalidation of its own TLB
// that covers it (docs/hardware-axioms.md, H19). So each such device is, to the may-sets, one more reader of the tables
// that its contexts lead to: with its source id in the place of the did, and invalidated by its own descriptors only.

import type { Heap } from '../../../machine/heap/heap.ts';
import type { DeviceTlbRange } from '../device-tlbs.ts';
import { ENTRY_PERMISSIONS, entryFrame, isLeaf } from '../walk.ts';
import { type AdversarialUnit, type Adversary, ROOT_SEEN, type Scope } from './adversary.ts';

export class DeviceTlbSet implements AdversarialUnit {
  readonly cachesAbsent = false;
  readonly #shared: Adversary;
  readonly #unit: number;
  readonly #heap: Heap;
  /** Word 0: number of the last invalidation fetched. Word 1: whether it is still in flight. */
  readonly #fetched: number;

  constructor(heap: Heap, shared: Adversary, unit: number) {
    this.#heap = heap;
    this.#shared = shared;
    this.#unit = shared.deviceTlbsOf(unit);
    this.#fetched = heap.reserve(`unit ${unit} device-TLB invalidation in flight`, 2, { kind: 'unhashed' }).base;
    shared.units[this.#unit] = this;
  }

  epoch(): number {
    return this.#heap.words[this.#fetched]!;
  }

  epochInFlight(): number {
    return this.#heap.words[this.#fetched + 1]! === 0 ? -1 : this.epoch();
  }

  // Root and context tables have no roles for devices: their unit reads them, and tells which contexts lead where.
  rootEntryChanged(): void {}
  contextEntryChanged(): void {}
  contextKept(): void {}

  /** A context of the device leads to a table, or does so no more. */
  linkRoot(source: number, table: number, levels: number, add: boolean): void {
    if (add) this.#shared.linkRoot(table, this.#unit, source, levels);
    else this.#shared.unlinkRoot(table, this.#unit, source, levels);
  }

  /** The unit gives up something that it remembered, and up to now the device could have it from there. */
  keep(source: number, level: number, dfn: number, pages: number, low: number, high: number): void {
    const shared = this.#shared;
    const table = entryFrame(low, high);
    if (level === ROOT_SEEN) {
      if (shared.retained.add(this.#unit, source, ROOT_SEEN, 0, 0, low, high, this.epoch()))
        shared.addLink(table, this.#unit, source, low & 7, 0);
    } else if ((low & ENTRY_PERMISSIONS) !== 0) {
      const fresh = shared.retain(this.#unit, source, level, dfn, low, high, pages);
      if (fresh && !isLeaf(level, low)) shared.addLink(table, this.#unit, source, level - 1, dfn);
    }
  }

  fetch(): void {
    this.#heap.write(this.#fetched, this.epoch() + 1);
    this.#heap.write(this.#fetched + 1, 1);
  }

  /** The device has acknowledged an invalidation of its TLB. */
  invalidated(source: number, range: DeviceTlbRange | null): void {
    this.#shared.stillSeen(this.#unit);
    this.#remove(source, this.epoch(), range);
    this.#heap.write(this.#fetched + 1, 0);
  }

  /** The unit waits for it no longer. */
  abandoned(): void {
    this.#heap.write(this.#fetched + 1, 0);
  }

  /** The device keeps no translations any more. */
  forget(source: number): void {
    this.#remove(source, Number.POSITIVE_INFINITY, null);
  }

  #remove(source: number, limit: number, range: Scope | null): void {
    const shared = this.#shared;
    shared.retained.remove(this.#unit, source, limit, range, false, (level, dfn, _pages, low, high) => {
      if (level === ROOT_SEEN) shared.rootInvalidated(this.#unit, source, low, high);
      else if (!isLeaf(level, low)) shared.dropLink(entryFrame(low, high), this.#unit, source, level - 1, dfn, range);
    });
  }

  /** Visits what the device may have kept for an address. */
  eachCovering(source: number, dfn: number, visit: (level: number, low: number, high: number) => void): void {
    this.#shared.retained.eachCovering(this.#unit, source, dfn, visit);
  }
}
