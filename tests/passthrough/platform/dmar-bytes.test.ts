import { describe, expect, test } from 'vitest';
import { InputError } from '../../../machine/errors.ts';
import { dmarBytes } from '../../../passthrough/platform/dmar-bytes.ts';
import { ascii, FULL_TABLE } from './dmar-fixtures.ts';

const bytesOf = (text: string) => dmarBytes(Uint8Array.from(ascii(text)), 'table.hex');
const digits = (bytes: Uint8Array) => [...bytes].map((byte) => byte.toString(16).padStart(2, '0'));
const shown = (bytes: Uint8Array) => [...bytes].map((byte) => (byte > 32 && byte < 127 ? byte : 46));

/** Lines of 16 bytes: address, bytes in groups of `group`, two spaces, the bytes as text. */
function dump(bytes: Uint8Array, addressDigits: number, group: number, separator = '  '): string {
  let text = '';
  for (let at = 0; at < bytes.length; at += 16) {
    const row = bytes.subarray(at, at + 16);
    const groups = digits(row).map((pair, i) => (i > 0 && i % group === 0 ? ` ${pair}` : pair));
    const line = groups.join('').padEnd(32 + 16 / group - 1);
    const address = at.toString(16).padStart(addressDigits, '0');
    text += `${address}: ${line}${separator}${String.fromCharCode(...shown(row))}\n`;
  }
  return text;
}

describe('every form of a file gives the same bytes', () => {
  const forms: readonly [name: string, text: string][] = [
    ['raw', String.fromCharCode(...FULL_TABLE)],
    ['plain hex', digits(FULL_TABLE).join('')],
    ['upper case with white space', digits(FULL_TABLE).join(' \r\n\t').toUpperCase()],
    ['xxd', dump(FULL_TABLE, 8, 2)],
    ['iasl', dump(FULL_TABLE, 4, 1, '  // ').toUpperCase()],
    ['acpidump', `DMAR @ 0x0000000000000000\n    ${dump(FULL_TABLE, 4, 1).replaceAll('\n', '\n    ')}\n`],
    ['a dump with CR LF', dump(FULL_TABLE, 4, 1).replaceAll('\n', '\r\n')],
  ];

  test.each(forms)('%s', (_name, text) => {
    expect([...bytesOf(text)]).toEqual([...FULL_TABLE]);
  });

  test('a raw table is not copied, nor is the beginning of one', () => {
    const raw = FULL_TABLE.subarray(0, 2);
    expect(dmarBytes(raw, 'table.bin')).toBe(raw);
    expect(dmarBytes(FULL_TABLE, 'table.bin')).toBe(FULL_TABLE);
  });
});

describe('anything else is refused at its first wrong byte', () => {
  const cases: readonly [name: string, text: string, offset: number, message: string][] = [
    ['an empty file', '', 0, 'the file is empty'],
    ['white space', ' \n ', 0, 'only white space'],
    ['another table', 'APIC\x30\x00\x00', 1, 'found 0x50 ("P")'],
    ['a letter among the digits', '44 4d 41 5x', 10, 'found 0x78 ("x")'],
    ['a control byte', '44\x01', 2, 'found 0x01, expected'],
    ['half a byte', '44 4d 4', 6, 'odd number of hex digits'],
    ['a dump without its beginning', '0010: 44 4D', 0, 'found address 0010, expected 0000'],
    ['a dump with a gap', '0000: 44 4D\n0010: 41 52', 12, 'found address 0010, expected 0002'],
    ['half a byte in a dump', '0000: 44 4', 10, 'the line ends here'],
    ['a wrong digit in a dump', '0000: 44 4D 4!', 13, 'found 0x21 ("!")'],
    ['a wrong address', '00x0: 44', 2, 'found 0x78 ("x")'],
    ['a line without address', '0000: 44\n4D 41', 11, 'found 0x20'],
    ['a digit line in a dump', '0000: 44\n4D41', 9, 'expected a raw table'],
    ['a title alone', 'DMAR @ 0x0\n', 11, 'no bytes after the title'],
  ];

  test.each(cases)('%s', (_name, text, offset, message) => {
    let error: unknown;
    try {
      bytesOf(text);
    } catch (caught) {
      error = caught;
    }
    expect(error).toBeInstanceOf(InputError);
    expect(error).toMatchObject({ code: 'DMAR_ENCODING', place: { file: 'table.hex', offset } });
    expect((error as InputError).message).toContain(message);
  });
});
