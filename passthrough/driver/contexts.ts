// Root and context tables: which tables and which did a requester's translations go by, on each unit. VT-d 9.1, 9.3.

import { Errno } from '../../machine/errno.ts';
import { type Mfn, PAGE_WORDS } from '../../machine/frame-number.ts';
import type { FrameTable } from '../../machine/frame-table.ts';
import type { Heap } from '../../machine/heap/heap.ts';
import { DOMID_XEN } from '../../machine/ids.ts';
import { TranslationType, type VtdUnit } from '../hardware/index.ts';
import { contextEntry, encode } from '../hardware/layouts.ts';

/** A device that keeps translations in a TLB of its own (ATS). */
export interface DeviceTlb {
  readonly unit: number;
  readonly source: number;
}

export interface ContextsOptions {
  readonly heap: Heap;
  readonly frames: FrameTable;
  readonly units: readonly VtdUnit[];
  /** Per unit: levels of every table that its context entries name. */
  readonly levels: readonly number[];
  /** Per unit: whether devices behind it may use device TLBs, which their entries then say. */
  readonly deviceTlbUnits: readonly boolean[];
  readonly deviceTlbs: readonly DeviceTlb[];
}

export class Contexts {
  readonly #heap: Heap;
  readonly #frames: FrameTable;
  readonly #units: readonly VtdUnit[];
  readonly #levels: readonly number[];
  readonly #roots: readonly Mfn[];
  readonly #deviceTlbUnits: readonly boolean[];
  readonly #deviceTlbs: readonly DeviceTlb[];
  /** Per device TLB: 1 when it is used no more. */
  readonly #givenUp: number;

  /** @throws RangeError when there is no memory for the root tables. */
  constructor(options: ContextsOptions) {
    this.#heap = options.heap;
    this.#frames = options.frames;
    this.#units = options.units;
    this.#givenUp = options.heap.reserve('device TLBs given up', options.deviceTlbs.length).base;
    this.#levels = options.levels;
    this.#deviceTlbUnits = options.deviceTlbUnits;
    this.#deviceTlbs = options.deviceTlbs;
    this.#roots = options.units.map(() => {
      const root = this.#frames.allocate(DOMID_XEN, { xenHeap: true });
      if (root < 0) throw new RangeError('frames: expected room for a root table per unit');
      this.#frames.writeBack(root as Mfn, 0, PAGE_WORDS);
      return root as Mfn;
    });
  }

  rootTable(unit: number): Mfn {
    return this.#roots[unit]!;
  }

  /** The context table of a requester's bus; -1 when there is none yet. */
  #table(unit: number, source: number): Mfn | -1 {
    const root = this.#roots[unit]!;
    const at = (source >>> 8) * 4;
    const low = this.#frames.readWord(root, at);
    if ((low & 1) === 0) return -1;
    return ((low >>> 12) + (this.#frames.readWord(root, at + 1) & 0xfffff) * 0x100000) as Mfn;
  }

  /** Makes the context table of a requester's bus, if there is none yet. 0, or -ENOMEM. */
  makeTable(unit: number, source: number): 0 | typeof Errno.ENOMEM {
    if (this.#table(unit, source) >= 0) return 0;
    const table = this.#frames.allocate(DOMID_XEN, { xenHeap: true });
    if (table < 0) return Errno.ENOMEM;
    this.#frames.writeBack(table as Mfn, 0, PAGE_WORDS);
    const high = Math.floor(table / 0x100000);
    this.#write(this.#roots[unit]!, source >>> 8, [((table << 12) | 1) >>> 0, high, 0, 0]);
    return 0;
  }

  /** Writes a root or context entry at once, and back to memory. xen: iommu_sync_cache. */
  #write(table: Mfn, entry: number, words: readonly number[]): void {
    this.#frames.writeWideEntry(table, entry, words[0]!, words[1]!, words[2]!, words[3]!);
    this.#frames.writeBack(table, entry * 4, 4);
  }

  /** The did in a requester's entry; -1 when the entry is not present. */
  didOf(unit: number, source: number): number {
    const table = this.#table(unit, source);
    if (table < 0) return -1;
    const at = (source & 0xff) * 4;
    if ((this.#frames.readWord(table, at) & 1) === 0) return -1;
    return (this.#frames.readWord(table, at + 2) >>> 8) & 0xffff;
  }

  /** Writes a requester's entry in one piece. Its bus must have a context table. */
  set(unit: number, source: number, root: Mfn, did: number, isPassThrough = false): void {
    const { tables, tablesAndDeviceTlb, passThrough } = TranslationType;
    const mayKeep = this.#deviceTlbUnits[unit] && !this.#isGivenUp(this.#deviceTlb(unit, source));
    const translated = mayKeep ? tablesAndDeviceTlb : tables;
    const words = encode(contextEntry, {
      present: 1,
      translationType: isPassThrough ? passThrough : translated,
      secondLevelTable: root,
      addressWidth: this.#levels[unit]! - 2,
      domainId: did,
    });
    const table = this.#table(unit, source) as Mfn;
    this.#write(table, source & 0xff, words);
  }

  clear(unit: number, source: number): void {
    const table = this.#table(unit, source);
    if (table >= 0) this.#write(table as Mfn, source & 0xff, [0, 0, 0, 0]);
  }

  get hasDeviceTlbs(): boolean {
    return this.#deviceTlbs.length > 0;
  }

  /**
   * The next device TLB behind a unit, from the `from`-th on, whose device's entry has a did (-1: any). -1 when there
   * is none. xen: dev_invalidate_iotlb.
   */
  nextDeviceTlb(unit: number, did: number, from: number): number {
    for (let at = from; at < this.#deviceTlbs.length; at += 1) {
      const device = this.#deviceTlbs[at]!;
      if (device.unit === unit && !this.#isGivenUp(at) && (did < 0 || this.didOf(unit, device.source) === did))
        return at;
    }
    return -1;
  }

  /** Source id of a device with a device TLB. */
  deviceTlbSource(at: number): number {
    return this.#deviceTlbs[at]!.source;
  }

  /** Place of a device's TLB among them; -1: it has none. */
  #deviceTlb(unit: number, source: number): number {
    return this.#deviceTlbs.findIndex((device) => device.unit === unit && device.source === source);
  }

  #isGivenUp(at: number): boolean {
    return at >= 0 && this.#heap.words[this.#givenUp + at] !== 0;
  }

  /** Lets a device keep translations, or ends that; what it kept is gone then. xen: enable_ats_device. */
  enableDeviceTlb(unit: number, source: number, on: boolean): void {
    const at = this.#deviceTlb(unit, source);
    if (at >= 0 && !this.#isGivenUp(at)) this.#units[unit]!.deviceTlbs?.setEnabled(source, on);
  }

  /** A device may never again keep translations, and its entry says so from its next write on. */
  giveUpDeviceTlb(at: number): void {
    const { unit, source } = this.#deviceTlbs[at]!;
    this.#units[unit]!.deviceTlbs?.setEnabled(source, false);
    this.#heap.write(this.#givenUp + at, 1);
  }
}
