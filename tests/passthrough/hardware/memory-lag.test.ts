// Goal: a unit that does not snoop sees what was before the write-back, one behind a write buffer what was before its
// flush, in both cache profiles. Method: entries written by hand, and all that a request may get after each event.

import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import type { Mfn } from '../../../machine/frame-number.ts';
import { fingerprint } from '../../../machine/heap/fingerprint.ts';
import { Access, type Capabilities, defaultLruShape } from '../../../passthrough/hardware/index.ts';
import { answers, DEVICE, type Mapped, mapped, R, RW } from './tables.ts';

const BLIND = { coherent: false } as const;
const BUFFERED = { writeBufferFlush: true } as const;
const BOTH = { ...BLIND, ...BUFFERED } as const;

/** Page 5 leads to frame 40, and every unit sees and remembers that. */
function settled(unit: Partial<Capabilities>, lru = false): Mapped {
  const of = mapped({ units: [unit], ...(lru ? { lru: defaultLruShape } : {}) });
  of.rig.entry(of.leaves, 5, 40, RW);
  for (const table of [0 as Mfn, of.root, of.contexts, ...of.path]) of.rig.frames.writeBack(table, 0, 1024);
  of.rig.contextCache({ granularity: 'global' });
  of.rig.iotlb({ granularity: 'global' });
  expect(of.rig.lag?.size ?? 0).toBe(0);
  return of;
}

const may = ({ rig }: Mapped, dfn = 5) => answers(rig.may(dfn));
const line = ({ rig, leaves }: Mapped, entry = 5) => rig.frames.writeBack(leaves, entry * 2, 2);
const drain = ({ rig }: Mapped) =>
  rig.command(rig.unit, { translationEnable: 1, queuedInvalidationEnable: 1, writeBufferFlush: 1 });

describe.each([
  ['that does not snoop', BLIND, line],
  ['behind a write buffer', BUFFERED, drain],
  [
    'of both kinds',
    BOTH,
    (of: Mapped, entry: number) => {
      line(of, entry);
      drain(of);
    },
  ],
] as const)('a unit %s', (_, unit, reach) => {
  test('goes by the old entry or the new one until the write has reached it', () => {
    const of = settled(unit);
    of.rig.entry(of.leaves, 6, 41, RW);
    expect(may(of, 6)).toEqual(['41 rw', 'fault 6']);
    reach(of, 6);
    expect(may(of, 6), 'an absent entry was read, and is not remembered').toEqual(['41 rw']);
  });

  test('walks, as one unit that is allowed, by the old entry until then', () => {
    const of = settled(unit, true);
    const at = (dfn: number) => of.rig.unit.translate(DEVICE, dfn, Access.read);
    of.rig.entry(of.leaves, 6, 41, RW);
    expect(at(6)).toBe(-6);
    reach(of, 6);
    expect(at(6)).toBe(41);
  });

  test('still has no context until then', () => {
    const of = settled(unit);
    of.rig.context(of.contexts, 0x10, { table: of.path[0]!, did: 2 });
    expect(answers(of.rig.may(5, 0x10))).toEqual(['40 rw', 'fault 2']);
    of.rig.frames.writeBack(of.contexts, 0x40, 4);
    drain(of);
    expect(answers(of.rig.may(5, 0x10))).toEqual(['40 rw']);
  });

  test('sees a new table as empty until its entries have reached it, whoever leads there', () => {
    const of = settled(unit);
    const table = of.rig.table();
    of.rig.frames.writeBack(table, 0, 1024);
    drain(of);
    of.rig.entry(table, 0, 50, R);
    of.rig.entry(of.path[1]!, 1, table, RW);
    of.rig.frames.writeBack(of.path[1]!, 2, 2);
    expect(may(of, 512)).toEqual(['50 r', 'fault 6']);
    of.rig.frames.writeBack(table, 0, 2);
    drain(of);
    expect(may(of, 512)).toEqual(['50 r']);
  });
});

describe('an invalidation', () => {
  test('that completes while memory says the old value does not take it away', () => {
    const of = settled(BLIND);
    of.rig.absent(of.leaves, 5);
    of.rig.iotlb({ granularity: 'page', did: 1, dfn: 5 });
    expect(may(of)).toEqual(['40 rw', 'fault 6']);
    line(of);
    expect(may(of), 'it was read just before').toEqual(['40 rw', 'fault 6']);
    of.rig.iotlb({ granularity: 'page', did: 1, dfn: 5 });
    expect(may(of)).toEqual(['fault 6']);
  });

  test('takes nothing away that was read after it was fetched', () => {
    const of = settled(BLIND);
    of.rig.absent(of.leaves, 5);
    of.rig.submit([2 | (1 << 4), 0, 0, 0]);
    of.rig.unit.step();
    line(of);
    of.rig.unit.step();
    expect(may(of)).toEqual(['40 rw', 'fault 6']);
  });

  test('of the context cache leaves an old context that memory still has', () => {
    const of = settled(BLIND);
    of.rig.clearContext(of.contexts, DEVICE);
    of.rig.contextCache({ granularity: 'global' });
    expect(may(of)).toEqual(['40 rw', 'fault 2']);
    of.rig.frames.writeBack(of.contexts, DEVICE * 4, 4);
    of.rig.contextCache({ granularity: 'global' });
    expect(may(of)).toEqual(['fault 2']);
  });

  test('flushes the write buffer on its way, by queue and by register', () => {
    for (const how of ['iotlb', 'iotlbByRegister'] as const) {
      const of = settled(BUFFERED);
      of.rig.absent(of.leaves, 5);
      of.rig[how]({ granularity: 'page', did: 1, dfn: 5 });
      expect(may(of), how).toEqual(['fault 6']);
    }
  });

  test('finds nothing in the buffer that is still in the cache', () => {
    const of = settled(BOTH);
    of.rig.absent(of.leaves, 5);
    of.rig.iotlb({ granularity: 'page', did: 1, dfn: 5 });
    expect(may(of)).toEqual(['40 rw', 'fault 6']);
    line(of);
    of.rig.iotlb({ granularity: 'page', did: 1, dfn: 5 });
    expect(may(of)).toEqual(['fault 6']);
  });
});

test('the buffer is flushed once per command, and by the command of its own unit', () => {
  const of = settled(BUFFERED);
  drain(of);
  of.rig.entry(of.leaves, 6, 41, RW);
  expect(of.rig.lag!.size).toBe(1);
  of.rig.lag!.flushBuffer(1);
  expect(of.rig.lag!.size).toBe(1);
  of.rig.lag!.flushBuffer(0);
  expect(of.rig.lag!.size).toBe(0);
});

test('two values that were written one after the other are both old', () => {
  const of = settled(BLIND);
  of.rig.entry(of.leaves, 5, 41, RW);
  of.rig.entry(of.leaves, 5, 42, RW);
  expect(may(of)).toEqual(['40 rw', '41 rw', '42 rw']);
  line(of);
  of.rig.iotlb({ granularity: 'global' });
  expect(may(of)).toEqual(['42 rw']);
});

test('a write that changes nothing is none', () => {
  const of = settled(BLIND);
  of.rig.entry(of.leaves, 5, 40, RW);
  expect(of.rig.lag!.size).toBe(0);
});

test('there is room for 32 entries, and then the oldest drains', () => {
  const of = settled(BLIND, true);
  for (let entry = 100; entry < 133; entry += 1) of.rig.entry(of.leaves, entry, entry, RW);
  expect(of.rig.lag!.size).toBe(32);
  const at = (dfn: number) => of.rig.unit.translate(DEVICE, dfn, Access.read);
  expect([at(100), at(101), at(132)]).toEqual([100, -6, -6]);
});

test('where all units snoop and none has a buffer nothing is kept', () => {
  expect(mapped().rig.lag).toBe(null);
});

describe('a page', () => {
  test('that is no table any more is forgotten', () => {
    const of = settled(BLIND);
    const table = of.rig.table();
    of.rig.entry(table, 1, 50, RW);
    expect(of.rig.lag!.entries().map(({ frame, word }) => [frame, word])).toEqual([
      [table, 0],
      [table, 2],
    ]);
    of.rig.freeTable(table);
    expect(of.rig.lag!.size).toBe(0);
  });

  test('that was cleared is not in memory before it is written back', () => {
    const of = settled(BOTH);
    const table = of.rig.table();
    expect(of.rig.lag!.entries()).toEqual([{ frame: table, word: 0, old: [], units: 1, isCached: true }]);
    of.rig.frames.writeBack(table, 0, 1024);
    expect(of.rig.lag!.entries()).toEqual([{ frame: table, word: 0, old: [], units: 1, isCached: false }]);
    drain(of);
    expect(of.rig.lag!.size).toBe(0);
  });
});

const event = fc.oneof(
  fc.record({ entry: fc.nat(3), frame: fc.integer({ min: 40, max: 43 }), rights: fc.constantFrom(0, R, RW) }),
  fc.record({ line: fc.nat(3) }),
  fc.constant('drain' as const),
  fc.constant('invalidate' as const),
);

test.prop([fc.constantFrom(BLIND, BUFFERED, BOTH), fc.array(event, { maxLength: 40 }), fc.nat(40)], { numRuns: 60 })(
  'what is not seen yet rolls back, and counts for what it says',
  (unit, events, at) => {
    const of = settled(unit);
    const run = (some: typeof events) => {
      for (const one of some) {
        if (one === 'drain') drain(of);
        else if (one === 'invalidate') of.rig.iotlb({ granularity: 'global' });
        else if ('line' in one) line(of, one.line);
        else of.rig.entry(of.leaves, one.entry, one.frame, one.rights);
      }
      return [fingerprint(of.rig.heap, ''), JSON.stringify([0, 1, 2, 3].map((dfn) => may(of, dfn)))];
    };
    run(events.slice(0, at));
    const before = run([]);
    const mark = of.rig.heap.mark();
    const after = run(events.slice(at));
    of.rig.heap.rollback(mark);
    expect(run([])).toEqual(before);
    expect(run(events.slice(at))).toEqual(after);
    of.rig.heap.release(mark);
  },
);

test('two machines that see the same late are the same, wherever their windows began', () => {
  const [one, other] = [settled(BLIND), settled(BLIND)];
  for (let round = 0; round < 5; round += 1) {
    other.rig.entry(other.leaves, 5, 41 + round, RW);
    line(other);
  }
  other.rig.entry(other.leaves, 5, 40, RW);
  line(other);
  other.rig.iotlb({ granularity: 'global' });
  one.rig.entry(one.leaves, 6, 41, RW);
  other.rig.entry(other.leaves, 6, 41, RW);
  expect(one.rig.lag!.entries()).toEqual(other.rig.lag!.entries());
  const late = ({ rig }: Mapped) => {
    const words: [number, number][] = [];
    rig.heap.counted((segment, place, value) => {
      if (segment.name === 'writes not seen') words.push([place, value]);
    });
    return words;
  };
  expect(late(one).length).toBeGreaterThan(3);
  expect(late(one)).toEqual(late(other));
});

test.prop([fc.constantFrom(BLIND, BUFFERED, BOTH), fc.array(event, { maxLength: 30 })], { numRuns: 100 })(
  'a unit may use what it read, or may have read, since the last invalidation: no more and no less',
  (unit, events) => {
    const of = settled(unit);
    const entries = [0, 1, 2, 3];
    const text = (frame: number, rights: number) =>
      rights === 0 ? 'fault 6' : `${frame} ${rights === R ? 'r' : 'rw'}`;
    // Per entry: what memory may say, the oldest first, each with whether it was written back since; what was read.
    const seen = entries.map(() => [{ says: 'fault 6', isBack: true }]);
    const kept = entries.map(() => new Set<string>());
    const isBlind = 'coherent' in unit;
    const isBuffered = 'writeBufferFlush' in unit;
    const read = () => {
      for (const at of entries) for (const { says } of seen[at]!) if (!says.startsWith('fault')) kept[at]!.add(says);
    };
    /** What has reached the unit takes the place of all that was before. */
    const reach = () => {
      for (const values of seen) {
        const last = values.findLastIndex(({ isBack }) => isBack);
        if (last > 0) values.splice(0, last);
      }
    };
    for (const one of events) {
      if (one === 'drain') {
        drain(of);
        if (isBuffered) reach();
      } else if (one === 'invalidate') {
        of.rig.iotlb({ granularity: 'global' });
        if (isBuffered) reach();
        for (const values of kept) values.clear();
      } else if ('line' in one) {
        line(of, one.line);
        for (const value of seen[one.line]!) value.isBack = true;
        if (!isBuffered) reach();
      } else {
        of.rig.entry(of.leaves, one.entry, one.frame, one.rights);
        const says = text(one.frame, one.rights);
        if (seen[one.entry]!.at(-1)!.says !== says) seen[one.entry]!.push({ says, isBack: !isBlind });
      }
      read();
      for (const at of entries) {
        const expected = new Set([...seen[at]!.map(({ says }) => says), ...kept[at]!]);
        expect(may(of, at), `entry ${at} after ${JSON.stringify(one)}`).toEqual([...expected].sort());
      }
    }
  },
);
