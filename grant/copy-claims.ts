// What a copy has claimed: per virtual CPU, the two buffers of the element that it is at. A claim is kept for the next
// element if that names the same. xen: struct gnttab_copy_buf.

import type { Heap } from '../machine/heap/heap.ts';

/** Words of a claim. */
export const Claim = {
  /** 0: nothing is claimed; bit 0: a frame is; bit 1: by a ref; bit 2: a reference to its writable type is held. */
  state: 0,
  /** The end as the guest names it: domid, and ref or frame number. */
  named: 1,
  low: 2,
  high: 3,
  /** The domain that is meant, and the frame claimed. */
  domain: 4,
  frame: 5,
  /** Bytes of the frame that may be used. */
  offset: 6,
  length: 7,
} as const;
export const CLAIM_WORDS = 8;

export const Claimed = { frame: 1, byRef: 2, type: 4 } as const;

/** Places of the two claims of a virtual CPU. */
export const SOURCE_CLAIM = 0;
export const DESTINATION_CLAIM = CLAIM_WORDS;

export class CopyClaims {
  readonly #claims: readonly Uint32Array[];

  constructor(heap: Heap, vcpus: number) {
    this.#claims = Array.from({ length: vcpus }, (_, vcpu) =>
      heap.reserveTransient([
        {
          name: `vCPU ${vcpu} copy claims`,
          words: 2 * CLAIM_WORDS,
          identity: { kind: 'slots', recordWords: CLAIM_WORDS },
        },
      ]),
    );
  }

  of(vcpu: number): Uint32Array {
    return this.#claims[vcpu]!;
  }
}
