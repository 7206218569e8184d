// Goal: device TLBs are told what the IOTLB was told, after it, each on its own. Method: descriptors from the queues.

import { describe, expect, test } from 'vitest';
import { Progress } from '../../../machine/pending.ts';
import { contextEntry, decode } from '../../../passthrough/hardware/layouts.ts';
import { CPU, DriverRig, type DriverRigOptions, dfn, unit } from './driver-rig.ts';

const TLBS = [
  { unit: 0, source: 0x500 },
  { unit: 0, source: 0x300 },
  { unit: 1, source: 0x400 },
];
const withTlbs: DriverRigOptions = { units: [{ deviceTlb: true }], deviceTlbs: TLBS };

/** Domain 1 has 03:00.0 on unit 0, domain 2 has 05:00.0; both have a device TLB. */
function rigOf(options: DriverRigOptions = withTlbs) {
  const rig = new DriverRig(options);
  const first = rig.domain(1, [0]);
  const second = rig.domain(2, [0], '0000:05:00.0');
  return { rig, first, second };
}

describe('a device TLB', () => {
  test('is told after the IOTLB is clean, and waited for', () => {
    const { rig, first } = rigOf();
    rig.driver.flush.requestPage(CPU, first, dfn(0x5), 0, false);
    rig.driver.flush.requestWait(CPU);
    expect(rig.finish()).toEqual([
      '0: iotlb page did 0 dfn 5 order 0 drains rw',
      '0: wait 1=1',
      '0: device-tlb 300 5',
      '0: wait 1=1',
    ]);
  });

  test('is not told before the unit has done the IOTLB invalidation', () => {
    const { rig, first } = rigOf();
    rig.driver.flush.requestDomain(CPU, first);
    expect(rig.submit()).toBe(Progress.blocked);
    expect(rig.queued()).toEqual(['0: iotlb domain did 0 drains rw', '0: wait 1=1']);
    expect(rig.driver.flush.awaited(CPU)).toBe(1);
    rig.runUnits();
    expect(rig.submit()).toBe(Progress.blocked);
    expect(rig.queued()).toEqual(['0: device-tlb 300 sized 7ffffffffffff', '0: wait 1=1']);
  });

  test.each([
    [1, 4, '4'],
    [2, 4, '5'],
    [3, 8, 'b'],
    [9, 512, '2ff'],
  ])('reads from the lowest 0 of the address that 2^%i pages are meant', (order, first, address) => {
    const { rig, second } = rigOf();
    rig.driver.flush.requestPage(CPU, second, dfn(first), order, false);
    expect(rig.finish()[2]).toBe(`0: device-tlb 500 sized ${address}`);
  });

  test('is told of everything where the unit cannot do pages', () => {
    const { rig, first } = rigOf({ ...withTlbs, units: [{ deviceTlb: true, pageSelective: false }] });
    rig.driver.flush.requestPage(CPU, first, dfn(5), 0, false);
    expect(rig.finish()[2]).toBe('0: device-tlb 300 sized 7ffffffffffff');
  });

  test('of any did is told of a global invalidation, in the order given', () => {
    const { rig } = rigOf();
    rig.driver.flush.requestGlobal(CPU);
    const told = rig.finish().filter((one) => one.includes('device-tlb'));
    expect(told).toEqual(['0: device-tlb 500 sized 7ffffffffffff', '0: device-tlb 300 sized 7ffffffffffff']);
  });

  test('of another did, or behind another unit, is left alone', () => {
    const { rig } = rigOf({ ...withTlbs, units: [{ deviceTlb: true }, { deviceTlb: true }] });
    const third = rig.domain(3, [1], '0000:06:00.0');
    rig.driver.flush.requestDomain(CPU, third);
    expect(rig.finish()).toEqual(['1: iotlb domain did 0 drains rw']);
  });

  test.each([
    [true, 1],
    [false, 0],
  ])('shows in the translation type of the entries of a unit that knows them: %s', (deviceTlb, type) => {
    const { rig } = rigOf({ ...withTlbs, units: [{ deviceTlb }] });
    const table = rig.frames.readWord(rig.driver.rootTable(unit(0)), 3 * 4) >>> 12;
    const words = [0, 1, 2, 3].map((word) => rig.frames.readWord(table, word));
    expect(decode(contextEntry, words).translationType).toBe(type);
  });
});

test('a removal on an idle CPU between two units of one request is not covered by it', () => {
  const rig = new DriverRig({ units: [{}, {}] });
  const id = rig.domain(1, [0, 1]);
  const { flush } = rig.driver;
  flush.requestDomain(CPU, id);
  expect(flush.step(CPU)).toBe(Progress.more);
  rig.driver.map(1 as typeof CPU, id, dfn(5), rig.frame(), 3);
  rig.driver.unmap(1 as typeof CPU, id, dfn(5), 0);
  flush.requestWait(CPU);
  rig.finish();
  expect(flush.isPending(id, dfn(5), 0)).toBe(true);
});
