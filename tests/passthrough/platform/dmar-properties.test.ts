import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { InputError } from '../../../machine/errors.ts';
import { type DmarTable, parseDmar } from '../../../passthrough/platform/dmar.ts';
import { dmarBytes } from '../../../passthrough/platform/dmar-bytes.ts';
import { encodeDmar } from '../../../passthrough/platform/dmar-encoder.ts';
import type { Hex64 } from '../../../passthrough/platform/dmar-layout.ts';
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

const segment = fc.nat(0xffff);
const byte = fc.nat(255);
const dword = fc.nat(2 ** 32 - 1);
const wide = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }).map((value): Hex64 => `0x${value.toString(16)}`);
const digits = (constraints: fc.IntArrayConstraints) =>
  fc.uint8Array(constraints).map((bytes) => Buffer.from(bytes).toString('hex'));
/** Left out or not 0, as the reader gives it. */
const optional = <K extends string, T>(name: K, value: fc.Arbitrary<T>) =>
  fc
    .option(value, { nil: undefined })
    .map((given) => (given === undefined ? {} : { [name]: given }) as { [_ in K]?: T });
const merged = <A extends object, B extends object>(a: fc.Arbitrary<A>, b: fc.Arbitrary<B>) =>
  fc.tuple(a, b).map(([one, other]): A & B => ({ ...one, ...other }));
const name = (length: number) =>
  fc.string({ unit: 'binary-ascii', maxLength: length }).map((text) => text.replace(/[^ -~]/g, '').trimEnd());

const scope = merged(
  fc.record({
    type: byte,
    enumerationId: byte,
    startBus: byte,
    path: fc.array(fc.tuple(byte, byte), { minLength: 1, maxLength: 5 }),
  }),
  optional('flags', fc.integer({ min: 1, max: 255 })),
);
const scopes = fc.array(scope, { maxLength: 4 });
const path = fc.array(fc.integer({ min: 1, max: 255 }), { maxLength: 9 }).map((of) => String.fromCharCode(...of));
const rest = optional('rest', digits({ minLength: 1, maxLength: 5 }));
const listOf = <T>(value: fc.Arbitrary<T>) => fc.array(value, { maxLength: 4 });

const contents = fc.record({
  header: fc.record({
    revision: byte,
    oemId: name(6),
    oemTableId: name(8),
    oemRevision: dword,
    creatorId: name(4),
    creatorRevision: dword,
  }),
  hostAddressWidth: byte,
  flags: byte,
  units: listOf(
    merged(
      fc.record({ segment, registerBase: wide, includeAll: fc.boolean(), scopes }),
      optional('size', fc.integer({ min: 1, max: 255 })),
    ),
  ),
  reservedRegions: listOf(fc.record({ segment, base: wide, limit: wide, scopes })),
  rootPorts: listOf(fc.record({ segment, allPorts: fc.boolean(), scopes })),
  affinities: listOf(merged(fc.record({ registerBase: wide, proximityDomain: dword }), rest)),
  namespaceDevices: listOf(merged(fc.record({ deviceNumber: byte, name: path }), rest)),
  satc: listOf(fc.record({ segment, atcRequired: fc.boolean(), scopes })),
  sidp: listOf(fc.record({ segment, scopes })),
  unknown: listOf(fc.record({ type: fc.integer({ min: 7, max: 0xffff }), body: digits({ maxLength: 9 }) })),
});
/** The same structures in any order. */
const anyOrder = contents.chain((of) => {
  const { order } = parseDmar(encodeDmar(of), 'table.bin');
  return fc.shuffledSubarray([...order], { minLength: order.length }).map((shuffled) => ({ ...of, order: shuffled }));
});

/** The lists of unknown structures by type: which comes first among different types is in `order`. */
const byType = (of: readonly { type: number }[]) => [...of].sort((a, b) => a.type - b.type);

test.prop([anyOrder])('what is encoded reads back, and is encoded as it was', (written) => {
  const bytes = encodeDmar(written);
  const table = parseDmar(bytes, 'table.bin');
  const { warnings: _, unknown, header, ...read } = table;
  expect({ ...read, header, unknown: byType(unknown) }).toEqual({
    ...written,
    header: { ...written.header, length: bytes.length, checksumOk: true },
    unknown: byType(written.unknown),
  });
  expect(encodeDmar(table)).toEqual(bytes);
});
