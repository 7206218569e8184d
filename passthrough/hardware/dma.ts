// DMA in two steps: an access is translated, then performed. In between it holds a frame and not a translation, so
// that no invalidation but one that drains can stop it (docs/hardware-axioms.md, H8).

import { alignDown, pagesOf } from '../../machine/frame-number.ts';
import type { Heap } from '../../machine/heap/heap.ts';
import { highWord, joinWords } from '../../machine/wide.ts';
import { Access, IotlbGranularity } from './registers.ts';

const LIVE = 0;
const TAG = 1;
const SOURCE = 2;
const DFN_LOW = 3;
const DFN_HIGH = 4;
const FRAME = 5;
const WORD = 6;
const VALUE = 7;
const RECORD_WORDS = 8;

/** A translated access that is not performed yet. */
export interface TranslatedAccess {
  readonly slot: number;
  readonly unit: number;
  readonly did: number;
  readonly sourceId: number;
  readonly dfn: number;
  readonly frame: number;
  readonly access: Access;
  /** Word of the frame that it reads or writes, and what a write stores there. */
  readonly word: number;
  readonly value: number;
}

/** The machine's translated accesses that are not performed yet. */
export class DmaInFlight {
  readonly slots: number;
  readonly #heap: Heap;
  readonly #base: number;
  /** Word 0: number of live slots. */
  readonly #count: number;

  constructor(heap: Heap, slots: number) {
    this.slots = slots;
    this.#heap = heap;
    this.#base = heap.reserve('DMA in flight', slots * RECORD_WORDS, { kind: 'slots', recordWords: RECORD_WORDS }).base;
    this.#count = heap.reserve('DMA in flight: count', 1).base;
  }

  /** Holds an access. @returns its slot, or -1 when all are taken. */
  hold(held: Omit<TranslatedAccess, 'slot'>): number {
    for (let slot = 0; slot < this.slots; slot += 1) {
      const at = this.#base + slot * RECORD_WORDS;
      if (this.#heap.words[at]! !== 0) continue;
      this.#heap.write(at + LIVE, held.access);
      this.#heap.write(at + TAG, held.unit * 0x10000 + held.did);
      this.#heap.write(at + SOURCE, held.sourceId);
      this.#heap.write(at + DFN_LOW, held.dfn);
      this.#heap.write(at + DFN_HIGH, highWord(held.dfn));
      this.#heap.write(at + FRAME, held.frame);
      this.#heap.write(at + WORD, held.word);
      this.#heap.write(at + VALUE, held.value);
      this.#heap.write(this.#count, this.#heap.words[this.#count]! + 1);
      return slot;
    }
    return -1;
  }

  get(slot: number): TranslatedAccess | null {
    const at = this.#base + slot * RECORD_WORDS;
    const access = slot >= 0 && slot < this.slots ? this.#heap.words[at + LIVE]! : 0;
    if (access === 0) return null;
    return {
      slot,
      unit: this.#heap.words[at + TAG]! >>> 16,
      did: this.#heap.words[at + TAG]! & 0xffff,
      sourceId: this.#heap.words[at + SOURCE]!,
      dfn: joinWords(this.#heap.words[at + DFN_LOW]!, this.#heap.words[at + DFN_HIGH]!),
      frame: this.#heap.words[at + FRAME]!,
      access: access as Access,
      word: this.#heap.words[at + WORD]!,
      value: this.#heap.words[at + VALUE]!,
    };
  }

  /** The access was performed. */
  release(slot: number): void {
    const at = this.#base + slot * RECORD_WORDS;
    this.#heap.write(at + LIVE, 0);
    this.#heap.write(this.#count, this.#heap.words[this.#count]! - 1);
  }

  all(): TranslatedAccess[] {
    const found: TranslatedAccess[] = [];
    if (this.isEmpty) return found;
    for (let slot = 0; slot < this.slots; slot += 1) {
      const access = this.get(slot);
      if (access) found.push(access);
    }
    return found;
  }

  /** Whether no translated access waits to be performed. */
  get isEmpty(): boolean {
    return this.#heap.words[this.#count]! === 0;
  }

  /** Whether an IOTLB invalidation with these drains must wait for a translated access of its scope. */
  blocks(
    unit: number,
    scope: { readonly granularity: number; readonly did: number; readonly dfn: number; readonly order: number },
    drainReads: boolean,
    drainWrites: boolean,
  ): boolean {
    const first = alignDown(scope.dfn, scope.order);
    return this.all().some((access) => {
      if (access.unit !== unit || !(access.access === Access.read ? drainReads : drainWrites)) return false;
      if (scope.granularity === IotlbGranularity.global) return true;
      if (access.did !== scope.did) return false;
      return (
        scope.granularity === IotlbGranularity.domain ||
        (access.dfn >= first && access.dfn < first + pagesOf(scope.order))
      );
    });
  }
}
