import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { type CompareOptions, comparePolicies, type PolicyRow, policyChoices } from '../../../benchmarks/index.ts';
import { type FlushPolicy, policies } from '../../../hypervisor/index.ts';
import { endLine, mapLine, traceOf, unmapLine } from './trace-text.ts';

async function rowsOf(lines: readonly string[], options: Partial<CompareOptions> = {}) {
  const { policies: rows } = await comparePolicies({ trace: traceOf(lines), touchRatePerSecond: 0, ...options });
  return Object.fromEntries(rows.map((row) => [`${row.name}:${row.release}`, row])) as Record<string, PolicyRow>;
}

const STRICT = ['strict-page:afterFlush', 'strict-domain:afterFlush', 'queued:afterFlush', 'deferred:afterFlush'];

/** Byte-seconds of some page-microseconds. */
const byteSeconds = (pageUs: number) => (pageUs * 4096) / 1e6;

describe('two buffers, one after the other', () => {
  const lines = [
    mapLine(0, 0x1000, 0x5000),
    unmapLine(100, 0x1000),
    mapLine(200, 0x1001, 0x5001),
    unmapLine(300, 0x1001),
    endLine(20_000),
  ];

  it('policies that wait leave nothing', async () => {
    const rows = await rowsOf(lines);
    for (const name of STRICT) {
      expect(rows[name]!.exposure, name).toMatchObject({
        excessByteSeconds: 0,
        harmfulByteSeconds: 0,
        window: { maxUs: null, pages: 0, open: 0 },
        pagesReleased: 2,
        pagesExposed: 0,
      });
      expect(rows[name]!.promiseHeld).toBe(true);
    }
  });

  it('deferred, on return: until the queue is drained, 10 ms after the first unmap', async () => {
    const { exposure, promiseHeld, invalidations } = (await rowsOf(lines))['deferred:onReturn']!;
    expect(exposure).toMatchObject({
      excessByteSeconds: byteSeconds(10_000 + 9_800),
      unheld: { read: byteSeconds(19_800), write: byteSeconds(19_800) },
      harmfulByteSeconds: 0,
      window: { p50Us: 9_800, p99Us: 10_000, maxUs: 10_000, pages: 2, open: 0 },
    });
    expect(promiseHeld).toBe(true);
    // One more of each is the device's assignment.
    expect(invalidations).toMatchObject({ page: 0, domain: 1 });
  });

  it('never: open to the end', async () => {
    const { exposure, estimate } = (await rowsOf(lines))['never:onReturn']!;
    expect(exposure).toMatchObject({
      excessByteSeconds: byteSeconds(19_900 + 19_700),
      window: { pages: 2, open: 2, maxUs: 19_900 },
    });
    // Nothing else came into the cache of 128 entries, so the estimate is the bound.
    expect(estimate.excessByteSeconds).toBe(exposure.excessByteSeconds);
  });

  it('cycles, part by part', async () => {
    const rows = await rowsOf(lines);
    const common = { tables: 438, allocator: 249 + 159, cpuTlb: 0 };
    expect(rows['strict-page:afterFlush']!.cost.parts.unmap).toEqual({
      ...common,
      submit: 9,
      wait: 2127 - 9,
      lock: 40,
      deferred: 0,
      other: 26,
    });
    const domainFlush = 3094 * 3.1;
    const { unmap } = rows['deferred:onReturn']!.cost.parts;
    expect(unmap).toMatchObject({ ...common, submit: 0, wait: 0, lock: 0, other: 205 });
    expect(unmap.deferred).toBeCloseTo((domainFlush + 40) / 2, 6);
    for (const row of Object.values(rows)) {
      expect(row.cost.cyclesPerMap, row.name).toBe(588 + 92 + 44);
      expect(Object.values(row.cost.parts.unmap).reduce((a, b) => a + b, 0)).toBe(row.cost.cyclesPerUnmap);
      expect(row.cost.deviceNs.misses).toBe(2 * 290);
    }
  });
});

describe('a buffer that is used again', () => {
  const lines = [
    mapLine(0, 0x1000, 0x5000),
    unmapLine(100, 0x1000),
    mapLine(300, 0x1001, 0x5000),
    unmapLine(400, 0x1001),
    endLine(20_000),
  ];

  it('is harmful while it is mapped and the old entry stays', async () => {
    const rows = await rowsOf(lines);
    expect(rows['deferred:onReturn']!.exposure).toMatchObject({
      excessByteSeconds: byteSeconds(10_000),
      harmfulByteSeconds: byteSeconds(100),
      unheld: { any: byteSeconds(9_900) },
      reusedBeforeFlush: 1,
      reusedBeforeRelease: 0,
    });
  });

  it('would have had to wait for a release after the flush', async () => {
    const rows = await rowsOf(lines);
    expect(rows['deferred:afterFlush']!.exposure).toMatchObject({ excessByteSeconds: 0, reusedBeforeRelease: 1 });
    expect(rows['strict-page:afterFlush']!.exposure).toMatchObject({ reusedBeforeRelease: 0 });
  });
});

describe('device frames that are used again', () => {
  const lines = [
    mapLine(0, 0x1000, 0x5000, 2),
    unmapLine(100, 0x1000, 2),
    mapLine(300, 0x1000, 0x6000),
    mapLine(310, 0x1001, 0x7000),
    unmapLine(400, 0x1000, 2),
    endLine(20_000),
  ];

  it('get other numbers while a flush of theirs is pending, a scatter-gather list as a whole', async () => {
    const rows = await rowsOf(lines);
    expect(rows['strict-page:afterFlush']).toMatchObject({ groupsReaddressed: 0, invalidations: { page: 2 } });
    expect(rows['deferred:onReturn']).toMatchObject({ groupsReaddressed: 1, exposure: { reusedBeforeFlush: 0 } });
    expect(rows['deferred:onReturn']!.exposure.excessByteSeconds).toBe(byteSeconds(2 * 10_000 + 2 * 9_700));
  });

  it('never: the device is led to the old frames', async () => {
    const { exposure, groupsReaddressed } = (await rowsOf(lines))['never:onReturn']!;
    expect(groupsReaddressed).toBe(0);
    expect(exposure).toMatchObject({ misdirected: 2, spuriousFaults: 0, reusedBeforeFlush: 2 });
    expect(exposure.harmfulByteSeconds).toBe(byteSeconds(100 + 90));
  });
});

it('a late device reaches what never flushes', async () => {
  const lines = [mapLine(0, 0x1000, 0x5000), unmapLine(100, 0x1000), endLine(1_000_000)];
  const rows = await rowsOf(lines, { touchRatePerSecond: 1000 });
  const { lateTouches, staleAccesses } = rows['never:onReturn']!.exposure;
  expect(lateTouches).toBeGreaterThan(900);
  expect(lateTouches).toBeLessThan(1100);
  expect(staleAccesses).toBe(lateTouches);
  expect(rows['strict-page:afterFlush']!.exposure).toMatchObject({ lateTouches, staleAccesses: 0 });
  expect(rows['deferred:onReturn']!.exposure.staleAccesses).toBeGreaterThan(0);
});

it('a policy that does not keep its promise is found out', async () => {
  const lines = [mapLine(0, 0x1000, 0x5000), unmapLine(100, 0x1000), endLine(200)];
  const liar: FlushPolicy = { ...policies.at(-1)!, name: 'liar', promise: () => ({ kind: 'strict' }) };
  const { policies: rows, conclusion } = await comparePolicies({ trace: traceOf(lines), policies: [liar] });
  expect(rows[0]!.promiseHeld).toBe(false);
  expect(conclusion[0]).toMatch(/liar.* BROKE the promise/);
});

describe('what cannot be replayed as it stands', () => {
  it('is put in order and counted', () => {
    const trace = traceOf([
      unmapLine(0, 0x2000), // from before the trace
      mapLine(10, 0x1000, 0x5000, 4),
      mapLine(20, 0x1002, 0x9000), // takes a device frame that is mapped
      unmapLine(30, 0x1000, 2), // in parts
      unmapLine(40, 0x1002, 2),
    ]);
    expect(trace.counts).toEqual({
      maps: 2,
      unmaps: 3,
      mappedPages: 5,
      unmappedPages: 5,
      unmapsLeftOut: 1,
      remaps: 1,
      writeOnlyMaps: 0,
    });
    expect([...trace.events.kind]).toEqual([0, 1, 0, 1, 1]);
    expect(trace.domains).toMatchObject([{ frames: 5, space: null, firstDfn: 0x1000, spanPages: 4 }]);
    expect([...trace.events.frame.subarray(0, 1), trace.events.frame[2]]).toEqual([0, 4]);
  });

  it('a trace without maps is refused', () => {
    expect(() => traceOf([endLine(0)])).toThrow(/test\.txt: no map of a DMA buffer/);
  });
});

describe('choice of policies', () => {
  const names = (selection: readonly string[]) =>
    policyChoices(selection).map(({ policy, release }) => `${policy.name}:${release}`);
  it('a name stands for each release of the policy', () => {
    expect(names(['deferred', 'deferred:afterFlush', 'never'])).toEqual([
      'deferred:onReturn',
      'deferred:afterFlush',
      'never:onReturn',
    ]);
  });
  it.each([
    ['frob', /unknown policy "frob": expected strict-page, /],
    ['never:afterFlush', /policy never with release "afterFlush": expected onReturn/],
    ['deferred:onReturn:x', /expected name or name:release/],
  ])('%s is refused', (name, message) => {
    expect(() => policyChoices([name])).toThrow(message);
  });
});

// Random traces: lists of 1 to 3 maps, each ended by one or more unmaps, on two CPUs.
const buffer = fc.record({
  dfn: fc.integer({ min: 0, max: 12 }),
  chunks: fc.array(fc.record({ frame: fc.integer({ min: 0, max: 10 }), pages: fc.integer({ min: 1, max: 3 }) }), {
    minLength: 1,
    maxLength: 3,
  }),
  cpu: fc.integer({ min: 0, max: 1 }),
  gapUs: fc.integer({ min: 0, max: 9000 }),
  lifeUs: fc.integer({ min: 0, max: 9000 }),
  isSplit: fc.boolean(),
});

const traceLines = fc.array(buffer, { minLength: 1, maxLength: 25 }).map((buffers) => {
  const events: { us: number; text: string }[] = [];
  let us = 0;
  for (const { dfn, chunks, cpu, gapUs, lifeUs, isSplit } of buffers) {
    us += gapUs;
    let at = 0x1000 + dfn;
    for (const { frame, pages } of chunks) {
      events.push({ us, text: mapLine(us, at, 0x5000 + frame, pages, cpu) });
      at += pages;
    }
    const pages = at - 0x1000 - dfn;
    const end = us + lifeUs;
    const first = isSplit && pages > 1 ? 1 : pages;
    events.push({ us: end, text: unmapLine(end, 0x1000 + dfn, first, cpu) });
    if (first < pages) events.push({ us: end, text: unmapLine(end, 0x1001 + dfn, pages - 1, 1 - cpu) });
  }
  events.push({ us: us + 30_000, text: endLine(us + 30_000) });
  return events.toSorted((a, b) => a.us - b.us).map(({ text }) => text);
});

test.prop([traceLines, fc.nat()], { numRuns: 25 })(
  'any trace: policies keep their promises, and the same trace and seed give the same bytes',
  async (lines, seed) => {
    const compare = () => comparePolicies({ trace: traceOf(lines), seed });
    const comparison = await compare();
    for (const { name, release, promise, promiseHeld, exposure, estimate } of comparison.policies) {
      expect(promiseHeld, name).toBe(true);
      if (promise.kind === 'strict') {
        expect([exposure.excessByteSeconds, estimate.excessByteSeconds, exposure.staleAccesses]).toEqual([0, 0, 0]);
      }
      expect(exposure.spuriousFaults, `${name}:${release}`).toBe(0);
      expect(exposure.harmfulByteSeconds).toBeLessThanOrEqual(exposure.excessByteSeconds);
      // What a cache holds is among what it may hold.
      expect(estimate.excessByteSeconds).toBeLessThanOrEqual(exposure.excessByteSeconds);
    }
    expect(JSON.stringify(await compare())).toBe(JSON.stringify(comparison));
  },
);
