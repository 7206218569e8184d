// Goal: a unit finds what its tables say, through 3, 4 and 5 levels, with the rights of all of them together.
// Method: tables written by hand; both cache profiles must give the same answer from cold caches.

import { describe, expect, test } from 'vitest';
import { Access, defaultLruShape } from '../../../passthrough/hardware/index.ts';
import { DEVICE, type Mapped, mapped, R, Rig, type RigOptions, RW } from './tables.ts';

const PROFILES: readonly [string, RigOptions][] = [
  ['adversary', {}],
  ['lru', { lru: defaultLruShape }],
];
const ALL_LEVELS = { units: [{ levels: [3, 4, 5], addressBits: 57 }] };

/** A table of so many levels whose way to `dfn` goes through the last entry of each. */
function deep(options: RigOptions, levels: number): Mapped & { readonly dfn: number } {
  const all = mapped({ ...ALL_LEVELS, ...options, levels });
  for (let at = 0; at + 1 < levels; at += 1) all.rig.entry(all.path[at]!, 511, all.path[at + 1]!, RW);
  all.rig.entry(all.leaves, 511, 44, RW);
  return { ...all, dfn: 2 ** (9 * levels) - 1 };
}

describe.each(PROFILES)('a unit of the profile %s', (_, options) => {
  test.each([3, 4, 5])('finds the first and the last page through %i levels', (levels) => {
    const { rig, leaves, dfn } = deep(options, levels);
    rig.entry(leaves, 0, 43, RW);
    expect(rig.unit.translate(DEVICE, 0, Access.write)).toBe(43);
    expect(rig.unit.translate(DEVICE, dfn, Access.write)).toBe(44);
    expect(rig.unit.translate(DEVICE, dfn + 1, Access.read)).toBe(-4);
  });

  test.each([
    [2, 512, '2 MiB'],
    [3, 0x40000, '1 GiB'],
  ])('finds pages of a leaf at level %i', (level, frame) => {
    const { rig, path } = mapped({ ...options, levels: 4 });
    rig.entry(path[4 - level]!, 1, frame, RW, { superpage: 1 });
    const first = 512 ** (level - 1);
    for (const offset of [0, 5, first - 1]) {
      expect(rig.unit.translate(DEVICE, first + offset, Access.write)).toBe(frame + offset);
    }
    expect(rig.unit.translate(DEVICE, 2 * first, Access.read)).toBe(-6);
  });

  test('names frames beyond 2^32 bytes by both words of an entry', () => {
    const { rig, leaves } = mapped(options);
    rig.entry(leaves, 5, 0x123456789, RW);
    expect(rig.unit.translate(DEVICE, 5, Access.read)).toBe(0x123456789);
  });

  test.each([0, 1, 2])('takes the rights of all levels together: read only at depth %i', (depth) => {
    const write = mapped(options);
    const read = mapped(options);
    for (const { rig, path, leaves } of [write, read]) {
      rig.entry(leaves, 0, 40, RW);
      rig.entry(path[depth]!, 0, [path[1], path[2], 40][depth] as number, R);
    }
    expect(write.rig.unit.translate(DEVICE, 0, Access.write)).toBe(-5);
    expect(read.rig.unit.translate(DEVICE, 0, Access.read)).toBe(40);
  });

  test('a write-only page can be written and not read', () => {
    const { rig, leaves } = mapped(options);
    rig.entry(leaves, 5, 40, 2);
    expect(rig.unit.translate(DEVICE, 5, Access.read)).toBe(-6);
    expect(rig.unit.translate(DEVICE, 5, Access.write)).toBe(40);
  });

  test('lets every address through as it is before translation is enabled', () => {
    const rig = new Rig(options);
    expect(rig.unit.translating).toBe(false);
    expect(rig.unit.translate(DEVICE, 12345, Access.write)).toBe(12345);
    rig.start();
    expect(rig.unit.translating).toBe(true);
    expect(rig.unit.translate(DEVICE, 12345, Access.write)).toBe(-1);
    rig.command(rig.unit, { queuedInvalidationEnable: 1 });
    expect(rig.unit.translate(DEVICE, 12345, Access.write)).toBe(12345);
  });

  test('lets addresses below its width through where the context says pass-through', () => {
    const { rig, contexts } = mapped({ ...options, units: [{ levels: [4], addressBits: 48 }], levels: 4 });
    rig.context(contexts, DEVICE, { type: 2, levels: 4 });
    if (rig.adversary) rig.contextCache({ granularity: 'global' });
    expect(rig.unit.translate(DEVICE, 12345, Access.write)).toBe(12345);
    expect(rig.unit.translate(DEVICE, 2 ** 36, Access.write)).toBe(-4);
  });

  test('takes a device by its bus in the root table and its function in the context table', () => {
    const { rig, root, path, leaves } = mapped(options);
    rig.entry(leaves, 5, 40, RW);
    const contexts = rig.table();
    rig.rootEntry(root, 0xab, [(contexts << 12) | 1, 0, 0, 0]);
    rig.context(contexts, 0xabff, { table: path[0]!, did: 9 });
    expect(rig.unit.translate(0xabff, 5, Access.read)).toBe(40);
    expect(rig.unit.caches.lastDid).toBe(9);
    expect(rig.unit.translate(0xabfe, 5, Access.read)).toBe(-2);
    expect(rig.unit.translate(0xacff, 5, Access.read)).toBe(-1);
  });

  test('accepts only as many address bits as the smaller of its own width and that of the tables', () => {
    const narrow = mapped({ ...options, units: [{ levels: [3], addressBits: 33 }] });
    narrow.rig.entry(narrow.path[0]!, 7, narrow.path[1]!, RW);
    narrow.rig.entry(narrow.path[0]!, 8, narrow.path[1]!, RW);
    narrow.rig.entry(narrow.leaves, 0, 40, RW);
    expect(narrow.rig.unit.translate(DEVICE, 7 * 0x40000, Access.read)).toBe(40);
    expect(narrow.rig.unit.translate(DEVICE, 8 * 0x40000, Access.read)).toBe(-4);
  });
});

test('the adversary calls current what the tables say, and that alone', () => {
  const { rig, leaves } = mapped();
  rig.entry(leaves, 5, 40, RW);
  rig.entry(leaves, 5, 41, RW);
  expect(rig.may(5).filter((answer) => answer.current)).toEqual([{ frame: 41, rights: RW, current: true, did: 1 }]);
});
