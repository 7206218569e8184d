// Goal: each function is behind the unit that Xen takes for it. Method: small tables by hand, with the PCI topology and
// without. xen: dmar.c acpi_find_matched_drhd_unit

import { describe, expect, test } from 'vitest';
import { encodeDmar, Platform, type PlatformOptions, parseDmar } from '../../../passthrough/index.ts';
import { atsr, dmarTable, drhd, rhsa, rmrr, satc, scope } from './dmar-fixtures.ts';

const platform = (structures: readonly number[][], options?: PlatformOptions) =>
  new Platform(parseDmar(dmarTable(structures), 'table.bin'), options);
const A = 0xfed90000n;
const B = 0xfed91000n;
const C = 0xfed92000n;
const endpoint = (bus: number, ...hops: number[]) => scope(1, 0, bus, ...hops);
const bridge = (bus: number, ...hops: number[]) => scope(2, 0, bus, ...hops);

/** Two root ports, the second with a switch below it; devices behind each; a second root bus. */
const functions = [
  { device: '00:02.0' },
  { device: '00:1c.0', type: 'root-port', secondary: 1, subordinate: 1 },
  { device: '00:1d.0', type: 'root-port', secondary: 2, subordinate: 5 },
  { device: '01:00.0' },
  { device: '02:00.0', type: 'root-port', secondary: 3, subordinate: 5 },
  { device: '03:01.0', type: 'root-port', secondary: 4, subordinate: 5 },
  { device: '04:00.0', ats: true },
  { device: '04:00.1' },
  { device: '04:02.0', physicalFunction: '04:00.0' },
  { device: '04:05.1', extended: true },
  { device: '80:05.4' },
] as const;

describe('with the topology', () => {
  const three = [
    drhd(0, 0, A, ...endpoint(0, 2, 0), ...endpoint(0, 0x1d, 0, 0, 0, 1, 0, 0, 0)),
    drhd(0, 0, B, ...bridge(0, 0x1c, 0), ...bridge(0, 0x1d, 0, 0, 0)),
    drhd(1, 0, C, ...scope(3, 2, 0x80, 5, 4)),
  ];
  const of = platform(three, { functions });
  test.each([
    ['an endpoint by name', '00:02.0', 0, 'explicit', 'named by the unit: endpoint 00:02.0'],
    ['an endpoint behind three bridges, by name', '04:00.0', null, 'bridge', 'behind bridge 00:1d.0/00.0'],
    ['all behind a bridge', '01:00.0', 1, 'bridge', 'behind bridge 00:1c.0'],
    ['the bridge itself', '00:1c.0', 1, 'explicit', 'named by the unit: bridge 00:1c.0'],
    ['a bridge behind another', '02:00.0', 1, 'explicit', 'named by the unit: bridge 00:1d.0/00.0'],
    ['what is behind a bridge behind another', '05:1f.7', 1, 'bridge', 'behind bridge 00:1d.0/00.0'],
    ['the bridge above it', '00:1d.0', 2, 'include-all', 'this one serves all others'],
    ['the I/O APIC, which counts as a device', '80:05.4', 2, 'explicit', 'named by the unit: ioapic 2 at 80:05.4'],
    ['nobody knows it', '7f:00.0', 2, 'include-all', 'no unit names it'],
    ['no unit of its segment', '0001:00:02.0', null, 'none', 'no unit names it, and none of its segment'],
  ])('%s: %s', (_, device, unit, why, reason) => {
    const answer = of.unitOf(device);
    // The unit that names it is asked after the one whose bridge leads to it: Xen begins with the last.
    expect(answer).toMatchObject({ unit: device === '04:00.0' ? 1 : unit, why });
    expect(answer.reason).toContain(reason);
    expect(answer.candidates).toEqual(answer.unit === null ? [] : [answer.unit]);
  });

  test('Xen asks the last unit first, and INCLUDE_ALL at the end', () => {
    const twice = endpoint(0, 2, 0);
    expect(platform([drhd(0, 0, A, ...twice), drhd(0, 0, B, ...twice)], { functions }).unitOf('00:02.0').unit).toBe(1);
    expect(platform([drhd(0, 0, A, ...twice), drhd(1, 0, B, ...twice)], { functions }).unitOf('00:02.0').unit).toBe(0);
    expect(platform([drhd(1, 0, B), drhd(0, 0, A, ...twice)], { functions }).unitOf('00:02.0').unit).toBe(1);
  });

  test('a virtual function goes by its owner, an extended one by function 0 of its bus', () => {
    const by = (...hops: number[]) =>
      platform([drhd(0, 0, A, ...endpoint(0, 0x1d, 0, 0, 0, 1, 0, ...hops)), drhd(1, 0, B)], { functions });
    expect(['04:00.0', '04:02.0', '04:05.1'].map((one) => by(0, 0).unitOf(one).unit)).toEqual([0, 0, 0]);
    expect(['04:02.0', '04:05.1'].map((one) => by(2, 0).unitOf(one).unit)).toEqual([1, 1]);
  });

  test('a bridge that does not exist reads as all ones: Xen takes bus ff', () => {
    const absent = platform([drhd(0, 0, A, ...bridge(0, 9, 0), ...endpoint(0, 9, 0, 3, 1))], { functions });
    expect(absent.unitOf('ff:03.1')).toMatchObject({ unit: 0, why: 'explicit' });
    expect(absent.unitOf('ff:00.0')).toMatchObject({ unit: 0, why: 'bridge' });
    expect(absent.unitOf('00:02.0')).toMatchObject({ unit: null, why: 'none' });
  });

  test('a path through something that is no bridge stays unknown', () => {
    const through = platform([drhd(0, 0, A, ...endpoint(0, 2, 0, 3, 1))], { functions });
    expect(through.unitOf('01:03.1')).toEqual({
      unit: null,
      why: 'unknown',
      reason: 'may be endpoint 00:02.0/03.1, or served by no unit',
      candidates: [0],
    });
  });

  test('segments are apart', () => {
    const two = [drhd(0, 1, A, ...endpoint(0, 2, 0)), drhd(1, 0, B), drhd(1, 1, C)];
    const answers = ['00:02.0', '0001:00:02.0', '0001:00:03.0'].map((one) => platform(two, { functions }).unitOf(one));
    expect(answers.map(({ unit }) => unit)).toEqual([1, 0, 2]);
  });
});

describe('without the topology', () => {
  const of = platform([
    drhd(0, 0, A, ...endpoint(0, 2, 0), ...endpoint(0, 0x1d, 0, 4, 1)),
    drhd(0, 0, B, ...bridge(0, 0x1c, 0)),
    drhd(1, 0, C),
  ]);
  test.each([
    ['one step is enough for an endpoint', '00:02.0', 0, 'explicit', [0]],
    ['and for a bridge itself', '00:1c.0', 1, 'explicit', [1]],
    ['nothing on the bus of the bridges is behind them', '00:05.0', 2, 'include-all', [2]],
    ['what may be behind a bridge is unknown', '01:00.0', null, 'unknown', [1, 2]],
    ['what two units may mean is, too', '01:04.1', null, 'unknown', [1, 0, 2]],
  ])('%s: %s', (_, device, unit, why, candidates) => {
    expect(of.unitOf(device)).toMatchObject({ unit, why, candidates });
  });

  test('the reason says what it hangs on', () => {
    expect(of.unitOf('01:00.0').reason).toBe('may be behind bridge 00:1c.0 (only the PCI topology tells)');
  });

  test('a path of two steps cannot end on the bus that it starts from', () => {
    expect(of.unitOf('00:04.1')).toMatchObject({ unit: 2, why: 'include-all' });
  });
});

describe('reserved regions', () => {
  const structures = [
    drhd(1, 0, A),
    rmrr(0, 0x89db1000n, 0x89dd0fffn, ...endpoint(0, 0x14, 0), ...endpoint(0, 0x1d, 0)),
    rmrr(0, 0x8b800000n, 0x8fffffffn, ...endpoint(0, 2, 0)),
    rmrr(1, 0xa0000000n, 0xa0000fffn, ...endpoint(0, 2, 0)),
    rmrr(0, 0xb0000000n, 0xb0000fffn, ...bridge(0, 0x1c, 0), ...endpoint(0, 0x1c, 0, 0, 0)),
  ];
  test('are those of the functions named, not of what is behind them', () => {
    const of = platform(structures);
    expect(of.reservedRegionsOf('00:14.0')).toEqual([
      {
        region: 0,
        base: '0x89db1000',
        limit: '0x89dd0fff',
        firstFrame: 0x89db1,
        frames: 32,
        shared: true,
        certain: true,
      },
    ]);
    const regionsOf = (device: string) => of.reservedRegionsOf(device).map(({ region, certain }) => [region, certain]);
    expect(regionsOf('00:02.0')).toEqual([[1, true]]);
    expect(regionsOf('0001:00:02.0')).toEqual([[2, true]]);
    expect(regionsOf('00:1c.0')).toEqual([[3, true]]);
    expect(regionsOf('01:00.0')).toEqual([[3, false]]);
    expect(regionsOf('01:01.0')).toEqual([]);
  });

  test('of a function behind a bridge need the topology', () => {
    const known = [...functions, { device: '00:14.0' }];
    const of = platform(structures, { functions: known });
    expect(of.reservedRegionsOf('01:00.0').map(({ region, certain }) => [region, certain])).toEqual([[3, true]]);
    expect(of.reservedRegionsOf('02:00.0')).toEqual([]);
  });
});

describe('ATS', () => {
  const ports = (...structures: number[][]) => [drhd(1, 0, A), ...structures];
  const listed = ports(atsr(0, 0, ...bridge(0, 0x1d, 0)));
  test.each([
    ['integrated into the root complex', listed, '00:02.0', true, 'integrated'],
    ['on another root bus', listed, '80:05.4', true, 'integrated'],
    ['below a root port that is listed', listed, '04:00.0', true, 'root-port'],
    ['below one that is not', listed, '01:00.0', false, 'not-listed'],
    ['below any root port', ports(atsr(1, 0)), '01:00.0', true, 'all-ports'],
    ['all ports of another segment', ports(atsr(1, 1)), '01:00.0', false, 'not-listed'],
    ['a root port', listed, '00:1d.0', false, 'no-endpoint'],
  ])('%s', (_, structures, device, allowed, why) => {
    expect(platform(structures, { functions }).atsOf(device)).toMatchObject({ allowed, why });
  });

  test.each([
    ['bus 0 is a root bus', listed, '00:02.0', true, 'integrated'],
    ['all ports', ports(atsr(1, 0)), '01:00.0', true, 'all-ports'],
    ['perhaps behind the port', listed, '01:00.0', null, 'unknown'],
    ['perhaps on a root bus', ports(), '80:05.4', null, 'unknown'],
  ])('without the topology: %s', (_, structures, device, allowed, why) => {
    expect(platform(structures).atsOf(device)).toMatchObject({ allowed, why });
  });
});

test('NUMA nodes and the size of registers are the unit’s, SATC the device’s', () => {
  const table = parseDmar(
    dmarTable([drhd(0, 0, A), drhd(1, 0, B), rhsa(B, 3), satc(1, 0, ...endpoint(0, 2, 0)), satc(0, 1)]),
    'table.bin',
  );
  const sized = parseDmar(encodeDmar({ ...table, units: [{ ...table.units[0]!, size: 2 }, table.units[1]!] }), 'sized');
  const of = new Platform(sized);
  expect(of.units.map(({ proximityDomain, registerPages }) => [proximityDomain, registerPages])).toEqual([
    [null, 4],
    [3, 1],
  ]);
  expect([of.satcOf('00:02.0'), of.satcOf('00:03.0')]).toEqual([{ atcRequired: true }, null]);
});

test('all of it is plain data', () => {
  const answer = platform([drhd(1, 0, A)]).describe('0000:00:1d.0');
  expect(JSON.parse(JSON.stringify(answer))).toEqual(answer);
  expect(answer).toMatchObject({
    device: '0000:00:1d.0',
    unit: { unit: 0, segment: 0, registerBase: '0xfed90000', why: 'include-all' },
    reservedRegions: [],
    ats: { allowed: true },
    satc: null,
  });
});

test.each([
  ['units', () => drhd(0, 0, 0x1000n, ...endpoint(0, 2, 0))],
  ['reserved regions', (at: number) => rmrr(0, BigInt(at) << 12n, (BigInt(at) << 12n) + 0xfffn, ...endpoint(0, 2, 0))],
  ['NUMA nodes and units', (at: number) => (at % 2 === 0 ? drhd(0, 0, BigInt(at)) : rhsa(BigInt(at), at))],
])('a table full of %s is a platform in one pass', (_, structureAt) => {
  const structures: number[][] = [];
  for (let at = 1, bytes = 0; bytes < 1_000_000; at++)
    bytes += structures[structures.push(structureAt(at)) - 1]!.length;
  const of = platform(structures);
  expect(of.units.length + of.regions.length).toBeGreaterThan(20_000);
  expect(of.describe('00:02.0').device).toBe('0000:00:02.0');
});

test('functions that are no PCI addresses, or there twice, are refused', () => {
  expect(() => platform([drhd(1, 0, A)], { functions: [{ device: '00:20.0' }] })).toThrow('PCI address "00:20.0"');
  expect(() => platform([], { functions: [{ device: '00:2.0' }, { device: '0000:00:02.0' }] })).toThrow(
    'each function',
  );
  const bridgeTo = (subordinate: number) => ({ device: '00:02.0', secondary: 1, subordinate });
  expect(() => platform([], { functions: [bridgeTo(2 ** 40)] })).toThrow('0000:00:02.0: buses 1 to 1099511627776');
  expect(() => platform([]).unitOf('nowhere')).toThrow(RangeError);
});
