// Goal: identifiers, frame numbers and 64-bit values are checked where they come in, and print as people write them.
// Method: round trips over all values; bad input refused with a message that says what was expected.

import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { Errno, errnoName } from '../../machine/errno.ts';
import { HypervisorBug, InputError } from '../../machine/errors.ts';
import { dfn, FRAME_MAX, frameAdd, gfn, mfn, pfn } from '../../machine/frame-number.ts';
import { did, domid, grantRef, parseSbdf, sbdf, sbdfText, unitIndex, vcpu } from '../../machine/ids.ts';
import { wide, wideHigh, wideLow } from '../../machine/wide.ts';

const NOT_WHOLE = [-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY];

describe.each([
  ['domid', domid, 0x8000],
  ['did', did, 0x10000],
  ['unit', unitIndex, 32],
  ['vcpu', vcpu, 1024],
  ['grant ref', grantRef, 2 ** 32],
  ['sbdf', sbdf, 2 ** 32],
] as const)('a %s', (name, make, limit) => {
  test('is a whole number below its limit', () => {
    expect([make(0), make(limit - 1)]).toEqual([0, limit - 1]);
    for (const value of [limit, ...NOT_WHOLE]) expect(() => make(value)).toThrow(RangeError);
    expect(() => make(limit)).toThrow(`${name} ${limit}: expected an integer from 0 to ${limit - 1}`);
  });
});

describe('frame numbers', () => {
  test.each([
    ['mfn', mfn],
    ['gfn', gfn],
    ['pfn', pfn],
    ['dfn', dfn],
  ] as const)('a %s is what 57 bits of address hold', (name, make) => {
    expect(make(FRAME_MAX)).toBe(2 ** 45 - 1);
    for (const value of [FRAME_MAX + 1, ...NOT_WHOLE]) expect(() => make(value)).toThrow(RangeError);
    expect(() => make(-1)).toThrow(name);
  });

  test('are counted on from', () => {
    expect(frameAdd(mfn(5), 3)).toBe(8);
  });
});

describe('PCI addresses', () => {
  test.prop([fc.integer({ min: 0, max: 0xffffffff })])('survive being printed and read', (value) => {
    expect(parseSbdf(sbdfText(sbdf(value)))).toBe(value);
    expect(sbdfText(sbdf(value))).toMatch(/^[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$/);
  });

  test.each([
    ['0000:03:00.0', 0x0300],
    ['03:00.0', 0x0300],
    ['3:0.0', 0x0300],
    ['0001:ff:1f.7', 0x1ffff],
    ['FFFF:FF:1F.7', 0xffffffff],
    ['8000:00:00.0', 0x80000000],
  ])('%s is read', (text, value) => {
    expect(parseSbdf(text)).toBe(value);
  });

  test.each([
    '',
    'x',
    '03:00',
    '03:00.8',
    '03:20.0',
    '10000:03:00.0',
    '100:00.0',
    '03:00.0 ',
    '0000:03:00.0.0',
    ':03:00.0',
    '03-00.0',
  ])('%j is not', (text) => {
    expect(() => parseSbdf(text)).toThrow(RangeError);
    expect(() => parseSbdf(text)).toThrow('expected segment:bus:device.function');
  });
});

const word = fc.integer({ min: 0, max: 0xffffffff });

describe('64-bit values', () => {
  test.prop([word, word])('survive the way through JSON', (low, high) => {
    const value = JSON.parse(JSON.stringify(wide(low, high)));
    expect([wideLow(value, 'it'), wideHigh(value, 'it')]).toEqual([low, high]);
  });

  test('are numbers up to 2^53-1 and strings above', () => {
    expect(wide(0xffffffff, 0x1fffff)).toBe(Number.MAX_SAFE_INTEGER);
    expect(wide(0, 0x200000)).toBe('0x20000000000000');
    expect(wide(5, 0xffffffff)).toBe('0xffffffff00000005');
  });

  test.each<[`0x${string}`, number, number]>([
    ['0x0', 0, 0],
    ['0x12345678', 0x12345678, 0],
    ['0x123456789', 0x23456789, 1],
    ['0xFFFFFFFFffffffff', 0xffffffff, 0xffffffff],
    ['0x0000000100000002', 2, 1],
  ])('%s is read', (text, low, high) => {
    expect([wideLow(text, 'it'), wideHigh(text, 'it')]).toEqual([low, high]);
  });

  test.each<[string, number | string]>([
    ['a fraction', 0.5],
    ['a negative number', -1],
    ['a number that is no longer exact', 2 ** 53],
    ['no digits', '0x'],
    ['too many digits', '0x12345678901234567'],
    ['something else', '12'],
    ['a sign', '0x-1'],
  ])('%s is refused, with the name of what it was for', (_, value) => {
    // The low word is read first, and checks for both.
    expect(() => wideLow(value as number, 'busAddress')).toThrow(TypeError);
    expect(() => wideLow(value as number, 'busAddress')).toThrow('busAddress');
  });
});

describe('errors', () => {
  test('errnos print by name, other values by their digits', () => {
    expect([errnoName(Errno.EINVAL), errnoName(-110), errnoName(-9999)]).toEqual(['EINVAL', 'ETIMEDOUT', '-9999']);
  });

  test('a broken invariant begins its message with its id', () => {
    const error = new HypervisorBug('G8', 'handle 5 is lost');
    expect([error.message, error.invariant, error.name]).toEqual(['G8: handle 5 is lost', 'G8', 'HypervisorBug']);
  });

  test('bad input says where', () => {
    const at = (place: ConstructorParameters<typeof InputError>[1]) => new InputError('CODE', place, 'bad').message;
    expect(at({ file: 'a.txt', line: 3 })).toBe('a.txt:3: bad');
    expect(at({ file: 'a.bin', offset: 16 })).toBe('a.bin: byte 16 (0x10): bad');
    expect(at({ file: 'a' })).toBe('a: bad');
  });
});
