// Goal: the heap goes back exactly to where it was, however marks are nested, and a copy is the same heap.
// Method: random writes and marks against a plain array that is copied at each mark.

import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { fingerprint } from '../../machine/heap/fingerprint.ts';
import { Heap, type Mark } from '../../machine/heap/heap.ts';

const WORDS = 40;

function makeHeap(): { readonly heap: Heap; readonly base: number } {
  const heap = new Heap();
  const { base } = heap.reserve('words', WORDS);
  return { heap, base };
}

const contents = (heap: Heap, base: number) => Array.from({ length: WORDS }, (_, at) => heap.words[base + at]!);

describe('segments', () => {
  test('begin as zeros, lie apart and leave out address 0', () => {
    const heap = new Heap();
    const sizes = [1, 1023, 1024, 1025, 5000];
    const segments = sizes.map((words, at) => heap.reserve(`segment ${at}`, words));
    for (const [at, segment] of segments.entries()) {
      expect(segment.base).toBeGreaterThan(0);
      for (const other of segments.slice(at + 1)) expect(segment.base + segment.words).toBeLessThanOrEqual(other.base);
      expect(heap.words[segment.base]! | heap.words[segment.base + segment.words - 1]!).toBe(0);
    }
    for (const segment of segments) heap.write(segment.base, 7);
    for (const segment of segments) heap.write(segment.base + segment.words - 1, 9);
    expect(segments.slice(1).map((segment) => heap.words[segment.base]!)).toEqual([7, 7, 7, 7]);
    expect(heap.segments.slice(-5)).toEqual(segments);
  });

  test('that are too many words for one heap are refused by name', () => {
    expect(() => new Heap().reserve('everything', 2 ** 33)).toThrow(/everything/);
  });

  test('keep what was written when others are reserved after them', () => {
    const { heap, base } = makeHeap();
    heap.write(base + 3, 77);
    heap.reserve('later', 100_000);
    expect(heap.words[base + 3]!).toBe(77);
  });
});

test('a word is what was written modulo 2^32', () => {
  const { heap, base } = makeHeap();
  for (const [value, word] of [
    [2 ** 32 + 5, 5],
    [-1, 0xffffffff],
    [2 ** 40 + 2 ** 31, 2 ** 31],
  ] as const) {
    heap.write(base, value);
    expect(heap.words[base]!).toBe(word);
  }
});

describe('marks', () => {
  test('undo the writes since, and stay valid', () => {
    const { heap, base } = makeHeap();
    heap.write(base, 1);
    const mark = heap.mark();
    for (const value of [2, 3]) {
      heap.write(base, value);
      heap.rollback(mark);
      expect(heap.words[base]!).toBe(1);
    }
  });

  test('nest: an inner one undoes less, and is gone when an outer one is rolled back', () => {
    const { heap, base } = makeHeap();
    const outer = heap.mark();
    heap.write(base, 1);
    const inner = heap.mark();
    heap.write(base, 2);
    heap.rollback(inner);
    expect(heap.words[base]!).toBe(1);
    heap.rollback(outer);
    expect(heap.words[base]!).toBe(0);
    expect(() => heap.rollback(inner)).toThrow(TypeError);
  });

  test('released, leave the writes to be undone through an earlier mark only', () => {
    const { heap, base } = makeHeap();
    const outer = heap.mark();
    heap.write(base, 1);
    const inner = heap.mark();
    heap.write(base, 2);
    heap.release(inner);
    expect(heap.words[base]!).toBe(2);
    expect(() => heap.rollback(inner)).toThrow(TypeError);
    heap.rollback(outer);
    expect(heap.words[base]!).toBe(0);
  });

  test('of the outside released take those inside with them', () => {
    const { heap, base } = makeHeap();
    const outer = heap.mark();
    heap.write(base, 1);
    const inner = heap.mark();
    heap.release(outer);
    expect(() => heap.rollback(inner)).toThrow(TypeError);
    heap.write(base, 5);
    expect(heap.words[base]!).toBe(5);
  });

  test('count the words written since, each change once', () => {
    const { heap, base } = makeHeap();
    const mark = heap.mark();
    heap.write(base, 1);
    heap.write(base, 1);
    heap.write(base + 1, 2);
    expect(heap.wordsSince(mark)).toBe(2);
    heap.rollback(mark);
    expect(heap.wordsSince(mark)).toBe(0);
  });

  test('name the writes to blocks since, in order, and go on from there', () => {
    const heap = new Heap();
    const { base } = heap.reserve('words', 4);
    heap.reserveBlocks('contents', 3);
    heap.mark();
    heap.writeBlock(0, 0, 1);
    const mark = heap.mark();
    const writes = (from?: number) => {
      const seen: number[][] = [];
      const next = heap.eachBlockWriteSince(mark, (...run) => seen.push(run), from);
      return { seen, next };
    };
    heap.write(base, 1);
    heap.writeBlock2(2, 6, 1, 2);
    heap.writeBlock(1, 1023, 5);
    heap.writeBlock(1, 1023, 5);
    const first = writes();
    expect(first.seen).toEqual([
      [2, 6, 7],
      [1, 1023, 1023],
    ]);
    expect(writes(first.next).seen).toEqual([]);
    heap.writeBlock(2, 0, 9);
    expect(writes(first.next).seen).toEqual([[2, 0, 0]]);
    expect(writes().seen).toHaveLength(3);
  });

  test('undo words that were written to a block at once, those that changed being logged', () => {
    const heap = new Heap();
    heap.reserveBlocks('contents', 2);
    heap.writeBlock(1, 4, 7);
    const mark = heap.mark();
    heap.writeBlockWords(0, 0, new Uint32Array(8), 0, 8);
    expect(heap.isBlank(0)).toBe(true);
    heap.writeBlockWords(1, 3, Uint32Array.of(9, 1, 7, 0, 0xffffffff), 1, 4);
    expect([...heap.blocks[1]!.subarray(2, 8)]).toEqual([0, 1, 7, 0, 0xffffffff, 0]);
    expect(heap.wordsSince(mark)).toBe(2);
    heap.rollback(mark);
    expect([...heap.blocks[1]!.subarray(2, 8)]).toEqual([0, 0, 7, 0, 0, 0]);
  });

  test('hold more writes than the log had room for at first', () => {
    const heap = new Heap();
    const { base } = heap.reserve('many', 20_000);
    const mark = heap.mark();
    for (let at = 0; at < 20_000; at += 1) heap.write(base + at, at + 1);
    heap.rollback(mark);
    for (let at = 0; at < 20_000; at += 997) expect(heap.words[base + at]!).toBe(0);
  });
});

type Step =
  | { readonly kind: 'write'; readonly at: number; readonly value: number }
  | { readonly kind: 'mark' }
  | { readonly kind: 'rollback' | 'release'; readonly depth: number };

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant('write' as const),
      at: fc.nat(WORDS - 1),
      value: fc.oneof(fc.nat(3), fc.integer({ min: 0, max: 0xffffffff })),
    }),
  },
  { weight: 2, arbitrary: fc.constant({ kind: 'mark' as const }) },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constantFrom('rollback' as const, 'release' as const), depth: fc.nat(5) }),
  },
);

test.prop([fc.array(step, { maxLength: 60 })])(
  'random writes, marks, rollbacks and releases leave every word, and the fingerprint, as in a plain array',
  (steps) => {
    const { heap, base } = makeHeap();
    const words = new Array<number>(WORDS).fill(0);
    const marks: { readonly mark: Mark; readonly words: readonly number[]; readonly print: string }[] = [];
    for (const one of steps) {
      if (one.kind === 'write') {
        heap.write(base + one.at, one.value);
        words[one.at] = one.value;
      } else if (one.kind === 'mark') {
        // Two marks of one moment are one mark; another write keeps them apart.
        heap.write(base, words[0]! + 1);
        words[0] = (words[0]! + 1) >>> 0;
        marks.push({ mark: heap.mark(), words: [...words], print: fingerprint(heap, '') });
      } else if (marks.length > 0) {
        const depth = one.depth % marks.length;
        const { mark, words: then, print } = marks[depth]!;
        if (one.kind === 'rollback') {
          heap.rollback(mark);
          words.splice(0, WORDS, ...then);
          marks.length = depth + 1;
          expect(fingerprint(heap, '')).toBe(print);
        } else {
          heap.release(mark);
          marks.length = depth;
        }
      }
      expect(contents(heap, base)).toEqual(words);
    }
  },
);

describe('a copy', () => {
  test('has the words of the other and goes its own way', () => {
    const [one, two] = [makeHeap(), makeHeap()];
    one.heap.write(one.base + 5, 50);
    two.heap.write(two.base + 6, 60);
    two.heap.mark();
    two.heap.copyFrom(one.heap);
    expect(contents(two.heap, two.base)).toEqual(contents(one.heap, one.base));
    expect(fingerprint(two.heap, 'x')).toBe(fingerprint(one.heap, 'x'));
    two.heap.write(two.base + 5, 51);
    expect(one.heap.words[one.base + 5]!).toBe(50);
    one.heap.write(one.base + 7, 70);
    expect(two.heap.words[two.base + 7]!).toBe(0);
  });

  test('is refused between heaps of different machines', () => {
    const other = makeHeap();
    other.heap.reserve('more', 5000);
    expect(() => other.heap.copyFrom(makeHeap().heap)).toThrow(TypeError);
  });
});
