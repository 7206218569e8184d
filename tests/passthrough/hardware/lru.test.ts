// Goal: the lru profile is a cache: it keeps what it read until it is told, or until it needs the room.
// Method: small shapes, so that every eviction is known in advance; counters and stale answers tell what is held.

import { describe, expect, test } from 'vitest';
import { fingerprint } from '../../../machine/heap/fingerprint.ts';
import {
  Access,
  type CacheShape,
  defaultLruShape,
  type LruShape,
  type Replacement,
  type TranslationObserver,
} from '../../../passthrough/hardware/index.ts';
import { DEVICE, mapped, OTHER_DEVICE, page, R, RW } from './tables.ts';

const tiny = (entries: number, ways: number, replacement: Replacement): CacheShape => ({ entries, ways, replacement });

/** A unit with pages 0 to 63 mapped to frames 1000 and up. */
function cached(shape: Partial<LruShape> = {}) {
  const all = mapped({ lru: { ...defaultLruShape, ...shape } });
  const { rig, leaves } = all;
  for (let dfn = 0; dfn < 64; dfn += 1) rig.entry(leaves, dfn, 1000 + dfn, RW);
  const read = (dfn: number) => rig.unit.translate(DEVICE, dfn, Access.read);
  const write = (dfn: number) => rig.unit.translate(DEVICE, dfn, Access.write);
  /** Whether a page is held. A page that is not is brought in by the question. */
  const holds = (dfn: number) => {
    const hits = rig.lru.counter('iotlbHits');
    read(dfn);
    return rig.lru.counter('iotlbHits') > hits;
  };
  return { ...all, read, write, holds, lru: rig.lru };
}

describe('the IOTLB', () => {
  test('misses once and hits from then on', () => {
    const { read, lru } = cached();
    for (let times = 0; times < 4; times += 1) expect(read(5)).toBe(1005);
    expect([lru.counter('iotlbMisses'), lru.counter('iotlbHits')]).toEqual([1, 3]);
    expect([lru.counter('contextMisses'), lru.counter('walkReads')]).toEqual([1, 3]);
  });

  test('keeps an entry that the tables hold no longer, until it is invalidated', () => {
    const { rig, leaves, read } = cached();
    read(5);
    rig.absent(leaves, 5);
    expect(read(5)).toBe(1005);
    rig.iotlb({ granularity: 'page', did: 1, dfn: 4 });
    expect(read(5)).toBe(1005);
    rig.iotlb({ granularity: 'page', did: 1, dfn: 5 });
    expect(read(5)).toBe(-6);
  });

  test.each([
    ['global', { granularity: 'global' }, -6],
    ['domain', { granularity: 'domain', did: 1 }, -6],
    ['another domain', { granularity: 'domain', did: 2 }, 1005],
    ['page in a range', { granularity: 'page', did: 1, dfn: 6, order: 1 }, 1005],
    ['page in a misaligned range', { granularity: 'page', did: 1, dfn: 6, order: 2 }, -6],
    ['page, with the hint', { granularity: 'page', did: 1, dfn: 5, hint: true }, -6],
  ] as const)('answers an invalidation of the %s', (_, invalidation, answer) => {
    const { rig, leaves, read } = cached();
    read(5);
    rig.absent(leaves, 5);
    rig.iotlb(invalidation);
    expect(read(5)).toBe(answer);
  });

  test('keeps no fault', () => {
    const { rig, leaves, read, lru } = cached();
    expect(read(100)).toBe(-6);
    rig.entry(leaves, 100, 40, RW);
    expect(read(100)).toBe(40);
    expect(lru.counter('faults')).toBe(1);
  });

  test('caches a superpage whole', () => {
    const { rig, path, read, lru } = cached();
    rig.entry(path[1]!, 1, 512, RW, { superpage: 1 });
    expect([read(512), read(600), read(1023)]).toEqual([512, 600, 1023]);
    expect([lru.counter('iotlbMisses'), lru.counter('iotlbHits')]).toEqual([1, 2]);
    rig.absent(path[1]!, 1);
    rig.iotlb({ granularity: 'page', did: 1, dfn: 700 });
    expect(read(512)).toBe(-6);
  });

  test('tells an observer of what it holds, and of what it holds no longer', () => {
    const { rig, read, lru } = cached({ iotlb: tiny(1, 1, 'lru') });
    const told: string[] = [];
    const observer: TranslationObserver = {
      cached: (...of) => told.push(`cached ${of.join(' ')}`),
      dropped: (...of) => told.push(`dropped ${of.join(' ')}`),
    };
    lru.observer = observer;
    read(5);
    read(6);
    rig.iotlb({ granularity: 'global' });
    expect(told).toEqual([
      'cached 0 1 5 1 1005 3',
      'dropped 0 1 5 1 1005 3',
      'cached 0 1 6 1 1006 3',
      'dropped 0 1 6 1 1006 3',
    ]);
    expect(lru.counter('evictions')).toBe(1);
  });
});

describe('a write that meets an entry for reading', () => {
  test('walks again where the unit does so', () => {
    const { rig, leaves, read, write } = cached({ rewalkOnPermissionMiss: true });
    rig.entry(leaves, 5, 1005, R);
    read(5);
    rig.entry(leaves, 5, 1005, RW);
    expect(write(5)).toBe(1005);
  });

  test('faults from the entry where it does not', () => {
    const { rig, leaves, read, write } = cached({ rewalkOnPermissionMiss: false });
    rig.entry(leaves, 5, 1005, R);
    read(5);
    rig.entry(leaves, 5, 1005, RW);
    expect(write(5)).toBe(-5);
    rig.iotlb({ granularity: 'page', did: 1, dfn: 5 });
    expect(write(5)).toBe(1005);
  });

  test('faults either way where the tables allow no write', () => {
    for (const rewalkOnPermissionMiss of [true, false]) {
      const { rig, leaves, read, write } = cached({ rewalkOnPermissionMiss });
      rig.entry(leaves, 5, 1005, R);
      expect([read(5), write(5), read(5)]).toEqual([1005, -5, 1005]);
    }
  });
});

describe('paging-structure caches', () => {
  test('save the reads above the lowest table', () => {
    const { read, lru } = cached();
    read(5);
    read(6);
    expect(lru.counter('walkReads')).toBe(3 + 1);
  });

  test('make an upper entry visible that the tables hold no longer, with what lies below it now', () => {
    const { rig, path, leaves, read } = cached();
    read(5);
    rig.absent(path[1]!, 0);
    rig.entry(leaves, 6, 77, RW);
    expect(read(6)).toBe(77);
    rig.iotlb({ granularity: 'page', did: 1, dfn: 6, hint: true });
    expect(read(6)).toBe(77);
    rig.iotlb({ granularity: 'page', did: 1, dfn: 6 });
    expect(read(6)).toBe(-6);
  });

  test('lose the entries of one did only, by an invalidation of it', () => {
    const { rig, path, contexts, read } = cached();
    rig.context(contexts, OTHER_DEVICE, { table: path[0]!, did: 2 });
    read(5);
    rig.unit.translate(OTHER_DEVICE, 5, Access.read);
    rig.absent(path[1]!, 0);
    rig.iotlb({ granularity: 'domain', did: 2 });
    expect(read(6)).toBe(1006);
    expect(rig.unit.translate(OTHER_DEVICE, 6, Access.read)).toBe(-6);
  });

  test('are consulted from the lowest level up', () => {
    const { rig, path, read, lru } = cached();
    const second = rig.table();
    rig.entry(path[1]!, 1, second, RW);
    rig.entry(second, 0, 88, RW);
    read(5);
    const reads = lru.counter('walkReads');
    expect(read(page(0, 1, 0))).toBe(88);
    expect(lru.counter('walkReads') - reads).toBe(2);
  });
});

describe('the context cache', () => {
  test('keeps a context that was taken away, until it is invalidated by its did', () => {
    const { rig, contexts, read } = cached();
    read(5);
    rig.clearContext(contexts, DEVICE);
    rig.contextCache({ granularity: 'device', did: 2, source: DEVICE });
    expect(read(6)).toBe(1006);
    rig.contextCache({ granularity: 'device', did: 1, source: DEVICE });
    expect(read(6)).toBe(-2);
  });

  test('gone, leaves the IOTLB alone', () => {
    const { rig, contexts, path, leaves, read } = cached();
    read(5);
    rig.absent(leaves, 5);
    rig.contextCache({ granularity: 'global' });
    expect(read(5)).toBe(1005);
    rig.context(contexts, DEVICE, { table: path[0]!, did: 9 });
    rig.contextCache({ granularity: 'global' });
    expect(read(5)).toBe(-6);
  });
});

describe('a full set', () => {
  /** Four ways, filled with pages 0 to 3, page 0 used once more, then pages 4 and 5 brought in. */
  function crowded(replacement: Replacement) {
    const all = cached({ iotlb: tiny(4, 4, replacement) });
    for (const dfn of [0, 1, 2, 3, 0, 4, 5]) all.read(dfn);
    return all;
  }

  test('gives up what was used longest ago (lru)', () => {
    const { holds } = crowded('lru');
    expect([0, 3, 4, 5].map(holds)).toEqual([true, true, true, true]);
    expect(holds(1)).toBe(false);
  });

  test('gives up what came first, used since or not (fifo)', () => {
    const { holds } = crowded('fifo');
    expect([2, 3, 4, 5].map(holds)).toEqual([true, true, true, true]);
    expect(holds(0)).toBe(false);
  });

  test('gives up something, the same each time (random)', () => {
    const held = () => {
      const { rig, read, lru } = crowded('random');
      for (const dfn of [9, 17, 3, 30, 2, 9, 40, 0, 1]) read(dfn);
      expect(lru.counter('evictions')).toBeGreaterThan(0);
      const before = lru.counter('iotlbHits');
      for (let dfn = 0; dfn < 64; dfn += 1) rig.unit.translate(DEVICE, dfn, Access.read);
      return [lru.counter('iotlbHits') - before, lru.counter('evictions')];
    };
    expect(held()).toEqual(held());
  });

  test.each(['lru', 'fifo', 'random'] as const)('holds as many as there are ways, and no more (%s)', (replacement) => {
    const { read, lru } = cached({ iotlb: tiny(4, 4, replacement) });
    for (let dfn = 0; dfn < 64; dfn += 1) read(dfn);
    expect(lru.counter('evictions')).toBe(60);
    expect(lru.counter('iotlbHits')).toBe(0);
  });

  test('is one of several: neighbouring pages fall into different sets', () => {
    const { read, lru } = cached({ iotlb: tiny(8, 1, 'lru') });
    for (let round = 0; round < 2; round += 1) for (let dfn = 8; dfn < 16; dfn += 1) read(dfn);
    expect([lru.counter('iotlbMisses'), lru.counter('iotlbHits')]).toEqual([8, 8]);
  });

  test('is refused when the sets are no power of two', () => {
    expect(() => cached({ iotlb: tiny(12, 4, 'lru') })).toThrow(RangeError);
    expect(() => cached({ iotlb: tiny(4, 8, 'lru') })).toThrow(RangeError);
  });
});

test('rolling back the heap brings the caches back, with what they would evict next', () => {
  for (const replacement of ['lru', 'fifo', 'random'] as const) {
    const { rig, read, lru } = cached({ iotlb: tiny(4, 4, replacement) });
    for (const dfn of [0, 1, 2, 3, 0]) read(dfn);
    const mark = rig.heap.mark();
    const run = () => {
      for (const dfn of [4, 5, 0, 1, 6, 2, 0, 3]) read(dfn);
      return [lru.counter('iotlbHits'), lru.counter('evictions')];
    };
    const first = run();
    rig.heap.rollback(mark);
    expect(run()).toEqual(first);
  }
});

test('rolling back to an emptied cache brings back who is evicted next', () => {
  const { rig, read, lru } = cached({ iotlb: tiny(2, 2, 'lru') });
  for (const dfn of [0, 1, 0]) read(dfn);
  rig.lru.invalidateIotlb(1, 0, 0, 0, false);
  const mark = rig.heap.mark();
  const run = () => {
    for (const dfn of [2, 3, 4, 2, 3]) read(dfn);
    return [lru.counter('iotlbHits'), lru.counter('evictions'), fingerprint(rig.heap, '')];
  };
  const first = run();
  rig.heap.rollback(mark);
  expect(run()).toEqual(first);
  rig.lru.invalidateIotlb(1, 0, 0, 0, false);
  rig.heap.rollback(mark);
  expect(run()).toEqual(first);
});
