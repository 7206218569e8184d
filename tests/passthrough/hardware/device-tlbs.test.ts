// Goal: a device that translates ahead keeps what it could have got until its own TLB is invalidated over it, and the
// queue stands still when it does not answer. Method: descriptors by hand; all that a request may get after each event.

import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { deviceTlbRange } from '../../../passthrough/hardware/device-tlbs.ts';
import { defaultLruShape, Register, requestTranslation } from '../../../passthrough/hardware/index.ts';
import { Access, FaultReason } from '../../../passthrough/hardware/registers.ts';
import { answers, DEVICE, type Mapped, mapped, OTHER_DEVICE, R, RW, waitWords } from './tables.ts';

const TABLES_AND_TLB = 1;

/** Page 5 leads to frame 40; the device may keep translations, the other one of the did has none of its own. */
function ahead(): Mapped {
  const of = mapped({ units: [{ deviceTlb: true }] });
  of.rig.entry(of.leaves, 5, 40, RW);
  for (const source of [DEVICE, OTHER_DEVICE])
    of.rig.context(of.contexts, source, { table: of.path[0]!, type: TABLES_AND_TLB });
  of.rig.contextCache({ granularity: 'global' });
  of.rig.iotlb({ granularity: 'global' });
  of.rig.unit.deviceTlbs!.setEnabled(DEVICE, true);
  return of;
}

const may = ({ rig }: Mapped, page = 5, source = DEVICE) => answers(rig.may(page, source));
const iotlb = ({ rig }: Mapped) => rig.iotlb({ granularity: 'domain', did: 1 });

/** A device-TLB descriptor: 2^order pages; -1: everything. */
function words(page: number, order: number, source = DEVICE): number[] {
  if (order < 0) return [3, source, 0xfffff001, 0x7fffffff];
  const address = order === 0 ? page : page + 2 ** (order - 1) - 1;
  return [3, source, ((address << 12) | Number(order > 0)) >>> 0, Math.floor(address / 0x100000)];
}

function invalidate({ rig }: Mapped, page: number, order: number, source = DEVICE): void {
  rig.submit(words(page, order, source));
  rig.run();
}

describe('the range of a descriptor', () => {
  test.prop([fc.nat(2 ** 31), fc.integer({ min: 0, max: 30 })])('is 2^order aligned pages', (page, order) => {
    const first = page - (page % 2 ** order);
    const [, , low, high] = words(first, order);
    expect(deviceTlbRange(low!, high!)).toEqual({ dfn: first, pages: 2 ** order });
  });

  test('beyond 32 bits of page number, and all there is', () => {
    expect(deviceTlbRange(0x00003001, 0x00800000)).toEqual({ dfn: 2 ** 43, pages: 8 });
    expect(deviceTlbRange(0x00005000, 0x00100000)).toEqual({ dfn: 2 ** 40 + 5, pages: 1 });
    expect(deviceTlbRange(0xfffff001, 0x7fffffff)).toBe(null);
  });
});

describe('a device TLB', () => {
  test('keeps what an invalidation of the IOTLB takes away, until it is told itself', () => {
    const of = ahead();
    of.rig.absent(of.leaves, 5);
    iotlb(of);
    expect(may(of)).toEqual(['40 rw', 'fault 6']);
    expect(of.rig.may(5).find(({ frame }) => frame === 40)).toMatchObject({ deviceTlb: true, current: false });
    expect(may(of, 5, OTHER_DEVICE), 'of the same did, with no TLB').toEqual(['fault 6']);
    invalidate(of, 5, 0);
    expect(may(of)).toEqual(['fault 6']);
  });

  test.each<[string, number, number, number, string[]]>([
    ['a page beside it', 6, 0, DEVICE, ['40 rw', 'fault 6']],
    ['the two pages with it', 4, 1, DEVICE, ['fault 6']],
    ['the two pages beside it', 6, 1, DEVICE, ['40 rw', 'fault 6']],
    ['eight pages', 0, 3, DEVICE, ['fault 6']],
    ['everything', 0, -1, DEVICE, ['fault 6']],
    ['everything of another device', 0, -1, OTHER_DEVICE, ['40 rw', 'fault 6']],
  ])('forgets what is covered: %s', (_, page, order, source, found) => {
    const of = ahead();
    of.rig.absent(of.leaves, 5);
    iotlb(of);
    invalidate(of, page, order, source);
    expect(may(of)).toEqual(found);
  });

  test('told before the IOTLB is clean fills itself again from there', () => {
    const of = ahead();
    of.rig.absent(of.leaves, 5);
    invalidate(of, 5, 0);
    iotlb(of);
    expect(may(of)).toEqual(['40 rw', 'fault 6']);
  });

  test('told before a table is out of reach fills itself again from below', () => {
    const of = ahead();
    of.rig.absent(of.path[1]!, 0);
    invalidate(of, 0, -1);
    iotlb(of);
    expect(may(of)).toEqual(['40 rw', 'fault 6']);
    invalidate(of, 0, -1);
    expect(may(of)).toEqual(['fault 6']);
  });

  test('keeps the rights that it got', () => {
    const of = ahead();
    of.rig.entry(of.leaves, 5, 40, R);
    iotlb(of);
    expect(may(of)).toEqual(['40 r', '40 rw']);
  });

  test('is invalidated as of the fetch: what it gets before the device answers may stay', () => {
    const of = ahead();
    of.rig.submit(words(5, 0));
    of.rig.unit.step();
    of.rig.absent(of.leaves, 5);
    iotlb(of);
    expect(may(of)).toEqual(['40 rw', 'fault 6']);
  });

  test('has everything of a context that is gone, where its new one lets it through', () => {
    const of = ahead();
    const other = of.rig.table();
    of.rig.context(of.contexts, DEVICE, { table: other, did: 2, type: TABLES_AND_TLB });
    of.rig.contextCache({ granularity: 'global' });
    of.rig.iotlb({ granularity: 'global' });
    expect(may(of)).toEqual(['40 rw', 'fault 6']);
    of.rig.context(of.contexts, DEVICE, { table: other, did: 2 });
    of.rig.contextCache({ granularity: 'global' });
    expect(may(of), 'translated requests are blocked').toEqual(['fault 6']);
  });

  test('has nothing any more once ATS was disabled, and nothing new while it is', () => {
    const of = ahead();
    of.rig.absent(of.leaves, 5);
    iotlb(of);
    of.rig.unit.deviceTlbs!.setEnabled(DEVICE, false);
    of.rig.entry(of.leaves, 6, 41, RW);
    of.rig.absent(of.leaves, 6);
    iotlb(of);
    of.rig.unit.deviceTlbs!.setEnabled(DEVICE, true);
    expect([may(of), may(of, 6)]).toEqual([['fault 6'], ['fault 6']]);
  });

  test('forgets a large leaf in parts', () => {
    const of = ahead();
    of.rig.entry(of.path[1]!, 1, 512, RW, { superpage: 1 });
    of.rig.absent(of.path[1]!, 1);
    iotlb(of);
    invalidate(of, 512, 3);
    expect([may(of, 515), may(of, 520)]).toEqual([['fault 6'], ['520 rw', 'fault 6']]);
  });
});

describe('a translation request', () => {
  test.each([undefined, defaultLruShape])('is blocked where the context entry does not let devices keep any', (lru) => {
    const of = mapped({ units: [{ deviceTlb: true }], ...(lru ? { lru } : {}) });
    of.rig.entry(of.leaves, 5, 40, RW);
    const ask = () => requestTranslation(of.rig.unit, DEVICE, 5, Access.read);
    expect(ask()).toBe(-FaultReason.requestBlocked);
    expect(of.rig.unit.faults.take()).toMatchObject([{ reason: 0xd, sourceId: DEVICE, dfn: 5 }]);
    of.rig.context(of.contexts, DEVICE, { table: of.path[0]!, type: 2, levels: 4 });
    of.rig.contextCache({ granularity: 'global' });
    expect(ask()).toBe(-FaultReason.requestBlocked);
    of.rig.context(of.contexts, DEVICE, { table: of.path[0]!, type: TABLES_AND_TLB });
    of.rig.contextCache({ granularity: 'global' });
    expect(ask()).toBe(40);
    of.rig.clearContext(of.contexts, DEVICE);
    of.rig.contextCache({ granularity: 'global' });
    expect(ask()).toBe(-FaultReason.contextNotPresent);
  });
});

describe('a device that does not answer', () => {
  function silent() {
    const of = ahead();
    const status = of.rig.table();
    of.rig.unit.deviceTlbs!.setSilent(DEVICE, true);
    of.rig.absent(of.leaves, 5);
    iotlb(of);
    of.rig.submit(words(5, 0));
    of.rig.submit(waitWords(status, 0, 1));
    of.rig.submit([2 | (1 << 4), 0, 0, 0]);
    return { of, status, unit: of.rig.unit };
  }

  test('holds the queue up until the unit gives it up: ITE, its source id, and no wait is written', () => {
    const { of, status, unit } = silent();
    const head = unit.readLow(Register.IQH);
    unit.step();
    expect([unit.unanswered, unit.readLow(Register.FSTS)]).toEqual([DEVICE, 0]);
    expect(unit.readLow(Register.IQH)).toBe(head + 16);
    unit.step();
    expect(unit.readLow(Register.FSTS)).toBe(0x40);
    expect(unit.readHigh(Register.IQER)).toBe(DEVICE);
    expect([unit.canStep(), unit.step(), unit.queued]).toEqual([false, false, 1]);
    expect(of.rig.frames.readWord(status, 0)).toBe(0);
    expect(may(of), 'nothing was taken away').toEqual(['40 rw', 'fault 6']);
  });

  test('the queue goes on when software has cleared the error, behind the wait that was given up', () => {
    const { of, status, unit } = silent();
    of.rig.run();
    const before = unit.counter('globalInvalidations');
    unit.writeRegister(Register.FSTS, 0x40);
    of.rig.run();
    expect([unit.unanswered, unit.queued, unit.readLow(Register.FSTS)]).toEqual([-1, 0, 0]);
    expect(unit.counter('globalInvalidations')).toBe(before + 1);
    expect(of.rig.frames.readWord(status, 0)).toBe(0);
  });

  test('and answers after all: the invalidation is done, and the wait is written', () => {
    const { of, status, unit } = silent();
    unit.step();
    unit.deviceTlbs!.setSilent(DEVICE, false);
    of.rig.run();
    expect([unit.unanswered, unit.readLow(Register.FSTS)]).toEqual([-1, 0]);
    expect(of.rig.frames.readWord(status, 0)).toBe(1);
    expect(may(of)).toEqual(['fault 6']);
  });

  test('of two the first is named', () => {
    const { of, unit } = silent();
    unit.deviceTlbs!.setSilent(OTHER_DEVICE, true);
    of.rig.run();
    unit.faults.invalidationTimeout(OTHER_DEVICE);
    expect(unit.faults.timeoutSource).toBe(DEVICE);
  });
});

test('what devices are and what they keep rolls back', () => {
  const of = ahead();
  const mark = of.rig.heap.mark();
  const before = of.rig.unit.deviceTlbs!.enabled();
  of.rig.unit.deviceTlbs!.setEnabled(OTHER_DEVICE, true);
  of.rig.unit.deviceTlbs!.setSilent(DEVICE, true);
  of.rig.absent(of.leaves, 5);
  iotlb(of);
  expect(may(of, 5, OTHER_DEVICE)).toEqual(['40 rw', 'fault 6']);
  of.rig.heap.rollback(mark);
  expect(of.rig.unit.deviceTlbs!.enabled()).toEqual(before);
  expect(of.rig.unit.deviceTlbs!.anySilent).toBe(false);
  expect([may(of), may(of, 5, OTHER_DEVICE)]).toEqual([['40 rw'], ['40 rw']]);
  of.rig.heap.release(mark);
});

test('a unit without device TLBs knows no such devices', () => {
  expect(mapped().rig.unit.deviceTlbs).toBe(null);
});

describe('against a device that keeps everything', () => {
  const PAGES = [0, 1, 2, 3, 512];
  const page = fc.constantFrom(...PAGES);
  const event = fc.oneof(
    { weight: 4, arbitrary: fc.record({ leaf: page, frame: fc.constantFrom(-1, 40, 41, 42) }) },
    { weight: 1, arbitrary: fc.record({ table: fc.nat(1), to: fc.nat(2) }) },
    { weight: 3, arbitrary: fc.record({ iotlb: page, order: fc.constantFrom(-1, 0, 1, 2) }) },
    { weight: 3, arbitrary: fc.record({ device: page, order: fc.constantFrom(-1, 0, 1, 2) }) },
    { weight: 1, arbitrary: fc.record({ root: fc.nat(1), did: fc.constantFrom(1, 2) }) },
    { weight: 1, arbitrary: fc.constant('context' as const) },
  );

  test.prop([fc.array(event, { maxLength: 40 })], { numRuns: 150 })(
    'nothing that it may have kept is missing, and told of everything it has what its unit has',
    (events) => {
      const of = ahead();
      const { rig } = of;
      const other = rig.table();
      const tables = [of.leaves, rig.table()];
      const roots = [of.path[0]!, other];
      rig.entry(other, 0, of.path[1]!, RW);
      const kept = new Map(PAGES.map((one) => [one, new Set<string>()]));
      const byUnit = (one: number) => answers(rig.may(one).filter((found) => found.frame >= 0 && !found.deviceTlb));
      const ask = () => {
        for (const one of PAGES) for (const text of byUnit(one)) kept.get(one)!.add(text);
      };
      const check = (what: string) => {
        for (const one of PAGES) {
          const found = rig.may(one);
          const missing = [...kept.get(one)!].filter((text) => {
            const [frame, rights] = text.split(' ') as [string, string];
            return !found.some(
              (any) => any.frame === Number(frame) && [...rights].every((r) => any.rights & (r === 'r' ? 1 : 2)),
            );
          });
          expect(missing, `page ${one} after ${what}`).toEqual([]);
        }
      };
      ask();
      for (const one of events) {
        if (one === 'context') rig.contextCache({ granularity: 'global' });
        else if ('leaf' in one) {
          if (one.frame < 0) rig.absent(tables[one.leaf >> 9]!, one.leaf & 511);
          else rig.entry(tables[one.leaf >> 9]!, one.leaf & 511, one.frame, RW);
        } else if ('table' in one) {
          if (one.to === 2) rig.absent(of.path[1]!, one.table);
          else rig.entry(of.path[1]!, one.table, tables[one.to]!, RW);
        } else if ('root' in one)
          rig.context(of.contexts, DEVICE, { table: roots[one.root]!, did: one.did, type: TABLES_AND_TLB });
        else if ('iotlb' in one) {
          const granularity = one.order < 0 ? 'global' : 'page';
          rig.iotlb({ granularity, did: 1, dfn: one.iotlb, order: Math.max(one.order, 0) });
        } else {
          const size = 2 ** Math.max(one.order, 0);
          const first = one.device - (one.device % size);
          invalidate(of, first, one.order);
          for (const at of PAGES) if (one.order < 0 || (at >= first && at < first + size)) kept.get(at)!.clear();
        }
        ask();
        check(JSON.stringify(one));
      }
      invalidate(of, 0, -1);
      for (const one of PAGES)
        expect(
          rig.may(one).filter(({ deviceTlb }) => deviceTlb),
          `page ${one}`,
        ).toEqual([]);
    },
  );
});
