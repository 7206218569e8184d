// Goal: what a policy asks for reaches every unit that serves the domain, as that unit can do it, and a wait ends when
// those units are done. Method: a scripted policy; the descriptors in the queues decoded as text.

import { describe, expect, test } from 'vitest';
import { Progress } from '../../../machine/pending.ts';
import { nextBit } from '../../../machine/wide.ts';
import { type Capabilities, Register } from '../../../passthrough/hardware/index.ts';
import { waitWords } from '../hardware/tables.ts';
import { CPU, DEVICE, DriverRig, dfn, OTHER_CPU, unit } from './driver-rig.ts';

/** One domain, number 1, with a device behind each unit. */
function served(units: readonly Partial<Capabilities>[] = [{}], options: { readonly frames?: number } = {}) {
  const rig = new DriverRig({ units, ...options });
  const domain = rig.domain(
    1,
    units.map((_, at) => at),
  );
  return { rig, domain, flush: rig.driver.flush };
}

const page = (of: ReturnType<typeof served>, at: number, order = 0, leavesOnly = false) =>
  of.flush.requestPage(CPU, of.domain, dfn(at), order, leavesOnly);

describe('an invalidation that is asked for', () => {
  test('becomes a descriptor of each granularity, with the drains that the unit has', () => {
    const of = served();
    page(of, 5);
    page(of, 8, 3, true);
    of.flush.requestDomain(CPU, of.domain);
    of.flush.requestGlobal(CPU);
    expect(of.rig.submit()).toBe(Progress.done);
    expect(of.rig.queued()).toEqual([
      '0: iotlb page did 0 dfn 5 order 0 drains rw',
      '0: iotlb page did 0 dfn 8 order 3 hint drains rw',
      '0: iotlb domain did 0 drains rw',
      '0: iotlb global did 0 drains rw',
    ]);
    expect(of.flush.isIdle(CPU)).toBe(true);
  });

  test.each<[Partial<Capabilities>, string]>([
    [{ drainReads: false }, 'drains w'],
    [{ drainWrites: false }, 'drains r'],
    [{ drainReads: false, drainWrites: false }, 'drains'],
  ])('asks for no drain that the unit has not: %j', (capabilities, text) => {
    const of = served([capabilities]);
    of.flush.requestDomain(CPU, of.domain);
    of.rig.submit();
    expect(of.rig.queued()).toEqual([`0: iotlb domain did 0 ${text}`]);
  });

  test.each<[string, Partial<Capabilities>, number, string]>([
    ['the unit has none', { pageSelective: false }, 0, 'domain did 0'],
    ['the range is too large', { maxAddressMask: 8 }, 9, 'domain did 0'],
    ['the range is as large as can be', { maxAddressMask: 9 }, 9, 'page did 0 dfn 512 order 9'],
  ])('is page-selective where the unit can do it: %s', (_, capabilities, order, text) => {
    const of = served([capabilities]);
    page(of, 512, order);
    of.rig.submit();
    expect(of.rig.queued()).toEqual([`0: iotlb ${text} drains rw`]);
  });

  test('carries device frames beyond 2^32', () => {
    const of = served([{ levels: [5], addressBits: 57 }]);
    page(of, 2 ** 40 + 4, 2);
    of.rig.submit();
    expect(of.rig.queued()).toEqual([`0: iotlb page did 0 dfn ${2 ** 40 + 4} order 2 drains rw`]);
  });

  test('goes nowhere for a domain without devices', () => {
    const rig = new DriverRig();
    const domain = rig.domain(2);
    rig.driver.flush.requestDomain(CPU, domain);
    rig.driver.flush.requestPage(CPU, domain, dfn(5), 0, false);
    expect(rig.finish()).toEqual([]);
  });

  test('goes to every unit that serves the domain, by the did that it has there', () => {
    const rig = new DriverRig({ units: [{}, {}, { cachingMode: true }] });
    rig.domain(1, [0, 1]);
    const two = rig.domain(2, [1, 2], '0000:04:00.0');
    rig.driver.flush.requestDomain(CPU, two);
    rig.submit();
    expect(rig.units.flatMap((of) => rig.queued(of))).toEqual([
      '1: iotlb domain did 1 drains rw',
      '2: iotlb domain did 1 drains rw',
    ]);
  });

  test('goes to all units when it is global', () => {
    const rig = new DriverRig({ units: [{}, {}] });
    rig.domain(1, [1]);
    rig.driver.flush.requestGlobal(CPU);
    rig.submit();
    expect(rig.units.map((of) => rig.queued(of).length)).toEqual([1, 1]);
  });

  test('resolves the did when it is submitted, not when it is asked for', () => {
    const of = served();
    of.flush.requestDomain(CPU, of.domain);
    of.rig.driver.leave(of.domain, unit(0));
    of.rig.domain(3, [], DEVICE);
    expect(of.rig.finish(), 'the domain has no did there any more').toEqual([]);
  });

  test('is refused when too many are asked for at once', () => {
    const of = served();
    for (let at = 0; at < 62; at += 1) page(of, at);
    expect(() => page(of, 62)).toThrow(/scripted/);
  });
});

describe('a wait', () => {
  test('is a descriptor behind the invalidations, and over when its status is written', () => {
    const of = served();
    page(of, 5);
    of.flush.requestWait(CPU);
    expect(of.flush.isUnwaited(CPU)).toBe(true);
    expect(of.rig.submit()).toBe(Progress.blocked);
    expect(of.rig.queued()).toEqual(['0: iotlb page did 0 dfn 5 order 0 drains rw', '0: wait 1=1']);
    expect(of.flush.awaited(CPU)).toBe(1);
    const [only] = of.rig.units;
    for (let step = 0; step < 2; step += 1) {
      only!.step();
      expect(of.flush.step(CPU)).toBe(Progress.blocked);
    }
    only!.step();
    expect(of.flush.step(CPU)).toBe(Progress.done);
    expect([of.flush.awaited(CPU), of.flush.isUnwaited(CPU), of.flush.isIdle(CPU)]).toEqual([0, false, true]);
  });

  test('covers the units that were sent something, and no others', () => {
    const rig = new DriverRig({ units: [{}, {}] });
    const one = rig.domain(1, [1]);
    rig.driver.flush.requestDomain(CPU, one);
    rig.driver.flush.requestWait(CPU);
    rig.submit();
    expect(rig.units.map((of) => rig.queued(of).length)).toEqual([0, 2]);
    rig.units[0]!.step();
    expect(rig.driver.flush.step(CPU)).toBe(Progress.blocked);
    rig.runUnits();
    expect(rig.driver.flush.step(CPU)).toBe(Progress.done);
  });

  test('is not over before every unit is done', () => {
    const of = served([{}, {}]);
    of.flush.requestDomain(CPU, of.domain);
    of.flush.requestWait(CPU);
    of.rig.submit();
    for (const one of of.rig.units) {
      expect(of.flush.step(CPU)).toBe(Progress.blocked);
      while (one.step());
    }
    expect(of.flush.step(CPU)).toBe(Progress.done);
  });

  test('with nothing sent before it is over at once', () => {
    const of = served();
    of.flush.requestWait(CPU);
    expect(of.rig.finish()).toEqual([]);
  });

  test('of one CPU is no wait of another', () => {
    const of = served();
    page(of, 5);
    of.flush.requestPage(OTHER_CPU, of.domain, dfn(6), 0, false);
    of.flush.requestWait(OTHER_CPU);
    of.rig.submit(OTHER_CPU);
    expect([of.flush.awaited(CPU), of.flush.awaited(OTHER_CPU)]).toEqual([0, 1]);
    of.rig.submit(CPU);
    of.rig.runUnits();
    expect(of.flush.step(OTHER_CPU)).toBe(Progress.done);
    expect(of.flush.isUnwaited(CPU)).toBe(true);
  });

  test('of two CPUs at once ends for each by its own status word', () => {
    const of = served();
    for (const vcpu of [CPU, OTHER_CPU]) {
      of.flush.requestDomain(vcpu, of.domain);
      of.flush.requestWait(vcpu);
      of.rig.submit(vcpu);
    }
    for (let step = 0; step < 3; step += 1) of.rig.units[0]!.step();
    expect([of.flush.step(CPU), of.flush.step(OTHER_CPU)]).toEqual([Progress.done, Progress.blocked]);
  });

  test('is held up by a translated access that the invalidation drains', () => {
    const of = served();
    const slot = of.rig.dma.hold({ unit: 0, did: 0, sourceId: 0x300, dfn: 5, frame: 9, access: 2, word: 0, value: 0 });
    page(of, 5);
    of.flush.requestWait(CPU);
    of.rig.submit();
    of.rig.runUnits();
    expect(of.flush.step(CPU)).toBe(Progress.blocked);
    of.rig.dma.release(slot);
    of.rig.runUnits();
    expect(of.flush.step(CPU)).toBe(Progress.done);
  });
});

describe('a full queue', () => {
  /** Waits of somebody else's, until no descriptor fits. */
  function fill(of: ReturnType<typeof served>): void {
    const [only] = of.rig.units;
    const status = of.rig.frame();
    while (only!.queued < 255) {
      const tail = only!.readLow(Register.IQT) >>> 4;
      const [w0, w1, w2, w3] = waitWords(status, 0, 1) as [number, number, number, number];
      of.rig.frames.writeWideEntry(only!.queueFrame as typeof status, tail, w0, w1, w2, w3);
      only!.writeRegister(Register.IQT, ((tail + 1) % 256) << 4);
    }
  }

  function expectBlockedWithoutTrace(of: ReturnType<typeof served>): void {
    const mark = of.rig.heap.mark();
    expect(of.flush.step(CPU)).toBe(Progress.blocked);
    expect([...of.rig.heap.segmentsSince(mark)]).toEqual([]);
    of.rig.heap.release(mark);
    of.rig.units[0]!.step();
    expect(of.flush.step(CPU)).not.toBe(Progress.blocked);
  }

  test('blocks the CPU without a trace, until the hardware has taken something', () => {
    const of = served();
    fill(of);
    page(of, 5);
    expectBlockedWithoutTrace(of);
    expect(of.rig.queued().at(-1)).toBe('0: iotlb page did 0 dfn 5 order 0 drains rw');
  });

  test('blocks a wait as well', () => {
    const of = served();
    page(of, 5);
    expect(of.flush.step(CPU)).not.toBe(Progress.blocked);
    fill(of);
    of.flush.requestWait(CPU);
    expectBlockedWithoutTrace(of);
  });
});

describe('a unit without a queue', () => {
  const registerOnly = () => served([{ queuedInvalidation: false }]);

  test('is invalidated by registers, one command at a time', () => {
    const of = registerOnly();
    const [only] = of.rig.units;
    page(of, 5);
    page(of, 6);
    expect(of.rig.submit(), 'the register is in use').toBe(Progress.blocked);
    expect(only!.readHigh(only!.iotlbRegister) >>> 31).toBe(1);
    of.rig.runUnits();
    expect(of.rig.submit()).toBe(Progress.done);
    of.rig.runUnits();
    expect(only!.counter('pageInvalidations')).toBe(2);
  });

  test('is waited for by its register', () => {
    const of = registerOnly();
    const [only] = of.rig.units;
    of.flush.requestDomain(CPU, of.domain);
    of.flush.requestWait(CPU);
    expect(of.rig.submit()).toBe(Progress.blocked);
    only!.step();
    expect(of.flush.step(CPU)).toBe(Progress.blocked);
    only!.step();
    expect(of.flush.step(CPU)).toBe(Progress.done);
  });
});

describe('a change of access', () => {
  test('is shown to the policy with what it needs to know, and removals are noted', () => {
    const { rig, domain } = served([{}, { cachingMode: true }]);
    const [one, other] = [rig.frame(), rig.frame()];
    const { driver } = rig;
    driver.map(CPU, domain, dfn(5), one, 1);
    driver.map(CPU, domain, dfn(5), one, 3);
    driver.map(CPU, domain, dfn(5), one, 3);
    driver.map(CPU, domain, dfn(5), other, 3);
    driver.map(CPU, domain, dfn(5), other, 1);
    driver.unmap(CPU, domain, dfn(5), 0);
    driver.unmap(CPU, domain, dfn(5), 0);
    driver.map(CPU, domain, dfn(5), one, 3);
    const fields = rig.shown.map(({ from, to, frameChanged, pendingRemoval }) => [
      from,
      to,
      frameChanged,
      pendingRemoval,
    ]);
    expect(fields).toEqual([
      ['none', 'ro', false, false],
      ['ro', 'rw', false, false],
      ['rw', 'rw', true, false],
      ['rw', 'ro', false, false],
      ['ro', 'none', false, false],
      ['none', 'rw', false, true],
    ]);
    expect(rig.shown.every(({ absentMayBeCached }) => absentMayBeCached)).toBe(true);
    expect(driver.flush.ledger.uncovered(CPU)).toBe(3);
  });

  test('of a range is one change, its rights the strongest that were taken', () => {
    const { rig, domain } = served();
    const frame = rig.frame();
    rig.driver.map(CPU, domain, dfn(8), frame, 1);
    rig.driver.map(CPU, domain, dfn(11), frame, 3);
    expect(rig.driver.unmap(CPU, domain, dfn(8), 2)).toBe(2);
    expect(rig.shown.at(-1)).toMatchObject({ dfn: 8, order: 2, from: 'rw', to: 'none' });
    expect(rig.driver.flush.ledger.uncovered(CPU)).toBe(1);
  });

  test('of a domain without devices is shown to nobody', () => {
    const rig = new DriverRig();
    const domain = rig.domain(1);
    rig.driver.map(CPU, domain, dfn(5), rig.frame(), 3);
    rig.driver.unmap(CPU, domain, dfn(5), 0);
    expect([rig.shown.length, rig.driver.flush.ledger.size(CPU)]).toEqual([0, 0]);
  });

  /** Maps and unmaps a page of a domain whose policy never flushes. */
  function neverFlushed(release: 'onReturn' | 'afterFlush') {
    const rig = new DriverRig({ ledgerCapacity: 64, release });
    const domain = rig.domain(1, [0]);
    const frame = rig.frame();
    const { flush } = rig.driver;
    const removeOne = () => {
      rig.driver.map(CPU, domain, dfn(5), frame, 3);
      rig.driver.unmap(CPU, domain, dfn(5), 0);
    };
    const holdOne = () => {
      removeOne();
      flush.hold(CPU, 1, 0, 0, 0, 0, 0);
    };
    return { flush, removeOne, holdOne };
  }

  test('that is never flushed is forgotten when the queue is full, where release is on return', () => {
    const { flush, removeOne } = neverFlushed('onReturn');
    for (let round = 0; round < 200; round += 1) removeOne();
    expect(flush.ledger.uncovered(CPU)).toBe(64);
  });

  test('that holds a completion back is never forgotten', () => {
    for (const release of ['onReturn', 'afterFlush'] as const) {
      const { holdOne } = neverFlushed(release);
      for (let round = 0; round < 63; round += 1) holdOne();
      expect(() => {
        holdOne();
        holdOne();
      }).toThrow(/64 removals on vCPU 0 were never flushed/);
    }
  });

  test('is never forgotten where release waits for its flush', () => {
    const { removeOne } = neverFlushed('afterFlush');
    for (let round = 0; round < 64; round += 1) removeOne();
    expect(removeOne).toThrow(/64 removals on vCPU 0 were never flushed/);
  });
});

test('nextBit finds the lowest bit at or above a place', () => {
  expect([nextBit(0, 0), nextBit(0b1010, 0), nextBit(0b1010, 2), nextBit(0b1010, 4)]).toEqual([-1, 1, 3, -1]);
  expect([nextBit(0x80000000, 0), nextBit(0xffffffff, 31), nextBit(0xffffffff, 32)]).toEqual([31, 31, -1]);
});
