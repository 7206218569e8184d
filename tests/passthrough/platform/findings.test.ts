// Goal: tables that firmware got wrong are taken as Xen takes them. Method: a table by hand for each mistake.

import { describe, expect, test } from 'vitest';
import { type MemoryRange, Platform, type PlatformOptions, parseDmar } from '../../../passthrough/index.ts';
import { atsr, dmarTable, drhd, type HeaderFields, rmrr, satc, scope } from './dmar-fixtures.ts';

const platform = (structures: readonly number[][], options?: PlatformOptions, header?: HeaderFields) =>
  new Platform(parseDmar(dmarTable(structures, header), 'table.bin'), options);
const UNIT = drhd(1, 0, 0xfed90000n);
const at = (device: number, fn = 0) => scope(1, 0, 0, device, fn);
const functions = [{ device: '00:02.0' }, { device: '00:14.0' }];
const memory: MemoryRange[] = [
  { base: '0x0', limit: '0x9fbff', type: 'ram' },
  { base: '0x9fc00', limit: '0x9ffff', type: 'reserved' },
  { base: '0x100000', limit: '0x7fffffff', type: 'ram' },
  { base: '0x80000000', limit: '0x80ffffff', type: 'reserved' },
  { base: '0x81000000', limit: '0x810fffff', type: 'acpi' },
];
const region = (base: bigint, limit: bigint, ...scopes: number[]) =>
  rmrr(0, base, limit, ...(scopes.length > 0 ? scopes : at(2)));

describe('what Xen gives the table up for', () => {
  test.each([
    ['host width 0', [UNIT], { width: 0 }, 'WIDTH_ZERO', 'EINVAL'],
    ['no unit', [], {}, 'NO_UNIT', 'ENODEV'],
    ['a unit at 0', [drhd(1, 0, 0n)], {}, 'UNIT_BASE', 'ENODEV'],
    ['a unit at all ones', [drhd(1, 0, 2n ** 64n - 1n)], {}, 'UNIT_BASE', 'ENODEV'],
    ['INCLUDE_ALL twice on segment 0', [UNIT, drhd(1, 0, 0xfed91000n)], {}, 'INCLUDE_ALL_TWICE', 'EINVAL'],
    ['ALL_PORTS twice on segment 0', [UNIT, atsr(1, 0), atsr(1, 0)], {}, 'ALL_PORTS_TWICE', 'EINVAL'],
    [
      'regions that overlap',
      [UNIT, region(2n ** 31n, 2n ** 31n + 8n), region(2n ** 31n + 8n, 2n ** 31n + 9n)],
      {},
      'RMRR_OVERLAP',
      'EEXIST',
    ],
    ['a reversed region', [UNIT, region(0x2000n, 0x1fffn)], {}, 'RMRR_REVERSED', 'EFAULT'],
    ['a region in RAM', [UNIT, region(0x100000n, 0x100fffn)], {}, 'RMRR_IN_RAM', 'EIO'],
    ['a region that ends in RAM', [UNIT, region(0x9f000n, 0x100fffn)], {}, 'RMRR_IN_RAM', 'EIO'],
  ])('%s', (_, structures, header, code, errno) => {
    const { disabledBy, findings } = platform(structures, { memory }, header);
    expect(disabledBy).toMatchObject({ code, errno, effect: 'disables VT-d', source: expect.stringMatching(/^xen: /) });
    expect(findings.filter(({ effect }) => effect === 'disables VT-d')).toHaveLength(1);
  });

  test('the first mistake of the table counts', () => {
    expect(platform([region(2n, 1n), drhd(1, 0, 0n)]).disabledBy?.code).toBe('RMRR_REVERSED');
    expect(platform([drhd(1, 0, 0n), region(2n, 1n)]).disabledBy?.code).toBe('UNIT_BASE');
  });
});

describe('what Xen goes on without, or with', () => {
  test.each([
    ['a region of devices that do not exist', [UNIT, region(0n, 0xfffn, ...at(3), ...at(4))], 'RMRR_DEVICE_ABSENT', []],
    ['even a reversed one', [UNIT, region(2n, 1n, ...at(3))], 'RMRR_DEVICE_ABSENT', []],
    ['a region without devices', [UNIT, rmrr(0, 0n, 0xfffn)], 'RMRR_NO_DEVICE', []],
    ['a region of one byte, "of zero length"', [UNIT, region(0n, 0n)], 'RMRR_MAPS_NOTHING', [0]],
    ['a region of 00:00.0', [UNIT, region(0n, 0xfffn, ...at(2), ...at(0), ...at(0x14))], 'RMRR_DEVICE_ZERO', [0]],
    ['SATC devices that do not exist', [UNIT, satc(0, 0, ...at(3))], 'SATC_DEVICE_ABSENT', []],
    ['a unit of a device that does not exist', [drhd(0, 0, 0x1000n, ...at(3))], 'SCOPE_DEVICE_ABSENT', []],
    ['a function of two units', [drhd(0, 0, 0x1000n, ...at(2)), drhd(0, 0, 0x2000n, ...at(2))], 'SCOPE_TWICE', []],
    ['INCLUDE_ALL twice elsewhere', [UNIT, drhd(1, 1, 0x1000n), drhd(1, 1, 0x2000n)], 'INCLUDE_ALL_AGAIN', []],
  ])('%s', (_, structures, code, regions) => {
    const { disabledBy, findings, regions: inForce } = platform(structures, { functions });
    expect(disabledBy).toBeNull();
    expect(findings.map((one) => one.code)).toEqual([code]);
    expect(inForce).toEqual(regions);
  });

  test('the last INCLUDE_ALL unit of another segment serves', () => {
    const of = platform([UNIT, drhd(1, 1, 0x1000n), drhd(1, 1, 0x2000n)]);
    expect(of.unitOf('0001:00:02.0').unit).toBe(2);
  });

  test('a region with one device that exists is kept whole', () => {
    const of = platform([UNIT, region(0n, 0xfffn, ...at(3), ...at(2))], { functions });
    expect(of.findings).toEqual([]);
    expect(of.devicesOfRegion(0)).toEqual(['0000:00:03.0', '0000:00:02.0']);
  });

  test('00:00.0 ends the devices of a region', () => {
    const of = platform([UNIT, region(0n, 0xfffn, ...at(2), ...at(0), ...at(0x14))], { functions });
    const counts = ['00:02.0', '00:00.0', '00:14.0'].map((one) => of.reservedRegionsOf(one).length);
    expect([counts, of.devicesOfRegion(0)]).toEqual([[1, 0, 0], ['0000:00:02.0']]);
  });

  test('segments without any known function are not looked at', () => {
    const of = platform([UNIT, rmrr(1, 0n, 0xfffn, ...at(3)), drhd(0, 1, 0x1000n, ...at(3))], { functions });
    expect(of.findings).toEqual([]);
  });

  test('two units may name an I/O APIC that PCI does not show', () => {
    const of = platform([drhd(0, 0, 0x1000n, ...scope(3, 1, 0xf0, 0x1f, 0), ...scope(4, 0, 0, 0x1f, 0))], {
      functions,
    });
    expect(of.findings).toEqual([]);
  });
});

describe('reserved memory', () => {
  test.each([
    ['all in it', 0x80000000n, 0x80ffffffn, []],
    ['in a page that is half reserved', 0x9f000n, 0x9ffffn, []],
    ['in none of the ranges: Xen adds it', 0xfe000000n, 0xfe000fffn, ['RMRR_NOT_RESERVED']],
    ['partly in none', 0x80fff000n, 0x81ffffffn, ['RMRR_NOT_RESERVED']],
    ['in a range for ACPI', 0x81000000n, 0x81000fffn, ['RMRR_NOT_RESERVED']],
    ['up to the end of all addresses', 0xfe000000n, 2n ** 64n - 1n, ['RMRR_NOT_RESERVED', 'RMRR_MAPS_NOTHING']],
  ])('%s', (_, base, limit, codes) => {
    const { findings, disabledBy } = platform([UNIT, region(base, limit)], { memory });
    expect([findings.map(({ code }) => code), disabledBy]).toEqual([codes, null]);
  });
});
