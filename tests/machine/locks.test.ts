// Goal: a lock has one holder, which alone may drop it. Method: two virtual CPUs, two locks.

import { expect, test } from 'vitest';
import { Heap } from '../../machine/heap/heap.ts';
import { Locks } from '../../machine/locks.ts';

test('a lock that one virtual CPU has, another cannot take', () => {
  const locks = new Locks(new Heap(), 'grant table locks', 2);
  expect([locks.holder(0), locks.holder(1)]).toEqual([-1, -1]);
  expect(locks.take(0, 0)).toBe(true);
  expect(locks.take(0, 1)).toBe(false);
  expect(locks.take(0, 0), 'the holder has it still').toBe(true);
  expect(locks.take(1, 1)).toBe(true);
  expect([locks.holder(0), locks.holder(1)]).toEqual([0, 1]);
  locks.drop(0, 0);
  expect(locks.holder(0)).toBe(-1);
  expect(locks.take(0, 1)).toBe(true);
});

test('dropping a lock that one has not is a bug, C1', () => {
  const locks = new Locks(new Heap(), 'grant table locks', 1);
  const bug = expect.objectContaining({ invariant: 'C1', message: expect.stringContaining('grant table locks 0') });
  expect(() => locks.drop(0, 0)).toThrow(bug);
  locks.take(0, 1);
  expect(() => locks.drop(0, 0)).toThrow(bug);
});
