// Devices behind a unit that translate ahead (ATS): which of them may, and which do not answer any more.
//
// This is the devices' own state, not the unit's: software enables ATS in a device's configuration space, and a device
// that hangs does not acknowledge an invalidation. PCI Express 10.5.1; VT-d 4.2, 6.5.2.5.

import type { Heap } from '../../machine/heap/heap.ts';
import { Pool } from '../../machine/heap/pool.ts';
import { joinWords } from '../../machine/wide.ts';

const SOURCE = 0;
const STATE = 1;
const ENABLED = 1;
const SILENT = 2;

/** Device frames that a device-TLB invalidation covers; null: all there are. */
export interface DeviceTlbRange {
  readonly dfn: number;
  readonly pages: number;
}

/**
 * The range of a device-TLB invalidation, from the upper half of its descriptor. With S the lowest 0 of the address
 * says how many pages are meant; none up to bit 62: everything. VT-d 6.5.2.5.
 */
export function deviceTlbRange(low: number, high: number): DeviceTlbRange | null {
  const page = joinWords(((low >>> 12) | (high << 20)) >>> 0, high >>> 12);
  if ((low & 1) === 0) return { dfn: page, pages: 1 };
  let pages = 2;
  while (pages < 2 ** 52 && Math.floor(page / (pages / 2)) % 2 === 1) pages *= 2;
  return pages === 2 ** 52 ? null : { dfn: page - (page % pages), pages };
}

/** Told when a device may begin to keep translations, and when it has to forget them. */
export interface DeviceTlbObserver {
  deviceTlbChanged(source: number, enabled: boolean): void;
}

export class DeviceTlbs {
  observer: DeviceTlbObserver | null = null;
  readonly #heap: Heap;
  readonly #states: Pool;

  /** @param devices that may be enabled, or silent, at once */
  constructor(heap: Heap, unit: number, devices: number) {
    this.#heap = heap;
    this.#states = new Pool(heap, `unit ${unit} device TLBs`, { capacity: devices, recordWords: 2, countedWords: 2 });
  }

  /** Address of a device's record; 0: it has none, and is neither enabled nor silent. */
  #find(source: number): number {
    const { segment, slots, recordWords } = this.#states;
    for (let slot = 0; slot < slots; slot += 1) {
      const record = segment.base + slot * recordWords;
      if (this.#heap.words[record + SOURCE] === source + 1) return record;
    }
    return 0;
  }

  #is(source: number, flag: number): boolean {
    const record = this.#find(source);
    return record !== 0 && (this.#heap.words[record + STATE]! & flag) !== 0;
  }

  #set(source: number, flag: number, on: boolean): void {
    const known = this.#find(source);
    const before = known === 0 ? 0 : this.#heap.words[known + STATE]!;
    const after = on ? before | flag : before & ~flag;
    if (after === before) return;
    if (after === 0) return this.#states.put(known);
    const record = known === 0 ? this.#states.take() : known;
    this.#heap.write(record + SOURCE, source + 1);
    this.#heap.write(record + STATE, after);
  }

  /** Whether a device may ask for translations and keep them. */
  isEnabled(source: number): boolean {
    return this.#is(source, ENABLED);
  }

  /** Software lets a device keep translations, or ends that: what the device has kept is gone then. */
  setEnabled(source: number, on: boolean): void {
    if (this.isEnabled(source) === on) return;
    if (on) this.#set(source, ENABLED, true);
    this.observer?.deviceTlbChanged(source, on);
    if (!on) this.#set(source, ENABLED, false);
  }

  /** Whether a device does not acknowledge invalidations. */
  isSilent(source: number): boolean {
    return this.#is(source, SILENT);
  }

  setSilent(source: number, on: boolean): void {
    this.#set(source, SILENT, on);
  }

  /** Source ids of the devices that may keep translations. */
  enabled(): number[] {
    const { segment, slots, recordWords } = this.#states;
    const found: number[] = [];
    for (let slot = 0; slot < slots; slot += 1) {
      const record = segment.base + slot * recordWords;
      const source = this.#heap.words[record + SOURCE]!;
      if (source !== 0 && (this.#heap.words[record + STATE]! & ENABLED) !== 0) found.push(source - 1);
    }
    return found;
  }

  /** Whether some device does not answer. */
  get anySilent(): boolean {
    const { segment, slots, recordWords } = this.#states;
    for (let slot = 0; slot < slots; slot += 1) {
      const record = segment.base + slot * recordWords;
      if (this.#heap.words[record + SOURCE] !== 0 && (this.#heap.words[record + STATE]! & SILENT) !== 0) return true;
    }
    return false;
  }
}
