// What was removed and what waits for it: one queue per virtual CPU.
//
// A removal is a record of device frames whose old translation may still be cached. A completion is what may happen
// once everything removed before it is flushed: a grant half is given up, a frame's reference dropped. Both stand in
// one queue in the order in which they were made, so a completion is ready when nothing before it is pending.

import { mix32 } from '../../machine/fingerprint.ts';
import { type Dfn, pagesOf } from '../../machine/frame-number.ts';
import type { Heap } from '../../machine/heap.ts';
import type { Domid } from '../../machine/ids.ts';
import { highWord } from '../../machine/wide.ts';
import type { Clock } from './clock.ts';

const RECORD_WORDS = 12;
const FLAGS = 0;
const DOMAIN = 1;
const DFN_LOW = 2;
const DFN_HIGH = 3;
const ARGUMENTS = 4;
const TIME = 9;

const LIVE = 1;
/** A removal that no completed wait has covered. */
const PENDING = 2;
/** A completion that has not happened. */
const HELD = 4;
const KIND_SHIFT = 4;
/** The virtual CPU, plus 1, whose submitted invalidation covers the removal. */
const COVERED_SHIFT = 16;

const FILTER_WORDS = 4096;

/** Number of words that a completion may carry. */
export const COMPLETION_ARGUMENTS = 5;

export interface LedgerOptions {
  readonly vcpus: number;
  readonly domains: number;
  /** Records per virtual CPU, a power of two. */
  readonly capacity: number;
  /** Whether a virtual CPU is in the middle of no operation; by default all are. */
  readonly isIdle?: (vcpu: number) => boolean;
}

export class FlushLedger {
  readonly capacity: number;
  readonly #heap: Heap;
  readonly #clock: Clock;
  readonly #vcpus: number;
  readonly #isIdle: (vcpu: number) => boolean;
  readonly #rings: number;
  readonly #ringWords: number;
  /** Per vCPU: head, tail (both counted from the start), first record not completed, removals not covered. Derived. */
  readonly #index: number;
  /** Pending removals by a hash of (domain, dfn), so that most look-ups need no search. Derived. */
  readonly #filter: number;
  /** Per domain: pending removals, and those of more than one frame. Derived. */
  readonly #perDomain: number;

  constructor(heap: Heap, clock: Clock, options: LedgerOptions) {
    this.capacity = options.capacity;
    this.#heap = heap;
    this.#clock = clock;
    this.#isIdle = options.isIdle ?? (() => true);
    this.#vcpus = options.vcpus;
    this.#ringWords = options.capacity * RECORD_WORDS;
    this.#rings = heap.reserve('flush queues', options.vcpus * this.#ringWords, {
      kind: 'ring',
      rings: options.vcpus,
      ringWords: this.#ringWords,
      recordWords: RECORD_WORDS,
      window: (vcpu) => ({ head: this.#head(vcpu) % options.capacity, count: this.size(vcpu) }),
      time: { offset: TIME, now: () => clock.nowUs },
    }).base;
    this.#index = heap.reserve('flush queues: positions', options.vcpus * 4, { kind: 'unhashed' }).base;
    this.#filter = heap.reserve('flush queues: filter', FILTER_WORDS, { kind: 'unhashed' }).base;
    this.#perDomain = heap.reserve('flush queues: domains', options.domains * 2, { kind: 'unhashed' }).base;
  }

  #head(vcpu: number): number {
    return this.#heap.words[this.#index + vcpu * 4]!;
  }

  #tail(vcpu: number): number {
    return this.#heap.words[this.#index + vcpu * 4 + 1]!;
  }

  /** Live records of a CPU's queue. */
  size(vcpu: number): number {
    return (this.#tail(vcpu) - this.#head(vcpu)) >>> 0;
  }

  /** Removals of a CPU that nothing submitted covers. */
  uncovered(vcpu: number): number {
    return this.#heap.words[this.#index + vcpu * 4 + 3]!;
  }

  #record(vcpu: number, position: number): number {
    return this.#rings + vcpu * this.#ringWords + (position % this.capacity) * RECORD_WORDS;
  }

  isFull(vcpu: number): boolean {
    return this.size(vcpu) === this.capacity;
  }

  #push(vcpu: number): number {
    const tail = this.#tail(vcpu);
    this.#heap.write(this.#index + vcpu * 4 + 1, tail + 1);
    const record = this.#record(vcpu, tail);
    const now = this.#clock.nowUs;
    this.#heap.write(record + FLAGS, LIVE);
    for (let word = DOMAIN; word < TIME; word += 1)
      if (this.#heap.words[record + word] !== 0) this.#heap.write(record + word, 0);
    this.#heap.write(record + TIME, now);
    this.#heap.write(record + TIME + 1, highWord(now));
    return record;
  }

  /** Notes a removal. The queue must not be full. */
  removed(vcpu: number, domain: Domid, dfn: Dfn, order: number): void {
    const heap = this.#heap;
    const record = this.#push(vcpu);
    heap.write(record + FLAGS, LIVE | PENDING);
    heap.write(record + DOMAIN, domain | (order << 16));
    heap.write(record + DFN_LOW, dfn);
    heap.write(record + DFN_HIGH, highWord(dfn));
    heap.write(this.#index + vcpu * 4 + 3, this.uncovered(vcpu) + 1);
    this.#countPending(record, 1);
  }

  /** Holds a completion until everything before it is flushed. The queue must not be full. */
  /** Whether a completion needs no record of its own: the last removal carries none yet. */
  canAttach(vcpu: number): boolean {
    if (this.size(vcpu) === 0) return false;
    const last = this.#record(vcpu, this.#tail(vcpu) - 1);
    return (this.#heap.words[last + FLAGS]! & (PENDING | (15 << KIND_SHIFT))) === PENDING;
  }

  hold(vcpu: number, kind: number, a: number, b: number, c: number, d: number, e: number): void {
    const heap = this.#heap;
    const record = this.canAttach(vcpu) ? this.#record(vcpu, this.#tail(vcpu) - 1) : this.#push(vcpu);
    heap.write(record + FLAGS, heap.words[record + FLAGS]! | HELD | (kind << KIND_SHIFT));
    heap.write(record + ARGUMENTS, a);
    heap.write(record + ARGUMENTS + 1, b);
    heap.write(record + ARGUMENTS + 2, c);
    heap.write(record + ARGUMENTS + 3, d);
    heap.write(record + ARGUMENTS + 4, e);
  }

  #countPending(record: number, by: number): void {
    const heap = this.#heap;
    const word = heap.words[record + DOMAIN]!;
    const domain = word & 0xffff;
    const perDomain = this.#perDomain + domain * 2;
    heap.write(perDomain, heap.words[perDomain]! + by);
    if (word >>> 16 !== 0) heap.write(perDomain + 1, heap.words[perDomain + 1]! + by);
    else {
      const slot = this.#filterSlot(domain, heap.words[record + DFN_LOW]!);
      heap.write(slot, heap.words[slot]! + by);
    }
  }

  #filterSlot(domain: number, dfnLow: number): number {
    return this.#filter + (mix32(dfnLow ^ (domain << 20)) & (FILTER_WORDS - 1));
  }

  /** Whether a removal of some of these device frames is pending on any CPU. */
  isPending(domain: Domid, dfn: Dfn, order: number): boolean {
    return this.findPending(domain, dfn, order) !== 0;
  }

  /** Address of the record of a removal of some of these device frames that is pending on any CPU; 0 when none is. */
  findPending(domain: Domid, dfn: Dfn, order: number): number {
    const { words } = this.#heap;
    const perDomain = this.#perDomain + domain * 2;
    if (words[perDomain] === 0) return 0;
    if (order === 0 && words[perDomain + 1] === 0 && words[this.#filterSlot(domain, dfn >>> 0)] === 0) return 0;
    for (let vcpu = 0; vcpu < this.#vcpus; vcpu += 1) {
      for (let at = this.#head(vcpu); at !== this.#tail(vcpu); at = (at + 1) >>> 0) {
        const record = this.#record(vcpu, at);
        if ((words[record + FLAGS]! & PENDING) !== 0 && this.#overlaps(record, domain, dfn, order)) return record;
      }
    }
    return 0;
  }

  /** First device frame of a removal, and its order. */
  dfnOf(record: number): Dfn {
    return (this.#heap.words[record + DFN_LOW]! + this.#heap.words[record + DFN_HIGH]! * 0x100000000) as Dfn;
  }

  orderOf(record: number): number {
    return this.#heap.words[record + DOMAIN]! >>> 16;
  }

  /** The virtual CPU that made a removal. */
  vcpuOf(record: number): number {
    return Math.floor((record - this.#rings) / this.#ringWords);
  }

  #overlaps(record: number, domain: number, dfn: number, order: number): boolean {
    if ((this.#heap.words[record + DOMAIN]! & 0xffff) !== domain) return false;
    const first = this.dfnOf(record);
    return first < dfn + pagesOf(order) && dfn < first + pagesOf(this.orderOf(record));
  }

  #contained(record: number, dfn: number, order: number): boolean {
    const first = this.#heap.words[record + DFN_LOW]! + this.#heap.words[record + DFN_HIGH]! * 0x100000000;
    return dfn <= first && first + pagesOf(this.#heap.words[record + DOMAIN]! >>> 16) <= dfn + pagesOf(order);
  }

  /**
   * Notes that an invalidation which `vcpu` submits covers removals: those of a page range, of a domain (`dfn` -1), or
   * all (`domain` -1). Removals of other CPUs that are idle count too. A CPU in the middle of an operation sees to its
   * own, for it may not return before they are flushed.
   */
  cover(vcpu: number, domain: number, dfn: number, order: number): void {
    const heap = this.#heap;
    for (let other = 0; other < this.#vcpus; other += 1) {
      if (this.uncovered(other) === 0 || (other !== vcpu && !this.#isIdle(other))) continue;
      for (let at = this.#tail(other); at !== this.#head(other); ) {
        at = (at - 1) >>> 0;
        const record = this.#record(other, at);
        const flags = heap.words[record + FLAGS]!;
        if ((flags & PENDING) === 0 || flags >>> COVERED_SHIFT !== 0) continue;
        if (domain >= 0 && (heap.words[record + DOMAIN]! & 0xffff) !== domain) continue;
        if (dfn >= 0 && !this.#contained(record, dfn, order)) continue;
        heap.write(record + FLAGS, flags | ((vcpu + 1) << COVERED_SHIFT));
        const left = this.uncovered(other) - 1;
        heap.write(this.#index + other * 4 + 3, left);
        if (left === 0) break;
      }
    }
  }

  /** A wait of `vcpu` is over: what its invalidations covered is flushed. */
  flushed(vcpu: number): void {
    const heap = this.#heap;
    for (let other = 0; other < this.#vcpus; other += 1) {
      for (let at = this.#head(other); at !== this.#tail(other); at = (at + 1) >>> 0) {
        const record = this.#record(other, at);
        const flags = heap.words[record + FLAGS]!;
        if (flags >>> COVERED_SHIFT !== vcpu + 1) continue;
        heap.write(record + FLAGS, flags & ~PENDING & 0xffff);
        this.#countPending(record, -1);
      }
      this.#trim(other);
    }
  }

  /** Drops records from the head that are neither pending nor held. */
  #trim(vcpu: number): void {
    const heap = this.#heap;
    const tail = this.#tail(vcpu);
    let head = this.#head(vcpu);
    while (head !== tail) {
      const record = this.#record(vcpu, head);
      if ((heap.words[record + FLAGS]! & (PENDING | HELD)) !== 0) break;
      head = (head + 1) >>> 0;
    }
    heap.write(this.#index + vcpu * 4, head);
    const first = this.#index + vcpu * 4 + 2;
    if (((heap.words[first]! - head) | 0) < 0) heap.write(first, head);
  }

  /**
   * The next completion of a CPU that may happen: address of its record, 0 when there is none.
   * With `evenPending` removals before it are disregarded (release on return).
   */
  ready(vcpu: number, evenPending: boolean): number {
    const heap = this.#heap;
    const first = this.#index + vcpu * 4 + 2;
    const tail = this.#tail(vcpu);
    for (let at = heap.words[first]!; at !== tail; at = (at + 1) >>> 0) {
      const flags = heap.words[this.#record(vcpu, at) + FLAGS]!;
      if ((flags & PENDING) !== 0 && !evenPending) return 0;
      heap.write(first, at);
      if ((flags & HELD) !== 0) return this.#record(vcpu, at);
    }
    heap.write(first, tail);
    return 0;
  }

  completionKind(record: number): number {
    return (this.#heap.words[record + FLAGS]! >>> KIND_SHIFT) & 15;
  }

  completionArgument(record: number, index: number): number {
    return this.#heap.words[record + ARGUMENTS + index]!;
  }

  /** The completion has happened. */
  completed(vcpu: number, record: number): void {
    this.#heap.write(record + FLAGS, this.#heap.words[record + FLAGS]! & ~HELD);
    this.#trim(vcpu);
  }

  /** Forgets the oldest removal, which a policy never flushed, to make room. False when it holds a completion back. */
  dropOldest(vcpu: number): boolean {
    const record = this.#record(vcpu, this.#head(vcpu));
    const flags = this.#heap.words[record + FLAGS]!;
    if ((flags & HELD) !== 0) return false;
    if (flags >>> COVERED_SHIFT === 0) this.#heap.write(this.#index + vcpu * 4 + 3, this.uncovered(vcpu) - 1);
    this.#heap.write(record + FLAGS, flags & ~PENDING & 0xffff);
    this.#countPending(record, -1);
    this.#trim(vcpu);
    return true;
  }

  /** Age of a CPU's oldest removal that nothing covers, in microseconds. */
  ageUs(vcpu: number): number {
    const heap = this.#heap;
    for (let at = this.#head(vcpu); at !== this.#tail(vcpu); at = (at + 1) >>> 0) {
      const record = this.#record(vcpu, at);
      const flags = heap.words[record + FLAGS]!;
      if ((flags & PENDING) === 0 || flags >>> COVERED_SHIFT !== 0) continue;
      return this.#clock.nowUs - (heap.words[record + TIME]! + heap.words[record + TIME + 1]! * 0x100000000);
    }
    return 0;
  }

  /** Domains of a CPU's removals that nothing covers, lowest first. */
  domains(vcpu: number): Domid[] {
    const heap = this.#heap;
    const found = new Set<number>();
    for (let at = this.#head(vcpu); at !== this.#tail(vcpu); at = (at + 1) >>> 0) {
      const record = this.#record(vcpu, at);
      const flags = heap.words[record + FLAGS]!;
      if ((flags & PENDING) !== 0 && flags >>> COVERED_SHIFT === 0) found.add(heap.words[record + DOMAIN]! & 0xffff);
    }
    return [...found].sort((a, b) => a - b) as Domid[];
  }
}
