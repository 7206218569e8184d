// 64-bit values at the door: JSON carries them as numbers up to 2^53-1 and as `0x...` strings above.

import type { Wide } from './frame-number.ts';

/** High word of a number below 2^53. The division is only paid for by numbers that need it. */
export function highWord(value: number): number {
  return value < 0x100000000 ? 0 : Math.floor(value / 0x100000000);
}

/** The number that two words are, below 2^53. */
export function joinWords(low: number, high: number): number {
  return high === 0 ? low : low + high * 0x100000000;
}

const HEX = /^0x[0-9a-fA-F]{1,16}$/;

/** Low word of a 64-bit value. @throws TypeError when it is not one. */
export function wideLow(value: Wide, name: string): number {
  if (typeof value === 'number') {
    if (!Number.isSafeInteger(value) || value < 0)
      throw new TypeError(`${name} ${value}: expected an integer from 0 to 2^53-1, or a "0x..." string`);
    return value >>> 0;
  }
  if (typeof value !== 'string' || !HEX.test(value))
    throw new TypeError(`${name} ${JSON.stringify(value)}: expected a number or a "0x..." string of up to 16 digits`);
  return Number.parseInt(value.slice(Math.max(2, value.length - 8)), 16) >>> 0;
}

/** High word of a 64-bit value. */
export function wideHigh(value: Wide, name: string): number {
  if (typeof value === 'number') return highWord(value);
  wideLow(value, name);
  return value.length > 10 ? Number.parseInt(value.slice(2, -8), 16) : 0;
}

/** Two words as JSON carries them. */
export function wide(low: number, high: number): Wide {
  const value = joinWords(low, high);
  return Number.isSafeInteger(value) ? value : `0x${high.toString(16)}${low.toString(16).padStart(8, '0')}`;
}

/** A 32-bit value of an operation. @throws TypeError when it is not one. */
export function word32(value: number, name: string): number {
  if (value >>> 0 !== value) throw new TypeError(`${name} ${String(value)}: expected an integer from 0 to 2^32-1`);
  return value;
}

/** The lowest bit of a mask at or above `from`; -1 when there is none. */
export function nextBit(mask: number, from: number): number {
  const rest = from > 31 ? 0 : (mask >>> from) << from;
  return rest === 0 ? -1 : 31 - Math.clz32(rest & -rest);
}
