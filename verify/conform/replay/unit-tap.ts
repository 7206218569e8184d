// What reaches a VT-d unit, in the form of recordings.

import type { VtdUnit } from '../../../passthrough/index.ts';
import type { RecordedDescriptor } from '../recording/record-fields.ts';

/** Collects descriptors. */
export interface DescriptorTap {
  /** Those since the last call, oldest first. */
  take(): RecordedDescriptor[];
}

const CONTEXT_GRANULARITY = ['', 'global', 'domain', 'device'];
const IOTLB_GRANULARITY = ['', 'global', 'domain', 'page'];

/** The one who listens to a unit. */
export class UnitTap implements DescriptorTap {
  #taken: RecordedDescriptor[] = [];

  constructor(unit: VtdUnit) {
    (unit as VtdUnit & { observer: unknown }).observer = {
      taken: (_unit: number, w0: number, w1: number, w2: number, w3: number, byRegister: boolean) => {
        this.#taken.push(recordedDescriptor(w0, w1, w2, w3, byRegister));
      },
    };
  }

  take(): RecordedDescriptor[] {
    const taken = this.#taken;
    if (taken.length > 0) this.#taken = [];
    return taken;
  }
}

const pci = (source: number): string => {
  const bus = (source >>> 8).toString(16).padStart(2, '0');
  const device = ((source >>> 3) & 31).toString(16).padStart(2, '0');
  return `${bus}:${device}.${source & 7}`;
};
const address = (low: number, high: number): string =>
  `0x${(((low & ~0xfff) >>> 0) + high * 0x100000000).toString(16)}`;

/** A descriptor of the invalidation queue, lowest word first. VT-d 6.5.2. */
export function recordedDescriptor(
  w0: number,
  w1: number,
  w2: number,
  w3: number,
  byRegister: boolean,
): RecordedDescriptor {
  const via = byRegister ? { via: 'reg' } : {};
  const did = w0 >>> 16;
  switch (w0 & 0xf) {
    case 1: {
      const g = CONTEXT_GRANULARITY[(w0 >>> 4) & 3]!;
      const device = g === 'device' ? { sid: pci(w1 & 0xffff), fm: (w1 >>> 16) & 3 } : {};
      return { t: 'cc', g, did, ...device, ...via };
    }
    case 2: {
      const g = IOTLB_GRANULARITY[(w0 >>> 4) & 3]!;
      const page = g === 'page' ? { addr: address(w2, w3), am: w2 & 0x3f, ih: (w2 >>> 6) & 1 } : {};
      return { t: 'iotlb', g, dw: (w0 >>> 6) & 1, dr: (w0 >>> 7) & 1, did, ...page, ...via };
    }
    case 3:
      return { t: 'dev-iotlb', sid: `0x${(w1 & 0xffff).toString(16)}`, addr: address(w2, w3), s: w2 & 1 };
    case 5:
      return { t: 'wait', if: (w0 >>> 4) & 1, sw: (w0 >>> 5) & 1, fn: (w0 >>> 6) & 1, data: w1 };
    default:
      return { t: String(w0 & 0xf) };
  }
}
