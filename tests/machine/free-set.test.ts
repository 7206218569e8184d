// Goal: the set hands out its lowest free member, of any size, and knows when there is none.
// Method: sizes around the borders of its summary words, and random takes and puts against a plain Set.

import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { HypervisorBug } from '../../machine/errors.ts';
import { FreeSet } from '../../machine/heap/free-set.ts';
import { Heap } from '../../machine/heap/heap.ts';

describe.each([1, 2, 31, 32, 33, 63, 64, 65, 1023, 1024, 1025, 32767, 32768, 32769])('a set of %i', (size) => {
  test('hands out all of its members, lowest first, and then none', () => {
    const set = new FreeSet(new Heap(), 'members', size);
    for (let member = 0; member < size; member += 1) if (set.takeLowest() !== member) expect.fail(`member ${member}`);
    expect(set.takeLowest()).toBe(-1);
    expect(set.count()).toBe(size);
  });

  test('hands out again what was given back, lowest first', () => {
    const set = new FreeSet(new Heap(), 'members', size);
    for (let member = 0; member < size; member += 1) set.takeLowest();
    const back = [...new Set([0, 1, 31, 32, 33, 1023, 1024, size - 1])].filter((member) => member < size);
    for (const member of [...back].reverse()) set.put(member);
    for (const member of back.sort((a, b) => a - b)) expect(set.takeLowest()).toBe(member);
    expect(set.takeLowest()).toBe(-1);
  });
});

type Step = { readonly kind: 'lowest' } | { readonly kind: 'take' | 'put'; readonly member: number };

test.prop([
  fc.constantFrom(5, 32, 40, 70),
  fc.array(
    fc.oneof(
      { weight: 3, arbitrary: fc.constant<Step>({ kind: 'lowest' }) },
      {
        weight: 2,
        arbitrary: fc.record({ kind: fc.constantFrom('take' as const, 'put' as const), member: fc.nat(69) }),
      },
    ),
    { maxLength: 150 },
  ),
])('random takes and puts agree with a plain set', (size, steps: readonly Step[]) => {
  const set = new FreeSet(new Heap(), 'members', size);
  const used = new Set<number>();
  const lowest = () => Array.from({ length: size }, (_, member) => member).find((member) => !used.has(member)) ?? -1;
  for (const step of steps) {
    if (step.kind === 'lowest') {
      const member = lowest();
      expect(set.takeLowest()).toBe(member);
      if (member >= 0) used.add(member);
    } else if (step.member < size) {
      const isWrong = used.has(step.member) === (step.kind === 'take');
      if (isWrong) expect(() => set[step.kind](step.member)).toThrow(HypervisorBug);
      else set[step.kind](step.member);
      used[step.kind === 'take' ? 'add' : 'delete'](step.member);
    }
    for (let member = 0; member < size; member += 1) expect(set.has(member)).toBe(used.has(member));
  }
  expect(set.count()).toBe(used.size);
});

test('a member that is none is refused', () => {
  const set = new FreeSet(new Heap(), 'members', 5);
  expect(() => set.take(5)).toThrow(HypervisorBug);
});
