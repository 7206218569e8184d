// Goal: a context entry that was replaced stays usable until the context cache is invalidated; the leaves that it led
// to stay in the IOTLB until their did is. Method: contexts written by hand, answers compared as text.

import { describe, expect, test } from 'vitest';
import { answers, type ContextInvalidation, contextWords, DEVICE, mapped, OTHER_DEVICE, RW } from './tables.ts';

/** A device with page 5 at frame 40 under did 1, and a second table that has page 5 at frame 41. */
function twoTables(options: Parameters<typeof mapped>[0] = {}) {
  const all = mapped(options);
  const { rig } = all;
  rig.entry(all.leaves, 5, 40, RW);
  const second = [rig.table(), rig.table(), rig.table()] as const;
  rig.entry(second[0], 0, second[1], RW);
  rig.entry(second[1], 0, second[2], RW);
  rig.entry(second[2], 5, 41, RW);
  return { ...all, second };
}

/** The device was moved from did 1 to the second table under did 2. */
function moved() {
  const all = twoTables();
  all.rig.context(all.contexts, DEVICE, { table: all.second[0], did: 2 });
  return all;
}

describe('a context entry that names another table now', () => {
  test('leads to both tables', () => {
    const { rig } = moved();
    expect(answers(rig.may(5))).toEqual(['40 rw', '41 rw']);
  });

  test.each<[string, ContextInvalidation]>([
    ['the device, by its old did', { granularity: 'device', did: 1, source: DEVICE }],
    ['the old did', { granularity: 'domain', did: 1 }],
    ['everything', { granularity: 'global' }],
    [
      'the device by another of its functions and a mask',
      { granularity: 'device', did: 1, source: OTHER_DEVICE, functionMask: 3 },
    ],
  ])('leads to the new table alone after a context-cache invalidation of %s', (_, invalidation) => {
    const { rig } = moved();
    rig.contextCache(invalidation);
    expect(answers(rig.may(5))).toEqual(['41 rw']);
  });

  test.each<[string, ContextInvalidation]>([
    ['the device, by its new did', { granularity: 'device', did: 2, source: DEVICE }],
    ['the new did', { granularity: 'domain', did: 2 }],
    ['another device', { granularity: 'device', did: 1, source: OTHER_DEVICE }],
  ])('leads to both after a context-cache invalidation of %s', (_, invalidation) => {
    const { rig } = moved();
    rig.contextCache(invalidation);
    expect(answers(rig.may(5))).toEqual(['40 rw', '41 rw']);
  });

  test('leads to both after an IOTLB invalidation alone', () => {
    const { rig } = moved();
    rig.iotlb({ granularity: 'global' });
    expect(answers(rig.may(5))).toEqual(['40 rw', '41 rw']);
  });

  test('is not forgotten when the invalidation is only in flight, nor one that is written meanwhile', () => {
    const { rig, contexts, path } = moved();
    rig.submit(contextWords({ granularity: 'global' }));
    rig.unit.step();
    expect(answers(rig.may(5))).toEqual(['40 rw', '41 rw']);
    rig.context(contexts, DEVICE, { table: path[0]!, did: 1 });
    rig.unit.step();
    // The entry of did 2 was there after the fetch, so it may be cached.
    expect(answers(rig.may(5))).toEqual(['40 rw', '41 rw']);
  });
});

describe('a table that no context leads to', () => {
  /** The did is the same in the new context, so that what the IOTLB holds under it still counts. */
  function orphaned() {
    const all = twoTables();
    all.rig.context(all.contexts, DEVICE, { table: all.second[0], did: 1 });
    all.rig.contextCache({ granularity: 'device', did: 1, source: DEVICE });
    return all;
  }

  test('keeps its leaves in the IOTLB under its did', () => {
    expect(answers(orphaned().rig.may(5))).toEqual(['40 rw', '41 rw']);
  });

  test('keeps them through page-selective invalidations', () => {
    const { rig } = orphaned();
    rig.iotlb({ granularity: 'page', did: 1, dfn: 5 });
    expect(answers(rig.may(5))).toEqual(['40 rw', '41 rw']);
  });

  test.each([
    ['its did', { granularity: 'domain', did: 1 }],
    ['everything', { granularity: 'global' }],
  ] as const)('loses them by an IOTLB invalidation of %s', (_, invalidation) => {
    const { rig } = orphaned();
    rig.iotlb(invalidation);
    expect(answers(rig.may(5))).toEqual(['41 rw']);
  });

  test('keeps them after an IOTLB invalidation that came before that of the context cache', () => {
    const { rig, contexts, second } = twoTables();
    rig.context(contexts, DEVICE, { table: second[0], did: 1 });
    rig.iotlb({ granularity: 'domain', did: 1 });
    rig.contextCache({ granularity: 'device', did: 1, source: DEVICE });
    expect(answers(rig.may(5))).toEqual(['40 rw', '41 rw']);
  });
});

describe('a context entry that is taken away', () => {
  test('leaves the device its access until the context cache is invalidated, then none', () => {
    const { rig, contexts } = twoTables();
    rig.clearContext(contexts, DEVICE);
    expect(answers(rig.may(5))).toEqual(['40 rw', 'fault 2']);
    rig.contextCache({ granularity: 'device', did: 1, source: DEVICE });
    expect(answers(rig.may(5))).toEqual(['fault 2']);
  });

  test('leaves its leaves to the next device that is given the did', () => {
    const { rig, contexts, second } = twoTables();
    rig.clearContext(contexts, DEVICE);
    rig.contextCache({ granularity: 'device', did: 1, source: DEVICE });
    rig.context(contexts, OTHER_DEVICE, { table: second[0], did: 1 });
    expect(answers(rig.may(5, OTHER_DEVICE))).toEqual(['40 rw', '41 rw']);
    rig.iotlb({ granularity: 'domain', did: 1 });
    expect(answers(rig.may(5, OTHER_DEVICE))).toEqual(['41 rw']);
  });

  test('leaves them so while it is still cached itself', () => {
    const { rig, contexts, second } = twoTables();
    rig.clearContext(contexts, DEVICE);
    rig.context(contexts, OTHER_DEVICE, { table: second[0], did: 1 });
    expect(answers(rig.may(5, OTHER_DEVICE))).toEqual(['40 rw', '41 rw']);
  });
});

describe('two devices of one did', () => {
  test('share what the IOTLB holds, whichever table it came from', () => {
    const { rig, contexts, second } = twoTables();
    rig.context(contexts, OTHER_DEVICE, { table: second[0], did: 1 });
    expect(answers(rig.may(5))).toEqual(['40 rw', '41 rw']);
    expect(answers(rig.may(5, OTHER_DEVICE))).toEqual(['40 rw', '41 rw']);
  });
});

describe('a context entry that is absent', () => {
  test('is not remembered as such without caching mode', () => {
    const { rig } = twoTables();
    expect(answers(rig.may(5))).toEqual(['40 rw']);
  });

  test('is remembered with caching mode under did 0, which is what must be invalidated', () => {
    const { rig } = twoTables({ units: [{ cachingMode: true }] });
    rig.iotlb({ granularity: 'global' });
    expect(answers(rig.may(5))).toEqual(['40 rw', 'fault 2']);
    rig.contextCache({ granularity: 'device', did: 1, source: DEVICE });
    expect(answers(rig.may(5))).toEqual(['40 rw', 'fault 2']);
    rig.contextCache({ granularity: 'device', did: 0, source: DEVICE });
    expect(answers(rig.may(5))).toEqual(['40 rw']);
  });
});

test('an absent context entry goes under did 0, whatever its did field says', () => {
  const { rig, contexts, path } = mapped({ units: [{ cachingMode: true }] });
  rig.context(contexts, DEVICE, { present: 0, did: 7 });
  rig.contextCache({ granularity: 'global' });
  rig.context(contexts, DEVICE, { table: path[0]!, did: 1 });
  rig.contextCache({ granularity: 'domain', did: 7 });
  expect(answers(rig.may(5))).toContain('fault 2');
  rig.contextCache({ granularity: 'domain', did: 0 });
  expect(answers(rig.may(5))).not.toContain('fault 2');
});

describe('a root entry', () => {
  test('that names another context table leaves the old contexts cached', () => {
    const { rig, root } = twoTables();
    rig.contextTable(root);
    expect(answers(rig.may(5))).toEqual(['40 rw', 'fault 2']);
    rig.contextCache({ granularity: 'global' });
    expect(answers(rig.may(5))).toEqual(['fault 2']);
  });

  test('that is set by another root table leaves the old contexts cached', () => {
    const { rig } = twoTables();
    rig.start();
    expect(answers(rig.may(5))).toEqual(['40 rw', 'fault 1']);
    rig.contextCache({ granularity: 'global' });
    expect(answers(rig.may(5))).toEqual(['fault 1']);
  });
});
