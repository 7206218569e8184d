// Goal: every bit layout is consistent in itself, and the codec and the hot-path constants agree with it.
// Method: properties over all layouts of the table; a few entries written out in hexadecimal by hand.

import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { type Layout, layouts } from '../../../passthrough/hardware/index.ts';
import {
  capability,
  contextEntry,
  decode,
  encode,
  fieldOf,
  iotlbDescriptor,
  maskOf,
  secondLevelEntry,
  shiftOf,
  waitDescriptor,
} from '../../../passthrough/hardware/layouts.ts';
import {
  ENTRY_PERMISSIONS,
  ENTRY_SUPERPAGE,
  entryFrame,
  entryPages,
  isLeaf,
  tableIndex,
} from '../../../passthrough/hardware/walk.ts';

const fieldsOf = (layout: Layout) => Object.entries(layout.fields);
const width = ({ high, low }: { readonly high: number; readonly low: number }) => high - low + 1;

/** Values that fit the fields of a layout, each present or left out. */
const valuesOf = (layout: Layout) =>
  fc.record(
    Object.fromEntries(
      fieldsOf(layout).map(([name, field]) => [name, fc.maxSafeNat().map((value) => value % 2 ** width(field))]),
    ),
    { requiredKeys: [] },
  );

describe.each(layouts.map((layout) => [layout.name, layout] as const))('the layout of the %s', (_, layout) => {
  test('has no bit that belongs to two fields, and none outside', () => {
    const taken = new Set<number>();
    for (const [name, { high, low }] of fieldsOf(layout)) {
      expect(high, name).toBeGreaterThanOrEqual(low);
      expect(high, name).toBeLessThan(layout.bits);
      for (let bit = low; bit <= high; bit += 1) {
        expect(taken.has(bit), `${name}, bit ${bit}`).toBe(false);
        taken.add(bit);
      }
    }
  });

  test.prop([valuesOf(layout)], { numRuns: 30 })('gives back what was encoded', (values) => {
    const words = encode(layout, values);
    expect(words).toHaveLength(layout.bits / 32);
    for (const word of words) expect(word).toBe(word >>> 0);
    const back = decode(layout, words);
    for (const [name] of fieldsOf(layout)) expect(back[name], name).toBe(values[name] ?? 0);
  });

  test('refuses a value that does not fit its field', () => {
    for (const [name, field] of fieldsOf(layout)) {
      for (const value of [2 ** width(field), -1, 0.5, Number.NaN]) {
        expect(() => encode(layout, { [name]: value }), `${name} = ${value}`).toThrow(RangeError);
      }
    }
  });

  test('has masks and shifts that say what the codec says', () => {
    for (const [name, field] of fieldsOf(layout)) {
      if (field.high >>> 5 !== field.low >>> 5) {
        expect(() => maskOf(layout, name)).toThrow(RangeError);
        continue;
      }
      const full = encode(layout, { [name]: 2 ** width(field) - 1 })[field.low >>> 5];
      expect(maskOf(layout, name), name).toBe(full);
      expect(shiftOf(layout, name), name).toBe(field.low & 31);
    }
  });
});

describe('entries as the specification draws them', () => {
  test('a context entry', () => {
    const words = encode(contextEntry, { present: 1, secondLevelTable: 0x12345, addressWidth: 2, domainId: 0xabcd });
    expect(words).toEqual([0x12345001, 0, 0x00abcd02, 0]);
  });

  test('a second-level entry whose frame crosses its words', () => {
    expect(encode(secondLevelEntry, { read: 1, write: 1, superpage: 1, frame: 0xabcdef1200 })).toEqual([
      0xf1200083, 0x000abcde,
    ]);
  });

  test('a page-selective IOTLB descriptor with drains and hint', () => {
    const words = encode(iotlbDescriptor, {
      type: 2,
      granularity: 3,
      drainWrites: 1,
      drainReads: 1,
      domainId: 7,
      addressMask: 9,
      invalidationHint: 1,
      address: 0x1_0000_0200,
    });
    expect(words).toEqual([0x000700f2, 0, 0x00200049, 0x00001000]);
  });

  test('a wait descriptor that writes a status', () => {
    const words = encode(waitDescriptor, {
      type: 5,
      statusWrite: 1,
      fence: 1,
      statusData: 1,
      statusAddress: 0x1404 / 4,
    });
    expect(words).toEqual([0x65, 1, 0x1404, 0]);
  });

  test('a field that crosses a word is read as one value', () => {
    expect(fieldOf(capability, 'faultRecordOffset', [0x22000000, 0])).toBe(0x22);
    expect(fieldOf(capability, 'faultRecordOffset', [0xff000000, 3])).toBe(0x3ff);
  });
});

describe('the constants of the walk', () => {
  test('are the masks of a second-level entry', () => {
    expect(ENTRY_PERMISSIONS).toBe(maskOf(secondLevelEntry, 'read') | maskOf(secondLevelEntry, 'write'));
    expect(ENTRY_SUPERPAGE).toBe(maskOf(secondLevelEntry, 'superpage'));
  });

  test.prop([
    fc.nat().map((n) => n % 2 ** 31),
    fc.integer({ min: 0, max: 0xffffffff }),
    fc.integer({ min: 0, max: 0xffffffff }),
  ])('entryFrame reads the frame field', (_, low, high) => {
    expect(entryFrame(low, high)).toBe(fieldOf(secondLevelEntry, 'frame', [low, high]));
  });

  test.prop([fc.maxSafeNat().map((n) => n % 2 ** 45)])('indexes of all levels put together are the page', (dfn) => {
    let sum = 0;
    for (let level = 1; level <= 5; level += 1) {
      expect(entryPages(level)).toBe(512 ** (level - 1));
      sum += tableIndex(dfn, level) * entryPages(level);
    }
    expect(sum).toBe(dfn);
  });

  test('bit 7 makes a page of an entry at levels 2 and 3 only; level 1 is always a page', () => {
    expect([1, 2, 3, 4, 5].map((level) => isLeaf(level, ENTRY_SUPERPAGE | 3))).toEqual([
      true,
      true,
      true,
      false,
      false,
    ]);
    expect([1, 2, 3, 4, 5].map((level) => isLeaf(level, 3))).toEqual([true, false, false, false, false]);
  });
});
