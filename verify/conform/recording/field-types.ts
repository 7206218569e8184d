// How a value of each type of field looks: for checking what a file says.

import { type FieldType, fieldWords } from './record-fields.ts';

/** Whether a value is of a type, and what would be. */
export interface TypeCheck {
  readonly holds: (value: unknown) => boolean;
  readonly expected: string;
}

const isInt = (value: unknown): boolean => Number.isSafeInteger(value);
const isText = (value: unknown): boolean => typeof value === 'string';
const HEX = /^0x[0-9a-f]{1,16}$/;
const isHex = (value: unknown): boolean => typeof value === 'string' && HEX.test(value);

/** A list whose every item is a tuple of these types; those marked may be missing. */
function tuples(...parts: readonly ((value: unknown) => boolean)[]) {
  return (value: unknown): boolean =>
    Array.isArray(value) &&
    value.every((item: unknown) => Array.isArray(item) && parts.every((holds, at) => holds(item[at])));
}

function listOf(holds: (value: unknown) => boolean) {
  return (value: unknown): boolean => Array.isArray(value) && value.every(holds);
}

const isMissingOr = (holds: (value: unknown) => boolean) => (value: unknown) => value === undefined || holds(value);
const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
const isAccess = (value: unknown): boolean => value === 'rw' || value === 'ro';

function isDescriptor(value: unknown): boolean {
  if (!isObject(value) || typeof value.t !== 'string') return false;
  for (const key in value) if (typeof value[key] !== 'string' && typeof value[key] !== 'number') return false;
  return true;
}

const isFault = (value: unknown): boolean =>
  isObject(value) && isHex(value.sid) && isInt(value.reason) && isHex(value.addr) && isInt(value.write);

function oneOf(words: readonly string[]): TypeCheck {
  return { holds: (value) => words.includes(value as string), expected: words.join(', ') };
}

export const fieldTypes: Readonly<Record<FieldType, TypeCheck>> = {
  int: { holds: isInt, expected: 'an integer' },
  bool: { holds: (value) => typeof value === 'boolean', expected: 'true or false' },
  quarantine: oneOf(fieldWords.quarantine),
  hardwareDomain: oneOf(fieldWords.hardwareDomain),
  pointer: oneOf(fieldWords.pointer),
  text: { holds: isText, expected: 'a string' },
  any: { holds: () => true, expected: 'anything' },
  hex: { holds: isHex, expected: 'a "0x..." string of up to 16 lower-case digits' },
  hexOrNull: { holds: (value) => value === null || isHex(value), expected: 'a "0x..." string or null' },
  hexes: { holds: listOf(isHex), expected: 'a list of "0x..." strings' },
  spans: { holds: tuples(isHex, isHex, isMissingOr(isText)), expected: 'a list of [first, last]' },
  runs: {
    holds: tuples(isHex, isHex, isInt, isInt, isMissingOr(isAccess)),
    expected: 'a list of [from, mfn, count, step]',
  },
  levels: { holds: tuples(isHex, isInt), expected: 'a list of [mfn, level]' },
  changes: { holds: tuples(isInt, isInt, isInt, isInt), expected: 'a list of [dom, ref, flags, status]' },
  contents: {
    holds: tuples(isInt, isHex, isInt, isInt, isText, isText),
    expected: 'a list of [dom, frame, first, last, bytes, hash]',
  },
  descriptors: { holds: listOf(isDescriptor), expected: 'a list of descriptors' },
  faults: { holds: listOf(isFault), expected: 'a list of {sid, reason, addr, write}' },
};
