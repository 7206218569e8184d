// Translated domains' view of memory: gfn to mfn, and what the entry is for. xen: arch/x86/mm/p2m.c.

import type { Gfn, Mfn } from '../../machine/frame-number.ts';
import type { Heap } from '../../machine/heap/heap.ts';
import type { Domid } from '../../machine/ids.ts';

export const P2mType = { hole: 0, ram: 1, grantWritable: 2, grantReadonly: 3 } as const;
export type P2mType = (typeof P2mType)[keyof typeof P2mType];

/** Device rights that an entry gives: bit 0 read, bit 1 write. xen: p2m_get_iommu_flags. */
export function p2mDeviceRights(type: P2mType): number {
  return type === P2mType.hole ? 0 : type === P2mType.grantReadonly ? 1 : 3;
}

export class P2m {
  readonly gfns: number;
  readonly #heap: Heap;
  readonly #base: number;

  constructor(heap: Heap, options: { readonly domains: number; readonly gfns: number }) {
    this.gfns = options.gfns;
    this.#heap = heap;
    this.#base = heap.reserve('p2m', Math.max(1, options.domains * options.gfns)).base;
  }

  #address(domain: Domid, gfn: Gfn): number {
    return this.#base + domain * this.gfns + gfn;
  }

  type(domain: Domid, gfn: Gfn): P2mType {
    return gfn < this.gfns ? ((this.#heap.words[this.#address(domain, gfn)]! >>> 28) as P2mType) : P2mType.hole;
  }

  /** The frame behind a gfn that is no hole. */
  frame(domain: Domid, gfn: Gfn): Mfn {
    return (this.#heap.words[this.#address(domain, gfn)]! & 0x0fffffff) as Mfn;
  }

  set(domain: Domid, gfn: Gfn, frame: Mfn, type: P2mType): void {
    this.#heap.write(this.#address(domain, gfn), type === P2mType.hole ? 0 : ((type << 28) | frame) >>> 0);
  }
}
