// Goal: two states that behave alike have one fingerprint, wherever their records lie; two that do not have two.
// Method: the same contents brought about in different ways, for each kind of segment.

import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { fingerprint, mix32 } from '../../machine/heap/fingerprint.ts';
import { Heap } from '../../machine/heap/heap.ts';
import { Pool } from '../../machine/heap/pool.ts';

const print = (heap: Heap) => fingerprint(heap, '');

describe('an exact segment', () => {
  test('counts each word at its place', () => {
    const prints = new Set<string>();
    for (const [at, value] of [
      [0, 0],
      [0, 1],
      [1, 1],
      [0, 2],
      [9, 1],
    ] as const) {
      const heap = new Heap();
      heap.write(heap.reserve('exact', 10).base + at, value);
      prints.add(print(heap));
    }
    expect(prints.size).toBe(5);
  });

  test('does not count a word that was written and cleared', () => {
    const heap = new Heap();
    const { base } = heap.reserve('exact', 10);
    const before = print(heap);
    heap.write(base + 3, 9);
    expect(print(heap)).not.toBe(before);
    heap.write(base + 3, 0);
    expect(print(heap)).toBe(before);
  });

  test('is told from another segment with the same words', () => {
    const prints = [0, 1].map((which) => {
      const heap = new Heap();
      const segments = [heap.reserve('a', 10), heap.reserve('b', 10)];
      heap.write(segments[which]!.base, 5);
      return print(heap);
    });
    expect(prints[0]).not.toBe(prints[1]);
  });
});

test('an unhashed segment counts for nothing', () => {
  const heap = new Heap();
  const { base } = heap.reserve('statistics', 10, { kind: 'unhashed' });
  const before = print(heap);
  heap.write(base, 5);
  expect(print(heap)).toBe(before);
});

test('a record of slots counts at its place, while its first word is not 0', () => {
  const heap = new Heap();
  const { base } = heap.reserve('slots', 8, { kind: 'slots', recordWords: 4 });
  const empty = print(heap);
  heap.write(base + 1, 5);
  expect(print(heap)).toBe(empty);
  heap.write(base, 1);
  const live = print(heap);
  expect(live).not.toBe(empty);
  heap.write(base + 1, 6);
  expect(print(heap)).not.toBe(live);
});

/** A ring of four records of two words, with positions that count from the start. */
class Ring {
  readonly heap = new Heap();
  head = 0;
  count = 0;
  now = 1000;
  readonly #base: number;

  constructor(timed = false) {
    this.#base = this.heap.reserve('ring', 4 * 3, {
      kind: 'ring',
      rings: 1,
      ringWords: 12,
      recordWords: 3,
      window: () => ({ head: this.head, count: this.count }),
      ...(timed ? { time: { offset: 1, now: () => this.now } } : {}),
    }).base;
  }

  push(value: number, at = 0): void {
    const record = this.#base + ((this.head + this.count) % 4) * 3;
    this.heap.write(record, value);
    this.heap.write(record + 1, at);
    this.heap.write(record + 2, 0);
    this.count += 1;
  }

  shift(): void {
    this.head = (this.head + 1) % 4;
    this.count -= 1;
  }
}

describe('a ring', () => {
  test('counts its live window relative to its head', () => {
    const [fresh, used] = [new Ring(), new Ring()];
    for (const value of [9, 9, 9]) used.push(value);
    for (let round = 0; round < 3; round += 1) used.shift();
    expect(print(used.heap)).toBe(print(fresh.heap));
    for (const value of [4, 5]) {
      fresh.push(value);
      used.push(value);
    }
    expect(print(used.heap)).toBe(print(fresh.heap));
    used.push(6);
    expect(print(used.heap)).not.toBe(print(fresh.heap));
  });

  test('counts the order of its records', () => {
    const [one, two] = [new Ring(), new Ring()];
    for (const value of [4, 5]) one.push(value);
    for (const value of [5, 4]) two.push(value);
    expect(print(one.heap)).not.toBe(print(two.heap));
  });

  test('counts a live record of zeros', () => {
    const [one, two] = [new Ring(), new Ring()];
    one.push(0);
    expect(print(one.heap)).not.toBe(print(two.heap));
  });

  test('counts times by how long ago they were', () => {
    const [one, two] = [new Ring(true), new Ring(true)];
    one.push(4, 900);
    two.now = 5000;
    two.push(4, 4900);
    expect(print(one.heap)).toBe(print(two.heap));
    two.now += 1;
    expect(print(one.heap)).not.toBe(print(two.heap));
  });
});

/** A pool of records with two words that count and one that does not. */
function makePool(extra?: (heap: Heap) => (record: number) => number) {
  const heap = new Heap();
  const options = { capacity: 16, recordWords: 3, countedWords: 2 };
  const pool = new Pool(heap, 'records', extra ? { ...options, extra: extra(heap) } : options);
  const add = (value: number, link = 0) => {
    const record = pool.take();
    for (const [at, word] of [1, value, link].entries()) heap.write(record + at, word);
    return record;
  };
  return { heap, pool, add };
}

describe('a pool', () => {
  test.prop([fc.uniqueArray(fc.nat(100), { maxLength: 8 }), fc.array(fc.nat(100), { maxLength: 8 }), fc.nat()])(
    'counts its live records as a set, whatever was there before them and wherever they lie',
    (values, others, seed) => {
      const [plain, used] = [makePool(), makePool()];
      for (const value of values) plain.add(value);
      const thrown = others.map((value) => used.add(value, 5));
      const shuffled = [...values].sort((a, b) => mix32(a ^ seed) - mix32(b ^ seed));
      for (const [at, value] of shuffled.entries()) {
        if (at < thrown.length) used.pool.put(thrown[at]!);
        used.add(value, at);
      }
      for (const record of thrown.slice(shuffled.length)) used.pool.put(record);
      expect(print(used.heap)).toBe(print(plain.heap));
    },
  );

  test('does not count freed records', () => {
    const { heap, pool, add } = makePool();
    const before = print(heap);
    const records = [add(1), add(2)];
    expect(print(heap)).not.toBe(before);
    for (const record of records) pool.put(record);
    expect(print(heap)).toBe(before);
  });

  test('counts two like records twice', () => {
    const [one, two] = [makePool(), makePool()];
    one.add(7);
    two.add(7);
    two.add(7);
    expect(print(one.heap)).not.toBe(print(two.heap));
  });

  test('counts the word that is relative to something else', () => {
    let fresh = 0;
    const one = makePool(() => () => fresh);
    one.add(7);
    const before = print(one.heap);
    fresh = 1;
    expect(print(one.heap)).not.toBe(before);
  });
});

describe('a fingerprint', () => {
  test('is sixteen hexadecimal digits of the words and of the text', () => {
    const heap = new Heap();
    const prints = ['', 'a', 'b', 'ab', 'ba'].map((text) => fingerprint(heap, text));
    expect(new Set(prints).size).toBe(5);
    for (const one of prints) expect(one).toMatch(/^[0-9a-f]{16}$/);
    expect(fingerprint(heap, 'ab')).toBe(prints[3]);
  });

  test('is not the same for a swap of two words, nor for a difference moved from one to the other', () => {
    const prints = [
      [1, 2],
      [2, 1],
      [3, 0],
      [0, 3],
    ].map((words) => {
      const heap = new Heap();
      const { base } = heap.reserve('exact', 2);
      for (const [at, word] of words.entries()) heap.write(base + at, word);
      return print(heap);
    });
    expect(new Set(prints).size).toBe(4);
  });
});
