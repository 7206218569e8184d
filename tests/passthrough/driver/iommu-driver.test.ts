// Goal: attaching and detaching a device writes the right context entry and invalidates what the old one left.
// Method: entries decoded from memory, descriptors from the queues, stale access seen by the adversary.

import { describe, expect, test } from 'vitest';
import type { Mfn } from '../../../machine/frame-number.ts';
import { type Capabilities, decode } from '../../../passthrough/hardware/index.ts';
import { contextEntry } from '../../../passthrough/hardware/layouts.ts';
import { CPU, DEVICE, DriverRig, dfn, domain, unit } from './driver-rig.ts';

/** The words of a device's context entry. */
function contextWords(rig: DriverRig, device: string, of = 0): number[] {
  const source = rig.device(device) % 0x10000;
  const root = rig.driver.rootTable(unit(of));
  const table = rig.frames.readWord(root, (source >>> 8) * 4) >>> 12;
  return [0, 1, 2, 3].map((word) => rig.frames.readWord(table, (source & 0xff) * 4 + word));
}

/** Attaches and returns what was sent to the units. */
function attach(rig: DriverRig, id: number, device = DEVICE, of = 0): string[] {
  if (!rig.driver.tables.exists(domain(id))) rig.driver.tables.create(domain(id));
  expect(rig.driver.attach(CPU, domain(id), unit(of), rig.device(device))).toBe(0);
  return rig.finish();
}

describe('at the start', () => {
  test('every unit has a root table of its own, a queue if it can, and translates', () => {
    const rig = new DriverRig({ units: [{}, { queuedInvalidation: false }] });
    expect(rig.units.map((of) => [of.translating, of.queueEnabled])).toEqual([
      [true, true],
      [true, false],
    ]);
    expect(rig.driver.rootTable(unit(0))).not.toBe(rig.driver.rootTable(unit(1)));
    expect(rig.may(5)).toEqual(['fault 1']);
  });

  test.each<[readonly Partial<Capabilities>[], number]>([
    [[{}], 4],
    [[{ levels: [3], addressBits: 39 }], 4],
    [[{}, { levels: [3], addressBits: 39 }], 4],
    [[{ levels: [3, 4, 5], addressBits: 57 }], 4],
    [[{ levels: [5], addressBits: 57 }], 5],
    [
      [
        { levels: [3], addressBits: 39 },
        { levels: [5], addressBits: 57 },
      ],
      5,
    ],
  ])('tables have four levels, and more only for a unit that walks no fewer: %j', (units, levels) => {
    expect(new DriverRig({ units }).driver.tables.levels).toBe(levels);
  });
});

describe('attaching a device', () => {
  test("writes a context entry that names the domain's table, its depth and its did", () => {
    const rig = new DriverRig({ units: [{ cachingMode: true }] });
    attach(rig, 1);
    expect(decode(contextEntry, contextWords(rig, DEVICE))).toEqual({
      present: 1,
      faultProcessingDisable: 0,
      translationType: 0,
      secondLevelTable: rig.driver.tables.root(domain(1)),
      addressWidth: 2,
      ignored: 0,
      domainId: 1,
    });
    expect(rig.driver.tables.units(domain(1))).toBe(1);
  });

  test('lets it reach what its domain maps', () => {
    const rig = new DriverRig();
    attach(rig, 1);
    const frame = rig.frame();
    rig.driver.map(CPU, domain(1), dfn(5), frame, 1);
    expect(rig.may(5)).toEqual([`${frame} r`]);
    expect(rig.driver.lookup(domain(1), dfn(5))).toEqual({ rights: 1, frame });
  });

  test('sends nothing where absent entries are not cached', () => {
    expect(attach(new DriverRig(), 1)).toEqual([]);
  });

  test('invalidates the absent entry under did 0 with caching mode, then waits', () => {
    const rig = new DriverRig({ units: [{ cachingMode: true }] });
    expect(attach(rig, 1)).toEqual([
      '0: context device did 0 source 300',
      '0: wait 1=1',
      '0: iotlb domain did 0 drains rw',
      '0: wait 1=1',
    ]);
    expect(rig.may(5)).toEqual(['fault 6']);
  });

  test('that has a context already invalidates that one, by the old did', () => {
    const rig = new DriverRig();
    attach(rig, 1);
    const frame = rig.frame();
    rig.driver.map(CPU, domain(1), dfn(5), frame, 3);
    expect(attach(rig, 2)).toEqual([
      '0: context device did 0 source 300',
      '0: wait 1=1',
      '0: iotlb domain did 0 drains rw',
      '0: wait 1=1',
    ]);
    expect(decode(contextEntry, contextWords(rig, DEVICE)).domainId).toBe(1);
    expect(rig.may(5)).toEqual(['fault 6']);
  });

  test('leaves the old access usable until that is done', () => {
    const rig = new DriverRig();
    attach(rig, 1);
    const frame = rig.frame();
    rig.driver.map(CPU, domain(1), dfn(5), frame, 3);
    rig.driver.tables.create(domain(2));
    rig.driver.attach(CPU, domain(2), unit(0), rig.device());
    expect(rig.may(5)).toEqual([`${frame} rw`, 'fault 6']);
    rig.submit();
    expect(rig.may(5)).toEqual([`${frame} rw`, 'fault 6']);
    rig.finish();
    expect(rig.may(5)).toEqual(['fault 6']);
  });

  test('of one domain behind one unit shares its did; behind another it has another', () => {
    const rig = new DriverRig({ units: [{}, { cachingMode: true }] });
    attach(rig, 1);
    attach(rig, 1, '0000:03:00.1');
    attach(rig, 1, '0000:04:00.0', 1);
    const did = (device: string, of: number) => decode(contextEntry, contextWords(rig, device, of)).domainId;
    expect([did(DEVICE, 0), did('0000:03:00.1', 0), did('0000:04:00.0', 1)]).toEqual([0, 0, 1]);
    expect(rig.driver.tables.units(domain(1))).toBe(0b11);
  });

  test('is refused with -EBUSY when the unit has no did left, and no context entry is written', () => {
    const rig = new DriverRig({ units: [{ domainIds: 16 }] });
    for (let did = 0; did < 16; did += 1) rig.driver.ids[0]!.obtain(domain(did % 8));
    const left = Array.from({ length: 8 }, (_, id) => rig.driver.ids[0]!.didOf(domain(id)));
    expect(left).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    const small = smallUnit();
    expect(small.driver.attach(CPU, domain(1), unit(0), small.device())).toBe(-16);
    expect(contextWords(small, DEVICE)).toEqual([0, 0, 0, 0]);
    expect(small.driver.tables.units(domain(1))).toBe(0);
  });

  test('is refused with -ENOMEM when there is no frame for its context table', () => {
    const rig = new DriverRig({ frames: 8 });
    rig.driver.tables.create(domain(1));
    while (rig.frames.allocate(domain(1)) >= 0);
    expect(rig.driver.attach(CPU, domain(1), unit(0), rig.device())).toBe(-12);
    expect(rig.driver.ids[0]!.didOf(domain(1))).toBe(-1);
  });
});

/** A unit whose dids are all in use by others. */
function smallUnit(): DriverRig {
  const rig = new DriverRig({ units: [{ domainIds: 16 }] });
  rig.driver.tables.create(domain(1));
  const [ids] = rig.driver.ids;
  for (let id = 100; id < 116; id += 1) ids!.obtain(domain(id));
  return rig;
}

describe('detaching a device', () => {
  function detached() {
    const rig = new DriverRig();
    attach(rig, 1);
    const frame = rig.frame();
    rig.driver.map(CPU, domain(1), dfn(5), frame, 3);
    rig.driver.detach(CPU, unit(0), rig.device());
    return { rig, frame };
  }

  test('clears the context entry and invalidates context cache and IOTLB by the old did', () => {
    const { rig } = detached();
    expect(contextWords(rig, DEVICE)).toEqual([0, 0, 0, 0]);
    expect(rig.finish()).toEqual([
      '0: context device did 0 source 300',
      '0: wait 1=1',
      '0: iotlb domain did 0 drains rw',
      '0: wait 1=1',
    ]);
  });

  test('leaves its access usable until that is done, and nothing afterwards', () => {
    const { rig, frame } = detached();
    expect(rig.may(5)).toEqual([`${frame} rw`, 'fault 2']);
    rig.finish();
    expect(rig.may(5)).toEqual(['fault 2']);
  });

  test('gives the did back only when the domain leaves the unit; the next one gets it clean', () => {
    const { rig } = detached();
    rig.finish();
    expect(rig.driver.ids[0]!.didOf(domain(1))).toBe(0);
    rig.driver.leave(domain(1), unit(0));
    expect([rig.driver.ids[0]!.didOf(domain(1)), rig.driver.tables.units(domain(1))]).toEqual([-1, 0]);
    attach(rig, 2);
    expect(rig.driver.ids[0]!.didOf(domain(2))).toBe(0);
    expect(rig.may(5)).toEqual(['fault 6']);
  });

  test('a barrier before it flushes the whole domain and waits', () => {
    const rig = new DriverRig();
    attach(rig, 1);
    rig.driver.barrier(CPU, domain(1));
    expect(rig.finish()).toEqual(['0: iotlb domain did 0 drains rw', '0: wait 1=1']);
  });
});

describe('mapping', () => {
  function mapped() {
    const rig = new DriverRig();
    attach(rig, 1);
    return { rig, frame: rig.frame() };
  }

  test('an entry over itself changes nothing and tells nobody', () => {
    const { rig, frame } = mapped();
    rig.driver.map(CPU, domain(1), dfn(5), frame, 3);
    const mark = rig.heap.mark();
    expect(rig.driver.map(CPU, domain(1), dfn(5), frame, 3)).toBe(0);
    expect([...rig.heap.segmentsSince(mark)]).toEqual([]);
    expect(rig.shown).toHaveLength(1);
  });

  test('beyond what the tables reach is refused with -ERANGE', () => {
    const { rig, frame } = mapped();
    expect(rig.driver.map(CPU, domain(1), dfn(2 ** 36), frame, 3)).toBe(-34);
  });

  test('without memory for a table is refused with -ENOMEM', () => {
    const { rig, frame } = mapped();
    while (rig.frames.allocate(domain(1)) >= 0);
    expect(rig.driver.map(CPU, domain(1), dfn(5), frame, 3)).toBe(-12);
    expect(rig.shown).toEqual([]);
  });

  test('is looked up as absent where nothing is, and in a domain without tables', () => {
    const { rig } = mapped();
    const absent = { rights: 0, frame: 0 as Mfn };
    expect([rig.driver.lookup(domain(1), dfn(5)), rig.driver.lookup(domain(7), dfn(5))]).toEqual([absent, absent]);
  });

  test('and unmapping passes over what is absent', () => {
    const { rig, frame } = mapped();
    rig.driver.map(CPU, domain(1), dfn(5), frame, 3);
    expect([rig.driver.unmap(CPU, domain(1), dfn(4), 2), rig.driver.unmap(CPU, domain(1), dfn(4), 2)]).toEqual([1, 0]);
  });
});
