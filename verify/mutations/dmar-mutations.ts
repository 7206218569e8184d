// DMAR tables broken on purpose, as hostile or damaged firmware would have them.

import {
  DMAR_HEADER,
  DRHD,
  RMRR,
  readRecord,
  SCOPE,
  STRUCTURE_HEADER,
  StructureType,
} from '../../passthrough/platform/dmar-layout.ts';
import type { RandomSource } from './random.ts';

/** A mutation: other bytes for a table. `others` are tables to take parts from. */
type Mutation = (table: Uint8Array, random: RandomSource, others: readonly Uint8Array[]) => Uint8Array;

export interface Mutant {
  readonly content: Uint8Array;
  /** What was done, in order. */
  readonly mutations: readonly string[];
}

const HOSTILE_BYTES = [0, 1, 4, 7, 8, 0x7f, 0x80, 0xfe, 0xff];
const HOSTILE_WORDS = [0, 1, 3, 4, 6, 7, 8, 15, 16, 23, 24, 0x7fff, 0x8000, 0xfffe, 0xffff];
const HOSTILE_ADDRESSES = [0n, 1n, 0xfffn, 0x1000n, 0xfee00000n, 2n ** 32n - 1n, 2n ** 63n, 2n ** 64n - 1n];
/** A table of more is cut: what is looked for does not need large ones. */
const BYTES_MAX = 4096;

const viewOf = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
const joined = (...parts: readonly Uint8Array[]) => Uint8Array.from(parts.flatMap((part) => [...part]));

interface StructurePlace {
  readonly at: number;
  readonly end: number;
  readonly type: number;
}

/** The structures of a table, as far as they are whole. */
function structuresOf(table: Uint8Array): StructurePlace[] {
  const places: StructurePlace[] = [];
  for (let at: number = DMAR_HEADER.bytes; at + STRUCTURE_HEADER.bytes <= table.length; ) {
    const { type, length } = readRecord(STRUCTURE_HEADER, viewOf(table), at);
    if (length < STRUCTURE_HEADER.bytes || at + length > table.length) break;
    places.push({ at, end: at + length, type });
    at += length;
  }
  return places;
}

/** A copy that `change` has changed. */
function changed(table: Uint8Array, change: (view: DataView, bytes: Uint8Array) => void): Uint8Array {
  // Not slice(): that of a Buffer is no copy.
  const copy = Uint8Array.from(table);
  change(viewOf(copy), copy);
  return copy;
}

function withStructure(
  table: Uint8Array,
  random: RandomSource,
  change: (view: DataView, place: StructurePlace) => void,
): Uint8Array {
  const places = structuresOf(table);
  return places.length === 0 ? table : changed(table, (view) => change(view, random.pick(places)));
}

/** A part of a table, of any length. */
function part(of: Uint8Array, random: RandomSource): Uint8Array {
  const from = random.below(of.length + 1);
  return of.subarray(from, from + random.below(of.length - from + 1));
}

const MUTATIONS: Readonly<Record<string, Mutation>> = {
  'flip bits': (table, random) =>
    changed(table, (_, bytes) => {
      for (let left = random.below(8); left >= 0 && bytes.length > 0; left--) {
        bytes[random.below(bytes.length)]! ^= 1 << random.below(8);
      }
    }),
  'set bytes': (table, random) =>
    changed(table, (_, bytes) => {
      for (let left = random.below(4); left >= 0 && bytes.length > 0; left--) {
        bytes[random.below(bytes.length)] = random.oneIn(2) ? random.pick(HOSTILE_BYTES) : random.below(256);
      }
    }),
  truncate: (table, random) => table.subarray(0, random.below(table.length + 1)),
  extend: (table, random) =>
    joined(
      table,
      Uint8Array.from({ length: random.below(64) }, () => random.below(256)),
    ),
  'table length': (table, random) =>
    changed(table, (view) => {
      const { offset } = DMAR_HEADER.fields.length;
      if (view.byteLength < DMAR_HEADER.bytes) return;
      const near = table.length + random.below(9) - 4;
      view.setUint32(offset, random.oneIn(2) ? near : random.pick([0, 1, 47, 48, 49, 2 ** 31, 2 ** 32 - 1]), true);
    }),
  'structure length': (table, random) =>
    withStructure(table, random, (view, { at, end }) => {
      const near = Math.max(0, end - at + random.below(9) - 4);
      const length = random.oneIn(2) ? near : random.pick(HOSTILE_WORDS);
      view.setUint16(at + STRUCTURE_HEADER.fields.length.offset, length, true);
    }),
  'structure type': (table, random) =>
    withStructure(table, random, (view, { at }) => {
      view.setUint16(at, random.oneIn(4) ? random.pick(HOSTILE_WORDS) : random.below(8), true);
    }),
  'scope length': (table, random) =>
    withStructure(table, random, (view, { at, end, type }) => {
      const first = at + (type === StructureType.DRHD ? DRHD.bytes : type === StructureType.RMRR ? RMRR.bytes : 8);
      const lengthAt = first + 8 * random.below(4) + SCOPE.fields.length.offset;
      if (lengthAt < end) view.setUint8(lengthAt, random.pick(HOSTILE_BYTES));
    }),
  address: (table, random) =>
    withStructure(table, random, (view, { at, end, type }) => {
      const offset = at + 8 + (type === StructureType.RMRR ? 8 * random.below(2) : 0);
      if (offset + 8 <= end) view.setBigUint64(offset, random.pick(HOSTILE_ADDRESSES), true);
    }),
  splice: (table, random, others) => {
    const from = random.below(table.length + 1);
    const taken = random.below(table.length - from + 1);
    return joined(table.subarray(0, from), part(random.pick(others), random), table.subarray(from + taken));
  },
  'repeat structures': (table, random) => {
    const { at, end } = random.pick([...structuresOf(table), { at: 0, end: 0 }]);
    const times = 1 + random.below(8);
    return joined(table, ...Array.from({ length: times }, () => table.subarray(at, end)));
  },
  'drop a structure': (table, random) => {
    const { at, end } = random.pick([...structuresOf(table), { at: 0, end: 0 }]);
    return joined(table.subarray(0, at), table.subarray(end));
  },
  'another table behind': (table, random, others) => joined(table, random.pick(others).subarray(DMAR_HEADER.bytes)),
};

/** One to four mutations of one of the tables; length and checksum are mended more often than not. */
export function dmarMutant(tables: readonly Uint8Array[], random: RandomSource): Mutant {
  const mutations = Array.from({ length: 1 + random.below(4) }, () => random.pick(Object.keys(MUTATIONS)));
  let table = random.pick(tables);
  for (const name of mutations) table = MUTATIONS[name]!(table, random, tables).subarray(0, BYTES_MAX);
  if (!random.oneIn(3)) {
    table = changed(table, (view) => {
      if (view.byteLength >= DMAR_HEADER.bytes) view.setUint32(DMAR_HEADER.fields.length.offset, table.length, true);
    });
    mutations.push('mend length');
  }
  if (!random.oneIn(4)) {
    table = withChecksum(table);
    mutations.push('mend checksum');
  }
  if (!random.oneIn(8)) return { content: table, mutations };
  return { content: asText(table, random), mutations: [...mutations, 'as text'] };
}

function withChecksum(table: Uint8Array): Uint8Array {
  const { offset } = DMAR_HEADER.fields.checksum;
  const sum = table.reduce((total, byte, at) => total + (at === offset ? 0 : byte), 0);
  return changed(table, (view) => {
    if (offset < view.byteLength) view.setUint8(offset, -sum & 0xff);
  });
}

/** Hex digits, or a dump with addresses; half of them with some characters changed. */
function asText(table: Uint8Array, random: RandomSource): Uint8Array {
  const pairs = [...table].map((byte) => byte.toString(16).padStart(2, '0'));
  const line = (_: unknown, row: number) =>
    `${(16 * row).toString(16).padStart(4, '0')}: ${pairs.slice(16 * row, 16 * row + 16).join(' ')}  text\n`;
  const text = random.oneIn(2) ? pairs.join('') : Array.from({ length: Math.ceil(pairs.length / 16) }, line).join('');
  const bytes = Uint8Array.from(text, (character) => character.charCodeAt(0));
  if (random.oneIn(2) || bytes.length === 0) return bytes;
  for (let left = random.below(3); left >= 0; left--) {
    bytes[random.below(bytes.length)] = random.oneIn(2) ? random.below(256) : random.pick([0x3a, 0x20, 0x0a, 0x39]);
  }
  return bytes;
}
