import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { InputError } from '../../../machine/errors.ts';
import { type DmarTable, parseDmar } from '../../../passthrough/platform/dmar.ts';
import { dmarBytes } from '../../../passthrough/platform/dmar-bytes.ts';
import * as layouts from '../../../passthrough/platform/dmar-layout.ts';
import { FULL_TABLE, withChecksum } from './dmar-fixtures.ts';

/** What is wrong with the bytes, or the table; any other exception gets out. */
function outcome(bytes: Uint8Array, checksum: 'require' | 'warn' = 'require'): InputError | DmarTable {
  try {
    return parseDmar(dmarBytes(bytes, 'table.bin'), 'table.bin', { checksum });
  } catch (error) {
    if (error instanceof InputError) return error;
    throw error;
  }
}

describe('whatever the bytes, nothing but an InputError with a byte in the file', () => {
  test.prop([fc.uint8Array({ maxLength: 300 })])('random bytes', (bytes) => {
    outcome(bytes);
  });

  test.prop([fc.uint8Array({ maxLength: 300 })])('random structures after a good header', (body) => {
    const bytes = Uint8Array.from([...FULL_TABLE.subarray(0, 48), ...body]);
    new DataView(bytes.buffer).setUint32(4, bytes.length, true);
    const result = outcome(withChecksum(bytes));
    if (result instanceof InputError) expect(result.place.offset).toBeLessThan(bytes.length);
  });

  test.prop([fc.string({ unit: fc.constantFrom(...'0123456789abcdefABCDEF: \n\r\tDMAR@x.') })])('text', (text) => {
    outcome(new TextEncoder().encode(text));
  });

  test.prop([fc.nat(FULL_TABLE.length - 1)])('a truncated table is an error', (length) => {
    expect(outcome(FULL_TABLE.subarray(0, length))).toBeInstanceOf(InputError);
  });

  test.prop([fc.nat(FULL_TABLE.length * 8 - 1)])('a flipped bit is an error', (bit) => {
    const bytes = FULL_TABLE.slice();
    bytes[bit >> 3]! ^= 1 << (bit & 7);
    expect(outcome(bytes)).toBeInstanceOf(InputError);
  });

  test.prop([fc.array(fc.tuple(fc.nat(FULL_TABLE.length - 1), fc.nat(255)), { maxLength: 8 })])(
    'changed bytes, with the checksum ignored',
    (changes) => {
      const bytes = FULL_TABLE.slice();
      for (const [at, value] of changes) bytes[at] = value;
      outcome(bytes, 'warn');
    },
  );
});

// The layouts must serve a writer as well as the reader: what is written by them reads back as it was.

type Values = Readonly<Record<string, number | bigint | string>>;

function writeRecord(layout: layouts.RecordLayout, values: Values): number[] {
  const bytes = new Array<number>(layout.bytes).fill(0);
  for (const [name, field] of Object.entries(layout.fields)) {
    const value = values[name] ?? 0;
    for (let i = 0; i < field.bytes; i++) {
      const byte = typeof value === 'string' ? value.charCodeAt(i) : Number((BigInt(value) >> BigInt(8 * i)) & 0xffn);
      bytes[field.offset + i] = field.kind === 'reserved' ? 0 : byte || 0;
    }
  }
  return bytes;
}

interface Scope {
  readonly type: number;
  readonly enumerationId: number;
  readonly startBus: number;
  readonly path: readonly (readonly [number, number])[];
}

const writeScope = ({ path, ...fields }: Scope): number[] => [
  ...writeRecord(layouts.SCOPE, { ...fields, length: layouts.SCOPE.bytes + 2 * path.length }),
  ...path.flatMap(([device, fn]) => writeRecord(layouts.PATH_HOP, { device, function: fn })),
];

function writeStructure(layout: layouts.RecordLayout, type: number, values: Values, tail: readonly number[]): number[] {
  return [...writeRecord(layout, { ...values, type, length: layout.bytes + tail.length }), ...tail];
}

const scopes = fc.array(
  fc.record({
    type: fc.integer({ min: 1, max: 5 }),
    enumerationId: fc.nat(255),
    startBus: fc.nat(255),
    path: fc.array(fc.tuple(fc.nat(31), fc.nat(7)), { minLength: 1, maxLength: 5 }),
  }),
  { maxLength: 4 },
);
const segment = fc.nat(0xffff);
const wide = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
const units = fc.record({ segment, flags: fc.nat(1), registerBase: wide, scopes });
const regions = fc.record({ segment, base: wide, limit: wide, scopes });
const rootPorts = fc.record({ segment, flags: fc.nat(1), scopes });
const affinities = fc.record({ registerBase: wide, proximityDomain: fc.nat(2 ** 32 - 1) });

test.prop([fc.array(units), fc.array(regions), fc.array(rootPorts), fc.array(affinities), fc.nat(255)])(
  'what is written by the layouts reads back',
  (unitList, regionList, portList, affinityList, hostAddressWidth) => {
    const { StructureType: type } = layouts;
    const scopeBytes = (list: readonly Scope[]) => list.flatMap(writeScope);
    const body = [
      ...unitList.flatMap(({ scopes: s, ...v }) => writeStructure(layouts.DRHD, type.DRHD, v, scopeBytes(s))),
      ...regionList.flatMap(({ scopes: s, ...v }) => writeStructure(layouts.RMRR, type.RMRR, v, scopeBytes(s))),
      ...portList.flatMap(({ scopes: s, ...v }) => writeStructure(layouts.ATSR, type.ATSR, v, scopeBytes(s))),
      ...affinityList.flatMap((v) => writeStructure(layouts.RHSA, type.RHSA, v, [])),
    ];
    const header = { signature: 'DMAR', length: 48 + body.length, revision: 1, oemId: 'ACME', hostAddressWidth };
    const bytes = withChecksum(Uint8Array.from([...writeRecord(layouts.DMAR_HEADER, header), ...body]));

    const table = parseDmar(bytes, 'table.bin');
    const hex = (value: bigint) => `0x${value.toString(16)}`;
    expect(table.hostAddressWidth).toBe(hostAddressWidth);
    expect(table.header.oemId).toBe('ACME');
    expect(table.units).toEqual(
      unitList.map(({ flags, registerBase, ...rest }) => ({
        ...rest,
        registerBase: hex(registerBase),
        includeAll: flags === 1,
      })),
    );
    expect(table.reservedRegions).toEqual(
      regionList.map((region) => ({ ...region, base: hex(region.base), limit: hex(region.limit) })),
    );
    expect(table.rootPorts).toEqual(portList.map(({ flags, ...rest }) => ({ ...rest, allPorts: flags === 1 })));
    expect(table.affinities).toEqual(
      affinityList.map((affinity) => ({ ...affinity, registerBase: hex(affinity.registerBase) })),
    );
  },
);
