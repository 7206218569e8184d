// Goal: a domain's device tables hold what was set, at any address they reach, with tables made on demand.
// Method: single entries, exhaustion of memory, and random sets against a plain map.

import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { FrameTable } from '../../../machine/frame-table.ts';
import { Heap } from '../../../machine/heap/heap.ts';
import { DeviceTables } from '../../../passthrough/driver/index.ts';
import { dfn, domain } from './driver-rig.ts';

function makeTables(frames = 64, levels = 4) {
  const heap = new Heap();
  const table = new FrameTable(heap, { frames, privateFrames: 0 });
  const tables = new DeviceTables(heap, table, { domains: 4, levels });
  const set = (id: number, at: number, frame: number, rights: number) => {
    const found = tables.find(domain(id), dfn(at), true);
    if (found === 1) tables.set(frame, rights);
    return found;
  };
  const get = (id: number, at: number) =>
    tables.find(domain(id), dfn(at), false) === 1 ? [tables.frame, tables.low & 3] : null;
  return { tables, table, set, get };
}

describe('device tables', () => {
  test('are there once they were made', () => {
    const { tables, table } = makeTables();
    expect([tables.exists(domain(1)), tables.root(domain(1))]).toEqual([false, -1]);
    expect(tables.create(domain(1))).toBe(0);
    expect(tables.exists(domain(1))).toBe(true);
    expect(table.isXenHeap(tables.root(domain(1)) as never)).toBe(true);
  });

  test('are refused with -ENOMEM when memory is exhausted', () => {
    const { tables } = makeTables(1);
    expect(tables.create(domain(1))).toBe(0);
    expect(tables.create(domain(2))).toBe(-12);
    expect(tables.exists(domain(2))).toBe(false);
  });

  test('make the tables above a page on demand, and no others', () => {
    const { tables, set, get } = makeTables();
    tables.create(domain(1));
    expect(get(1, 5)).toBeNull();
    expect(set(1, 5, 99, 3)).toBe(1);
    expect(get(1, 5)).toEqual([99, 3]);
    expect(get(1, 6), 'in a table that is there').toEqual([0, 0]);
    expect(get(1, 512), 'in one that is not').toBeNull();
  });

  test('take no memory when it does not suffice for the whole way down', () => {
    const { tables, table, set } = makeTables(3);
    tables.create(domain(1));
    expect(set(1, 5, 99, 3)).toBe(-12);
    expect([table.allocate(domain(1)), table.allocate(domain(1)), table.allocate(domain(1))]).toEqual([1, 2, -1]);
  });

  test('clear an entry whose rights are taken away', () => {
    const { tables, set, get } = makeTables();
    tables.create(domain(1));
    set(1, 5, 99, 3);
    set(1, 5, 99, 0);
    expect(get(1, 5)).toEqual([0, 0]);
    expect([tables.low, tables.high]).toEqual([0, 0]);
  });

  test.each([3, 4, 5])('of %i levels reach so far and no further', (levels) => {
    const { tables, set, get } = makeTables(64, levels);
    tables.create(domain(1));
    const last = 2 ** (9 * levels) - 1;
    expect([tables.reaches(dfn(last)), tables.reaches(dfn(last + 1))]).toEqual([true, false]);
    expect(set(1, last, 7, 1)).toBe(1);
    expect(get(1, last)).toEqual([7, 1]);
    expect(get(1, 0)).toBeNull();
  });

  test.prop(
    [
      fc.array(
        fc.tuple(
          fc.integer({ min: 1, max: 2 }),
          fc.constantFrom(0, 1, 511, 512, 0x40000, 0x8000000, 2 ** 36 - 1),
          fc.nat(0xfffff),
          fc.constantFrom(0, 1, 3),
        ),
        { maxLength: 20 },
      ),
    ],
    { numRuns: 40 },
  )('hold what was set last, each domain its own', (steps) => {
    const { tables, set, get } = makeTables();
    for (const id of [1, 2]) tables.create(domain(id));
    const expected = new Map<string, readonly [number, number, number, number]>();
    for (const [id, at, frame, rights] of steps) {
      set(id, at, frame, rights);
      expected.set(`${id} ${at}`, [id, at, rights === 0 ? 0 : frame, rights]);
    }
    for (const [id, at, frame, rights] of expected.values()) expect(get(id, at)).toEqual([frame, rights]);
  });

  test('know which units serve a domain', () => {
    const { tables } = makeTables();
    tables.setUnits(domain(2), 0b101);
    expect([tables.units(domain(1)), tables.units(domain(2))]).toEqual([0, 0b101]);
  });
});
