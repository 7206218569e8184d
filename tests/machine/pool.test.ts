// Goal: a pool hands out records and takes them back, up to its capacity. Method: one by one, and rolled back.

import { describe, expect, test } from 'vitest';
import { Heap } from '../../machine/heap/heap.ts';
import { Pool } from '../../machine/heap/pool.ts';

function makePool() {
  const heap = new Heap();
  const pool = new Pool(heap, 'things', { capacity: 3, recordWords: 4, countedWords: 4 });
  const take = () => {
    const record = pool.take();
    for (let word = 0; word < 4; word += 1) heap.write(record + word, word + 1);
    return record;
  };
  return { heap, pool, take };
}

describe('a pool', () => {
  test('hands out records that do not overlap, up to its capacity', () => {
    const { pool, take } = makePool();
    const records = [take(), take(), take()];
    expect(new Set(records).size).toBe(3);
    for (const one of records)
      for (const other of records) if (one !== other) expect(Math.abs(one - other)).toBeGreaterThanOrEqual(4);
    expect(() => pool.take()).toThrow(/things: more than 3/);
    expect(pool.slots).toBe(3);
  });

  test('hands out again what was given back, the last first', () => {
    const { heap, pool, take } = makePool();
    const records = [take(), take(), take()];
    pool.put(records[0]!);
    pool.put(records[2]!);
    expect(heap.words[records[0]!]!).toBe(0);
    expect([take(), take()]).toEqual([records[2], records[0]]);
    expect(() => pool.take()).toThrow(RangeError);
  });

  test('goes back with its heap', () => {
    const { heap, pool, take } = makePool();
    const first = take();
    const mark = heap.mark();
    pool.put(first);
    const others = [take(), take(), take()];
    heap.rollback(mark);
    expect(pool.slots).toBe(1);
    expect(heap.words[first]!).toBe(1);
    expect([take(), take()]).toEqual(others.slice(1));
  });
});
