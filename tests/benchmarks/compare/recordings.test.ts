// Comparisons of recorded traces.

import { beforeAll, describe, expect, it } from 'vitest';
import { type Comparison, comparePolicies, importTrace, type PolicyRow } from '../../../benchmarks/index.ts';
import { recordedTraces } from '../trace/recorded-traces.ts';

const shipped = new URL('../../../examples/data/nvme-randread-4k-qd32.strict.txt.gz', import.meta.url).pathname;

describe('the trace that comes with the package', () => {
  let comparison: Comparison;
  let row: (name: string, release: string) => PolicyRow;
  beforeAll(async () => {
    comparison = await comparePolicies({ trace: await importTrace(shipped) });
    row = (name, release) => comparison.policies.find((of) => of.name === name && of.release === release)!;
  }, 120_000);

  it('has a row for each policy and release', () => {
    expect(comparison.policies.map(({ name, release }) => `${name}:${release}`)).toEqual([
      'strict-page:afterFlush',
      'strict-domain:afterFlush',
      'queued:afterFlush',
      'deferred:onReturn',
      'deferred:afterFlush',
      'never:onReturn',
    ]);
    expect(comparison.input).toMatchObject({ maps: 16384, unmaps: 16384, unmapsWithoutMap: 0, unknownLines: 0 });
  });

  it('whoever waits before release leaves nothing, the others something', () => {
    for (const { release, promiseHeld, exposure, estimate } of comparison.policies) {
      expect(promiseHeld).toBe(true);
      expect(exposure.pagesReleased).toBeGreaterThan(16000);
      const figures = [exposure.excessByteSeconds, estimate.excessByteSeconds, exposure.staleAccesses];
      if (release === 'afterFlush') expect(figures).toEqual([0, 0, 0]);
      else for (const figure of figures) expect(figure).toBeGreaterThan(0);
    }
    expect(row('deferred', 'onReturn').exposure.window.maxUs).toBeLessThanOrEqual(10_000);
  });

  it('strict costs more per unmap than deferred, about as much more as rIOMMU measured', () => {
    const ratio =
      row('strict-page', 'afterFlush').cost.cyclesPerUnmap / row('deferred', 'onReturn').cost.cyclesPerUnmap;
    expect(ratio).toBeGreaterThan(2.64 * 0.9);
    expect(ratio).toBeLessThan(2.64 * 1.1);
  });

  it('strict misses the IOTLB at least once per page', () => {
    expect(row('strict-page', 'afterFlush').iotlb.misses).toBeGreaterThanOrEqual(16384);
    expect(row('never', 'onReturn').iotlb.missRatio).toBeLessThan(0.1);
  });
});

const recorded = recordedTraces('comparisons of recordings');

describe.skipIf(recorded === null)('recordings below PASSTHROUGH_DATA', () => {
  it.each([...(recorded ?? [])])(
    '$name: counts of summary.json, and strict leaves nothing',
    async ({ file, counts }) => {
      const { input, policies } = await comparePolicies({ trace: await importTrace(file), policies: ['strict-page'] });
      expect(input).toMatchObject({
        events: Object.values(counts!.events).reduce((sum, count) => sum + count, 0),
        maps: counts!.events.map ?? 0,
        unmaps: counts!.events.unmap ?? 0,
        unmapsWithoutMap: counts!.unmap_without_map_in_trace,
        unknownLines: counts!.unparsed,
      });
      expect(policies[0]).toMatchObject({ promiseHeld: true, exposure: { excessByteSeconds: 0, spuriousFaults: 0 } });
    },
  );
});
