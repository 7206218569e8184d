// Goal: every capability bit has the effect that the specification gives it. Method: one test for each, the same events
// on a unit with the bit and on one without, or with another value; the driver's part of it where it has one.

import { describe, expect, test } from 'vitest';
import { type Capabilities, defaultLruShape, Register } from '../../../passthrough/hardware/index.ts';
import { Access, FaultReason } from '../../../passthrough/hardware/registers.ts';
import { CPU, DriverRig, dfn } from '../driver/driver-rig.ts';
import { answers, DEVICE, type Invalidation, iotlbWords, type Mapped, mapped, RW } from './tables.ts';

const of = (capabilities: Partial<Capabilities>, options: Parameters<typeof mapped>[0] = {}): Mapped =>
  mapped({ units: [capabilities], ...options });

/** A machine where pages 0 to 15 were mapped, and are remembered only. */
function remembered(capabilities: Partial<Capabilities>): Mapped {
  const all = of(capabilities);
  for (let page = 0; page < 16; page += 1) all.rig.entry(all.leaves, page, 40 + page, RW);
  all.rig.iotlb({ granularity: 'global' });
  for (let page = 0; page < 16; page += 1) all.rig.absent(all.leaves, page);
  for (const table of [all.root, all.contexts, ...all.path]) all.rig.frames.writeBack(table, 0, 1024);
  return all;
}

const kept = ({ rig }: Mapped) =>
  Array.from({ length: 16 }, (_, page) => page).filter((page) => answers(rig.may(page)).includes(`${40 + page} rw`));
const ALL = Array.from({ length: 16 }, (_, page) => page);
const NONE: number[] = [];

describe('ND: the bits of a did that the unit does not have are ignored', () => {
  test.each<[number, string, number[]]>([
    [16, 'did 1', NONE],
    [256, 'did 17', ALL],
  ])('with %i ids an entry of did 17 goes by %s', (domainIds, _, left) => {
    const all = remembered({ domainIds });
    all.rig.context(all.contexts, DEVICE, { table: all.path[0]!, did: 17 });
    for (let page = 0; page < 16; page += 1) {
      all.rig.entry(all.leaves, page, 40 + page, RW);
      all.rig.absent(all.leaves, page);
    }
    all.rig.contextCache({ granularity: 'global' });
    all.rig.iotlb({ granularity: 'domain', did: 1 });
    expect(kept(all)).toEqual(left);
  });

  test('of an invalidation, too', () => {
    for (const [domainIds, left] of [
      [16, NONE],
      [256, ALL],
    ] as const) {
      const all = remembered({ domainIds });
      all.rig.iotlb({ granularity: 'domain', did: 17 });
      expect(kept(all), `${domainIds} ids`).toEqual(left);
    }
  });

  test.each([false, true])('of a context entry that an invalidation looks for (lru: %s)', (isLru) => {
    const all = of({ domainIds: 16 }, isLru ? { lru: defaultLruShape } : {});
    all.rig.entry(all.leaves, 5, 40, RW);
    all.rig.context(all.contexts, DEVICE, { table: all.path[0]!, did: 17 });
    all.rig.unit.translate(DEVICE, 5, Access.read);
    all.rig.clearContext(all.contexts, DEVICE);
    all.rig.contextCache({ granularity: 'domain', did: 1 });
    expect(all.rig.unit.translate(DEVICE, 5, Access.read)).toBe(-FaultReason.contextNotPresent);
    if (!isLru) expect(answers(all.rig.may(5))).toEqual(['fault 2']);
  });

  test('and the driver hands out as many as there are', () => {
    const rig = new DriverRig({ units: [{ domainIds: 16 }, { domainIds: 64 }] });
    expect(rig.driver.ids.map(({ size }) => size)).toEqual([16, 64]);
  });
});

test('CM: an absent entry is remembered with it, and never without', () => {
  for (const [cachingMode, found] of [
    [true, ['40 rw', 'fault 2', 'fault 6']],
    [false, ['40 rw']],
  ] as const) {
    const all = of({ cachingMode });
    all.rig.entry(all.leaves, 5, 40, RW);
    expect(answers(all.rig.may(5))).toEqual(found);
  }
});

test('MGAW: addresses beyond it are refused, whatever the tables reach', () => {
  for (const [addressBits, frame] of [
    [39, 44],
    [38, -FaultReason.addressBeyondWidth],
  ] as const) {
    const all = of({ levels: [3], addressBits });
    all.rig.entry(all.path[0]!, 511, all.path[1]!, RW);
    all.rig.entry(all.path[1]!, 511, all.path[2]!, RW);
    all.rig.entry(all.leaves, 511, 44, RW);
    expect(all.rig.unit.translate(DEVICE, 2 ** 27 - 1, Access.read)).toBe(frame);
  }
});

test.each([3, 4, 5])('SAGAW: tables of %i levels are walked by units that know them', (levels) => {
  const frameOf = (known: readonly number[]) => {
    const all = of({ levels: known, addressBits: 39 }, { levels });
    all.rig.entry(all.leaves, 0, 40, RW);
    return all.rig.unit.translate(DEVICE, 0, Access.read);
  };
  expect(frameOf([3, 4, 5])).toBe(40);
  expect(frameOf([3, 4, 5].filter((one) => one !== levels))).toBe(-FaultReason.contextInvalid);
});

describe('PSI', () => {
  const page: Invalidation = { granularity: 'page', did: 1, dfn: 5 };

  test.each<['iotlb' | 'iotlbByRegister']>([['iotlb'], ['iotlbByRegister']])(
    'a page-selective command is done for the domain by a unit without it: %s',
    (how) => {
      const [with_, without] = [remembered({}), remembered({ pageSelective: false })];
      for (const all of [with_, without]) all.rig[how](page);
      expect(kept(with_)).toEqual(ALL.filter((one) => one !== 5));
      expect(kept(without)).toEqual(NONE);
      expect([without.rig.unit.counter('domainInvalidations'), without.rig.unit.counter('pageInvalidations')]).toEqual([
        1, 0,
      ]);
    },
  );

  test('and the register says so', () => {
    for (const [pageSelective, granularity] of [
      [true, 3],
      [false, 2],
    ] as const) {
      const { rig } = remembered({ pageSelective });
      rig.iotlbByRegister(page);
      expect((rig.unit.readHigh(rig.unit.iotlbRegister) >>> 25) & 3).toBe(granularity);
    }
  });

  test('a drain waits for the whole domain then', () => {
    const { rig } = remembered({ pageSelective: false });
    rig.dma.hold({ unit: 0, did: 1, sourceId: DEVICE, dfn: 9, frame: 49, access: Access.read, word: 0, value: 0 });
    rig.iotlb({ ...page, drainReads: true });
    expect(rig.unit.canStep()).toBe(false);
  });
});

describe('MAMV', () => {
  const command = (order: number): Invalidation => ({ granularity: 'page', did: 1, dfn: 0, order });

  test('an address mask above it is refused by register: nothing is done, and the granularity is 0', () => {
    const all = remembered({ maxAddressMask: 2 });
    all.rig.iotlbByRegister(command(3));
    expect(kept(all)).toEqual(ALL);
    expect(all.rig.unit.readHigh(all.rig.unit.iotlbRegister) >>> 31, 'it is over').toBe(0);
    expect((all.rig.unit.readHigh(all.rig.unit.iotlbRegister) >>> 25) & 3).toBe(0);
    expect(all.rig.unit.counter('pageInvalidations')).toBe(0);
    all.rig.iotlbByRegister(command(2));
    expect(kept(all)).toEqual(ALL.slice(4));
  });

  test('and is an error in the queue, the head staying there', () => {
    const all = remembered({ maxAddressMask: 2 });
    const one = all.rig.unit;
    const head = one.readLow(Register.IQH);
    all.rig.submit(iotlbWords(command(3)));
    all.rig.run();
    expect([one.readLow(Register.FSTS), one.readLow(Register.IQH)]).toEqual([0x10, head]);
    expect(kept(all)).toEqual(ALL);
  });

  test('means nothing where there is no page-selective invalidation', () => {
    const all = remembered({ pageSelective: false });
    all.rig.iotlb(command(9));
    expect(all.rig.unit.readLow(Register.FSTS)).toBe(0);
    expect(kept(all)).toEqual(NONE);
  });
});

test.each([
  ['superpage2m', 2, 512],
  ['superpage1g', 3, 0x40000],
] as const)('SLLPS: a leaf of its size is reserved on a unit without %s', (name, level, frame) => {
  const found = (capabilities: Partial<Capabilities>) => {
    const all = of(capabilities, { levels: 4 });
    all.rig.entry(all.path[4 - level]!, 1, frame, RW, { superpage: 1 });
    return all.rig.unit.translate(DEVICE, 512 ** (level - 1), Access.read);
  };
  expect(found({})).toBe(frame);
  expect(found({ [name]: false })).toBe(-FaultReason.entryReserved);
});

describe('QI', () => {
  test('the queue cannot be enabled without it', () => {
    for (const queuedInvalidation of [true, false]) {
      const { rig } = of({ queuedInvalidation });
      expect(rig.unit.queueEnabled).toBe(queuedInvalidation);
      expect((rig.unit.readLow(Register.GSTS) >>> 26) & 1).toBe(Number(queuedInvalidation));
      rig.submit(iotlbWords({ granularity: 'global' }));
      expect(rig.unit.step()).toBe(queuedInvalidation);
    }
  });

  test('and the driver uses registers then', () => {
    const rig = new DriverRig({ units: [{ queuedInvalidation: false }] });
    const domain = rig.domain(1, [0]);
    rig.driver.flush.requestDomain(CPU, domain);
    rig.driver.flush.requestWait(CPU);
    expect(rig.finish()).toEqual([]);
    expect(rig.units[0]!.counter('domainInvalidations')).toBe(1);
  });
});

describe('C', () => {
  test('a unit that snoops sees what was written, one that does not sees what was written back', () => {
    for (const [coherent, found] of [
      [true, ['41 rw']],
      [false, ['41 rw', 'fault 6']],
    ] as const) {
      const all = remembered({ coherent });
      all.rig.iotlb({ granularity: 'global' });
      all.rig.entry(all.leaves, 20, 41, RW);
      expect(answers(all.rig.may(20))).toEqual(found);
    }
  });
});

describe('RWBF', () => {
  test('a unit with it sees what was written once its buffer is flushed', () => {
    for (const [writeBufferFlush, found] of [
      [false, ['41 rw']],
      [true, ['41 rw', 'fault 6']],
    ] as const) {
      const all = remembered({ writeBufferFlush });
      all.rig.iotlb({ granularity: 'global' });
      all.rig.entry(all.leaves, 20, 41, RW);
      expect(answers(all.rig.may(20))).toEqual(found);
      all.rig.command(all.rig.unit, { translationEnable: 1, queuedInvalidationEnable: 1, writeBufferFlush: 1 });
      expect(answers(all.rig.may(20))).toEqual(['41 rw']);
    }
  });

  test('the command is done at once, and leaves nothing in the status', () => {
    const { rig } = of({ writeBufferFlush: true });
    const before = rig.unit.readLow(Register.GSTS);
    rig.command(rig.unit, { translationEnable: 1, queuedInvalidationEnable: 1, writeBufferFlush: 1 });
    expect(rig.unit.readLow(Register.GSTS)).toBe(before);
  });
});

describe('SC', () => {
  test('the snoop bit of a leaf is reserved on a unit without it, and that of a pointer always', () => {
    for (const snoopControl of [true, false]) {
      const all = of({ snoopControl });
      all.rig.entry(all.leaves, 5, 40, RW, { snoop: 1 });
      expect(all.rig.unit.translate(DEVICE, 5, Access.read)).toBe(snoopControl ? 40 : -FaultReason.entryReserved);
      all.rig.entry(all.path[0]!, 1, all.path[1]!, RW, { snoop: 1 });
      expect(all.rig.unit.translate(DEVICE, 0x40000, Access.read)).toBe(-FaultReason.entryReserved);
    }
  });

  test.each<[string, readonly Partial<Capabilities>[], number]>([
    ['all units have it', [{ snoopControl: true }, { snoopControl: true }], 1],
    ['one has not', [{ snoopControl: true }, {}], 0],
    ['none has', [{}], 0],
  ])('the driver sets it in leaves of every size where %s', (_, units, snoop) => {
    const rig = new DriverRig({ units, superpages: true, frames: 1200 });
    const domain = rig.domain(1, [0]);
    const { tables } = rig.driver;
    const bitAt = (page: number) => {
      expect(tables.find(domain, dfn(page), false)).toBe(1);
      return (tables.low >>> 11) & 1;
    };
    rig.driver.map(CPU, domain, dfn(5), rig.frame(), 3);
    rig.driver.map(CPU, domain, dfn(1024), 512 as never, 3, 9);
    expect([bitAt(5), bitAt(1024)]).toEqual([snoop, snoop]);
    expect(tables.level).toBe(2);
    rig.driver.unmap(CPU, domain, dfn(1030), 0);
    expect([tables.find(domain, dfn(1024), false), tables.level, (tables.low >>> 11) & 1]).toEqual([1, 1, snoop]);
    rig.driver.map(CPU, domain, dfn(1030), 518 as never, 3);
    expect([bitAt(1024), tables.level]).toEqual([snoop, 2]);
    rig.finish();
    expect(rig.may(1025)).toEqual(['513 rw']);
  });
});

describe('DT', () => {
  test('a context entry of type 1 is invalid without it', () => {
    for (const [deviceTlb, frame] of [
      [true, 40],
      [false, -FaultReason.contextInvalid],
    ] as const) {
      const all = of({ deviceTlb });
      all.rig.entry(all.leaves, 5, 40, RW);
      all.rig.context(all.contexts, DEVICE, { table: all.path[0]!, type: 1 });
      expect(all.rig.unit.translate(DEVICE, 5, Access.read)).toBe(frame);
    }
  });

  test('its descriptor is an error without it', () => {
    for (const [deviceTlb, status] of [
      [true, 0],
      [false, 0x10],
    ] as const) {
      const { rig } = of({ deviceTlb });
      rig.submit([3, DEVICE, 1, 0]);
      rig.run();
      expect(rig.unit.readLow(Register.FSTS)).toBe(status);
    }
  });
});

test.each([
  ['DWD', 'drainWrites', Access.write],
  ['DRD', 'drainReads', Access.read],
] as const)('%s: an invalidation with the drain waits on a unit that has it', (_, drain, access) => {
  for (const has of [true, false]) {
    const { rig } = remembered({ [drain]: has });
    rig.dma.hold({ unit: 0, did: 1, sourceId: DEVICE, dfn: 5, frame: 45, access, word: 0, value: 0 });
    rig.iotlb({ granularity: 'global', [drain]: true });
    expect(rig.unit.canStep()).toBe(false);
    expect(rig.unit.counter('globalInvalidations')).toBe(has ? 1 : 2);
  }
});

test('PT: a context entry of type 2 is invalid without it', () => {
  for (const [passThrough, frame] of [
    [true, 77],
    [false, -FaultReason.contextInvalid],
  ] as const) {
    const { rig, contexts } = of({ passThrough });
    rig.context(contexts, DEVICE, { type: 2, levels: 4 });
    expect(rig.unit.translate(DEVICE, 77, Access.read)).toBe(frame);
  }
});

test('PT: the entry must say the largest width that the unit has', () => {
  const { rig, contexts } = of({ levels: [3, 4], passThrough: true });
  rig.context(contexts, DEVICE, { type: 2, levels: 3 });
  expect(rig.unit.translate(DEVICE, 77, Access.read)).toBe(-FaultReason.contextInvalid);
});

test.each([1, 2, 8, 256])('NFR: there are %i records, and the next fault overflows', (faultRecords) => {
  const { rig } = of({ faultRecords });
  for (let page = 0; page < faultRecords; page += 1) rig.unit.request(DEVICE, page, Access.read);
  expect(rig.unit.faults.overflowed).toBe(false);
  rig.unit.request(DEVICE, 300, Access.read);
  expect(rig.unit.faults.overflowed).toBe(true);
  expect(rig.unit.faults.take().map((fault) => fault.dfn)).toEqual(Array.from({ length: faultRecords }, (_, at) => at));
});
