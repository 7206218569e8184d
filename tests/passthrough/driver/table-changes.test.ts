// Goal: tables are split, formed, replaced and unhooked as Xen does it, units are sent what Xen sends, and a table page
// comes back only when nothing cached leads to it.
// Method: examples over one adversarial unit under the policy xen; what the unit may reach before and after each flush.

import { describe, expect, test } from 'vitest';
import type { Mfn } from '../../../machine/frame-number.ts';
import { strictPage, xen } from '../../../passthrough/policy/index.ts';
import { CPU, DEVICE, DriverRig, type DriverRigOptions, dfn, domain, OTHER_CPU } from './driver-rig.ts';

const FRAME = 1024;
const PAGE = (at: number, order = 0) => `0: iotlb page did 0 dfn ${at} order ${order} drains rw`;
const DOMAIN = '0: iotlb domain did 0 drains rw';
const WAIT = '0: wait 1=1';

function make(options: DriverRigOptions = {}, devices = true) {
  const rig = new DriverRig({
    frames: 4096,
    ledgerCapacity: 1024,
    policy: xen,
    superpages: true,
    reclaimTables: true,
    ...options,
  });
  const id = rig.domain(1, devices ? [0] : []);
  return {
    rig,
    id,
    map: (at: number, frame: number, rights = 3, order = 0) =>
      rig.driver.map(CPU, id, dfn(at), frame as Mfn, rights, order),
    unmap: (at: number, order = 0) => rig.driver.unmap(CPU, id, dfn(at), order),
    lookup: (at: number) => {
      const { frame, rights } = rig.driver.lookup(id, dfn(at));
      return rights === 0 ? null : [frame, rights];
    },
    /** Maps pages one by one, without a word about the flushes. */
    pages(first: number, frame: number, count: number, rights = 3) {
      for (let page = 0; page < count; page += 1) {
        rig.driver.map(CPU, id, dfn(first + page), (frame + page) as Mfn, rights);
        rig.finish();
      }
      rig.shown.length = 0;
    },
    structure: () => rig.shown.map(({ structure }) => structure),
  };
}

describe('large leaves', () => {
  test('a leaf of 2 MiB takes one entry, and is found page by page', () => {
    const { rig, map, lookup } = make();
    const before = rig.allocated;
    expect(map(512, FRAME, 3, 9)).toBe(0);
    expect(rig.allocated - before, 'tables of levels 3 and 2').toBe(2);
    expect([lookup(511), lookup(512), lookup(700), lookup(1023), lookup(1024)]).toEqual([
      null,
      [FRAME, 3],
      [FRAME + 188, 3],
      [FRAME + 511, 3],
      null,
    ]);
    expect(rig.shown).toMatchObject([{ dfn: 512, order: 9, from: 'none', to: 'rw', structure: 'none' }]);
    expect(rig.finish(), 'nothing to flush without caching mode').toEqual([]);
    expect(rig.may(700)).toEqual([`${FRAME + 188} rw`]);
  });

  test('a leaf of 1 GiB too', () => {
    const { rig, map, lookup } = make();
    const before = rig.allocated;
    expect(map(0x40000, 0x40000, 1, 18)).toBe(0);
    expect(rig.allocated - before, 'a table of level 3').toBe(1);
    expect([lookup(0x3ffff), lookup(0x40000), lookup(0x7ffff)]).toEqual([null, [0x40000, 1], [0x7ffff, 1]]);
  });

  test.each<[string, DriverRigOptions, number]>([
    ['superpages are off', { superpages: false }, FRAME],
    ['a unit has none', { units: [{}, { superpage2m: false, superpage1g: false }] }, FRAME],
    ['the frame is not aligned', {}, FRAME + 1],
  ])('are broken into pages where %s: one change all the same', (_, options, frame) => {
    const { rig, map, lookup } = make(options);
    const before = rig.allocated;
    expect(map(512, frame, 3, 9)).toBe(0);
    expect(rig.allocated - before).toBe(3);
    expect(rig.shown).toMatchObject([{ dfn: 512, order: 9, from: 'none', to: 'rw', structure: 'none' }]);
    expect([lookup(512), lookup(1023)]).toEqual([
      [frame, 3],
      [frame + 511, 3],
    ]);
  });

  test('1 GiB goes in as 2 MiB where a unit has only those', () => {
    const { rig, map } = make({ units: [{ superpage1g: false }] });
    const before = rig.allocated;
    expect(map(0x40000, 0x40000, 3, 18)).toBe(0);
    expect(rig.allocated - before, 'tables of levels 3 and 2').toBe(2);
    expect(rig.shown.length).toBe(512);
  });

  test('caching mode: one page-selective invalidation of its order', () => {
    const { rig, map } = make({ units: [{ cachingMode: true }] });
    map(512, FRAME, 3, 9);
    expect(rig.finish()).toEqual([PAGE(512, 9).replace('did 0', 'did 1'), WAIT]);
  });

  test('written over itself, whole or in part, nothing changes', () => {
    const { rig, map } = make();
    map(512, FRAME, 3, 9);
    const before = rig.allocated;
    map(512, FRAME, 3, 9);
    map(600, FRAME + 88, 3);
    expect([rig.shown.length, rig.allocated]).toEqual([1, before]);
  });

  test('unmapped as a whole: one invalidation of its order, where the unit can; the domain, where it cannot', () => {
    const { rig, map, unmap, lookup } = make();
    map(512, FRAME, 3, 9);
    map(1024, FRAME, 3);
    expect(unmap(512, 9)).toBe(512);
    expect(lookup(700)).toBeNull();
    expect(rig.finish()).toEqual([PAGE(512, 9), WAIT]);
    const small = make({ units: [{ maxAddressMask: 8 }] });
    small.map(512, FRAME, 3, 9);
    small.map(1024, FRAME, 3);
    small.unmap(512, 9);
    expect(small.rig.finish()).toEqual([DOMAIN, WAIT]);
  });

  test('whole RAM in one range takes few tables; in pages none is left of them', () => {
    const { rig, id } = make({}, false);
    const before = rig.allocated;
    expect(rig.driver.mapRange(CPU, id, dfn(0), 0 as Mfn, 0x40000 + 700, 3)).toBe(0);
    expect(rig.allocated - before, 'levels 3, 2 and 1').toBe(3);
    const paged = make({}, false);
    for (let at = 0; at < 0x40000; at += 1) paged.map(at, at);
    expect(paged.rig.allocated - before, 'level 3').toBe(1);
    expect([paged.lookup(0), paged.lookup(0x3ffff)]).toEqual([
      [0, 3],
      [0x3ffff, 3],
    ]);
  });

  test('a range that finds no memory leaves nothing behind', () => {
    const { rig, id } = make({ frames: 300, superpages: false }, false);
    const before = rig.allocated;
    expect(rig.driver.mapRange(CPU, id, dfn(0), 0 as Mfn, 0x40000, 3)).toBe(-12);
    expect(rig.driver.lookup(id, dfn(0)).rights).toBe(0);
    expect(rig.allocated - before, 'the table of level 3 stays').toBe(1);
  });
});

describe('splitting', () => {
  test('a page unmapped in a large leaf: one table more, that page flushed, the rest as it was', () => {
    const { rig, map, unmap, lookup } = make();
    map(512, FRAME, 3, 9);
    const before = rig.allocated;
    expect(unmap(600)).toBe(1);
    expect(rig.shown.at(-1)).toMatchObject({ dfn: 600, order: 0, from: 'rw', to: 'none', structure: 'split' });
    expect([lookup(599), lookup(600), lookup(601)]).toEqual([[FRAME + 87, 3], null, [FRAME + 89, 3]]);
    expect(rig.allocated - before).toBe(1);
    expect(rig.may(600), 'the old leaf may be cached').toContain(`${FRAME + 88} rw`);
    expect(rig.finish()).toEqual([PAGE(600), WAIT]);
    expect(rig.may(600)).toEqual(['fault 6']);
    expect(rig.may(601), 'the same frame, old fragment or new leaf').toEqual([`${FRAME + 89} rw`]);
  });

  test('a page that changes its rights or its frame', () => {
    const { rig, map, lookup } = make();
    map(512, FRAME, 3, 9);
    map(513, FRAME + 1, 1);
    map(514, 9, 3);
    expect(rig.shown.slice(1)).toMatchObject([
      { from: 'rw', to: 'ro', structure: 'split', frameChanged: false },
      { from: 'rw', to: 'rw', structure: 'none', frameChanged: true },
    ]);
    expect([lookup(512), lookup(513), lookup(514)]).toEqual([
      [FRAME, 3],
      [FRAME + 1, 1],
      [9, 3],
    ]);
    expect(rig.finish()).toEqual([PAGE(513), WAIT, PAGE(514), WAIT]);
  });

  test('a page in 1 GiB: two tables at once; a block of pages and 2 MiB too', () => {
    const { rig, map, unmap, lookup } = make();
    map(0, 0, 3, 18);
    const before = rig.allocated;
    expect(unmap(5)).toBe(1);
    expect(rig.allocated - before).toBe(2);
    expect([lookup(4), lookup(5), lookup(512), lookup(0x3ffff)]).toEqual([[4, 3], null, [512, 3], [0x3ffff, 3]]);
    expect(unmap(1024, 2)).toBe(4);
    expect(rig.allocated - before).toBe(3);
    expect(unmap(2048, 9)).toBe(512);
    expect(rig.allocated - before).toBe(3);
    expect(rig.finish()).toEqual([PAGE(5), WAIT, PAGE(1024, 2), WAIT, PAGE(2048, 9), WAIT]);
  });

  test('without memory for the table nothing happens', () => {
    const { rig, map, unmap, lookup } = make();
    map(0, 0, 3, 18);
    while (rig.frames.allocate(domain(2)) >= 0);
    rig.shown.length = 0;
    expect([unmap(5), map(5, 5, 1)]).toEqual([-12, -12]);
    expect([lookup(5), rig.shown.length]).toEqual([[5, 3], 0]);
  });
});

describe('forming', () => {
  test('the last of 512 pages makes one leaf: the domain is flushed, the table freed then', () => {
    const { rig, map, lookup, pages } = make();
    pages(512, FRAME, 511);
    const before = rig.allocated;
    expect(map(1023, FRAME + 511)).toBe(0);
    expect(rig.shown).toMatchObject([{ dfn: 1023, order: 0, from: 'none', to: 'rw', structure: 'formed' }]);
    expect(rig.allocated - before, 'the table is held').toBe(0);
    expect(rig.finish()).toEqual([DOMAIN, WAIT]);
    expect(rig.allocated - before).toBe(-1);
    expect([lookup(512), lookup(1023)]).toEqual([
      [FRAME, 3],
      [FRAME + 511, 3],
    ]);
    expect(rig.may(600)).toEqual([`${FRAME + 88} rw`]);
  });

  test('as recorded: unmap and map again a page of it, promote and demote one', () => {
    const { rig, map, unmap, pages } = make();
    pages(512, FRAME, 512);
    const sent = [];
    unmap(600);
    sent.push(rig.finish());
    map(600, FRAME + 88);
    sent.push(rig.finish());
    expect(sent).toEqual([
      [PAGE(600), WAIT],
      [DOMAIN, WAIT],
    ]);
    pages(1024, FRAME + 512, 512, 1);
    map(1100, FRAME + 588, 3);
    sent.push(rig.finish());
    map(1100, FRAME + 588, 1);
    sent.push(rig.finish());
    expect(sent.slice(2)).toEqual([
      [PAGE(1100), WAIT],
      [DOMAIN, WAIT],
    ]);
  });

  test.each<[string, (of: ReturnType<typeof make>) => void]>([
    ['rights differ', ({ map }) => map(1023, FRAME + 511, 1)],
    ['a frame is out of turn', ({ map }) => map(1023, FRAME + 512)],
    ['a page is missing', ({ unmap, map }) => [unmap(700), map(1023, FRAME + 511)]],
  ])('does not happen where %s', (_, last) => {
    const of = make();
    of.pages(512, FRAME, 511);
    last(of);
    expect(of.structure()).not.toContain('formed');
  });

  test('nor where the first frame is not aligned, or superpages are off', () => {
    for (const [options, frame] of [
      [{}, FRAME + 1],
      [{ superpages: false }, FRAME],
    ] as const) {
      const { pages, map, structure } = make(options);
      pages(512, frame, 511);
      map(1023, frame + 511);
      expect(structure()).toEqual(['none']);
    }
  });

  test('512 leaves of 2 MiB make one of 1 GiB', () => {
    const { rig, map, lookup } = make();
    for (let at = 0; at < 511; at += 1) map(at * 512, at * 512, 3, 9);
    const before = rig.allocated;
    map(511 * 512, 511 * 512, 3, 9);
    expect(rig.shown.at(-1)).toMatchObject({ order: 9, structure: 'formed' });
    expect(rig.finish()).toEqual([DOMAIN, WAIT]);
    expect(rig.allocated - before).toBe(-1);
    expect([lookup(0), lookup(0x3ffff)]).toEqual([
      [0, 3],
      [0x3ffff, 3],
    ]);
  });

  test('a page-selective flush of any page that the table mapped frees it; one with the hint does not', () => {
    const { rig, id, map, pages } = make({ policy: { ...xen, change() {} } });
    pages(512, FRAME, 511);
    map(1023, FRAME + 511);
    const held = rig.allocated;
    const flush = (at: number, leavesOnly: boolean) => {
      rig.driver.flush.requestPage(CPU, id, dfn(at), 0, leavesOnly);
      rig.driver.flush.requestWait(CPU);
      rig.finish();
      return rig.allocated - held;
    };
    expect([flush(1024, false), flush(1023, true), flush(700, false)]).toEqual([0, 0, -1]);
  });
});

describe('replacing', () => {
  test('a large leaf over a table: what differs is flushed at the order of the leaf, the table freed then', () => {
    const { rig, map, lookup, pages } = make();
    pages(512, FRAME, 3);
    pages(600, 7, 1);
    const before = rig.allocated;
    map(512, FRAME, 3, 9);
    expect(rig.shown).toMatchObject([{ order: 9, from: 'rw', to: 'rw', frameChanged: true, structure: 'replaced' }]);
    expect(lookup(600)).toEqual([FRAME + 88, 3]);
    expect(rig.may(600), 'the new frame or the old one').toEqual([`${FRAME + 88} rw`, '7 rw']);
    expect(rig.finish()).toEqual([PAGE(512, 9), WAIT]);
    expect(rig.may(600)).toEqual([`${FRAME + 88} rw`]);
    expect(rig.allocated - before).toBe(-1);
  });

  test('2 MiB of pages unmapped at once', () => {
    const { rig, map, unmap, pages } = make();
    pages(512, FRAME, 3);
    map(1024, 7);
    const before = rig.allocated;
    expect(unmap(512, 9)).toBe(3);
    expect(rig.shown.at(-1)).toMatchObject({ order: 9, from: 'rw', to: 'none', structure: 'replaced' });
    expect(rig.may(513)).toContain(`${FRAME + 1} rw`);
    expect(rig.finish()).toEqual([PAGE(512, 9), WAIT]);
    expect(rig.may(513)).toEqual(['fault 6']);
    expect(rig.allocated - before).toBe(-1);
  });

  test('1 GiB of pages unmapped at once: the tables below go along, when all of it is flushed', () => {
    const { rig, id, map, unmap } = make({ policy: { ...xen, change() {} } });
    const before = rig.allocated;
    for (const at of [5, 512, 0x3ffff]) map(at, 7);
    map(0x40000, 7);
    expect(unmap(0, 18)).toBe(3);
    expect(rig.shown.at(-1)).toMatchObject({ order: 18, from: 'rw', structure: 'replaced' });
    const flush = (at: number, order: number) => {
      rig.driver.flush.requestPage(CPU, id, dfn(at), order, false);
      rig.driver.flush.requestWait(CPU);
      rig.finish();
      return rig.allocated - before;
    };
    expect([flush(5, 0), flush(0, 18)], 'then levels 3, 2 and 1 of the last page').toEqual([7, 3]);
  });
});

describe('unhooking', () => {
  test('the last page of a table: the domain is flushed, the table freed then; the next level as well', () => {
    const { rig, map, unmap } = make();
    map(0x40000, 7);
    const upper = rig.allocated;
    map(512, 7);
    map(1024, 8);
    const before = rig.allocated;
    expect(before - upper, 'level 2, twice level 1').toBe(3);
    unmap(512);
    expect(rig.shown.at(-1)).toMatchObject({ dfn: 512, order: 0, structure: 'unhooked' });
    expect(rig.allocated, 'held').toBe(before);
    expect(rig.finish()).toEqual([DOMAIN, WAIT]);
    expect(rig.allocated).toBe(before - 1);
    unmap(1024);
    expect(rig.finish()).toEqual([DOMAIN, WAIT]);
    expect(rig.allocated, 'level 2 went along').toBe(upper);
  });

  test.each([
    [3, 1],
    [4, 1],
    [5, 1],
  ])('of %i levels keeps the two upper ones', (levels, kept) => {
    const { rig, map, unmap } = make({ units: [{ levels: [levels], addressBits: 39 }] });
    const before = rig.allocated;
    map(512, 7);
    unmap(512);
    rig.finish();
    expect(rig.allocated - before).toBe(kept);
  });

  test('does not happen where tables are not reclaimed', () => {
    const { rig, map, unmap } = make({ reclaimTables: false });
    map(512, 7);
    const before = rig.allocated;
    unmap(512);
    expect(rig.shown.at(-1)!.structure).toBe('none');
    expect(rig.finish()).toEqual([PAGE(512), WAIT]);
    expect(rig.allocated).toBe(before);
  });

  test('strict-page: the page is flushed, and that frees the table', () => {
    const { rig, map, unmap } = make({ policy: strictPage });
    const before = rig.allocated;
    map(512, 7);
    unmap(512);
    expect(rig.finish()).toEqual([PAGE(512), WAIT]);
    expect(rig.allocated - before, 'level 3').toBe(1);
  });

  test.each(['afterFlush', 'onReturn'] as const)('the table is held until the flush is over, release %s', (release) => {
    const { rig, id, map, unmap } = make({ policy: { ...xen, change() {} }, release });
    map(512, 7);
    map(0x40000, 7);
    const table = rig.driver.tables;
    table.find(id, dfn(512), false);
    const page = table.table;
    unmap(512);
    expect(rig.driver.flush.ledger.ready(CPU, release === 'onReturn'), 'no completion').toBe(0);
    expect(rig.frames.isAllocated(page)).toBe(true);
    rig.driver.flush.requestDomain(CPU, id);
    rig.driver.flush.requestWait(CPU);
    rig.submit();
    expect(rig.frames.isAllocated(page), 'submitted is not done').toBe(true);
    rig.finish();
    expect(rig.frames.isAllocated(page)).toBe(false);
  });

  test('a page mapped beside the old table waits for its flush: a unit may still walk it', () => {
    const { rig, id, map, unmap } = make({ policy: { ...xen, change() {} } });
    map(512, 7);
    unmap(512);
    expect(rig.driver.flush.isPending(id, dfn(700), 0)).toBe(true);
    expect(rig.driver.flush.isPending(id, dfn(0x40000), 0)).toBe(false);
    map(700, 8);
    expect(rig.shown.at(-1)).toMatchObject({ dfn: 700, pendingRemoval: true });
    expect(rig.may(700), 'through the old table').toEqual(['8 rw', 'fault 6']);
  });

  test('a domain without devices gets its table back at once', () => {
    const { rig, map, unmap } = make({}, false);
    const before = rig.allocated;
    map(512, 7);
    unmap(512);
    expect(rig.allocated - before).toBe(1);
    expect(rig.shown).toEqual([]);
  });

  test('the last device leaves: nothing is held any more', () => {
    const { rig, id, map, unmap } = make({ policy: { ...xen, change() {} } });
    const before = rig.allocated;
    map(512, 7);
    unmap(512);
    rig.driver.detach(CPU, 0 as never, rig.device(DEVICE));
    rig.finish();
    rig.driver.leave(id, 0 as never);
    expect(rig.allocated - before).toBe(1);
  });

  test('a flush by another CPU frees it as well', () => {
    const { rig, id, map, unmap } = make({ policy: { ...xen, change() {} } });
    map(512, 7);
    const before = rig.allocated;
    unmap(512);
    rig.driver.flush.requestPage(OTHER_CPU, id, dfn(512), 0, false);
    rig.driver.flush.requestWait(OTHER_CPU);
    rig.finish(OTHER_CPU);
    expect(before - rig.allocated).toBe(2);
  });

  test('with a policy that never flushes tables are lost, not walked as something else', () => {
    const { rig, map, unmap } = make({ policy: { ...xen, change() {} }, release: 'onReturn', ledgerCapacity: 64 });
    const before = rig.allocated;
    map(0x40000, 7);
    for (let turn = 0; turn < 100; turn += 1) {
      map(512, 7);
      unmap(512);
    }
    expect(rig.allocated - before).toBe(3 + 200);
  });
});
