// What was removed and what waits for it: one queue per virtual CPU.
//
// A removal is a record of device frames whose old translation may still be cached. A completion is what may happen
// once everything removed before it is flushed: a grant half is given up, a frame's reference dropped. Both stand in
// one queue in the order in which they were made, so a completion is ready when nothing before it is pending.
//
// A table that was taken out is a record, too: it is freed when an invalidation has reached what led to it, whatever
// the release, and nothing else waits for it.

import { alignDown, type Dfn, type Mfn, pagesOf } from '../../../machine/frame-number.ts';
import type { Heap } from '../../../machine/heap/heap.ts';
import type { Domid } from '../../../machine/ids.ts';
import { highWord, joinWords } from '../../../machine/wide.ts';
import type { Clock } from '../clock.ts';
import { PendingCounts } from './pending-counts.ts';

// A queue: positions of its first record, of the one after its last, and of the first that may hold a completion which
// has not happened; the number of removals that nothing covers; then the ring. Positions count from the moment the
// queue was last empty.
const HEAD = 0;
const TAIL = 1;
const FIRST_HELD = 2;
const UNCOVERED = 3;
const RING = 4;

// A record. The domain's word holds the order above the domain.
const RECORD_WORDS = 12;
const FLAGS = 0;
const DOMAIN = 1;
const DFN_LOW = 2;
const DFN_HIGH = 3;
const ARGUMENTS = 4;
const TIME_LOW = 9;
const TIME_HIGH = 10;

const LIVE = 1;
/** A removal that no completed wait has covered. */
const PENDING = 2;
/** A completion that has not happened. */
const HELD = 4;
const KIND_SHIFT = 4;
const KIND_MASK = 15 << KIND_SHIFT;
// Kinds that are no completions: a table that was taken out, alone or with tables below it. Its page and level are the
// record's arguments.
const TABLE = 14 << KIND_SHIFT;
const TABLE_TREE = 15 << KIND_SHIFT;
/** The virtual CPU, plus 1, whose submitted invalidation covers the removal. */
const COVERED_SHIFT = 16;

/** Number of words that a completion may carry. */
export const COMPLETION_ARGUMENTS = 5;

export interface LedgerOptions {
  readonly vcpus: number;
  readonly domains: number;
  /** Records per virtual CPU, a power of two. */
  readonly capacity: number;
  /** Whether a virtual CPU is in the middle of no operation; by default all are. */
  readonly isIdle?: (vcpu: number) => boolean;
  /** Frees a table that nothing leads to any more. */
  readonly releaseTable?: (table: Mfn, level: number) => void;
}

export class FlushLedger {
  readonly capacity: number;
  readonly #clock: Clock;
  readonly #isIdle: (vcpu: number) => boolean;
  readonly #releaseTable: ((table: Mfn, level: number) => void) | null;
  readonly #queues: readonly Uint32Array[];
  readonly #pending: PendingCounts;

  constructor(heap: Heap, clock: Clock, options: LedgerOptions) {
    const { capacity } = options;
    this.capacity = capacity;
    this.#clock = clock;
    this.#isIdle = options.isIdle ?? (() => true);
    this.#releaseTable = options.releaseTable ?? null;
    const ringWords = capacity * RECORD_WORDS;
    this.#queues = Array.from({ length: options.vcpus }, (_, vcpu) =>
      heap.reserveTransient(
        [
          { name: `vCPU ${vcpu} flush queue: positions`, words: RING, identity: { kind: 'unhashed' } },
          {
            name: `vCPU ${vcpu} flush queue`,
            words: ringWords,
            identity: {
              kind: 'ring',
              rings: 1,
              ringWords,
              recordWords: RECORD_WORDS,
              window: () => ({ head: this.#queues[vcpu]![HEAD]! % capacity, count: this.size(vcpu) }),
              time: { offset: TIME_LOW, now: () => clock.nowUs },
            },
          },
        ],
        (queue) => RING + Math.min(queue[TAIL]!, capacity) * RECORD_WORDS,
      ),
    );
    this.#pending = new PendingCounts(heap, options.domains);
  }

  /** Live records of a CPU's queue. */
  size(vcpu: number): number {
    const queue = this.#queues[vcpu]!;
    return queue[TAIL]! - queue[HEAD]!;
  }

  /** Removals of a CPU that nothing submitted covers. */
  uncovered(vcpu: number): number {
    return this.#queues[vcpu]![UNCOVERED]!;
  }

  /** Place of the record at a position. */
  #place(position: number): number {
    return RING + (position & (this.capacity - 1)) * RECORD_WORDS;
  }

  isFull(vcpu: number): boolean {
    return this.size(vcpu) === this.capacity;
  }

  #push(queue: Uint32Array, flags: number): number {
    const tail = queue[TAIL]!;
    queue[TAIL] = tail + 1;
    const record = this.#place(tail);
    const now = this.#clock.nowUs;
    queue[record + FLAGS] = flags;
    for (let word = DOMAIN; word < TIME_LOW; word += 1) queue[record + word] = 0;
    queue[record + TIME_LOW] = now;
    queue[record + TIME_HIGH] = highWord(now);
    return record;
  }

  /** Notes a removal. The queue must not be full. */
  removed(vcpu: number, domain: Domid, dfn: Dfn, order: number): void {
    this.#remove(this.#queues[vcpu]!, LIVE | PENDING, domain, dfn, order);
  }

  #remove(queue: Uint32Array, flags: number, domain: Domid, dfn: Dfn, order: number): number {
    const record = this.#push(queue, flags);
    queue[record + DOMAIN] = domain | (order << 16);
    queue[record + DFN_LOW] = dfn;
    queue[record + DFN_HIGH] = highWord(dfn);
    queue[UNCOVERED]! += 1;
    this.#pending.count(domain, dfn | 0, order, 1);
    return record;
  }

  /**
   * Notes a table that was taken out; it mapped 2^order device frames. With `isTree` tables hang below it, to which
   * entries may be cached as well. The queue must not be full.
   */
  unhooked(vcpu: number, domain: Domid, dfn: Dfn, order: number, table: Mfn, level: number, isTree: boolean): void {
    const queue = this.#queues[vcpu]!;
    const record = this.#remove(queue, LIVE | PENDING | (isTree ? TABLE_TREE : TABLE), domain, dfn, order);
    queue[record + ARGUMENTS] = table;
    queue[record + ARGUMENTS + 1] = level;
  }

  /**
   * Whether a completion needs no record of its own: the last removal carries none yet, and whoever looks for
   * completions has not passed it by.
   */
  canAttach(vcpu: number): boolean {
    const queue = this.#queues[vcpu]!;
    if (this.size(vcpu) === 0 || queue[TAIL]! <= queue[FIRST_HELD]!) return false;
    return (queue[this.#place(queue[TAIL]! - 1) + FLAGS]! & (PENDING | KIND_MASK)) === PENDING;
  }

  /** Holds a completion until everything before it is flushed. The queue must not be full. */
  hold(vcpu: number, kind: number, a: number, b: number, c: number, d: number, e: number): void {
    const queue = this.#queues[vcpu]!;
    const record = this.canAttach(vcpu) ? this.#place(queue[TAIL]! - 1) : this.#push(queue, LIVE);
    queue[record + FLAGS]! |= HELD | (kind << KIND_SHIFT);
    queue[record + ARGUMENTS] = a;
    queue[record + ARGUMENTS + 1] = b;
    queue[record + ARGUMENTS + 2] = c;
    queue[record + ARGUMENTS + 3] = d;
    queue[record + ARGUMENTS + 4] = e;
  }

  /** A removal is pending no more. */
  #settle(queue: Uint32Array, record: number): void {
    queue[record + FLAGS]! &= ~PENDING & 0xffff;
    const word = queue[record + DOMAIN]!;
    this.#pending.count(word & 0xffff, queue[record + DFN_LOW]! | 0, word >>> 16, -1);
    if (!isTable(queue[record + FLAGS]!)) return;
    const table = queue[record + ARGUMENTS]! as Mfn;
    queue[record + ARGUMENTS] = 0;
    this.#releaseTable?.(table, queue[record + ARGUMENTS + 1]!);
  }

  /** Whether a removal of some of these device frames is pending on any CPU. */
  isPending(domain: Domid, dfn: Dfn, order: number): boolean {
    return this.findPending(domain, dfn, order) !== 0;
  }

  /** A removal of some of these device frames that is pending on any CPU; 0 when none is. */
  findPending(domain: Domid, dfn: Dfn, order: number): number {
    return this.#pending.mayHave(domain, dfn, order) ? this.#search(domain, dfn, order) : 0;
  }

  #search(domain: Domid, dfn: Dfn, order: number): number {
    const end = dfn + pagesOf(order);
    for (let vcpu = 0; vcpu < this.#queues.length; vcpu += 1) {
      const queue = this.#queues[vcpu]!;
      for (let at = queue[HEAD]!; at !== queue[TAIL]; at += 1) {
        const record = this.#place(at);
        if ((queue[record + FLAGS]! & PENDING) === 0 || (queue[record + DOMAIN]! & 0xffff) !== domain) continue;
        const first = dfnAt(queue, record);
        if (first < end && dfn < first + pagesOf(queue[record + DOMAIN]! >>> 16)) return this.#name(vcpu, record);
      }
    }
    return 0;
  }

  /** What callers know a record by. Never 0. */
  #name(vcpu: number, record: number): number {
    return vcpu * (RING + this.capacity * RECORD_WORDS) + record;
  }

  /** The virtual CPU that made a removal. */
  vcpuOf(name: number): number {
    return Math.floor(name / (RING + this.capacity * RECORD_WORDS));
  }

  #word(name: number, word: number): number {
    const words = RING + this.capacity * RECORD_WORDS;
    return this.#queues[Math.floor(name / words)]![(name % words) + word]!;
  }

  /** First device frame of a removal. */
  dfnOf(name: number): Dfn {
    return joinWords(this.#word(name, DFN_LOW), this.#word(name, DFN_HIGH)) as Dfn;
  }

  orderOf(name: number): number {
    return this.#word(name, DOMAIN) >>> 16;
  }

  /**
   * Notes that an invalidation which `vcpu` submits covers removals: those of a page range, of a domain (`dfn` -1), or
   * all (`domain` -1). Removals of other CPUs that are idle count too. A CPU in the middle of an operation sees to its
   * own, for it may not return before they are flushed. With `leavesOnly` what leads to tables stays cached, so that
   * leaves can be found in tables that are gone: nothing is covered while one waits.
   */
  cover(vcpu: number, domain: number, dfn: number, order: number, leavesOnly = false): void {
    if (leavesOnly && this.#hasTable(domain)) return;
    for (let other = 0; other < this.#queues.length; other += 1) {
      const queue = this.#queues[other]!;
      if (queue[UNCOVERED] === 0 || (other !== vcpu && !this.#isIdle(other))) continue;
      const end = dfn + pagesOf(order);
      for (let at = queue[TAIL]!; at !== queue[HEAD] && queue[UNCOVERED] !== 0; ) {
        at -= 1;
        const record = this.#place(at);
        const flags = queue[record + FLAGS]!;
        if ((flags & PENDING) === 0 || flags >>> COVERED_SHIFT !== 0) continue;
        const word = queue[record + DOMAIN]!;
        if (domain >= 0 && (word & 0xffff) !== domain) continue;
        if (dfn >= 0) {
          const first = dfnAt(queue, record);
          const last = first + pagesOf(word >>> 16);
          // Any page that it mapped brings the way to a table to an end.
          if ((flags & KIND_MASK) === TABLE ? first >= end || dfn >= last : first < dfn || last > end) continue;
        }
        queue[record + FLAGS] = flags | ((vcpu + 1) << COVERED_SHIFT);
        queue[UNCOVERED]! -= 1;
      }
    }
  }

  /** Whether a table of the domain was taken out, on any CPU, and nothing covers that yet. */
  #hasTable(domain: number): boolean {
    for (const queue of this.#queues) {
      if (queue[UNCOVERED] === 0) continue;
      for (let at = queue[HEAD]!; at !== queue[TAIL]; at += 1) {
        const record = this.#place(at);
        if (!isTable(queue[record + FLAGS]!) || !isUncovered(queue, record)) continue;
        if ((queue[record + DOMAIN]! & 0xffff) === domain) return true;
      }
    }
    return false;
  }

  /** A wait of `vcpu` is over: what its invalidations covered is flushed. */
  flushed(vcpu: number): void {
    for (let other = 0; other < this.#queues.length; other += 1) {
      const queue = this.#queues[other]!;
      const tail = queue[TAIL]!;
      for (let at = queue[HEAD]!; at !== tail; at += 1) {
        const record = this.#place(at);
        if (queue[record + FLAGS]! >>> COVERED_SHIFT === vcpu + 1) this.#settle(queue, record);
      }
      this.#trim(queue);
    }
  }

  /** No device of the domain is left, and nothing is cached for it: its removals are pending no more. */
  left(domain: Domid): void {
    for (const queue of this.#queues) {
      for (let at = queue[HEAD]!; at !== queue[TAIL]; at += 1) {
        const record = this.#place(at);
        if ((queue[record + FLAGS]! & PENDING) === 0 || (queue[record + DOMAIN]! & 0xffff) !== domain) continue;
        if (isUncovered(queue, record)) queue[UNCOVERED]! -= 1;
        this.#settle(queue, record);
      }
      this.#trim(queue);
    }
  }

  /** Drops records from the head that are neither pending nor held. */
  #trim(queue: Uint32Array): void {
    const tail = queue[TAIL]!;
    let head = queue[HEAD]!;
    while (head !== tail && (queue[this.#place(head) + FLAGS]! & (PENDING | HELD)) === 0) head += 1;
    if (head === tail) {
      queue[HEAD] = 0;
      queue[TAIL] = 0;
      queue[FIRST_HELD] = 0;
      return;
    }
    queue[HEAD] = head;
    if (queue[FIRST_HELD]! < head) queue[FIRST_HELD] = head;
    if (head >= this.capacity) this.#rebase(queue, head - (head % this.capacity));
  }

  /** Positions go back by whole turns of the ring, so that they stay small. */
  #rebase(queue: Uint32Array, by: number): void {
    queue[HEAD]! -= by;
    queue[TAIL]! -= by;
    queue[FIRST_HELD]! -= by;
  }

  /**
   * The next completion of a CPU that may happen; 0 when there is none.
   * With `evenPending` removals before it are disregarded (release on return).
   */
  ready(vcpu: number, evenPending: boolean): number {
    const queue = this.#queues[vcpu]!;
    const tail = queue[TAIL]!;
    for (let at = queue[FIRST_HELD]!; at !== tail; at += 1) {
      const record = this.#place(at);
      const flags = queue[record + FLAGS]!;
      if ((flags & PENDING) !== 0 && !evenPending && !isTable(flags)) return 0;
      queue[FIRST_HELD] = at;
      if ((flags & HELD) !== 0) return this.#name(vcpu, record);
    }
    queue[FIRST_HELD] = tail;
    return 0;
  }

  completionKind(name: number): number {
    return (this.#word(name, FLAGS) & KIND_MASK) >>> KIND_SHIFT;
  }

  completionArgument(name: number, index: number): number {
    return this.#word(name, ARGUMENTS + index);
  }

  /** The completion has happened. */
  completed(vcpu: number, name: number): void {
    const queue = this.#queues[vcpu]!;
    queue[name - this.#name(vcpu, 0) + FLAGS]! &= ~HELD;
    this.#trim(queue);
  }

  /** A table was taken out with a change at `dfn`: the table x 16, its level, 8 when there are tables below it. */
  droppedTable(vcpu: number, domain: Domid, dfn: Dfn, table: number): void {
    const level = table & 7;
    const order = 9 * level;
    this.unhooked(vcpu, domain, alignDown(dfn, order) as Dfn, order, (table >>> 4) as Mfn, level, (table & 8) !== 0);
  }

  /**
   * A policy that never flushes fills the queue. Where nothing waits for its removals the oldest is forgotten; where
   * something does, forgetting one would release it unflushed.
   */
  makeRoom(vcpu: number, mayForget: boolean, policy: string): void {
    if (mayForget && this.dropOldest(vcpu)) return;
    throw new RangeError(`policy ${policy}: ${this.capacity} removals on vCPU ${vcpu} were never flushed`);
  }

  /**
   * Forgets the oldest removal, which a policy never flushed, to make room. False when it holds a completion back. A
   * table is lost then: freed, it would be walked as whatever it becomes.
   */
  dropOldest(vcpu: number): boolean {
    const queue = this.#queues[vcpu]!;
    const record = this.#place(queue[HEAD]!);
    const flags = queue[record + FLAGS]!;
    if ((flags & HELD) !== 0) return false;
    if (flags >>> COVERED_SHIFT === 0) queue[UNCOVERED]! -= 1;
    queue[record + FLAGS] = flags & ~KIND_MASK;
    this.#settle(queue, record);
    this.#trim(queue);
    return true;
  }

  /** Age of a CPU's oldest removal that nothing covers, in microseconds. */
  ageUs(vcpu: number): number {
    const queue = this.#queues[vcpu]!;
    for (let at = queue[HEAD]!; at !== queue[TAIL]; at += 1) {
      const record = this.#place(at);
      if (isUncovered(queue, record)) {
        return this.#clock.nowUs - joinWords(queue[record + TIME_LOW]!, queue[record + TIME_HIGH]!);
      }
    }
    return 0;
  }

  /** Domains of a CPU's removals that nothing covers, lowest first. */
  domains(vcpu: number): Domid[] {
    const queue = this.#queues[vcpu]!;
    const found = new Set<number>();
    for (let at = queue[HEAD]!; at !== queue[TAIL]; at += 1) {
      const record = this.#place(at);
      if (isUncovered(queue, record)) found.add(queue[record + DOMAIN]! & 0xffff);
    }
    return [...found].sort((a, b) => a - b) as Domid[];
  }
}

function isTable(flags: number): boolean {
  return (flags & KIND_MASK) >= TABLE;
}

function isUncovered(queue: Uint32Array, record: number): boolean {
  const flags = queue[record + FLAGS]!;
  return (flags & PENDING) !== 0 && flags >>> COVERED_SHIFT === 0;
}

function dfnAt(queue: Uint32Array, record: number): number {
  return joinWords(queue[record + DFN_LOW]!, queue[record + DFN_HIGH]!);
}
