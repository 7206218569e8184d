// How many removals are pending, so that most look-ups need no search: per domain, and by a hash of (domain, dfn).
// Follows from the ledger's records, so it counts for nothing in a state's identity.

import { mix32 } from '../../../machine/heap/fingerprint.ts';
import type { Heap } from '../../../machine/heap/heap.ts';

const TOTAL = 0;
const DOMAINS = 1;
const SLOTS = 1024;

export class PendingCounts {
  /** The total; per domain all removals, and those of more than one frame; then the hash table. */
  readonly #counts: Uint32Array;
  readonly #slots: number;

  constructor(heap: Heap, domains: number) {
    this.#slots = DOMAINS + domains * 2;
    this.#counts = heap.reserveTransient(
      [{ name: 'flush queues: pending', words: this.#slots + SLOTS, identity: { kind: 'unhashed' } }],
      (counts) => (counts[TOTAL] === 0 ? DOMAINS : counts.length),
    );
  }

  /** One removal more, or one fewer. */
  count(domain: number, dfnLow: number, order: number, by: 1 | -1): void {
    const counts = this.#counts;
    counts[TOTAL]! += by;
    counts[DOMAINS + domain * 2]! += by;
    if (order === 0) counts[this.#slot(domain, dfnLow)]! += by;
    else counts[DOMAINS + domain * 2 + 1]! += by;
  }

  #slot(domain: number, dfnLow: number): number {
    return this.#slots + (mix32(dfnLow ^ (domain << 20)) & (SLOTS - 1));
  }

  /** Whether a removal of some of these device frames may be pending. */
  mayHave(domain: number, dfn: number, order: number): boolean {
    const counts = this.#counts;
    if (counts[DOMAINS + domain * 2] === 0) return false;
    return order !== 0 || counts[DOMAINS + domain * 2 + 1] !== 0 || counts[this.#slot(domain, dfn | 0)] !== 0;
  }
}
