// Goal: domain ids go to domains lowest first, once each, and come back: each unit's own, or one space for all units.
// Method: units of few ids.

import { describe, expect, test } from 'vitest';
import { Errno } from '../../../machine/errno.ts';
import { Heap } from '../../../machine/heap/heap.ts';
import type { Domid } from '../../../machine/ids.ts';
import { DomainIds, PseudoDomids, quarantineDomid } from '../../../passthrough/driver/index.ts';
import { DriverRig, type DriverRigOptions, unit } from './driver-rig.ts';

const domain = (value: number) => value as Domid;
const makeIds = (dids: number, reserveZero = false) =>
  new DomainIds(new Heap(), { name: 'unit 0', dids, domains: 8, reserveZero });

describe('domain ids of a unit', () => {
  test('go to domains lowest first, and stay with them', () => {
    const ids = makeIds(4);
    expect([5, 2, 5, 7].map((id) => ids.obtain(domain(id)))).toEqual([0, 1, 0, 2]);
    expect([5, 2, 7, 3].map((id) => ids.didOf(domain(id)))).toEqual([0, 1, 2, -1]);
    expect([0, 1, 2, 3].map((did) => ids.domainOf(did))).toEqual([5, 2, 7, -1]);
  });

  test('run out with -EBUSY, which leaves everything as it was', () => {
    const ids = makeIds(2);
    ids.obtain(domain(1));
    ids.obtain(domain(2));
    expect(ids.obtain(domain(3))).toBe(Errno.EBUSY);
    expect(ids.obtain(domain(3))).toBe(-16);
    expect(ids.didOf(domain(3))).toBe(-1);
    expect(ids.obtain(domain(1))).toBe(0);
  });

  test('leave out 0 with caching mode, where absent contexts are cached under it', () => {
    const ids = makeIds(2, true);
    expect(ids.obtain(domain(1))).toBe(1);
    expect(ids.obtain(domain(2))).toBe(-16);
    ids.release(domain(1));
    expect(ids.obtain(domain(2))).toBe(1);
  });

  test('run out with -EFAULT where the rules have it so', () => {
    const ids = new DomainIds(new Heap(), {
      name: 'unit 0',
      dids: 1,
      domains: 8,
      reserveZero: false,
      exhausted: Errno.EFAULT,
    });
    expect([ids.headroom(), ids.obtain(domain(1)), ids.headroom(), ids.obtain(domain(2))]).toEqual([0, 0, -14, -14]);
  });

  test('come back, and the lowest is given out next, whatever the order of their coming', () => {
    const ids = makeIds(4);
    for (const id of [1, 2, 3, 4]) ids.obtain(domain(id));
    for (const id of [3, 1]) ids.release(domain(id));
    expect([ids.didOf(domain(3)), ids.domainOf(2)]).toEqual([-1, -1]);
    expect([6, 7].map((id) => ids.obtain(domain(id)))).toEqual([0, 2]);
  });

  test('of a domain that has none come back without effect', () => {
    const ids = makeIds(2);
    ids.obtain(domain(1));
    ids.release(domain(2));
    expect(ids.didOf(domain(1))).toBe(0);
    expect(ids.obtain(domain(2))).toBe(1);
  });
});

describe('domain ids of a unit that has 65536', () => {
  const identity = (reserveZero: boolean) =>
    new DomainIds(new Heap(), { name: 'unit 0', dids: 65536, domains: 8, quarantines: 2, reserveZero });

  test('are the domids', () => {
    const ids = identity(false);
    expect([0, 5, 0x8001].map((id) => ids.obtain(domain(id)))).toEqual([0, 5, 0x8001]);
    expect([0, 5, 8, 0x8001, 0x8002].map((did) => ids.domainOf(did))).toEqual([0, 5, -1, 0x8001, -1]);
  });

  test('are their complements with caching mode, where 0 is nobody’s', () => {
    const ids = identity(true);
    expect([0, 1, 0x8001].map((id) => ids.didOf(domain(id)))).toEqual([65535, 65534, 0x7ffe]);
    expect([65535, 65534, 0x7ffe, 0].map((did) => ids.domainOf(did))).toEqual([0, 1, 0x8001, -1]);
  });

  test('are never given back, for they are no state', () => {
    const ids = identity(false);
    ids.release(domain(5));
    expect(ids.didOf(domain(5))).toBe(5);
  });
});

test('a quarantine takes one of the ids that are handed out', () => {
  const ids = new DomainIds(new Heap(), { name: 'unit 0', dids: 4, domains: 8, quarantines: 2, reserveZero: false });
  expect([quarantineDomid(1), domain(7), quarantineDomid(0)].map((id) => ids.obtain(id))).toEqual([0, 1, 2]);
  expect([ids.didOf(quarantineDomid(1)), ids.domainOf(2)]).toEqual([0, 0x8000]);
  ids.release(quarantineDomid(1));
  expect([ids.didOf(quarantineDomid(1)), ids.didOf(quarantineDomid(0))]).toEqual([-1, 2]);
});

test('there are fewer quarantines than pseudo domids, for the last one’s complement would be did 0', () => {
  const ids = (quarantines: number) =>
    new DomainIds(new Heap(), { name: 'unit 0', dids: 65536, domains: 8, quarantines, reserveZero: true });
  expect(ids(0x7fff).didOf(quarantineDomid(0x7ffe))).toBe(1);
  expect(() => ids(0x8000)).toThrow(/quarantines 32768: expected at most 32767/);
});

describe('pseudo domids', () => {
  const pseudo = () => new PseudoDomids(new Heap(), 'platform', 3);
  const again = (ids: PseudoDomids, index: number) => {
    ids.release(index);
    ids.obtain(index);
    return ids.of(index) - 0x8000;
  };

  test('are in the order of devices, and new for one that is there again', () => {
    const ids = pseudo();
    expect([0, 1, 2].map((index) => ids.of(index))).toEqual([0x8000, 0x8001, 0x8002]);
    expect([again(ids, 1), again(ids, 1), again(ids, 0)]).toEqual([3, 4, 5]);
    expect([0x8005, 0x8004, 0x8002, 0x8001].map((id) => ids.indexOf(domain(id)))).toEqual([0, 1, 2, -1]);
    ids.release(2);
    expect([ids.of(2), ids.indexOf(domain(0x8002))]).toEqual([-1, -1]);
    ids.obtain(1);
    expect(ids.of(1), 'it has one').toBe(0x8004);
  });

  test('go round, past those that others have', () => {
    const ids = pseudo();
    for (let at = 3; at < 0x7fff; at += 1) expect(again(ids, 1)).toBe(at);
    // 0 and 2 are still those of the first and the last device.
    expect([again(ids, 1), again(ids, 1), again(ids, 0)]).toEqual([1, 3, 4]);
  });

  test('show in dids that are made of domids', () => {
    const of = new PseudoDomids(new Heap(), 'platform', 2);
    const options = { name: 'unit 0', dids: 65536, domains: 8, quarantines: 2, pseudo: of } as const;
    const ids = new DomainIds(new Heap(), { ...options, reserveZero: true });
    again(of, 1);
    expect([ids.didOf(quarantineDomid(1)), ids.domainOf(0x7ffd), ids.domainOf(0x7ffe)]).toEqual([0x7ffd, 0x8001, -1]);
    of.release(0);
    expect(ids.didOf(quarantineDomid(0))).toBe(-1);
  });
});

describe('a domain behind several units', () => {
  const UNITS = [{ domainIds: 64 }, { domainIds: 16 }] as const;
  const rigOf = (options: DriverRigOptions) => new DriverRig({ units: UNITS, ...options });
  const didsOf = ({ driver }: DriverRig, id: number) => driver.ids.map((ids) => ids.didOf(domain(id)));

  test('has a did of each unit', () => {
    const rig = rigOf({});
    rig.domain(1, [0]);
    rig.domain(2, [0, 1], '0000:04:00.0');
    expect([didsOf(rig, 1), didsOf(rig, 2)]).toEqual([
      [0, -1],
      [1, 0],
    ]);
    rig.driver.leave(domain(2), unit(0));
    expect(didsOf(rig, 2)).toEqual([-1, 0]);
  });

  test('has one did where they share a space, until it has left the last of them', () => {
    const rig = rigOf({ domainIds: 'shared' });
    rig.domain(1, [0]);
    rig.domain(2, [0, 1], '0000:04:00.0');
    expect([didsOf(rig, 1), didsOf(rig, 2)]).toEqual([
      [0, 0],
      [1, 1],
    ]);
    rig.driver.leave(domain(2), unit(0));
    expect(didsOf(rig, 2)).toEqual([1, 1]);
    rig.driver.leave(domain(2), unit(1));
    expect(didsOf(rig, 2)).toEqual([-1, -1]);
  });

  test('shares what the smallest unit has, and did 0 is in use where any unit has caching mode', () => {
    const sizeOf = (options: DriverRigOptions) => rigOf({ domainIds: 'shared', ...options }).driver.ids[0]!;
    expect([sizeOf({}).size, sizeOf({}).obtain(domain(1))]).toEqual([16, 0]);
    const large = { domainIds: 65536 } as const;
    expect(sizeOf({ units: [large, { ...large, cachingMode: true }] }).obtain(domain(1))).toBe(0xfffe);
    expect(sizeOf({ units: [large, { domainIds: 16, cachingMode: true }] }).obtain(domain(1))).toBe(1);
  });
});
