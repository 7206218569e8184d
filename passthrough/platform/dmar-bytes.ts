// The forms in which a DMAR table comes as a file: raw, plain hex, or a dump with addresses.

import { InputError } from '../../machine/errors.ts';

const SIGNATURE = 'DMAR';
/** First line of the output of `acpidump`. */
const ACPIDUMP_TITLE = 'DMAR @';
const EXPECTED = `expected a raw table (starting with "${SIGNATURE}"), hex digits, or lines like "0000: 44 4D 41 52"`;
const [TAB, NEWLINE, RETURN, SPACE, COLON] = [0x09, 0x0a, 0x0d, 0x20, 0x3a];

/**
 * The bytes of the table in a file.
 *
 * - Raw (`/sys/firmware/acpi/tables/DMAR`): the content itself, not a copy.
 * - Plain hex: digits with white space anywhere.
 * - A dump by `acpidump`, `xxd` or `iasl`: `0000: 44 4D 41 52 ...  DMAR...`, where two spaces end the bytes of a line
 *   and the addresses go on without gaps from 0.
 *
 * @throws InputError `DMAR_ENCODING` with the byte of the file at which it stops being any of these.
 */
export function dmarBytes(content: Uint8Array, file: string): Uint8Array {
  if (content.length === 0) throw encodingError(file, 0, 'the file is empty');
  const head = asciiText(content, 0, ACPIDUMP_TITLE.length);
  if (head !== ACPIDUMP_TITLE && (head.startsWith(SIGNATURE) || SIGNATURE.startsWith(head))) return content;
  return head === ACPIDUMP_TITLE || firstLineHasColon(content) ? dumpBytes(content, file) : hexBytes(content, file);
}

function firstLineHasColon(content: Uint8Array): boolean {
  let blank = true;
  for (const byte of content) {
    if (byte === COLON) return true;
    if (byte === NEWLINE && !blank) return false;
    blank &&= isSpace(byte);
  }
  return false;
}

function hexBytes(content: Uint8Array, file: string): Uint8Array {
  const bytes: number[] = [];
  /** Value and place of a first digit that waits for its second. */
  let high: { digit: number; at: number } | undefined;
  for (let at = 0; at < content.length; at++) {
    if (isSpace(content[at]!)) continue;
    const digit = hexDigit(content[at]!);
    if (digit === undefined) throw unexpected(content, file, at);
    if (high) bytes.push(high.digit * 16 + digit);
    high = high ? undefined : { digit, at };
  }
  if (high) throw encodingError(file, high.at, 'odd number of hex digits, expected two for each byte');
  if (bytes.length === 0) throw encodingError(file, 0, `only white space, ${EXPECTED}`);
  return Uint8Array.from(bytes);
}

function dumpBytes(content: Uint8Array, file: string): Uint8Array {
  const bytes: number[] = [];
  for (let start = 0; start < content.length; ) {
    const newline = content.indexOf(NEWLINE, start);
    const end = newline < 0 ? content.length : newline;
    const isTitle = start === 0 && asciiText(content, 0, ACPIDUMP_TITLE.length) === ACPIDUMP_TITLE;
    const first = skipSpace(content, start, end);
    if (!isTitle && first < end) readDumpLine(content, file, first, end, bytes);
    start = end + 1;
  }
  if (bytes.length === 0) throw encodingError(file, content.length, 'no bytes after the title, expected a dump');
  return Uint8Array.from(bytes);
}

/** Appends the bytes of the line that has its first digit at `first`. */
function readDumpLine(content: Uint8Array, file: string, first: number, end: number, bytes: number[]): void {
  let at = first;
  let address = 0;
  for (; at < end && content[at] !== COLON; at++) {
    const digit = hexDigit(content[at]!);
    if (digit === undefined) throw unexpected(content, file, at);
    address = address * 16 + digit;
  }
  if (at === end || at === first) throw unexpected(content, file, first);
  if (address !== bytes.length) {
    const found = asciiText(content, first, Math.min(at, first + 16));
    throw encodingError(file, first, `found address ${found}, expected ${bytes.length.toString(16).padStart(4, '0')}`);
  }
  at = skipSpace(content, at + 1, end);
  while (at < end) {
    const [high, low] = [hexDigit(content[at]!), at + 1 < end ? hexDigit(content[at + 1]!) : undefined];
    if (high === undefined || low === undefined) throw unexpected(content, file, high === undefined ? at : at + 1);
    bytes.push(high * 16 + low);
    at += 2;
    if (at < end && isSpace(content[at]!)) {
      if (at + 1 >= end || isSpace(content[at + 1]!)) return;
      at += 1;
    }
  }
}

function skipSpace(content: Uint8Array, from: number, end: number): number {
  let at = from;
  while (at < end && isSpace(content[at]!)) at++;
  return at;
}

const isSpace = (byte: number): boolean => byte === SPACE || byte === TAB || byte === NEWLINE || byte === RETURN;

/** Value of an ASCII hex digit; `undefined` for anything else. */
function hexDigit(byte: number): number | undefined {
  if (byte >= 0x30 && byte <= 0x39) return byte - 0x30;
  const letter = byte | 0x20;
  return letter >= 0x61 && letter <= 0x66 ? letter - 0x57 : undefined;
}

function asciiText(content: Uint8Array, start: number, end: number): string {
  return String.fromCharCode(...content.subarray(start, end));
}

function unexpected(content: Uint8Array, file: string, at: number): InputError {
  const byte = content[at];
  if (byte === undefined || byte === NEWLINE) return encodingError(file, at, `the line ends here, ${EXPECTED}`);
  const character = byte > SPACE && byte < 0x7f ? ` (${JSON.stringify(String.fromCharCode(byte))})` : '';
  return encodingError(file, at, `found 0x${byte.toString(16).padStart(2, '0')}${character}, ${EXPECTED}`);
}

function encodingError(file: string, offset: number, message: string): InputError {
  return new InputError('DMAR_ENCODING', { file, offset }, message);
}
