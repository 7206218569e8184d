// Goal: tables are written back where a unit does not snoop, and a write buffer is flushed by command exactly where the
// invalidation was left out that would have flushed it. Method: registers that the driver writes; what units see after.

import { describe, expect, test } from 'vitest';
import { type Capabilities, Register } from '../../../passthrough/hardware/index.ts';
import { xen } from '../../../passthrough/policy/index.ts';
import { CPU, DriverRig, dfn } from './driver-rig.ts';

const WRITE_BUFFER_FLUSH = 1 << 27;
const RWBF = { writeBufferFlush: true } as const;

function rigOf(units: readonly Partial<Capabilities>[]) {
  const rig = new DriverRig({ units, policy: xen, superpages: true, frames: 1200 });
  const flushed: number[] = [];
  for (const unit of rig.units) {
    const write = unit.writeRegister.bind(unit);
    unit.writeRegister = (offset, low, high) => {
      if (offset === Register.GCMD && (low & WRITE_BUFFER_FLUSH) !== 0) flushed.push(unit.index);
      write(offset, low, high);
    };
  }
  const all = units.map((_, at) => at);
  const taken = () => flushed.splice(0);
  return { rig, all, taken };
}

describe('a write buffer is flushed by command', () => {
  test('after a context entry that was absent, without caching mode', () => {
    for (const [cachingMode, units] of [
      [false, [0]],
      [true, []],
    ] as const) {
      const { rig, all, taken } = rigOf([{ ...RWBF, cachingMode }]);
      rig.domain(1, all);
      expect(taken()).toEqual(units);
      expect(rig.lag!.entries().filter(({ old }) => old.length > 0)).toEqual([]);
    }
  });

  test('after an entry that was absent, and not where one was modified: that is invalidated', () => {
    const { rig, all, taken } = rigOf([RWBF, {}]);
    const domain = rig.domain(1, all);
    taken();
    rig.driver.map(CPU, domain, dfn(5), rig.frame(), 3);
    expect([rig.finish(), taken()]).toEqual([[], [0]]);
    rig.driver.map(CPU, domain, dfn(5), rig.frame(), 3);
    expect([rig.finish().length > 0, taken()]).toEqual([true, []]);
    rig.driver.unmap(CPU, domain, dfn(5), 0);
    expect([rig.finish().length > 0, taken()]).toEqual([true, []]);
  });

  test('of the units that pass an absent entry over, while those with caching mode are told', () => {
    const { rig, all, taken } = rigOf([RWBF, { ...RWBF, cachingMode: true }, { cachingMode: true }, {}]);
    const domain = rig.domain(1, all);
    taken();
    rig.driver.map(CPU, domain, dfn(5), rig.frame(), 3);
    const sent = rig.finish().filter((one) => one.includes('iotlb'));
    expect(sent.map((one) => Number(one[0]))).toEqual([1, 2]);
    expect(taken()).toEqual([0]);
    expect(rig.lag!.entries().filter(({ old }) => old.length > 0)).toEqual([]);
  });

  test('of no unit that has none, and of none that the domain has no device behind', () => {
    const { rig, taken } = rigOf([{}, RWBF]);
    const domain = rig.domain(1, [0]);
    rig.driver.map(CPU, domain, dfn(5), rig.frame(), 3);
    rig.finish();
    expect(taken()).toEqual([]);
  });

  test('and is something left to do until then', () => {
    const { rig, all } = rigOf([RWBF]);
    const domain = rig.domain(1, all);
    rig.driver.map(CPU, domain, dfn(5), 40 as never, 3);
    expect([rig.driver.flush.isIdle(CPU), rig.may(5)]).toEqual([false, ['40 rw', 'fault 6']]);
    rig.finish();
    expect([rig.driver.flush.isIdle(CPU), rig.may(5)]).toEqual([true, ['40 rw']]);
  });
});

describe('tables are written back', () => {
  test.each<[string, (of: ReturnType<typeof rigOf>) => void]>([
    ['a page', ({ rig, all }) => void rig.driver.map(CPU, rig.domain(1, all), dfn(5), 40 as never, 3)],
    ['a large leaf', ({ rig, all }) => void rig.driver.map(CPU, rig.domain(1, all), dfn(512), 512 as never, 3, 9)],
    [
      'a large leaf that is split',
      ({ rig, all }) => {
        const domain = rig.domain(1, all);
        rig.driver.map(CPU, domain, dfn(512), 512 as never, 3, 9);
        rig.driver.unmap(CPU, domain, dfn(515), 0);
      },
    ],
  ])('with each write, where one unit does not snoop: %s', (_, write) => {
    const of = rigOf([{}, { coherent: false }]);
    write(of);
    const frames = of.rig.lag!.entries().map(({ frame }) => frame);
    // What is left is no table: where waits write their status, and data.
    for (const frame of frames) expect(of.rig.adversary.roles.first(frame)).toBe(0);
    expect(of.rig.lag!.entries().filter(({ old }) => old.length > 0)).toEqual([]);
  });
});
