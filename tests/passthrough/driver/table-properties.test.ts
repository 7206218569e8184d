// Goal: whatever is mapped and unmapped, in whichever sizes, the tables say it; they have the shape that they should
// have; no table page is lost or reused too early.
// Method: random maps, unmaps and changes of rights against a plain map of a few thousand probed device frames; a walk
// that counts tables; an adversarial unit; pages full of traps in every free frame.

import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import type { Mfn } from '../../../machine/frame-number.ts';
import { fingerprint } from '../../../machine/heap/fingerprint.ts';
import type { Capabilities } from '../../../passthrough/hardware/index.ts';
import { type FlushPolicy, type Release, strictPage, xen } from '../../../passthrough/policy/index.ts';
import { CPU, DriverRig, dfn, domain } from './driver-rig.ts';

const GIB = 0x40000;
const BLOCK = 512;
/** Frame that belongs to device frame 0: large leaves form where the frames are these. */
const HOME = 2 * GIB;
/** Two blocks page by page, the borders of all others in the first two GiB. */
const PROBES: readonly number[] = [
  ...Array.from({ length: 2 * BLOCK }, (_, at) => at),
  ...[2, 3, 511, 512, 513, 514].flatMap((block) => [0, 1, 511].map((page) => block * BLOCK + page)),
  2 * GIB - 1,
];

type Command =
  | {
      readonly kind: 'map';
      readonly order: number;
      readonly at: number;
      readonly shift: number;
      readonly rights: 1 | 3;
    }
  | { readonly kind: 'pages'; readonly block: number; readonly rights: 1 | 3; readonly but: number }
  | { readonly kind: 'unmap'; readonly order: number; readonly at: number };

const place = fc.oneof(
  fc.nat(2 * BLOCK - 1),
  fc.constantFrom(...PROBES),
  fc.constantFrom(0, BLOCK, 2 * BLOCK, 511 * BLOCK, GIB, GIB + BLOCK),
);
const rights = fc.constantFrom(1 as const, 3 as const);
const command: fc.Arbitrary<Command> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant('map' as const),
      order: fc.oneof(
        { weight: 5, arbitrary: fc.constant(0) },
        { weight: 3, arbitrary: fc.constant(9) },
        fc.constant(18),
      ),
      at: place,
      shift: fc.constantFrom(0, 0, 0, 0, 1, BLOCK, GIB),
      rights,
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('pages' as const),
      block: fc.constantFrom(0, 1, 2),
      rights,
      but: fc.oneof(fc.constant(-1), fc.nat(BLOCK - 1)),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant('unmap' as const),
      order: fc.oneof(
        { weight: 4, arbitrary: fc.constant(0) },
        { weight: 3, arbitrary: fc.constant(9) },
        fc.constantFrom(1, 5, 18),
      ),
      at: place,
    }),
  },
);
const commands = fc.array(command, { minLength: 1, maxLength: 12 });

interface Setting {
  readonly superpages: boolean;
  readonly reclaimTables: boolean;
  readonly policy: FlushPolicy;
  readonly unit: Partial<Capabilities>;
}
const setting: fc.Arbitrary<Setting> = fc.record({
  superpages: fc.oneof({ weight: 3, arbitrary: fc.constant(true) }, fc.constant(false)),
  reclaimTables: fc.oneof({ weight: 3, arbitrary: fc.constant(true) }, fc.constant(false)),
  policy: fc.constantFrom(xen, strictPage),
  unit: fc.constantFrom<Partial<Capabilities>>(
    {},
    {},
    { cachingMode: true },
    { levels: [3], addressBits: 39 },
    { superpage1g: false },
  ),
});

class Book {
  readonly rig: DriverRig;
  readonly id = domain(1);
  readonly told = new Map<number, readonly [number, number]>();
  /** Everything that a probed device frame ever gave. */
  readonly ever = new Map<number, Set<string>>();
  /** Frames in use besides tables. */
  readonly others: number;

  constructor({ superpages, reclaimTables, policy, unit }: Setting, release: Release = 'afterFlush') {
    this.rig = new DriverRig({
      frames: 1400,
      ledgerCapacity: 4096,
      mayEntries: 1 << 17,
      units: [unit],
      superpages,
      reclaimTables,
      policy,
      release,
    });
    this.rig.domain(1, [0]);
    this.others = this.rig.allocated - this.tables().length;
  }

  do(one: Command): void {
    if (one.kind === 'pages') {
      for (let page = 0; page < BLOCK; page += 1) {
        const at = one.block * BLOCK + page;
        if (page !== one.but) this.map(at, 0, HOME + at, one.rights);
      }
      return;
    }
    const at = one.at - (one.at % 2 ** one.order);
    if (one.kind === 'unmap') this.unmap(at, one.order);
    else this.map(at, one.order, HOME + at + one.shift, one.rights);
  }

  map(at: number, order: number, frame: number, rights: number): void {
    // 1 GiB in pages is more than there are requests, and tables, for.
    if (order === 18 && (this.rig.driver.tables.largestLeaf < 3 || frame % GIB !== 0)) return;
    expect(this.rig.driver.map(CPU, this.id, dfn(at), frame as Mfn, rights, order)).toBe(0);
    for (const probe of probesIn(at, order)) {
      this.told.set(probe, [frame + probe - at, rights]);
      const ever = this.ever.get(probe) ?? new Set();
      this.ever.set(probe, ever.add(`${frame + probe - at}`));
    }
    this.rig.finish();
  }

  unmap(at: number, order: number): void {
    const there = PROBES.some((probe) => probe >= at && probe < at + 2 ** order && this.told.has(probe));
    const removed = this.rig.driver.unmap(CPU, this.id, dfn(at), order);
    expect(removed > 0 || !there, `unmap of ${at}, order ${order}: ${removed}`).toBe(true);
    for (const probe of probesIn(at, order)) this.told.delete(probe);
    this.rig.finish();
  }

  /** The tables of the domain from the root down, each with its level. */
  tables(): { readonly table: number; readonly level: number }[] {
    const { tables } = this.rig.driver;
    const found: { table: number; level: number }[] = [];
    const visit = (table: number, level: number) => {
      found.push({ table, level });
      for (const [low, high] of level > 1 ? this.entries(table) : []) {
        if ((low & 3) !== 0 && (low & 0x80) === 0) visit((low >>> 12) + high * 0x100000, level - 1);
      }
    };
    visit(tables.root(this.id), tables.levels);
    return found;
  }

  entries(table: number): (readonly [number, number])[] {
    const { frames } = this.rig;
    return Array.from({ length: BLOCK }, (_, at) => [
      frames.readWord(table, at * 2),
      frames.readWord(table, at * 2 + 1),
    ]);
  }

  /** What is wrong with the shape of the tables. */
  misshapen(): string[] {
    const { fewestLevels, largestLeaf, reclaim } = this.rig.driver.tables;
    return this.tables().flatMap(({ table, level }) => {
      const entries = this.entries(table);
      const present = entries.filter(([low]) => (low & 3) !== 0);
      const wrong: string[] = [];
      if (reclaim && level <= fewestLevels - 2 && present.length === 0) wrong.push(`an empty table of level ${level}`);
      const leaves = level === 1 || entries.every(([low]) => (low & 0x80) !== 0);
      if (level >= largestLeaf || !leaves || present.length < BLOCK) return wrong;
      const frame = ([low, high]: readonly [number, number]) => (low >>> 12) + high * 0x100000;
      const first = frame(entries[0]!);
      const step = 512 ** (level - 1);
      const isOne = entries.every((of, at) => frame(of) === first + at * step && (of[0] & 3) === (entries[0]![0] & 3));
      if (isOne && first % (step * BLOCK) === 0) wrong.push(`a contiguous table of level ${level}`);
      return wrong;
    });
  }

  /** Fills every free frame with entries that lead to a frame which was never mapped. */
  trap(): void {
    const { frames } = this.rig;
    const taken: Mfn[] = [];
    for (let frame = frames.allocate(domain(2)); frame >= 0; frame = frames.allocate(domain(2)))
      taken.push(frame as Mfn);
    for (const frame of taken) {
      for (let entry = 0; entry < BLOCK; entry += 37) frames.writeEntry(frame, entry, (1234 << 12) | 3, 0);
      frames.writeEntry(frame, 511, (1234 << 12) | 3, 0);
    }
    for (const frame of taken) {
      frames.dropReferences(frame, 1, 0);
      frames.free(frame);
    }
  }

  lookups(): (readonly [number, number] | undefined)[] {
    return PROBES.map((probe) => {
      const { frame, rights } = this.rig.driver.lookup(this.id, dfn(probe));
      return rights === 0 ? undefined : [frame, rights];
    });
  }

  expected(): (readonly [number, number] | undefined)[] {
    return PROBES.map((probe) => this.told.get(probe));
  }
}

function probesIn(at: number, order: number): number[] {
  return PROBES.filter((probe) => probe >= at && probe < at + 2 ** order);
}

const RIGHTS: Record<string, number> = { r: 1, rw: 3 };

describe('any maps and unmaps', () => {
  test.prop([setting, commands], { numRuns: 30 })(
    'the tables say what was mapped last, in the one shape',
    (of, all) => {
      const book = new Book(of);
      for (const one of all) {
        book.do(one);
        expect(book.lookups()).toEqual(book.expected());
        expect(book.misshapen()).toEqual([]);
        expect(book.rig.allocated, 'tables in use, and no others').toBe(book.others + book.tables().length);
      }
    },
  );

  test.prop([setting, commands], { numRuns: 20 })(
    'after each flush a device reaches what is mapped, and that only',
    (of, all) => {
      const book = new Book(of);
      for (const one of all) {
        book.do(one);
        book.trap();
        for (const probe of PROBES.filter((_, at) => at % 23 === 0 || at >= 2 * BLOCK)) {
          const told = book.told.get(probe);
          for (const answer of book.rig.may(probe)) {
            if (answer.startsWith('fault')) expect(told === undefined, `${probe}: ${answer}`).toBe(true);
            else {
              const [frame, rights] = answer.split(' ');
              expect([Number(frame), RIGHTS[rights!]], `dfn ${probe}`).toEqual(told);
            }
          }
        }
      }
    },
  );

  test.prop([setting, commands, fc.constantFrom<Release>('afterFlush', 'onReturn')], { numRuns: 20 })(
    'without a flush a device reaches what was mapped there once, and nothing else',
    (of, all, release) => {
      const book = new Book({ ...of, policy: { ...xen, change() {} } }, release);
      for (const one of all) {
        book.do(one);
        book.trap();
        for (const probe of PROBES.filter((_, at) => at % 23 === 0 || at >= 2 * BLOCK)) {
          for (const answer of book.rig.may(probe)) {
            if (!answer.startsWith('fault')) expect(book.ever.get(probe)).toContain(answer.split(' ')[0]);
          }
        }
      }
    },
  );

  test.prop([setting, commands], { numRuns: 20 })('unmapped, all memory comes back but the upper tables', (of, all) => {
    const book = new Book({ ...of, reclaimTables: true });
    for (const one of all) book.do(one);
    for (const at of [0, GIB]) book.unmap(at, 18);
    const { levels } = book.rig.driver.tables;
    expect(book.tables().every(({ level }) => level > levels - 2)).toBe(true);
    expect(book.rig.allocated).toBe(book.others + book.tables().length);
  });

  test.prop([setting, commands, commands], { numRuns: 20 })('a rollback takes all of it back', (of, first, then) => {
    const book = new Book(of);
    const state = () => [fingerprint(book.rig.heap, ''), book.lookups(), book.rig.allocated];
    for (const one of first) book.do(one);
    const before = state();
    const told = new Map(book.told);
    const mark = book.rig.heap.mark();
    for (const one of then) book.do(one);
    const after = state();
    book.rig.heap.rollback(mark);
    expect(state()).toEqual(before);
    book.told.clear();
    for (const [probe, what] of told) book.told.set(probe, what);
    for (const one of then) book.do(one);
    expect(state()).toEqual(after);
  });
});
