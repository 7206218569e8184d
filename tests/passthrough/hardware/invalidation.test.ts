// Goal: an invalidation does the same by register as by queue, and the queue is consumed step by step.
// Method: retained leaves of the adversary show what was invalidated; registers show what the unit says of it.

import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { sourceMatches } from '../../../passthrough/hardware/caches/lru-caches.ts';
import { Register } from '../../../passthrough/hardware/index.ts';
import {
  answers,
  type ContextInvalidation,
  contextWords,
  DEVICE,
  type Invalidation,
  iotlbWords,
  type Mapped,
  mapped,
  OTHER_DEVICE,
  RW,
  waitWords,
} from './tables.ts';

const PAGES = [0, 1, 2, 3, 8, 15, 16];

/** Two devices with dids of their own and leaves that the tables hold no longer. */
function stale(): Mapped {
  const all = mapped();
  const { rig, contexts, path, leaves } = all;
  for (const dfn of PAGES) rig.entry(leaves, dfn, 40 + dfn, RW);
  rig.context(contexts, OTHER_DEVICE, { table: path[0]!, did: 2 });
  for (const dfn of PAGES) rig.absent(leaves, dfn);
  rig.clearContext(contexts, OTHER_DEVICE);
  rig.context(contexts, DEVICE, { table: path[0]!, did: 3 });
  return all;
}

function allAnswers({ rig }: Mapped): string[][] {
  return [DEVICE, OTHER_DEVICE].flatMap((source) => PAGES.map((dfn) => answers(rig.may(dfn, source))));
}

describe('the register path and the queue path give the same effect', () => {
  const iotlb: fc.Arbitrary<Invalidation> = fc.record({
    granularity: fc.constantFrom('global' as const, 'domain' as const, 'page' as const),
    did: fc.integer({ min: 0, max: 3 }),
    dfn: fc.constantFrom(...PAGES),
    order: fc.nat(5),
    hint: fc.boolean(),
  });
  test.prop([iotlb], { numRuns: 60 })('for the IOTLB', (invalidation) => {
    const [queue, register] = [stale(), stale()];
    queue.rig.iotlb(invalidation);
    register.rig.iotlbByRegister(invalidation);
    expect(allAnswers(register)).toEqual(allAnswers(queue));
  });

  const context: fc.Arbitrary<ContextInvalidation> = fc.record({
    granularity: fc.constantFrom('global' as const, 'domain' as const, 'device' as const),
    did: fc.integer({ min: 0, max: 3 }),
    source: fc.constantFrom(DEVICE, OTHER_DEVICE),
    functionMask: fc.nat(3),
  });
  test.prop([context], { numRuns: 60 })('for the context cache', (invalidation) => {
    const [queue, register] = [stale(), stale()];
    queue.rig.contextCache(invalidation);
    register.rig.contextCacheByRegister(invalidation);
    expect(allAnswers(register)).toEqual(allAnswers(queue));
  });

  test('the test machine has something to lose by each of them', () => {
    const before = allAnswers(stale());
    for (const did of [1, 2]) {
      const machine = stale();
      machine.rig.iotlb({ granularity: 'domain', did });
      expect(allAnswers(machine)).not.toEqual(before);
    }
    const machine = stale();
    machine.rig.contextCache({ granularity: 'global' });
    expect(allAnswers(machine)).not.toEqual(before);
  });
});

describe('a page-selective invalidation', () => {
  const gone = ({ rig }: Mapped) => PAGES.filter((dfn) => !answers(rig.may(dfn)).includes(`${40 + dfn} rw`));

  test.each<[number, number, number[]]>([
    [1, 0, [1]],
    [0, 1, [0, 1]],
    [2, 1, [2, 3]],
    [0, 2, [0, 1, 2, 3]],
    [0, 3, [0, 1, 2, 3]],
    [8, 3, [8, 15]],
    [0, 4, [0, 1, 2, 3, 8, 15]],
    [16, 4, [16]],
    [0, 5, PAGES],
  ])('of page %i with mask %i covers the pages %j', (dfn, order, pages) => {
    const machine = stale();
    machine.rig.iotlb({ granularity: 'page', did: 1, dfn, order });
    machine.rig.contextCache({ granularity: 'domain', did: 2 });
    expect(gone(machine)).toEqual(pages);
  });

  test('of a misaligned address covers the aligned range around it', () => {
    const machine = stale();
    machine.rig.iotlb({ granularity: 'page', did: 1, dfn: 3, order: 2 });
    expect(gone(machine)).toEqual([0, 1, 2, 3]);
  });
});

test.prop([fc.nat(0xffff), fc.nat(0xffff), fc.nat(3)])(
  'a function mask hides the low 0, 1, 2 or 3 of the function bits from the top: 100, 110, 111',
  (source, wanted, mask) => {
    const hidden = [0b000, 0b100, 0b110, 0b111][mask]!;
    const bits = Array.from({ length: 16 }, (_, bit) => bit).filter((bit) => ((hidden >> bit) & 1) === 0);
    const same = bits.every((bit) => ((source >> bit) & 1) === ((wanted >> bit) & 1));
    expect(sourceMatches(source, wanted, mask)).toBe(same);
  },
);

describe('the registers', () => {
  test('show a command as pending until it is complete, then the granularity that was performed', () => {
    const { rig } = stale();
    const { unit } = rig;
    const register = unit.iotlbRegister;
    unit.writeRegister(register, 0, (0x80000000 | (2 << 28) | 1) >>> 0);
    expect(unit.readHigh(register) >>> 31).toBe(1);
    expect(unit.canStep()).toBe(true);
    unit.step();
    expect(unit.readHigh(register) >>> 31).toBe(1);
    unit.step();
    expect(unit.readHigh(register)).toBe(((2 << 28) | (2 << 25) | 1) >>> 0);
    unit.writeRegister(Register.CCMD, (DEVICE << 16) | 3, (0x80000000 | (3 << 29)) >>> 0);
    rig.run();
    expect(unit.readHigh(Register.CCMD)).toBe(((3 << 29) | (3 << 27)) >>> 0);
  });

  test('cannot be written where software only reads', () => {
    const { unit } = stale().rig;
    for (const register of [Register.CAP, Register.ECAP, Register.GSTS, Register.IQH]) {
      const before = [unit.readLow(register), unit.readHigh(register)];
      unit.writeRegister(register, 0x12345670, 0x89abcdef);
      expect([unit.readLow(register), unit.readHigh(register)]).toEqual(before);
    }
  });

  test('count what the unit did', () => {
    const { rig } = mapped();
    rig.iotlb({ granularity: 'global' });
    rig.iotlb({ granularity: 'domain', did: 1 });
    rig.iotlb({ granularity: 'page', did: 1 });
    rig.iotlb({ granularity: 'page', did: 1 });
    rig.contextCache({ granularity: 'global' });
    const { unit } = rig;
    expect([unit.counter('globalInvalidations'), unit.counter('domainInvalidations')]).toEqual([1, 1]);
    expect([unit.counter('pageInvalidations'), unit.counter('contextInvalidations')]).toEqual([2, 1]);
  });
});

const iotlb = () => iotlbWords({ granularity: 'domain', did: 1 });
const wait = () => waitWords(4, 0, 7);
const contextCommand = () => [0x31, DEVICE, 0, 0];

describe('the queue', () => {
  test('is consumed one step at a time: fetched, then completed', () => {
    const { rig, leaves } = mapped();
    const { unit } = rig;
    const status = rig.table();
    rig.submit(iotlbWords({ granularity: 'domain', did: 1 }));
    rig.submit(waitWords(status, 3, 0xbeef));
    rig.entry(leaves, 5, 40, RW);
    const heads = [];
    const seen = [];
    while (unit.canStep()) {
      expect(unit.step()).toBe(true);
      heads.push(unit.readLow(Register.IQH) >>> 4);
      seen.push(rig.frames.readWord(status, 3));
    }
    expect(heads).toEqual([1, 1, 2]);
    expect(seen).toEqual([0, 0, 0xbeef]);
    expect(unit.step()).toBe(false);
    expect(unit.queued).toBe(0);
    expect(unit.counter('waits')).toBe(1);
  });

  test.each([
    ['a context command', 0, 1 << 6, contextCommand],
    ['a context command, high', 1, 1 << 18, contextCommand],
    ['an IOTLB command', 0, 1 << 8, iotlb],
    ['an IOTLB command, data', 1, 1, iotlb],
    ['an IOTLB command, address', 2, 1 << 7, iotlb],
    ['a wait', 0, 1 << 8, wait],
    ['a wait, address', 2, 1, wait],
  ])('stops at %s with a reserved bit (word %i)', (_, word, bit, make) => {
    const { rig } = mapped();
    const words = [...make()];
    words[word]! |= bit;
    rig.submit(words);
    rig.run();
    expect([rig.unit.queued, rig.unit.faults.queueStopped]).toEqual([1, true]);
  });

  test('in no memory is an error, and one of more than a page a misuse', () => {
    const { rig } = mapped();
    rig.submit(iotlb());
    rig.unit.writeRegister(Register.IQA, 0xfffff000, 0xff);
    expect(rig.unit.step()).toBe(true);
    expect(rig.unit.faults.queueStopped).toBe(true);
    expect(() => rig.unit.writeRegister(Register.IQA, 0x1003)).toThrow('expected a queue of one page');
  });

  test('writes no status where the wait does not ask for it', () => {
    const { rig } = mapped();
    const status = rig.table();
    const words = waitWords(status, 0, 7);
    rig.submit([words[0]! & ~0x20, ...words.slice(1)]);
    rig.run();
    expect(rig.frames.readWord(status, 0)).toBe(0);
    expect(rig.unit.queued).toBe(0);
  });

  test('wraps after 256 descriptors', () => {
    const { rig, leaves } = mapped();
    for (let round = 0; round < 600; round += 1) rig.iotlb({ granularity: 'page', did: 7, dfn: round });
    expect(rig.unit.readLow(Register.IQT)).toBe((600 % 256) * 16);
    expect(rig.unit.readLow(Register.IQH)).toBe((600 % 256) * 16);
    rig.entry(leaves, 5, 40, RW);
    rig.absent(leaves, 5);
    for (let count = 0; count < 254; count += 1) rig.submit(iotlbWords({ granularity: 'page', did: 7 }));
    rig.submit(iotlbWords({ granularity: 'page', did: 1, dfn: 5 }));
    expect(rig.unit.queued).toBe(255);
    rig.run();
    expect(rig.unit.queued).toBe(0);
    expect(answers(rig.may(5))).toEqual(['fault 6']);
  });

  test('stands still at a descriptor that it does not know, until software has cleared the error', () => {
    const { rig } = mapped();
    const { unit } = rig;
    const status = rig.table();
    rig.submit([0xf, 0, 0, 0]);
    rig.submit(waitWords(status, 0, 1));
    rig.run();
    expect(unit.readLow(Register.FSTS)).toBe(0x10);
    expect(unit.readLow(Register.IQH)).toBe(0);
    expect(unit.canStep()).toBe(false);
    expect(rig.frames.readWord(status, 0)).toBe(0);
    // As Linux does: the descriptor becomes a harmless one, then the error is cleared.
    rig.frames.writeWideEntry(unit.queueFrame as typeof status, 0, 5, 0, 0, 0);
    expect(unit.step()).toBe(false);
    unit.writeRegister(Register.FSTS, 0x10);
    rig.run();
    expect(unit.readLow(Register.FSTS)).toBe(0);
    expect(rig.frames.readWord(status, 0)).toBe(1);
  });

  test('stops again when the error is cleared and the descriptor is not', () => {
    const { rig } = mapped();
    rig.submit([0, 0, 0, 0]);
    rig.run();
    rig.unit.writeRegister(Register.FSTS, 0x10);
    expect(rig.unit.canStep()).toBe(true);
    rig.unit.step();
    expect(rig.unit.readLow(Register.FSTS)).toBe(0x10);
  });

  test.each([
    ['IOTLB', 2],
    ['context-cache', 1],
  ])('takes the reserved granularity 0 of an %s descriptor for an error', (_, type) => {
    const machine = stale();
    const before = allAnswers(machine);
    machine.rig.submit([type | (1 << 16), 0, 0, 0]);
    machine.rig.run();
    expect(machine.rig.unit.readLow(Register.FSTS)).toBe(0x10);
    expect(allAnswers(machine)).toEqual(before);
  });

  test('begins anew when it is enabled again', () => {
    const { rig } = mapped();
    rig.iotlb({ granularity: 'global' });
    rig.command(rig.unit, { translationEnable: 1 });
    expect(rig.unit.queueEnabled).toBe(false);
    rig.submit(contextWords({ granularity: 'global' }));
    expect(rig.unit.canStep()).toBe(false);
    rig.command(rig.unit, { translationEnable: 1, queuedInvalidationEnable: 1 });
    expect([rig.unit.readLow(Register.IQH), rig.unit.readLow(Register.IQT)]).toEqual([0, 0]);
  });
});
