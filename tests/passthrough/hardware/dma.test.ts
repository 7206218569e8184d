// Goal: a translated access that is not performed yet holds up an invalidation that drains it, and no other.
// Method: accesses held by hand; the unit stepped until it stands.

import { describe, expect, test } from 'vitest';
import { Access } from '../../../passthrough/hardware/index.ts';
import { answers, DEVICE, type Invalidation, iotlbWords, mapped, Rig, RW } from './tables.ts';

const DRAINS = { drainReads: true, drainWrites: true };

/** Page 5 was translated to frame 40 for an access, and unmapped. */
function translated(access: Access = Access.write, options: Parameters<typeof mapped>[0] = {}) {
  const all = mapped(options);
  const { rig, leaves } = all;
  rig.entry(leaves, 5, 40, RW);
  const frame = rig.unit.request(DEVICE, 5, access);
  const slot = rig.dma.hold({ unit: 0, did: 1, sourceId: DEVICE, dfn: 5, frame, access, word: 3, value: 0x1234 });
  rig.absent(leaves, 5);
  return { ...all, slot };
}

/** Whether the invalidation completes while the access is held; then that it does when the access is performed. */
function completes({ rig, slot }: ReturnType<typeof translated>, invalidation: Invalidation): boolean {
  rig.submit(iotlbWords(invalidation));
  rig.run();
  const before = answers(rig.may(5)).includes('40 rw');
  rig.dma.release(slot);
  rig.run();
  expect(answers(rig.may(5))).toEqual(['fault 6']);
  return !before;
}

describe('an invalidation that drains', () => {
  test.each<[string, Invalidation]>([
    ['global', { granularity: 'global' }],
    ['domain-selective', { granularity: 'domain', did: 1 }],
    ['page-selective', { granularity: 'page', did: 1, dfn: 5 }],
    ['page-selective, of a range', { granularity: 'page', did: 1, dfn: 4, order: 2 }],
  ])('waits for an access of its scope: %s', (_, invalidation) => {
    expect(completes(translated(), { ...invalidation, ...DRAINS })).toBe(false);
  });

  test('waits for reads by the one drain and for writes by the other', () => {
    const invalidation: Invalidation = { granularity: 'domain', did: 1 };
    expect(completes(translated(Access.read), { ...invalidation, drainReads: true })).toBe(false);
    expect(completes(translated(Access.read), { ...invalidation, drainWrites: true })).toBe(true);
    expect(completes(translated(Access.write), { ...invalidation, drainReads: true })).toBe(true);
    expect(completes(translated(Access.write), { ...invalidation, drainWrites: true })).toBe(false);
  });

  test('does not wait where the unit has no drains', () => {
    const none = { units: [{ drainReads: false, drainWrites: false }] };
    for (const access of [Access.read, Access.write]) {
      expect(completes(translated(access, none), { granularity: 'global', ...DRAINS })).toBe(true);
    }
  });

  test('cannot step while it waits, and says so', () => {
    const { rig, slot } = translated();
    rig.submit(iotlbWords({ granularity: 'global', ...DRAINS }));
    expect(rig.unit.step()).toBe(true);
    expect(rig.unit.canStep()).toBe(false);
    expect(rig.unit.step()).toBe(false);
    rig.dma.release(slot);
    expect(rig.unit.canStep()).toBe(true);
  });

  test('waits by register as it does by queue', () => {
    const { rig, slot } = translated();
    rig.iotlbByRegister({ granularity: 'domain', did: 1, ...DRAINS });
    expect(rig.unit.readHigh(rig.unit.iotlbRegister) >>> 31).toBe(1);
    rig.dma.release(slot);
    rig.run();
    expect(rig.unit.readHigh(rig.unit.iotlbRegister) >>> 31).toBe(0);
  });
});

describe('an access is not waited for', () => {
  test('by an invalidation without drains', () => {
    expect(completes(translated(), { granularity: 'global' })).toBe(true);
  });

  test.each<[string, Invalidation]>([
    ['another did', { granularity: 'domain', did: 2 }],
    ['another page', { granularity: 'page', did: 1, dfn: 6 }],
    ['the same page of another did', { granularity: 'page', did: 2, dfn: 5 }],
  ])('by an invalidation of %s', (_, invalidation) => {
    const { rig } = translated();
    rig.submit(iotlbWords({ ...invalidation, ...DRAINS }));
    rig.run();
    expect(rig.unit.queued).toBe(0);
    expect(rig.unit.canStep()).toBe(false);
    rig.submit(iotlbWords({ granularity: 'global' }));
    expect(rig.unit.step(), 'the unit is free for the next').toBe(true);
  });

  test('by an invalidation of another unit', () => {
    const rig = new Rig({ units: [{}, {}] });
    rig.start({ unit: 1 });
    rig.dma.hold({ unit: 0, did: 1, sourceId: DEVICE, dfn: 5, frame: 40, access: Access.write, word: 0, value: 0 });
    rig.submit(iotlbWords({ granularity: 'global', ...DRAINS }), rig.units[1]!);
    rig.run(rig.units[1]!);
    expect(rig.units[1]!.counter('globalInvalidations')).toBe(1);
  });
});

describe('the accesses in flight', () => {
  test('are held as they are, in as many slots as there are', () => {
    const rig = new Rig();
    const held = {
      unit: 0,
      did: 7,
      sourceId: 9,
      dfn: 2 ** 40 + 3,
      frame: 40,
      access: Access.read,
      word: 1023,
      value: 0xffffffff,
    };
    for (let slot = 0; slot < rig.dma.slots; slot += 1) expect(rig.dma.hold(held)).toBe(slot);
    expect(rig.dma.hold(held)).toBe(-1);
    expect(rig.dma.get(2)).toEqual({ slot: 2, ...held });
    rig.dma.release(2);
    expect(rig.dma.get(2)).toBeNull();
    expect(rig.dma.all().map(({ slot }) => slot)).toEqual([0, 1, 3]);
    expect(rig.dma.hold(held)).toBe(2);
    expect([rig.dma.get(-1), rig.dma.get(rig.dma.slots)]).toEqual([null, null]);
  });
});
