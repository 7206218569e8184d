import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { InputError } from '../../../machine/errors.ts';
import { type DmarOptions, parseDmar } from '../../../passthrough/platform/dmar.ts';
import * as layouts from '../../../passthrough/platform/dmar-layout.ts';
import {
  andd,
  ascii,
  atsr,
  dmarTable,
  drhd,
  FULL_TABLE,
  rhsa,
  rmrr,
  scope,
  sidp,
  structure,
  withChecksum,
} from './dmar-fixtures.ts';

const parse = (bytes: Uint8Array, options?: DmarOptions) => parseDmar(bytes, 'table.bin', options);
const warningsOf = (...structures: number[][]) => parse(dmarTable(structures)).warnings;
const UNIT = drhd(1, 0, 0xfed90000n);

/** The error that a table leads to, as code, offset and text. */
function refusal(bytes: Uint8Array): { code: string; offset: number | undefined; message: string } {
  try {
    parse(bytes);
  } catch (error) {
    if (error instanceof InputError) return { code: error.code, offset: error.place.offset, message: error.message };
    throw error;
  }
  throw new Error('expected an InputError');
}

describe('a table with one of everything', () => {
  const table = parse(FULL_TABLE);

  test('header, width and flags', () => {
    expect(table.header).toEqual({
      length: FULL_TABLE.length,
      revision: 1,
      checksumOk: true,
      oemId: 'ACME',
      oemTableId: 'BOARD',
      oemRevision: 1,
      creatorId: 'INTL',
      creatorRevision: 0x20200101,
    });
    expect([table.hostAddressWidth, table.flags]).toEqual([0x2d, 5]);
    expect(table.warnings).toEqual([]);
  });

  test('units in the order of the table, with paths through bridges and registers above 4 GiB', () => {
    expect(table.units).toEqual([
      {
        segment: 0,
        registerBase: '0xfed90000',
        includeAll: false,
        scopes: [
          {
            type: 1,
            enumerationId: 0,
            startBus: 0,
            path: [
              [0x1c, 0],
              [2, 0],
              [3, 1],
            ],
          },
          { type: 2, enumerationId: 0, startBus: 0x80, path: [[1, 0]] },
        ],
      },
      {
        segment: 0,
        registerBase: '0x1fed91000',
        includeAll: true,
        scopes: [
          { type: 3, enumerationId: 2, startBus: 0xf0, path: [[0x1f, 0]] },
          { type: 4, enumerationId: 0, startBus: 0, path: [[0x1f, 0]] },
          { type: 5, enumerationId: 1, startBus: 0, path: [[0x15, 0]] },
        ],
      },
      { segment: 1, registerBase: '0xfed92000', includeAll: true, scopes: [] },
    ]);
  });

  test('every other structure', () => {
    const endpoint = (device: number) => ({ type: 1, enumerationId: 0, startBus: 0, path: [[device, 0]] });
    expect(table.reservedRegions).toEqual([
      { segment: 0, base: '0x89db1000', limit: '0x89dd0fff', scopes: [endpoint(0x14)] },
    ]);
    expect(table.rootPorts).toEqual([
      { segment: 0, allPorts: false, scopes: [{ ...endpoint(3), type: 2 }] },
      { segment: 1, allPorts: true, scopes: [] },
    ]);
    expect(table.affinities).toEqual([{ registerBase: '0x1fed91000', proximityDomain: 0x12345678 }]);
    expect(table.namespaceDevices).toEqual([{ deviceNumber: 1, name: '\\_SB.PCI0.I2C0', rest: '00' }]);
    expect(table.satc).toEqual([
      { segment: 0, atcRequired: true, scopes: [endpoint(2)] },
      { segment: 2, atcRequired: false, scopes: [endpoint(0xb)] },
    ]);
    expect(table.sidp).toEqual([{ segment: 0, scopes: [endpoint(2)] }]);
    expect(table.order).toEqual([0, 0, 0, 1, 2, 2, 3, 4, 5, 5, 6]);
  });

  test('is frozen throughout and survives JSON', () => {
    const isFrozen = (value: unknown): boolean =>
      typeof value !== 'object' ||
      value === null ||
      (Object.isFrozen(value) && Object.values(value as object).every(isFrozen));
    expect(isFrozen(table)).toBe(true);
    expect(JSON.parse(JSON.stringify(table))).toEqual(table);
  });

  test('is read from inside a larger buffer', () => {
    const buffer = new Uint8Array(FULL_TABLE.length + 20);
    buffer.set(FULL_TABLE, 7);
    expect(parse(buffer.subarray(7, 7 + FULL_TABLE.length))).toEqual(table);
  });
});

test('the shipped table of a q35 machine', () => {
  const file = new URL('../../../examples/data/q35.DMAR.bin', import.meta.url);
  const table = parse(new Uint8Array(readFileSync(file)));
  expect(table.header).toMatchObject({
    length: 184,
    revision: 1,
    checksumOk: true,
    oemId: 'BOCHS',
    oemTableId: 'BXPC',
  });
  expect(table.units.map(({ registerBase, scopes }) => [registerBase, scopes.length])).toEqual([['0xfed90000', 15]]);
});

describe('a table that cannot be read is refused with code and byte', () => {
  const cases: readonly [name: string, bytes: Uint8Array, code: string, offset: number, text: string][] = [
    ['nothing at all', new Uint8Array(), 'DMAR_SHORT', 0, 'ends after 0 bytes, expected a header of 48'],
    ['no room for a header', FULL_TABLE.subarray(0, 47), 'DMAR_SHORT', 47, 'ends after 47 bytes'],
    ['another signature', Uint8Array.from(ascii('APIC')), 'DMAR_SIGNATURE', 0, 'found signature "APIC"'],
    ['cut off', FULL_TABLE.subarray(0, 100), 'DMAR_LENGTH', 4, 'but only 100 are there'],
    ['length below the header', dmarTable([], { length: 47 }), 'DMAR_LENGTH', 4, 'is 47 bytes, expected at least 48'],
    ['half a structure header', dmarTable([UNIT, [0, 0, 4]]), 'DMAR_STRUCTURE', 64, '3 bytes left'],
    [
      'structure of length 0',
      dmarTable([[9, 0, 0, 0]]),
      'DMAR_STRUCTURE',
      50,
      'type 9 of 0 bytes, expected at least 4',
    ],
    ['DRHD too small', dmarTable([UNIT, structure(0, 0, 0)]), 'DMAR_STRUCTURE', 66, 'DRHD of 6 bytes'],
    ['RMRR too small', dmarTable([structure(1, ...new Array(19).fill(0))]), 'DMAR_STRUCTURE', 50, 'RMRR of 23 bytes'],
    [
      'ATSR too small',
      dmarTable([structure(2, 0, 0, 0)]),
      'DMAR_STRUCTURE',
      50,
      'ATSR of 7 bytes, expected at least 8',
    ],
    ['RHSA too small', dmarTable([structure(3, ...new Array(15).fill(0))]), 'DMAR_STRUCTURE', 50, 'RHSA of 19 bytes'],
    ['ANDD too small', dmarTable([structure(4)]), 'DMAR_STRUCTURE', 50, 'ANDD of 4 bytes, expected at least 8'],
    ['structure past the table', dmarTable([[0, 0, 200, 0]]), 'DMAR_STRUCTURE', 50, 'but only 4 are left in the table'],
    ['stray bytes as a scope', dmarTable([drhd(0, 0, 0x1000n, 1, 8, 0)]), 'DMAR_SCOPE', 64, '3 bytes left'],
    ['scope too small', dmarTable([atsr(0, 0, 1, 6, 0, 0, 0, 0, 0, 0)]), 'DMAR_SCOPE', 57, 'device scope of 6 bytes'],
    ['scope of odd length', dmarTable([sidp(0, 1, 9, 0, 0, 0, 0, 0, 0, 0)]), 'DMAR_SCOPE', 57, 'of 9 bytes'],
    [
      'scope past its structure',
      dmarTable([drhd(0, 0, 0x1000n, 1, 10, 0, 0, 0, 0, 0, 0), UNIT]),
      'DMAR_SCOPE',
      65,
      '8',
    ],
  ];

  test.each(cases)('%s', (_name, bytes, code, offset, text) => {
    const error = refusal(bytes);
    expect(error).toMatchObject({ code, offset });
    expect(error.message).toContain(`table.bin: byte ${offset} (0x${offset.toString(16)}): `);
    expect(error.message).toContain(text);
  });

  test('a wrong checksum, unless asked to go on', () => {
    const wrong = FULL_TABLE.slice();
    wrong[9] = (wrong[9]! + 1) & 0xff;
    const [found, expected] = [wrong[9], FULL_TABLE[9]!].map((byte) => `0x${byte!.toString(16).padStart(2, '0')}`);
    const text = `checksum is ${found}, expected ${expected} for these bytes`;
    expect(refusal(wrong)).toEqual({
      code: 'DMAR_CHECKSUM',
      offset: 9,
      message: `table.bin: byte 9 (0x9): ${text}`,
    });
    const table = parse(wrong, { checksum: 'warn' });
    expect(table.header.checksumOk).toBe(false);
    expect(table.warnings).toEqual([{ code: 'DMAR_CHECKSUM', offset: 9, message: text }]);
    expect(table.units).toEqual(parse(FULL_TABLE).units);
  });
});

describe('what is odd is warned about', () => {
  const SCOPES_AT = 80;
  const cases: readonly [name: string, structures: number[][], code: string, offset: number][] = [
    ['an unknown structure', [UNIT, structure(7, 1, 2)], 'DMAR_UNKNOWN_STRUCTURE', 64],
    ['a scope of type 0', [UNIT, drhd(0, 0, 0x1000n, ...scope(0, 0, 0, 1, 0))], 'DMAR_SCOPE_TYPE', SCOPES_AT],
    ['a scope of type 6', [UNIT, drhd(0, 0, 0x1000n, ...scope(6, 0, 0, 1, 0))], 'DMAR_SCOPE_TYPE', SCOPES_AT],
    ['device 32', [UNIT, drhd(0, 0, 0x1000n, ...scope(1, 0, 0, 32, 0))], 'DMAR_SCOPE_PATH', SCOPES_AT],
    ['function 8', [UNIT, drhd(0, 0, 0x1000n, ...scope(1, 0, 0, 0, 8))], 'DMAR_SCOPE_PATH', SCOPES_AT],
    ['a unit at address 0', [UNIT, drhd(0, 0, 0n)], 'DMAR_UNIT_BASE', 64],
    ['a unit at all ones', [UNIT, drhd(0, 0, 2n ** 64n - 1n)], 'DMAR_UNIT_BASE', 64],
    ['a unit off the page', [UNIT, drhd(0, 0, 0xfed90800n)], 'DMAR_UNIT_BASE', 64],
    ['two INCLUDE_ALL units', [UNIT, drhd(1, 0, 0xfed91000n)], 'DMAR_INCLUDE_ALL', 64],
    ['a region from 0', [UNIT, rmrr(0, 0n, 0xfffn)], 'DMAR_RMRR_RANGE', 64],
    ['a reversed region', [UNIT, rmrr(0, 0x2000n, 0xfffn)], 'DMAR_RMRR_RANGE', 64],
    ['an unaligned base', [UNIT, rmrr(0, 0x1800n, 0x1fffn)], 'DMAR_RMRR_RANGE', 64],
    ['an unaligned limit', [UNIT, rmrr(0, 0x1000n, 0x2000n)], 'DMAR_RMRR_RANGE', 64],
    ['a name without end', [UNIT, andd(1, 'X')], 'DMAR_NAME', 72],
    ['a reserved byte', [UNIT, structure(2, 0, 7, 0, 0)], 'DMAR_RESERVED', 69],
    ['no unit', [rhsa(0x1000n, 0)], 'DMAR_NO_UNIT', 48],
  ];

  test.each(cases)('%s', (_name, structures, code, offset) => {
    const found = warningsOf(...structures);
    expect(found).toEqual([{ code, offset, message: expect.any(String) }]);
  });

  test('INCLUDE_ALL on two segments is as it should be', () => {
    expect(warningsOf(UNIT, drhd(1, 1, 0xfed91000n))).toEqual([]);
  });

  test('a region that ends with the address space', () => {
    expect(warningsOf(UNIT, rmrr(0, 0xffff_ffff_ffff_f000n, 2n ** 64n - 1n))).toEqual([]);
  });

  test('a revision and a width that nobody has', () => {
    const { warnings } = parse(dmarTable([UNIT], { revision: 0, width: 0 }));
    expect(warnings.map(({ code, offset }) => [code, offset])).toEqual([
      ['DMAR_REVISION', 8],
      ['DMAR_WIDTH', 36],
    ]);
    expect(parse(dmarTable([UNIT], { revision: 2 })).warnings).toEqual([]);
  });

  test('bytes after the table', () => {
    const { warnings } = parse(Uint8Array.from([...dmarTable([UNIT]), 1, 2, 3]));
    expect(warnings).toEqual([
      { code: 'DMAR_TRAILING', offset: 64, message: '3 bytes follow the table, expected none' },
    ]);
  });

  test('an unknown structure does not hide what follows it', () => {
    const { units, warnings } = parse(dmarTable([structure(300, ...new Array(40).fill(0xff)), UNIT]));
    expect(units).toHaveLength(1);
    expect(warnings[0]?.message).toBe('structure of unknown type 300 (44 bytes) skipped');
  });
});

test('ids are read as iasl shows them: up to a NUL, unprintable bytes as spaces, none at the end', () => {
  const bytes = dmarTable([UNIT]);
  bytes.set(ascii('A M\x01B '), 10);
  bytes.set(ascii('\x01\0\xffXYZ  '), 16);
  expect(parse(withChecksum(bytes)).header).toMatchObject({ oemId: 'A M B', oemTableId: '' });
});

test('a table full of the smallest structures is read in one pass', () => {
  const bytes = withChecksum(dmarTable(new Array<number[]>(50_000).fill(drhd(1, 0, 0xfed90000n))));
  expect(parse(bytes).units).toHaveLength(50_000);
});

describe('layouts', () => {
  const records = Object.values(layouts).filter(
    (value): value is typeof layouts.DMAR_HEADER => typeof value === 'object' && 'fields' in value,
  );

  test.each(records.map((record) => [record.name, record] as const))(
    'the fields of the %s tile it',
    (_name, record) => {
      let end = 0;
      for (const { offset, bytes } of Object.values(record.fields)) {
        expect(offset).toBe(end);
        end += bytes;
      }
      expect(end).toBe(record.bytes);
    },
  );
});
