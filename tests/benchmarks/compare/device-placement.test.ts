import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { unitOf } from '../../../benchmarks/index.ts';
import { type DmarTable, parseDmar } from '../../../passthrough/index.ts';

const q35 = parseDmar(
  new Uint8Array(readFileSync(new URL('../../../examples/data/q35.DMAR.bin', import.meta.url))),
  'q35',
);

type Scope = DmarTable['units'][number]['scopes'][number];
const scope = (type: number, startBus: number, device: number): Scope => ({
  type,
  enumerationId: 0,
  startBus,
  path: [[device, 0]],
});

const table = (units: readonly { scopes?: Scope[]; includeAll?: boolean; segment?: number }[]): DmarTable => ({
  ...q35,
  units: units.map(({ scopes = [], includeAll = false, segment = 0 }) => ({
    segment,
    registerBase: '0xfed90000',
    includeAll,
    scopes,
  })),
});

it.each([
  ['an endpoint by name', [{ includeAll: true }, { scopes: [scope(1, 0, 2)] }], '0000:00:02.0', 1, /names it/],
  ['all others', [{ scopes: [scope(1, 0, 2)] }, { includeAll: true }], '0000:01:00.0', 1, /serves all/],
  [
    'the only one with bridges',
    [{ scopes: [scope(1, 0, 2)] }, { scopes: [scope(2, 0, 28)] }],
    '0000:01:00.0',
    1,
    /bridges/,
  ],
  [
    'the first, when nothing tells',
    [{ scopes: [scope(2, 0, 1)] }, { scopes: [scope(2, 0, 28)] }],
    '0000:01:00.0',
    0,
    /does not say/,
  ],
  [
    'all others, unless a bridge of another unit leads to it',
    [{ scopes: [scope(2, 0, 28)] }, { includeAll: true }],
    '0000:01:00.0',
    1,
    /assumed: behind no bridge/,
  ],
  ['of the same segment', [{ includeAll: true }, { includeAll: true, segment: 1 }], '0001:01:00.0', 1, /serves all/],
])('%s', (_name, units, device, unit, why) => {
  const placed = unitOf(table(units), device);
  expect(placed.unit).toBe(unit);
  expect(placed.why).toMatch(why);
});

it('the example platform has one unit, which names its root ports as bridges', () => {
  expect(unitOf(q35, '0000:01:00.0')).toMatchObject({ unit: 0, why: expect.stringMatching(/bridges/) });
  expect(unitOf(q35, '0000:00:02.0')).toMatchObject({ unit: 0, why: expect.stringMatching(/endpoint/) });
});
