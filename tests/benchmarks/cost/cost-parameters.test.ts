import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  type CostId,
  costParameters,
  defaultCostModel,
  provenance,
  withCosts,
} from '../../../benchmarks/cost/cost-parameters.ts';

const rowOf = (id: CostId) => costParameters.find((row) => row.id === id)!;

describe('the table', () => {
  it('has each id once, its unit last, its value in its range, and a source', () => {
    expect(new Set(costParameters.map(({ id }) => id)).size).toBe(costParameters.length);
    const endings = { cycles: /Cycles$/, ns: /Ns$/, GHz: /Ghz$/, count: /(Entries|Walkers|Pages)$/ };
    for (const { id, unit, value, range, source, title } of costParameters) {
      expect(id).toMatch(endings[unit]);
      expect(range[0], id).toBeLessThanOrEqual(value);
      expect(range[1], id).toBeGreaterThanOrEqual(value);
      expect(title).not.toBe('');
      expect(source).toMatch(/(19|20)\d\d|assumption|Linux|xlab|rIOMMU/);
    }
  });

  it('calls no assumption verified', () => {
    for (const { source, verified, id } of costParameters) {
      if (source.startsWith('assumption')) expect(verified, id).toBe(false);
    }
  });

  it('adds up to the strict unmap of the rIOMMU table: 2999 cycles, 71 % of them the invalidation', () => {
    const costs = defaultCostModel();
    const parts = ['iovaFindCycles', 'iovaFreeCycles', 'pageTableUpdateUnmapCycles', 'unmapOtherCycles'] as const;
    const strict = parts.reduce((sum, id) => sum + costs[id], costs.invalidationSyncCycles);
    expect(strict).toBe(2999);
    expect(costs.invalidationSyncCycles / strict).toBeCloseTo(0.71, 2);
    expect(costs.iovaAllocTreeCycles + costs.pageTableUpdateMapCycles + costs.mapOtherCycles).toBe(4618);
  });
});

describe('a model', () => {
  it('takes overrides and leaves its base alone', () => {
    const base = defaultCostModel();
    const model = withCosts({ iotlbEntries: 64, missNs: undefined });
    expect(model).toEqual({ ...base, iotlbEntries: 64 });
    expect(withCosts({ cpuGhz: 2 }, model)).toMatchObject({ iotlbEntries: 64, cpuGhz: 2 });
    expect(defaultCostModel()).toEqual(base);
    expect(Object.isFrozen(model)).toBe(true);
  });

  it.each([
    [{ iotlbEntires: 64 }, /cost iotlbEntires: expected one of .*iotlbEntries/],
    [{ __proto__x: 1 }, /expected one of/],
    [{ iotlbEntries: 64.5 }, /cost iotlbEntries 64.5: expected an integer from 1 to 65536 \(count\)/],
    [{ cpuGhz: 0 }, /cost cpuGhz 0: expected a number from 0.5 to 6 \(GHz\)/],
    [{ missNs: Number.NaN }, /cost missNs NaN: expected a number/],
    [{ missNs: Number.POSITIVE_INFINITY }, /cost missNs Infinity/],
    [{ missNs: '290' }, /cost missNs 290: expected a number/],
    [{ missNs: null }, /cost missNs null/],
  ])('refuses %j', (overrides, message) => {
    const call = () => withCosts(overrides as Parameters<typeof withCosts>[0]);
    expect(call).toThrow(RangeError);
    expect(call).toThrow(message);
  });

  it('accepts exactly the numbers of the range', () => {
    fc.assert(
      fc.property(fc.constantFrom(...costParameters), fc.double(), (row, value) => {
        const integer = row.unit !== 'count' || Number.isInteger(value);
        const fits = value >= row.range[0] && value <= row.range[1] && integer;
        const call = () => withCosts({ [row.id]: value });
        if (fits) expect(call()[row.id]).toBe(value);
        else expect(call).toThrow(RangeError);
      }),
    );
  });
});

describe('provenance', () => {
  it('has a row for every parameter, in the order of the table', () => {
    const rows = provenance(defaultCostModel());
    expect(rows.map(({ id }) => id)).toEqual(costParameters.map(({ id }) => id));
    expect(rows.some(({ overridden }) => overridden)).toBe(false);
    expect(rows.map(({ source }) => source)).toEqual(costParameters.map(({ source }) => source));
  });

  it('says what was overridden, and vouches for it no more', () => {
    const row = provenance(withCosts({ missNs: 300 })).find(({ id }) => id === 'missNs');
    expect(row).toMatchObject({ value: 300, overridden: true, verified: false, unit: 'ns' });
    expect(row?.source).toContain(`the default is 290 (${rowOf('missNs').source})`);
  });
});
