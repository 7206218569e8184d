// Goal: the ledger lets nothing be completed before all that was removed earlier is flushed, and says what is pending.
// Method: single rules first, then random events on two CPUs against a plain list of records.

import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { Heap } from '../../../machine/heap/heap.ts';
import { Clock, FlushLedger } from '../../../passthrough/driver/index.ts';
import { dfn, domain } from './driver-rig.ts';

const CAPACITY = 8;

function makeLedger() {
  const heap = new Heap();
  const clock = new Clock(heap);
  const ledger = new FlushLedger(heap, clock, { vcpus: 2, domains: 4, capacity: CAPACITY });
  return { heap, clock, ledger };
}

/** Takes the next completion that is ready; its first argument, or null. */
function complete(ledger: FlushLedger, vcpu = 0, evenPending = false): number | null {
  const record = ledger.ready(vcpu, evenPending);
  if (record === 0) return null;
  const argument = ledger.completionArgument(record, 0);
  ledger.completed(vcpu, record);
  return argument;
}

describe('a completion', () => {
  test('is held until what was removed before it is flushed', () => {
    const { ledger } = makeLedger();
    ledger.removed(0, domain(1), dfn(5), 0);
    ledger.hold(0, 1, 77, 2, 3, 4, 5);
    expect(complete(ledger)).toBeNull();
    ledger.cover(0, 1, 5, 0);
    expect(complete(ledger), 'submitted is not flushed').toBeNull();
    ledger.flushed(0);
    const record = ledger.ready(0, false);
    expect([0, 1, 2, 3, 4].map((at) => ledger.completionArgument(record, at))).toEqual([77, 2, 3, 4, 5]);
    expect(ledger.completionKind(record)).toBe(1);
    ledger.completed(0, record);
    expect([complete(ledger), ledger.size(0)]).toEqual([null, 0]);
  });

  test('is ready at once when nothing was removed', () => {
    const { ledger } = makeLedger();
    ledger.hold(0, 2, 77, 0, 0, 0, 0);
    expect(complete(ledger)).toBe(77);
  });

  test('waits for removals before it though a later one is flushed first', () => {
    const { ledger } = makeLedger();
    ledger.removed(0, domain(1), dfn(5), 0);
    ledger.hold(0, 1, 1, 0, 0, 0, 0);
    ledger.removed(0, domain(1), dfn(6), 0);
    ledger.hold(0, 1, 2, 0, 0, 0, 0);
    ledger.cover(0, 1, 6, 0);
    ledger.flushed(0);
    expect(complete(ledger)).toBeNull();
    ledger.cover(0, 1, 5, 0);
    ledger.flushed(0);
    expect([complete(ledger), complete(ledger), complete(ledger)]).toEqual([1, 2, null]);
  });

  test('does not wait where release is on return', () => {
    const { ledger } = makeLedger();
    ledger.removed(0, domain(1), dfn(5), 0);
    ledger.hold(0, 1, 1, 0, 0, 0, 0);
    expect(complete(ledger, 0, true)).toBe(1);
    expect(ledger.isPending(domain(1), dfn(5), 0), 'the removal is pending all the same').toBe(true);
  });
});

test('a completion is found though the removal before it was passed by', () => {
  const { ledger } = makeLedger();
  ledger.removed(0, domain(1), dfn(5), 0);
  expect(complete(ledger, 0, true)).toBeNull();
  ledger.hold(0, 1, 77, 0, 0, 0, 0);
  expect(complete(ledger, 0, true)).toBe(77);
});

test('the removals of a domain that has no device left are pending no more, covered or not', () => {
  const { ledger } = makeLedger();
  for (const at of [5, 6]) ledger.removed(0, domain(1), dfn(at), 0);
  ledger.hold(0, 1, 77, 0, 0, 0, 0);
  ledger.removed(1, domain(2), dfn(7), 0);
  ledger.cover(0, 1, 5, 0);
  ledger.left(domain(1));
  expect([ledger.uncovered(0), ledger.uncovered(1), complete(ledger)]).toEqual([0, 1, 77]);
  expect([5, 6].some((at) => ledger.isPending(domain(1), dfn(at), 0))).toBe(false);
  expect(ledger.isPending(domain(2), dfn(7), 0)).toBe(true);
  ledger.flushed(0);
  expect([ledger.size(0), ledger.size(1)]).toEqual([0, 1]);
});

describe('an invalidation covers', () => {
  const cases: [string, [number, number, number], boolean][] = [
    ['its page', [1, 5, 0], true],
    ['a range around it', [1, 4, 2], true],
    ['its domain', [1, -1, 0], true],
    ['everything', [-1, -1, 0], true],
    ['another page', [1, 4, 0], false],
    ['another domain', [2, -1, 0], false],
    ['its page in another domain', [2, 5, 0], false],
  ];
  test.each(cases)('the removal of a page: %s', (_, [of, at, order], covered) => {
    const { ledger } = makeLedger();
    ledger.removed(0, domain(1), dfn(5), 0);
    ledger.cover(0, of, at, order);
    expect(ledger.uncovered(0)).toBe(covered ? 0 : 1);
    ledger.flushed(0);
    expect(ledger.isPending(domain(1), dfn(5), 0)).toBe(!covered);
  });

  test('a range only whole', () => {
    const { ledger } = makeLedger();
    ledger.removed(0, domain(1), dfn(8), 3);
    ledger.cover(0, 1, 8, 2);
    expect(ledger.uncovered(0)).toBe(1);
    ledger.cover(0, 1, 8, 3);
    expect(ledger.uncovered(0)).toBe(0);
  });

  test('removals of other CPUs, flushed when the one that covers has waited', () => {
    const { ledger } = makeLedger();
    ledger.removed(1, domain(1), dfn(5), 0);
    ledger.hold(1, 1, 9, 0, 0, 0, 0);
    ledger.cover(0, 1, -1, 0);
    ledger.flushed(1);
    expect(complete(ledger, 1)).toBeNull();
    ledger.flushed(0);
    expect(complete(ledger, 1)).toBe(9);
  });

  test('not what is removed after it was submitted', () => {
    const { ledger } = makeLedger();
    ledger.cover(0, 1, 5, 0);
    ledger.removed(0, domain(1), dfn(5), 0);
    ledger.flushed(0);
    expect(ledger.isPending(domain(1), dfn(5), 0)).toBe(true);
  });
});

describe('a full queue', () => {
  function full(held: boolean) {
    const { ledger } = makeLedger();
    for (let at = 0; at < CAPACITY; at += 1) ledger.removed(0, domain(1), dfn(at), 0);
    if (held) ledger.hold(0, 1, 1, 0, 0, 0, 0);
    return ledger;
  }

  test('forgets its oldest removal to make room', () => {
    const ledger = full(false);
    expect(ledger.isFull(0)).toBe(true);
    expect(ledger.dropOldest(0)).toBe(true);
    expect([ledger.isFull(0), ledger.uncovered(0)]).toEqual([false, CAPACITY - 1]);
    expect([0, 1].map((at) => ledger.isPending(domain(1), dfn(at), 0))).toEqual([false, true]);
  });

  test('does not forget a removal that something waits for', () => {
    const { ledger } = makeLedger();
    ledger.removed(0, domain(1), dfn(0), 0);
    ledger.hold(0, 1, 1, 0, 0, 0, 0);
    expect(ledger.dropOldest(0)).toBe(false);
    expect(ledger.isPending(domain(1), dfn(0), 0)).toBe(true);
  });
});

/** The plain list. */
interface Item {
  readonly removal: { readonly domain: number; readonly dfn: number; readonly order: number } | null;
  pending: boolean;
  covered: number;
  completion: number | null;
  readonly time: number;
}

class PlainLedger {
  readonly queues: Item[][] = [[], []];
  now = 0;

  removed(vcpu: number, of: NonNullable<Item['removal']>): void {
    this.queues[vcpu]!.push({ removal: of, pending: true, covered: -1, completion: null, time: this.now });
  }

  hold(vcpu: number, completion: number): void {
    const last = this.queues[vcpu]!.at(-1);
    if (last?.pending && last.completion === null) last.completion = completion;
    else this.queues[vcpu]!.push({ removal: null, pending: false, covered: -1, completion, time: this.now });
  }

  cover(vcpu: number, of: number, first: number, order: number): void {
    for (const item of this.queues.flat()) {
      if (!item.pending || item.covered >= 0 || (of >= 0 && item.removal!.domain !== of)) continue;
      const { dfn: from, order: size } = item.removal!;
      if (first >= 0 && (from < first || from + 2 ** size > first + 2 ** order)) continue;
      item.covered = vcpu;
    }
  }

  flushed(vcpu: number): void {
    for (const item of this.queues.flat()) if (item.covered === vcpu) [item.pending, item.covered] = [false, -1];
    this.#trim();
  }

  complete(vcpu: number): number | null {
    const at = this.queues[vcpu]!.findIndex((item) => item.completion !== null && item.completion >= 0);
    if (at < 0 || this.queues[vcpu]!.slice(0, at + 1).some((item) => item.pending)) return null;
    const { completion } = this.queues[vcpu]![at]!;
    this.queues[vcpu]![at]!.completion = -1;
    this.#trim();
    return completion;
  }

  #trim(): void {
    const isOver = (item: Item) => !item.pending && (item.completion === null || item.completion < 0);
    for (const queue of this.queues) while (queue[0] && isOver(queue[0])) queue.shift();
  }

  isPending(of: number, first: number, order: number): boolean {
    return this.queues.flat().some((item) => {
      if (!item.pending || item.removal!.domain !== of) return false;
      return item.removal!.dfn < first + 2 ** order && first < item.removal!.dfn + 2 ** item.removal!.order;
    });
  }

  uncovered(vcpu: number): Item[] {
    return this.queues[vcpu]!.filter((item) => item.pending && item.covered < 0);
  }
}

const cpu = fc.nat(1);
const of = fc.integer({ min: 1, max: 2 });
const range = fc.record({ dfn: fc.nat(15), order: fc.constantFrom(0, 0, 0, 1, 2) }).map(({ dfn: at, order }) => ({
  dfn: at - (at % 2 ** order),
  order,
}));
const event = fc.oneof(
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('removed' as const), cpu, of, range }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('hold' as const), cpu }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('coverPage' as const), cpu, of, range }) },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant('coverDomain' as const), cpu, of: fc.constantFrom(-1, 1, 2) }),
  },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('flushed' as const), cpu }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('complete' as const), cpu }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('time' as const), us: fc.nat(1000) }) },
);

test.prop([fc.array(event, { maxLength: 60 })])('random events on two CPUs agree with a plain list', (events) => {
  const { clock, ledger } = makeLedger();
  const plain = new PlainLedger();
  let next = 1;
  for (const one of events) {
    if (one.kind === 'time') {
      plain.now += one.us;
      clock.advanceTo(plain.now);
    } else if (one.kind === 'removed') {
      if (ledger.isFull(one.cpu)) continue;
      ledger.removed(one.cpu, domain(one.of), dfn(one.range.dfn), one.range.order);
      plain.removed(one.cpu, { domain: one.of, ...one.range });
    } else if (one.kind === 'hold') {
      if (ledger.isFull(one.cpu)) continue;
      ledger.hold(one.cpu, 1, next, 0, 0, 0, 0);
      plain.hold(one.cpu, next);
      next += 1;
    } else if (one.kind === 'coverPage') {
      ledger.cover(one.cpu, one.of, one.range.dfn, one.range.order);
      plain.cover(one.cpu, one.of, one.range.dfn, one.range.order);
    } else if (one.kind === 'coverDomain') {
      ledger.cover(one.cpu, one.of, -1, 0);
      plain.cover(one.cpu, one.of, -1, 0);
    } else if (one.kind === 'flushed') {
      ledger.flushed(one.cpu);
      plain.flushed(one.cpu);
    } else expect(complete(ledger, one.cpu)).toBe(plain.complete(one.cpu));
    compare(ledger, plain);
  }
});

function compare(ledger: FlushLedger, plain: PlainLedger): void {
  for (const vcpu of [0, 1]) {
    const uncovered = plain.uncovered(vcpu);
    expect(ledger.size(vcpu)).toBe(plain.queues[vcpu]!.length);
    expect(ledger.uncovered(vcpu)).toBe(uncovered.length);
    expect(ledger.ageUs(vcpu)).toBe(uncovered.length === 0 ? 0 : plain.now - uncovered[0]!.time);
    expect(ledger.domains(vcpu)).toEqual([...new Set(uncovered.map((item) => item.removal!.domain))].sort());
  }
  for (const id of [1, 2, 3]) {
    for (let at = 0; at < 16; at += 1) {
      for (const order of at % 4 === 0 ? [0, 2] : [0]) {
        expect(ledger.isPending(domain(id), dfn(at), order)).toBe(plain.isPending(id, at, order));
      }
    }
  }
}
