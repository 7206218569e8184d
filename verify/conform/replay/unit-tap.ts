// What reaches a VT-d unit, in the form of recordings.

import { invalidationOf, type VtdUnit } from '../../../passthrough/index.ts';
import type { RecordedDescriptor } from '../recording/field-values.ts';

/** Decoded descriptors that are kept. */
const KNOWN_MAX = 4096;

/** Collects what a unit takes. */
export class UnitTap {
  #taken: RecordedDescriptor[] = [];
  readonly #known = new Map<string, RecordedDescriptor>();

  constructor(unit: VtdUnit) {
    unit.observer = {
      taken: (_, w0, w1, w2, w3, byRegister) => {
        this.#taken.push(this.#decoded(w0, w1, w2, w3, byRegister));
      },
    };
  }

  /** The same descriptors come again and again. */
  #decoded(w0: number, w1: number, w2: number, w3: number, byRegister: boolean): RecordedDescriptor {
    const key = `${w0},${w1},${w2},${w3},${byRegister}`;
    const known = this.#known.get(key);
    if (known) return known;
    const found = invalidationOf([w0, w1, w2, w3], byRegister) as RecordedDescriptor;
    if (this.#known.size >= KNOWN_MAX) this.#known.clear();
    this.#known.set(key, found);
    return found;
  }

  /** Descriptors since the last call, oldest first. */
  take(): readonly RecordedDescriptor[] {
    const taken = this.#taken;
    if (taken.length > 0) this.#taken = [];
    return taken;
  }
}
