// What reaches a VT-d unit, in the form of recordings.

import { invalidationOf, type VtdUnit } from '../../../passthrough/index.ts';
import type { RecordedDescriptor } from '../recording/record-fields.ts';

/** Collects what a unit takes. */
export class UnitTap {
  #taken: RecordedDescriptor[] = [];

  constructor(unit: VtdUnit) {
    unit.observer = {
      taken: (_, w0, w1, w2, w3, byRegister) => {
        this.#taken.push(invalidationOf([w0, w1, w2, w3], byRegister) as RecordedDescriptor);
      },
    };
  }

  /** Descriptors since the last call, oldest first. */
  take(): readonly RecordedDescriptor[] {
    const taken = this.#taken;
    if (taken.length > 0) this.#taken = [];
    return taken;
  }
}
