// Goal: tables that are built are the bytes that the specification says. Method: bytes by hand, and refusals.

import { describe, expect, test } from 'vitest';
import { type DmarContents, encodeDmar } from '../../../passthrough/index.ts';
import { parseDmar } from '../../../passthrough/platform/dmar.ts';
import { ascii, dmarTable, drhd, FULL_TABLE, rmrr, scope, structure, u16, u32, withChecksum } from './dmar-fixtures.ts';

test('a table of one unit, byte by byte', () => {
  const unit = {
    segment: 1,
    registerBase: '0x1fed90000' as const,
    includeAll: true,
    scopes: [{ type: 3, enumerationId: 2, startBus: 0xf0, path: [[0x1f, 0]] as const }],
  };
  const expected = [
    ...[...ascii('DMAR'), ...u32(72), 1, 0, ...ascii('ACME  '), ...ascii('        '), ...u32(0), ...ascii('    ')],
    ...[...u32(0), 38, 1, ...new Array<number>(10).fill(0)],
    ...[0, 0, ...u16(24), 1, 0, ...u16(1), ...u32(0xfed90000), ...u32(1)],
    ...[3, 8, 0, 0, 2, 0xf0, 0x1f, 0],
  ];
  const bytes = encodeDmar({ header: { oemId: 'ACME' }, flags: 1, units: [unit] });
  expect([...bytes]).toEqual([...withChecksum(Uint8Array.from(expected))]);
});

test('a table with one of everything is encoded as it was, but for the padding of names', () => {
  const table = parseDmar(FULL_TABLE, 'table.bin');
  const encoded = encodeDmar(table);
  expect(parseDmar(encoded, 'table.bin')).toEqual(table);
  expect([...encoded.subarray(24)]).toEqual([...FULL_TABLE.subarray(24)]);
});

test('unknown structures are kept byte for byte, in their place', () => {
  const bytes = dmarTable([structure(9, 1, 2, 3), drhd(1, 0, 0xfed90000n), structure(0xffff), structure(9, 4)]);
  const table = parseDmar(bytes, 'table.bin');
  expect(table.unknown).toEqual([
    { type: 9, body: '010203' },
    { type: 0xffff, body: '' },
    { type: 9, body: '04' },
  ]);
  expect([...encodeDmar(table).subarray(48)]).toEqual([...bytes.subarray(48)]);
});

test('what the order does not mention comes last, by number of type', () => {
  const bytes = dmarTable([rmrr(0, 0x1000n, 0x1fffn, ...scope(1, 0, 0, 2, 0)), drhd(1, 0, 0xfed90000n)]);
  const table = parseDmar(bytes, 'table.bin');
  expect(table.order).toEqual([1, 0]);
  const more = { ...table, units: [...table.units, ...table.units], satc: [], unknown: [{ type: 8, body: '' }] };
  expect(parseDmar(encodeDmar(more), 'table.bin').order).toEqual([1, 0, 0, 8]);
  expect(parseDmar(encodeDmar({ ...table, order: [4, 0] }), 'table.bin').order).toEqual([0, 1]);
});

describe('what does not fit is refused with structure and field', () => {
  const path = [[0, 0]] as const;
  const place = { type: 1, enumerationId: 0, startBus: 0, path };
  const unit = { segment: 0, registerBase: '0x1000', includeAll: false, scopes: [place] } as const;
  const cases: readonly [name: string, contents: DmarContents, message: string][] = [
    ['a segment', { units: [{ ...unit, segment: 0x10000 }] }, 'DRHD: segment 65536: expected 0 to 65535'],
    [
      'an address',
      { units: [{ ...unit, registerBase: '0x1g' }] },
      'DRHD: registerBase "0x1g": expected 0x and up to 16',
    ],
    ['a name', { header: { oemId: 'TOOLONG' } }, 'DMAR header: oemId "TOOLONG": expected up to 6 printable'],
    ['an empty path', { sidp: [{ segment: 0, scopes: [{ ...place, path: [] }] }] }, 'path []: expected at least one'],
    [
      'a long path',
      { units: [{ ...unit, scopes: [{ ...place, path: new Array(125).fill([0, 0]) }] }] },
      'device scope: length 256: expected 0 to 255',
    ],
    ['many scopes', { units: [{ ...unit, scopes: new Array(8190).fill(place) }] }, 'DRHD: length 65536'],
    ['a name with a NUL', { namespaceDevices: [{ deviceNumber: 1, name: 'a\0b' }] }, 'ANDD: name "a\\u0000b"'],
    ['a wide character', { namespaceDevices: [{ deviceNumber: 1, name: '€' }] }, 'ANDD: name "€": expected single'],
    ['half a byte', { unknown: [{ type: 9, body: '123' }] }, 'structure of type 9: bytes "123": expected two hex'],
  ];
  test.each(cases)('%s', (_name, contents, message) => {
    expect(() => encodeDmar(contents)).toThrow(RangeError);
    expect(() => encodeDmar(contents)).toThrow(message);
  });
});
