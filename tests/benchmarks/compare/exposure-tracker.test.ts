import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { ExposureTracker } from '../../../benchmarks/compare/exposure/exposure-tracker.ts';

const frames = (count: number) => Uint32Array.from({ length: count }, (_, frame) => frame);

/** A tracker with frames 0 to 9, each its own, at time 0. */
const tracker = () => new ExposureTracker(frames(10));

describe('excess is counted from release to the end of the last stale entry', () => {
  it('a page that is released before its entry is dropped', () => {
    const t = tracker();
    t.mapped(0, 100, 1, 7, 3);
    t.advanceTo(10);
    t.unmapped(0, 100, 1);
    t.cached(0, 100, 7, 3);
    t.advanceTo(15);
    t.released(0, 100, 1);
    t.advanceTo(40);
    t.dropped(0, 100, 7, 3);
    t.advanceTo(90);
    expect(t.finish()).toEqual({
      excess: { read: 25, write: 25, any: 25 },
      harmful: { read: 0, write: 0, any: 0 },
      unheld: { read: 25, write: 25, any: 25 },
      window: { p50Us: 25, p99Us: 25, maxUs: 25, pages: 1, open: 0 },
      pagesReleased: 1,
      pagesExposed: 1,
      reusedBeforeFlush: 0,
      reusedBeforeRelease: 0,
    });
  });

  it('an entry that is dropped before release, as by a strict policy, is none', () => {
    const t = tracker();
    t.mapped(0, 100, 2, 7, 3);
    t.unmapped(0, 100, 2);
    t.cached(0, 100, 7, 3);
    t.cached(0, 101, 8, 3);
    t.advanceTo(500);
    t.dropped(0, 100, 7, 3);
    t.dropped(0, 101, 8, 3);
    t.released(0, 100, 2);
    t.advanceTo(900);
    expect(t.finish()).toMatchObject({ excess: { any: 0 }, window: { pages: 0, maxUs: null }, pagesReleased: 2 });
  });

  it('reads and writes are kept apart', () => {
    const t = tracker();
    t.mapped(0, 100, 1, 7, 1);
    t.mapped(0, 200, 1, 8, 3);
    t.unmapped(0, 100, 1);
    t.unmapped(0, 200, 1);
    t.cached(0, 100, 7, 1);
    t.cached(0, 200, 8, 3);
    t.released(0, 100, 1);
    t.released(0, 200, 1);
    t.advanceTo(10);
    expect(t.finish()).toMatchObject({ excess: { read: 20, write: 10, any: 20 }, window: { open: 2, maxUs: 10 } });
  });

  it('two entries to one frame count once, as do two units', () => {
    const t = tracker();
    for (const dfn of [100, 200]) {
      t.mapped(0, dfn, 1, 7, 3);
      t.unmapped(0, dfn, 1);
      t.cached(0, dfn, 7, 3);
      t.released(0, dfn, 1);
    }
    t.cached(0, 100, 7, 3);
    t.advanceTo(10);
    t.dropped(0, 100, 7, 3);
    t.dropped(0, 200, 7, 3);
    t.advanceTo(20);
    t.dropped(0, 100, 7, 3);
    t.advanceTo(50);
    expect(t.finish()).toMatchObject({ excess: { any: 20 }, window: { p50Us: 10, maxUs: 20, pages: 2 } });
  });

  it('a cached translation of a mapping that is held is no excess', () => {
    const t = tracker();
    t.mapped(0, 100, 1, 7, 3);
    t.cached(0, 100, 7, 3);
    t.advanceTo(50);
    t.unmapped(0, 100, 1);
    t.released(0, 100, 1);
    t.advanceTo(60);
    t.mapped(0, 100, 1, 7, 3); // the very same translation is held again
    t.advanceTo(90);
    expect(t.finish()).toMatchObject({ excess: { any: 10 }, window: { maxUs: 10, open: 0 }, reusedBeforeFlush: 1 });
  });

  it('a stronger entry than the mapping that replaced it: the write stays excess', () => {
    const t = tracker();
    t.mapped(0, 100, 1, 7, 3);
    t.cached(0, 100, 7, 3);
    t.unmapped(0, 100, 1);
    t.released(0, 100, 1);
    t.mapped(0, 100, 1, 7, 1);
    t.advanceTo(30);
    const { excess, harmful, unheld } = t.finish();
    expect([excess, harmful, unheld]).toEqual([
      { read: 0, write: 30, any: 30 },
      { read: 0, write: 0, any: 0 },
      { read: 0, write: 30, any: 30 },
    ]);
  });

  it('a removal that still waits is not released by the release of an older one', () => {
    const t = tracker();
    t.mapped(0, 100, 1, 7, 3);
    t.unmapped(0, 100, 1);
    t.mapped(0, 100, 1, 7, 3);
    t.unmapped(0, 100, 1);
    t.cached(0, 100, 7, 3);
    t.released(0, 100, 1);
    t.advanceTo(30);
    t.dropped(0, 100, 7, 3);
    t.released(0, 100, 1);
    expect(t.finish()).toMatchObject({ excess: { any: 0 }, pagesReleased: 2, reusedBeforeRelease: 1 });
  });
});

describe('harmful excess', () => {
  /** Frame 7 was released from 100 at time 0, and an entry stays. */
  function stale() {
    const t = tracker();
    t.mapped(0, 100, 1, 7, 3);
    t.unmapped(0, 100, 1);
    t.cached(0, 100, 7, 3);
    t.released(0, 100, 1);
    t.advanceTo(10);
    return t;
  }

  it('while the frame is mapped elsewhere', () => {
    const t = stale();
    t.mapped(0, 300, 1, 7, 3);
    t.advanceTo(14);
    t.unmapped(0, 300, 1);
    t.advanceTo(30);
    expect(t.finish()).toMatchObject({ excess: { any: 30 }, harmful: { any: 4 }, unheld: { any: 26 } });
  });

  it('while another domain has the frame', () => {
    // Frames 0 and 1 stand for one recorded frame.
    const t = new ExposureTracker(Uint32Array.of(5, 5));
    t.mapped(0, 100, 1, 0, 3);
    t.unmapped(0, 100, 1);
    t.cached(0, 100, 0, 3);
    t.released(0, 100, 1);
    t.advanceTo(10);
    t.mapped(1, 100, 1, 1, 1);
    t.advanceTo(15);
    expect(t.finish()).toMatchObject({
      excess: { any: 15 },
      harmful: { any: 5 },
      unheld: { any: 15 },
      reusedBeforeFlush: 1,
    });
  });

  it('while the device frame leads to another frame', () => {
    const t = stale();
    t.mapped(0, 100, 1, 8, 3);
    t.advanceTo(13);
    t.unmapped(0, 100, 1);
    t.advanceTo(20);
    expect(t.finish()).toMatchObject({ excess: { any: 20 }, harmful: { any: 3 }, reusedBeforeFlush: 1 });
  });
});

// By the definitions, moment by moment: what the tracker sums in intervals.
const CASES = { dfns: 3, frames: 3, steps: 24 };
type Step = readonly [kind: number, dfn: number, frame: number, rights: number, us: number];

function naive(steps: readonly Step[], drive: ExposureTracker | null) {
  const live = new Map<number, { frame: number; rights: number }>();
  const entries: { dfn: number; frame: number; rights: number; released: number }[] = [];
  const waiting: { dfn: number; frame: number }[] = [];
  const sum = { excess: 0, harmful: 0, unheld: 0 };
  let now = 0;
  const moment = () => {
    for (let frame = 0; frame < CASES.frames; frame += 1) {
      const stale = entries.filter((entry) => entry.frame === frame && (entry.rights & entry.released) !== 0);
      if (stale.length === 0) continue;
      sum.excess += 1;
      const isTaken = (dfn: number) => live.has(dfn) && live.get(dfn)!.frame !== frame;
      const isElsewhere = (dfn: number) => [...live].some(([at, has]) => at !== dfn && has.frame === frame);
      if (stale.some(({ dfn }) => isTaken(dfn) || isElsewhere(dfn))) sum.harmful += 1;
      const held = [...live.values()].filter((has) => has.frame === frame).reduce((all, has) => all | has.rights, 0);
      if (stale.some((entry) => (entry.rights & entry.released & ~held) !== 0)) sum.unheld += 1;
    }
  };
  for (const [kind, dfn, frame, rights, us] of steps) {
    if (kind === 0 && !live.has(dfn)) {
      live.set(dfn, { frame, rights });
      for (const entry of entries) if (entry.dfn === dfn && entry.frame === frame) entry.released &= ~rights;
      drive?.mapped(0, dfn, 1, frame, rights);
    } else if (kind === 1 && live.has(dfn)) {
      const { frame: old, rights: had } = live.get(dfn)!;
      live.delete(dfn);
      waiting.push({ dfn, frame: old });
      drive?.unmapped(0, dfn, 1);
      if (!entries.some((entry) => entry.dfn === dfn && entry.frame === old)) {
        entries.push({ dfn, frame: old, rights: had, released: 0 });
        drive?.cached(0, dfn, old, had);
      }
    } else if (kind === 2) {
      const at = waiting.findIndex((one) => one.dfn === dfn);
      if (at >= 0) {
        const [{ frame: old }] = waiting.splice(at, 1) as [{ dfn: number; frame: number }];
        const mine = live.get(dfn)?.frame === old ? live.get(dfn)!.rights : 0;
        const again = waiting.some((one) => one.dfn === dfn && one.frame === old);
        for (const entry of entries) {
          if (!again && entry.dfn === dfn && entry.frame === old) entry.released = 3 & ~mine;
        }
        drive?.released(0, dfn, 1);
      }
    } else if (kind === 3) {
      const at = entries.findIndex((entry) => entry.dfn === dfn && entry.frame === frame);
      if (at >= 0) {
        const [entry] = entries.splice(at, 1);
        drive?.dropped(0, dfn, frame, entry!.rights);
      }
    }
    for (let tick = 0; tick < us; tick += 1) moment();
    now += us;
    drive?.advanceTo(now);
  }
  return sum;
}

const step: fc.Arbitrary<Step> = fc.tuple(
  fc.integer({ min: 0, max: 3 }),
  fc.integer({ min: 0, max: CASES.dfns - 1 }),
  fc.integer({ min: 0, max: CASES.frames - 1 }),
  fc.constantFrom(1, 3),
  fc.integer({ min: 0, max: 3 }),
);

test.prop([fc.array(step, { maxLength: CASES.steps })], { numRuns: 2000 })(
  'intervals add up to what the definitions say moment by moment; harmful and unheld are parts of the excess',
  (steps) => {
    const t = new ExposureTracker(frames(CASES.frames));
    const expected = naive(steps, t);
    const { excess, harmful, unheld } = t.finish();
    expect({ excess: excess.any, harmful: harmful.any, unheld: unheld.any }).toEqual(expected);
    expect(harmful.any).toBeLessThanOrEqual(excess.any);
    expect(unheld.any).toBeLessThanOrEqual(excess.any);
    expect(Math.max(excess.read, excess.write)).toBeLessThanOrEqual(excess.any);
  },
);
