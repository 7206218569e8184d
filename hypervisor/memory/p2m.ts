// Translated domains' view of memory: gfn to mfn, and what the entry is for; and the way back, for frames that are RAM
// at one gfn. xen: arch/x86/mm/p2m.c, M2P.

import type { Gfn, Mfn } from '../../machine/frame-number.ts';
import type { Heap } from '../../machine/heap/heap.ts';
import type { Domid } from '../../machine/ids.ts';

/** `direct`: what is there is reached at its own number (xen: p2m_mmio_direct), such as a device's reserved region. */
export const P2mType = { hole: 0, ram: 1, grantWritable: 2, grantReadonly: 3, direct: 4 } as const;
export type P2mType = (typeof P2mType)[keyof typeof P2mType];

/** Device rights that an entry gives: bit 0 read, bit 1 write. xen: p2m_get_iommu_flags. */
export function p2mDeviceRights(type: P2mType): number {
  return type === P2mType.hole ? 0 : type === P2mType.grantReadonly ? 1 : 3;
}

/** Whether an entry is a grant's mapping. xen: p2m_is_grant. */
export function isGrantType(type: P2mType): boolean {
  return type === P2mType.grantWritable || type === P2mType.grantReadonly;
}

const BLOCK_SHIFT = 10;
const BLOCK_MASK = (1 << BLOCK_SHIFT) - 1;

export class P2m {
  readonly gfns: number;
  readonly #heap: Heap;
  /** First block of the entries, and blocks of one domain. */
  readonly #base: number;
  readonly #perDomain: number;
  /** Per frame: the gfn that it is RAM at, plus 1. */
  readonly #gfnOf: number;

  constructor(heap: Heap, options: { readonly domains: number; readonly gfns: number; readonly frames: number }) {
    this.gfns = options.gfns;
    this.#heap = heap;
    this.#perDomain = Math.ceil(options.gfns / (1 << BLOCK_SHIFT));
    this.#base = heap.reserveBlocks('p2m', options.domains * this.#perDomain).base >>> BLOCK_SHIFT;
    this.#gfnOf = heap.reserve('m2p', options.frames).base;
  }

  #word(domain: Domid, gfn: Gfn): number {
    return this.#heap.blocks[this.#base + domain * this.#perDomain + (gfn >>> BLOCK_SHIFT)]![gfn & BLOCK_MASK]!;
  }

  type(domain: Domid, gfn: Gfn): P2mType {
    return gfn < this.gfns ? ((this.#word(domain, gfn) >>> 28) as P2mType) : P2mType.hole;
  }

  /** The frame behind a gfn that is no hole. */
  frame(domain: Domid, gfn: Gfn): Mfn {
    return (this.#word(domain, gfn) & 0x0fffffff) as Mfn;
  }

  /** Writes an entry. A frame that is RAM is so at this gfn only; what was RAM here is so nowhere. */
  set(domain: Domid, gfn: Gfn, frame: Mfn, type: P2mType): void {
    if (this.type(domain, gfn) === P2mType.ram) this.#setGfnOf(this.frame(domain, gfn), -1);
    if (type === P2mType.ram) this.#setGfnOf(frame, gfn);
    const block = this.#base + domain * this.#perDomain + (gfn >>> BLOCK_SHIFT);
    this.#heap.writeBlock(block, gfn & BLOCK_MASK, type === P2mType.hole ? 0 : ((type << 28) | frame) >>> 0);
  }

  /** Leaves holes everywhere. */
  clear(domain: Domid): void {
    for (let gfn = 0; gfn < this.gfns; gfn += 1) {
      const block = this.#base + domain * this.#perDomain + (gfn >>> BLOCK_SHIFT);
      if (this.#heap.isBlank(block)) gfn |= BLOCK_MASK;
      else if (this.#word(domain, gfn as Gfn) !== 0) this.set(domain, gfn as Gfn, 0 as Mfn, P2mType.hole);
    }
  }

  #setGfnOf(frame: Mfn, gfn: number): void {
    this.#heap.write(this.#gfnOf + frame, gfn + 1);
  }

  /** The gfn that a frame is RAM at; -1: none. */
  gfnOf(frame: Mfn): Gfn | -1 {
    return (this.#heap.words[this.#gfnOf + frame]! - 1) as Gfn | -1;
  }
}
