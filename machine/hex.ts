// Bytes as JSON carries them: pairs of hex digits.

const BYTE_HEX = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'));
/** Above every character's code that is looked up. */
const CODES = 128;
/** The value of a hex digit by its character's code; -1 of what is none. */
const DIGITS = Int8Array.from({ length: CODES }, (_, code) => {
  const digit = String.fromCharCode(code);
  return /[0-9a-fA-F]/.test(digit) ? Number.parseInt(digit, 16) : -1;
});

/** Bytes from hex digits, in pairs. @throws TypeError with the name of the field when they are not. */
export function hexBytes(hex: string, name: string): Uint8Array {
  const bytes = new Uint8Array(typeof hex === 'string' ? hex.length >>> 1 : 0);
  let isHex = typeof hex === 'string' && hex.length % 2 === 0;
  for (let at = 0; isHex && at < bytes.length; at += 1) {
    const high = DIGITS[hex.charCodeAt(at * 2)] ?? -1;
    const low = DIGITS[hex.charCodeAt(at * 2 + 1)] ?? -1;
    isHex = high >= 0 && low >= 0;
    bytes[at] = (high << 4) | low;
  }
  if (!isHex) throw new TypeError(`${name}: expected pairs of hex digits`);
  return bytes;
}

/** Hex digits of bytes, of some of them. */
export function bytesHex(bytes: ArrayLike<number>, from = 0, to = bytes.length): string {
  let text = '';
  for (let at = from; at < to; at += 1) text += BYTE_HEX[bytes[at]!]!;
  return text;
}

/** Hex digits of `count` bytes that are all the same. */
export const filledHex = (byte: number, count: number): string => BYTE_HEX[byte & 0xff]!.repeat(count);
