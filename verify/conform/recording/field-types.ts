// How a value of each type of field looks: for checking what a file says.

import { type FieldType, fieldWords } from './field-values.ts';

/** Whether a value is of a type, and what would be. */
export interface TypeCheck {
  readonly holds: (value: unknown) => boolean;
  readonly expected: string;
}

const isInt = (value: unknown): boolean => Number.isSafeInteger(value);
const isUpTo = (max: number) => (value: unknown) => isInt(value) && (value as number) >= 0 && (value as number) <= max;
const isWord = isUpTo(0xffffffff);
const isHalf = isUpTo(0xffff);
const isBit = isUpTo(1);
const isOffset = isUpTo(4095);
const isLevel = (value: unknown): boolean => isUpTo(4)(value) && value !== 0;
const isHash = (value: unknown): boolean => typeof value === 'string' && /^[0-9a-f]{16}$/.test(value);
const isStep = (value: unknown): boolean => value === 0 || value === 1 || value === -1;
const BYTES = /^([0-9a-f]{2})+$/;
const isBytes = (value: unknown): boolean => typeof value === 'string' && BYTES.test(value);
const isText = (value: unknown): boolean => typeof value === 'string';
const HEX = /^0x[0-9a-f]{1,16}$/;
const isHex = (value: unknown): boolean => typeof value === 'string' && HEX.test(value);

type Holds = (value: unknown) => boolean;

/** A list whose every item is a tuple of these types; those marked may be missing. */
function tuples(...parts: readonly Holds[]): Holds {
  return listOf(
    (item) => Array.isArray(item) && item.length <= parts.length && parts.every((holds, at) => holds(item[at])),
  );
}

/** A list of tuples that begin with the first and the last of something. */
function spansOf(...parts: readonly Holds[]): Holds {
  const holds = tuples(isHex, isHex, ...parts);
  return (value) => holds(value) && (value as string[][]).every(([first, last]) => Number(first) <= Number(last));
}

function listOf(holds: Holds): Holds {
  return (value) => Array.isArray(value) && value.every((item: unknown) => holds(item));
}

const isMissingOr = (holds: Holds) => (value: unknown) => value === undefined || holds(value);
const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
const isAccess = (value: unknown): boolean => value === 'rw' || value === 'ro';

function isDescriptor(value: unknown): boolean {
  if (!isObject(value) || typeof value.t !== 'string') return false;
  for (const key in value) if (typeof value[key] !== 'string' && typeof value[key] !== 'number') return false;
  return true;
}

/** A list of [first, last, devices]. */
function isRegions(value: unknown): boolean {
  return spansOf(listOf(isHex))(value) && (value as string[][][]).every(([, , devices]) => devices!.length > 0);
}
const isStride = (value: unknown): boolean => value === 1 || value === 2 || value === 4;

const isFault = (value: unknown): boolean =>
  isObject(value) && isHex(value.sid) && isWord(value.reason) && isHex(value.addr) && isBit(value.write);

function oneOf(words: readonly string[]): TypeCheck {
  return { holds: (value) => words.includes(value as string), expected: words.join(', ') };
}

export const fieldTypes: Readonly<Record<FieldType, TypeCheck>> = {
  int: { holds: isInt, expected: 'an integer' },
  count: { holds: isUpTo(Number.MAX_SAFE_INTEGER), expected: 'an integer from 0 on' },
  word: { holds: isWord, expected: 'an integer from 0 to 4294967295' },
  half: { holds: isHalf, expected: 'an integer from 0 to 65535' },
  bit: { holds: isBit, expected: '0 or 1' },
  bool: { holds: (value) => typeof value === 'boolean', expected: 'true or false' },
  quarantine: oneOf(fieldWords.quarantine),
  hardwareDomain: oneOf(fieldWords.hardwareDomain),
  pointer: oneOf(fieldWords.pointer),
  device: oneOf(fieldWords.device),
  text: { holds: isText, expected: 'a string' },
  textOrNull: { holds: (value) => value === null || isText(value), expected: 'a string or null' },
  any: { holds: () => true, expected: 'anything' },
  bytes: { holds: isBytes, expected: 'bytes of two lower-case hex digits each' },
  hex: { holds: isHex, expected: 'a "0x..." string of up to 16 lower-case digits' },
  hexOrNull: { holds: (value) => value === null || isHex(value), expected: 'a "0x..." string or null' },
  hexes: { holds: listOf(isHex), expected: 'a list of "0x..." strings' },
  spans: { holds: spansOf(), expected: 'a list of [first, last], the first not above the last' },
  memory: { holds: spansOf(isText), expected: 'a list of [first, last, use], the first not above the last' },
  identity: { holds: spansOf(isAccess), expected: 'a list of [first, last, rw or ro], the first not above the last' },
  runs: {
    holds: tuples(isHex, isHex, isWord, isStep, isMissingOr(isAccess)),
    expected: 'a list of [from, mfn, count, step], a step 1, -1 or 0',
  },
  levels: { holds: tuples(isHex, isLevel), expected: 'a list of [mfn, level], a level 1 to 4' },
  changes: { holds: tuples(isHalf, isWord, isHalf, isHalf), expected: 'a list of [dom, ref, flags, status]' },
  contents: {
    holds: tuples(isHalf, isHex, isOffset, isOffset, isBytes, isHash),
    expected: 'a list of [dom, frame, first, last, bytes, hash]',
  },
  regions: { holds: isRegions, expected: 'a list of [first, last, [bdf, ...]], the first not above the last' },
  strides: { holds: tuples(isHex, isStride), expected: 'a list of [bdf, stride], a stride 1, 2 or 4' },
  owners: {
    holds: tuples(isHex, (value) => value === null || isHalf(value)),
    expected: 'a list of [bdf, domid or null]',
  },
  descriptors: { holds: listOf(isDescriptor), expected: 'a list of descriptors' },
  faults: {
    holds: (value) => Array.isArray(value) && value.length <= 1 && value.every(isFault),
    expected: 'a list of no more than one {sid, reason, addr, write}',
  },
};
