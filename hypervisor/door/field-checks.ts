// What a field of an operation may hold. Each check throws, naming the field: a TypeError for a value of another kind,
// a RangeError for a number that is too small or too large.

import type { Wide } from '../../machine/frame-number.ts';
import { parseSbdf } from '../../machine/ids.ts';
import { wideLow } from '../../machine/wide.ts';

/** `of`: what the field belongs to, an operation's name, for messages about fields that there are not. */
export type Check = (value: unknown, name: string, of?: string) => void;

/** A check for every field of a type. */
export type Fields<Of> = { readonly [Field in keyof Of]-?: Check };

function shown(value: unknown): string {
  return typeof value === 'string' ? JSON.stringify(value) : String(value);
}

/** A whole number from 0 to `max`. */
function upTo(max: number): Check {
  return (value, name) => {
    if (typeof value === 'number' && value >= 0 && value <= max && Number.isInteger(value)) return;
    const Kind = Number.isInteger(value) ? RangeError : TypeError;
    throw new Kind(`${name} ${shown(value)}: expected an integer from 0 to ${max}`);
  };
}

/** An option with a range of its own. */
export function between(low: number, high: number): Check {
  return (value, name) => {
    if (typeof value === 'number' && value >= low && value <= high && Number.isInteger(value)) return;
    const Kind = typeof value === 'number' ? RangeError : TypeError;
    throw new Kind(`${name} ${shown(value)}: expected ${low} to ${high}`);
  };
}

/** A domain id, as 16-bit fields hold it. */
export const domid = upTo(0xffff);
/** A field of 16 bits, of 32, and a number of something. */
export const half = upTo(0xffff);
export const word = upTo(0xffffffff);
export const index = upTo(Number.MAX_SAFE_INTEGER);

export const wide: Check = (value, name) => {
  wideLow(value as Wide, name);
};

export const flag: Check = (value, name) => {
  if (typeof value !== 'boolean') throw new TypeError(`${name} ${shown(value)}: expected true or false`);
};

function among(allowed: readonly (string | number)[], OfWords: typeof TypeError | typeof RangeError): Check {
  return (value, name) => {
    if (allowed.includes(value as string | number)) return;
    const OfKind = typeof value === 'number' ? RangeError : OfWords;
    const Kind = typeof value === typeof allowed[0] ? OfKind : TypeError;
    throw new Kind(`${name} ${shown(value)}: expected ${allowed.join(' or ')}`);
  };
}

export const oneOf = (...allowed: readonly (string | number)[]): Check => among(allowed, TypeError);
/** A word among others that say how much or how: an option's. Another word is out of range. */
export const oneWord = (...allowed: readonly string[]): Check => among(allowed, RangeError);

/** Where an argument lies. */
export const place = oneOf('mapped', 'unmapped', 'forbidden');

export const device: Check = (value, name) => {
  if (typeof value !== 'string') throw new TypeError(`${name} ${shown(value)}: expected a PCI address`);
  try {
    parseSbdf(value);
  } catch (error) {
    throw new RangeError(`${name}: ${(error as Error).message}`);
  }
};

export const integer: Check = (value, name) => {
  if (!Number.isSafeInteger(value)) throw new TypeError(`${name} ${shown(value)}: expected an integer`);
};

export const text: Check = (value, name) => {
  if (typeof value !== 'string') throw new TypeError(`${name} ${shown(value)}: expected a string`);
};

export const object: Check = (value, name) => {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new TypeError(`${name} ${shown(value)}: expected an object`);
};

export const list: Check = (value, name) => {
  if (!Array.isArray(value)) throw new TypeError(`${name} ${shown(value)}: expected a list`);
};

/** A list whose items all pass a check; they are named by their place. */
export function listOf(check: Check): Check {
  return (value, name, of) => {
    list(value, name);
    for (const [at, item] of (value as readonly unknown[]).entries()) check(item, `${name}[${at}]`, of);
  };
}

/** A list of as many items as there are checks, each its own. */
export function tuple(...checks: readonly Check[]): Check {
  return (value, name, of) => {
    list(value, name);
    const items = value as readonly unknown[];
    if (items.length !== checks.length) throw new TypeError(`${name}: expected ${checks.length} items`);
    for (const [at, check] of checks.entries()) check(items[at], `${name}[${at}]`, of);
  };
}

/** What may be left out. */
export function optional(check: Check): Check {
  return (value, name, of) => {
    if (value !== undefined) check(value, name, of);
  };
}

/** Fields with their checks, as lists: what is walked often. */
export interface FieldList {
  readonly names: readonly string[];
  readonly checks: readonly Check[];
  /** Fields that are there, and looked at by others. */
  readonly beside: readonly string[];
}

export function fieldList(fields: Readonly<Record<string, Check>>, beside: readonly string[] = []): FieldList {
  return { names: Object.keys(fields), checks: Object.values(fields), beside };
}

/**
 * Checks every field of an object, and that it has no others.
 * @param of what it belongs to, for messages about fields that there are not.
 * @param within where it lies in that.
 */
export function checkFields(value: object, fields: FieldList, of?: string, within?: string): void {
  const { names, checks, beside } = fields;
  let given = beside.length;
  for (let at = 0; at < names.length; at += 1) {
    const name = names[at]!;
    const field = (value as Readonly<Record<string, unknown>>)[name];
    if (field !== undefined) given += 1;
    checks[at]!(field, within === undefined ? name : `${within}.${name}`, of);
  }
  if (fieldCount(value) !== given) refuseUnknown(value, [...beside, ...names], of, within);
}

/** How many fields an object has. To count them costs next to nothing, to look up their names would not. */
export function fieldCount(value: object): number {
  let count = 0;
  for (const _ in value) count += 1;
  return count;
}

/**
 * For an object with more fields than are known to be given. One that there is, but that is undefined, is no offence.
 * @throws TypeError naming the field that there is not, and those that there are.
 */
export function refuseUnknown(value: object, names: readonly string[], of?: string, within?: string): void {
  for (const name in value) {
    if (names.includes(name)) continue;
    const where = [of, within, 'unknown field'].filter((part) => part !== undefined).join(': ');
    throw new TypeError(`${where} ${JSON.stringify(name)}: expected ${names.join(', ')}`);
  }
}

/** An object with these fields and no others. */
export function record(fields: Readonly<Record<string, Check>>): Check {
  const listed = fieldList(fields);
  return (value, name, of) => {
    object(value, name);
    checkFields(value as object, listed, of, name);
  };
}
