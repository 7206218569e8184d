// Goal: transient arrays go back as exactly as logged words do, and what is out of use counts for nothing.
// Method: single rules first, then random writes, growth and marks against plain copies.

import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { fingerprint } from '../../machine/heap/fingerprint.ts';
import { Heap, type Mark } from '../../machine/heap/heap.ts';

const LIST = 16;

/** A list: word 0 counts its items, which follow. */
function makeList(heap: Heap): Uint32Array {
  return heap.reserveTransient([{ name: 'list', words: LIST }], (words) => 1 + words[0]!);
}

function push(list: Uint32Array, value: number): void {
  list[1 + list[0]!] = value;
  list[0]! += 1;
}

/** Takes the last item away; what is out of use reads as 0 here, since the segment counts exactly. */
function pop(list: Uint32Array): void {
  list[list[0]!] = 0;
  list[0]! -= 1;
}

const items = (list: Uint32Array) => Array.from(list.subarray(1, 1 + list[0]!));

describe('a mark', () => {
  test('keeps what is in use, and a rollback clears what came into use since', () => {
    const heap = new Heap();
    const list = makeList(heap);
    push(list, 7);
    const print = fingerprint(heap, '');
    const mark = heap.mark();
    for (const value of [8, 9]) push(list, value);
    list[1] = 1;
    heap.rollback(mark);
    expect(Array.from(list)).toEqual([1, 7, ...new Array(LIST - 2).fill(0)]);
    expect(fingerprint(heap, '')).toBe(print);
  });

  test('keeps what is gone from use since', () => {
    const heap = new Heap();
    const list = makeList(heap);
    for (const value of [7, 8, 9]) push(list, value);
    const mark = heap.mark();
    while (list[0] !== 0) pop(list);
    heap.rollback(mark);
    expect(items(list)).toEqual([7, 8, 9]);
  });

  test('names the segments that differ from it, and those in which words were written', () => {
    const heap = new Heap();
    const { base } = heap.reserve('fixed', 4);
    const list = makeList(heap);
    const still = makeList(heap);
    push(still, 1);
    const mark = heap.mark();
    push(list, 3);
    heap.write(base, 1);
    expect([...heap.segmentsSince(mark)].sort()).toEqual(['fixed', 'list']);
  });

  test('names what came into use since, and what went out of it', () => {
    for (const before of [0, 1]) {
      const heap = new Heap();
      const list = heap.reserveTransient([{ name: 'list', words: 4 }], (words) => words[0]! * 2);
      list.set([before, 7]);
      const mark = heap.mark();
      list[0] = 1 - before;
      expect([...heap.segmentsSince(mark)], `from ${before}`).toEqual(['list']);
    }
  });
});

test('the parts of an array count by their own identities', () => {
  const prints = [0, 1, 2, 3].map((written) => {
    const heap = new Heap();
    const array = heap.reserveTransient([
      { name: 'exact', words: 1 },
      { name: 'unhashed', words: 1, identity: { kind: 'unhashed' } },
      { name: 'slots', words: 2, identity: { kind: 'slots', recordWords: 2 } },
    ]);
    array[written] = 5;
    return fingerprint(heap, '');
  });
  const empty = fingerprint(new Heap(), '');
  expect(prints.map((print) => print === empty)).toEqual([false, true, false, true]);
});

describe('a block that is part of a transient array', () => {
  test('is written through either, and goes back with the array', () => {
    const heap = new Heap();
    heap.reserveBlocks('contents', 2);
    const array = heap.reserveTransient([{ name: 'adopted', words: 1024 }]);
    const block = heap.adoptBlock(array);
    expect(block).toBe(2);
    heap.writeBlock(block, 5, 50);
    array[6] = 60;
    const mark = heap.mark();
    heap.writeBlock(block, 5, 51);
    array[6] = 61;
    heap.rollback(mark);
    expect([array[5], heap.blocks[block]![6]]).toEqual([50, 60]);
  });

  test('goes back when one word of it was written both ways', () => {
    const heap = new Heap();
    const array = heap.reserveTransient([{ name: 'adopted', words: 1024 }]);
    const block = heap.adoptBlock(array);
    array[5] = 50;
    const mark = heap.mark();
    array[5] = 99;
    heap.writeBlock(block, 5, 51);
    heap.rollback(mark);
    expect(array[5]).toBe(50);
  });

  test('stays its own in a copy of the heap', () => {
    const [one, two] = [0, 1].map(() => {
      const heap = new Heap();
      const array = heap.reserveTransient([{ name: 'adopted', words: 1024 }]);
      heap.adoptBlock(array);
      return { heap, array };
    });
    one!.array[3] = 30;
    two!.heap.copyFrom(one!.heap);
    expect([two!.array[3], two!.heap.blocks[0]![3]]).toEqual([30, 30]);
    one!.array[3] = 31;
    expect(two!.heap.blocks[0]![3]).toBe(30);
    expect(() => one!.heap.adoptBlock(one!.array.subarray(1))).toThrow(RangeError);
  });
});

type Step =
  | { readonly kind: 'push' | 'write'; readonly value: number }
  | { readonly kind: 'pop' | 'mark' | 'rollback' | 'release' };

const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ kind: fc.constantFrom('push' as const, 'write' as const), value: fc.nat(0xffffffff) }),
  fc.record({ kind: fc.constantFrom('pop' as const, 'mark' as const, 'rollback' as const, 'release' as const) }),
);

test.prop([fc.array(step, { maxLength: 80 })])(
  'random use under nested marks leaves arrays, logged words and the fingerprint as in plain copies',
  (steps) => {
    const heap = new Heap();
    const { base } = heap.reserve('fixed', 1);
    const list = makeList(heap);
    const see = () => ({ items: items(list), fixed: heap.words[base]!, print: fingerprint(heap, '') });
    const marks: { readonly mark: Mark; readonly seen: ReturnType<typeof see> }[] = [];
    for (const one of steps) {
      if (one.kind === 'push' && list[0]! < LIST - 1) push(list, one.value);
      else if (one.kind === 'write') heap.write(base, one.value);
      else if (one.kind === 'pop' && list[0] !== 0) pop(list);
      else if (one.kind === 'mark') marks.push({ mark: heap.mark(), seen: see() });
      else if (one.kind === 'rollback' && marks.length > 0) {
        const { mark, seen } = marks.at(-1)!;
        heap.rollback(mark);
        expect(see()).toEqual(seen);
      } else if (one.kind === 'release' && marks.length > 0) heap.release(marks.pop()!.mark);
    }
    while (marks.length > 0) {
      const { mark, seen } = marks.pop()!;
      heap.rollback(mark);
      expect(see()).toEqual(seen);
      heap.release(mark);
    }
  },
);
