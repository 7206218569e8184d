// A PV domain's own frames, their types and its devices: sections 2.4 and 2.5 of the reference (xen: arch/x86/mm.c
// _get_page_type, do_mmuext_op, do_update_va_mapping, put_page; common/memory.c guest_remove_page). A frame is in its
// owner's device tables if and only if its type is writable.

import { beforeEach, describe, expect, it } from 'vitest';
import { Errno, type MachineOptions } from '../../../hypervisor/index.ts';
import type { Mfn } from '../../../machine/frame-number.ts';
import { FrameType } from '../../../machine/frame-table.ts';
import { violations } from '../../../verify/index.ts';
import { A, B, type Casting, GuestScene, H, HOST, HW, page, RO } from '../../grant/guest-scene.ts';

const CACHING: MachineOptions = { units: [{ capabilities: { cachingMode: true } }] };

let s: GuestScene;
let m: number;
function begin(options: MachineOptions = {}, casting: Casting = {}): void {
  s = new GuestScene(options, casting);
  m = s.frame(A);
}
beforeEach(() => begin());

const typeOf = (frame: number) => {
  const { frames } = s.machine.parts;
  const name = Object.entries(FrameType).find(([, value]) => value === frames.type(frame as Mfn))![0];
  return `${name} ${frames.typeCount(frame as Mfn)}`;
};
const pin = (frame: number, level: 1 | 2 | 3 | 4 = 1) => s.step({ op: 'pin_table', domain: A, frame, level }).result;
const unpin = (frame: number) => s.step({ op: 'unpin_table', domain: A, frame }).result;
const balloon = (frame: number, domain = A) => s.step({ op: 'decrease_reservation', domain, frames: [frame] }).result;
/** Domain 1 maps a frame at page `at` of its window, or unmaps what is there (`bits` 0). */
const mapOwn = (at: number, frame: number, bits: number) =>
  s.step({ op: 'update_va_mapping', domain: A, address: page(at), entry: bits === 0 ? 0 : frame * 4096 + bits }).result;
const [PRESENT, WRITABLE] = [1, 3];

describe('2.4 transitions of a frame’s type', () => {
  it('is writable with nothing that needs it, and reachable, from the start', () => {
    expect([typeOf(m), s.rights(A, m)]).toEqual(['writable 0', 'rw']);
  });

  it('writable to page table: unmapped and flushed before it is validated (33)', () => {
    const unit = s.machine.units[0]!;
    const before = unit.counter('waits');
    const seen: string[] = [];
    const submitted = s.during(() =>
      s.inPieces({ op: 'pin_table', domain: A, frame: m, level: 1 }, () => {
        const now = `${typeOf(m)} ${s.rights(A, m)} ${unit.counter('waits') - before}`;
        if (seen.at(-1) !== now) seen.push(now);
      }),
    );
    expect(seen).toEqual(['l1PageTable 0 - 0', 'l1PageTable 0 - 1', 'l1PageTable 1 - 1']);
    expect(submitted).toEqual([`page ${m} of ${A}`]);
  });

  it.each([false, true])('page table to writable: mapped, and flushed only where absence is cached (%s)', (caching) => {
    begin(caching ? CACHING : {});
    pin(m);
    expect(s.during(() => unpin(m))).toEqual([]);
    expect([typeOf(m), s.rights(A, m)]).toEqual(['l1PageTable 0', '-']);
    expect(s.during(() => expect(mapOwn(1, m, WRITABLE)).toBe(0))).toEqual(caching ? [`page ${m} of ${A}`] : []);
    expect([typeOf(m), s.rights(A, m)]).toEqual(['writable 1', 'rw']);
  });

  it('one level of page table to another, and page table to nothing: no change for devices', () => {
    pin(m, 1);
    unpin(m);
    expect(s.during(() => expect(pin(m, 2)).toBe(0))).toEqual([]);
    expect([typeOf(m), s.rights(A, m)]).toEqual(['l2PageTable 1', '-']);
    expect(s.during(() => unpin(m))).toEqual([]);
  });

  it('the last writable mapping goes: the type stays, and so does the entry', () => {
    mapOwn(1, m, WRITABLE);
    expect(s.during(() => mapOwn(1, m, 0))).toEqual([]);
    expect([typeOf(m), s.rights(A, m)]).toEqual(['writable 0', 'rw']);
  });

  it('reading needs no type: a read-only mapping of a page table', () => {
    pin(m);
    expect([mapOwn(1, m, PRESENT), mapOwn(2, m, WRITABLE)]).toEqual([0, Errno.EBUSY]);
    expect(typeOf(m)).toBe('l1PageTable 1');
  });

  it('another domain’s writable grant mapping makes a former page table the granter’s to reach again', () => {
    pin(m);
    unpin(m);
    s.grant(9, { by: A, grantee: B });
    s.map(HOST | RO, { by: B, ref: 9, domain: A });
    expect(s.rights(A, m)).toBe('-');
    expect(s.map(HOST, { by: B, ref: 9, domain: A, hostAddress: page(1) }).status).toBe(0);
    expect([s.rights(A, m), typeOf(m)]).toEqual(['rw', 'writable 1']);
  });

  it('a page table in use cannot be granted writable, not even by promotion', () => {
    pin(m);
    s.grant(9, { by: A, grantee: B });
    const map = (flags: number, at: number) => s.map(flags, { by: B, ref: 9, domain: A, hostAddress: page(at) }).status;
    expect([map(HOST, 0), map(HOST | RO, 0), map(HOST, 1)]).toEqual([-1, 0, -1]);
    expect([s.pins(9, A), s.usage(9, A)]).toEqual(['0/1/0/0', 'r-']);
  });

  it('does nothing of the kind without device tables, or for a relaxed hardware domain', () => {
    const table = s.frame(B);
    expect(s.during(() => s.do({ op: 'pin_table', domain: B, frame: table, level: 1 }))).toEqual([]);
    begin({ iommu: { hardwareDomain: 'relaxed' } });
    const own = s.frame(HW);
    expect(s.during(() => s.do({ op: 'pin_table', domain: HW, frame: own, level: 1 }))).toEqual([]);
    expect(s.rights(HW, own)).toBe('rw');
  });

  it('never applies to pages of the hypervisor’s heap that the guest shares', () => {
    const shared = s.machine.parts.grants.frame(A as never, 0);
    expect([typeOf(shared), s.rights(A, shared)]).toEqual(['writable 1', '-']);
    expect(pin(shared)).toBe(Errno.EINVAL);
    expect(mapOwn(1, shared, WRITABLE)).toBe(0);
    expect(s.rights(A, shared)).toBe('-');
  });
});

describe('2.4 pinning', () => {
  const entry = (table: number, at: number, frame: number, bits: number) =>
    s.do({
      op: 'store',
      frame: table,
      offset: at * 8,
      bytes: Buffer.from(new BigUint64Array([BigInt(frame * 4096 + bits)]).buffer).toString('hex'),
    });

  it('validates entries, each with its references, and unpinning drops them', () => {
    const [table, read, written] = [m, s.frame(A, 1), s.frame(A, 2)];
    entry(table, 0, read, PRESENT);
    entry(table, 511, written, WRITABLE);
    expect(pin(table)).toBe(0);
    expect([s.references(read), s.references(written), typeOf(written)]).toEqual([2, 2, 'writable 1']);
    unpin(table);
    expect([s.references(read), s.references(written), typeOf(written)]).toEqual([1, 1, 'writable 0']);
  });

  it('goes down the tree: an L2 takes its L1 tables along', () => {
    const [l2, l1, frame] = [m, s.frame(A, 1), s.frame(A, 2)];
    entry(l2, 3, l1, WRITABLE);
    entry(l1, 4, frame, WRITABLE);
    const unit = s.machine.units[0]!;
    const before = unit.counter('waits');
    const counts: number[] = [];
    const submitted = s.during(() =>
      s.inPieces({ op: 'pin_table', domain: A, frame: l2, level: 2 }, () => {
        if (s.machine.parts.frames.typeCount(l1 as Mfn) > 0) counts.push(unit.counter('waits') - before);
      }),
    );
    expect(submitted).toEqual([`page ${l2} of ${A}`, `page ${l1} of ${A}`]);
    // The L1 is taken from devices, and that is flushed, before it is validated.
    expect(counts[0]).toBe(2);
    expect([typeOf(l2), typeOf(l1), typeOf(frame)]).toEqual(['l2PageTable 1', 'l1PageTable 1', 'writable 1']);
    unpin(l2);
    expect([typeOf(l2), typeOf(l1), typeOf(frame)]).toEqual(['l2PageTable 0', 'l1PageTable 0', 'writable 0']);
    expect([s.references(l1), s.references(frame)]).toEqual([1, 1]);
  });

  it.each([
    ['another domain’s frame', Errno.EBUSY, () => s.frame(B)],
    ['a writable mapping of the table itself', Errno.EBUSY, () => m],
    ['memory that is not there', Errno.EPERM, () => 2 ** 20],
  ] as const)('that fails half way, at %s, leaves nothing taken', (_, errno, bad) => {
    const first = s.frame(A, 1);
    entry(m, 0, first, WRITABLE);
    entry(m, 7, bad(), WRITABLE);
    entry(m, 9, s.frame(A, 2), WRITABLE);
    expect(pin(m)).toBe(errno);
    expect([s.references(first), typeOf(first), s.references(s.frame(A, 2))]).toEqual([1, 'writable 0', 1]);
    expect([s.references(m), typeOf(m)]).toEqual([1, 'none 0']);
    expect(s.machine.parts.frames.isPinned(m as Mfn)).toBe(false);
    // It was taken from the devices before it was looked at; being written again brings it back.
    expect(s.rights(A, m)).toBe('-');
    expect(mapOwn(1, m, WRITABLE)).toBe(0);
    expect(s.rights(A, m)).toBe('rw');
  });

  it('refuses a tree in which a table is at two levels', () => {
    entry(m, 3, m, WRITABLE);
    expect(pin(m, 2)).toBe(Errno.EINVAL);
    const l1 = s.frame(A, 1);
    entry(m, 3, l1, WRITABLE);
    entry(l1, 0, m, WRITABLE);
    expect(pin(m, 2)).toBe(Errno.EBUSY);
    expect([s.references(m), s.references(l1), typeOf(m), typeOf(l1)]).toEqual([1, 1, 'none 0', 'none 0']);
  });

  it('is refused for what is not one’s own, is in use for something else, or is pinned', () => {
    expect([pin(s.frame(B)), pin(1), pin(2 ** 30)]).toEqual([Errno.EINVAL, Errno.EINVAL, Errno.EINVAL]);
    mapOwn(1, m, WRITABLE);
    expect(pin(m)).toBe(Errno.EINVAL);
    expect(s.rights(A, m)).toBe('rw');
    mapOwn(1, m, 0);
    expect([pin(m), pin(m), pin(m, 2)]).toEqual([0, Errno.EINVAL, Errno.EINVAL]);
    expect([unpin(m), unpin(m), unpin(s.frame(B))]).toEqual([0, Errno.EINVAL, Errno.EINVAL]);
    expect(s.references(m)).toBe(1);
  });

  it('is not for translated domains', () => {
    expect(s.step({ op: 'pin_table', domain: H, frame: 0, level: 1 }).result).toBe(Errno.EOPNOTSUPP);
  });
});

describe('2.4 update_va_mapping', () => {
  const tableOf = (domain: number) => s.machine.parts.pvTables.root(domain as never);

  it('takes the new entry’s references before the old one’s go', () => {
    mapOwn(1, m, WRITABLE);
    expect(mapOwn(1, s.frame(A, 1), WRITABLE)).toBe(0);
    expect([s.references(m), s.references(s.frame(A, 1))]).toEqual([1, 2]);
  });

  it.each([
    ['an address without page table', Errno.EINVAL, () => ({ address: 0x1000 })],
    ['an address of the hypervisor’s', Errno.EINVAL, () => ({ address: '0xffff830000000000' as const })],
    ['an address that is not canonical', Errno.EINVAL, () => ({ address: '0x800000000000' as const })],
    ['a frame of another domain', Errno.EBUSY, () => ({ entry: s.frame(B) * 4096 + PRESENT })],
    ['a page table, to be written', Errno.EBUSY, () => ({ entry: tableOf(A) * 4096 + WRITABLE })],
    ['a free frame', Errno.EBUSY, () => ({ entry: (s.machine.parts.frames.frames - 1) * 4096 + PRESENT })],
    ['no memory at all, of a guest that may not map devices', Errno.EPERM, () => ({ entry: 2 ** 40 + PRESENT })],
  ] as const)('refuses %s, and changes nothing', (_, errno, fields) => {
    const before = s.fingerprint;
    const usual = { op: 'update_va_mapping', domain: A, address: page(1), entry: m * 4096 + WRITABLE } as const;
    expect(s.step({ ...usual, ...fields() }).result, 'as recorded').toBe(errno);
    expect(s.fingerprint).toBe(before);
  });

  it('over a grant’s mapping drops its reference, and the handle can no more be unmapped there', () => {
    s.grant(8);
    s.map(HOST);
    expect(s.references(s.frame(B))).toBe(2);
    expect(mapOwn(0, m, PRESENT)).toBe(0);
    expect(s.references(s.frame(B))).toBe(1);
    expect(s.unmap({ handle: 0, hostAddress: page(0) })).toBe(-1);
  });
});

describe('2.5 decrease_reservation', () => {
  it('of a frame that nobody else has: unmapped, flushed, and only then free (34)', () => {
    const unit = s.machine.units[0]!;
    const before = unit.counter('waits');
    const seen: string[] = [];
    const submitted = s.during(() =>
      s.inPieces({ op: 'decrease_reservation', domain: A, frames: [m] }, () => {
        const now = `${s.rights(A, m)} ${s.isAllocated(m)} ${unit.counter('waits') - before}`;
        if (seen.at(-1) !== now) seen.push(now);
      }),
    );
    expect(submitted).toEqual([`page ${m} of ${A}`]);
    expect(seen).toEqual(['- true 0', '- true 1', '- false 1']);
    expect(violations(s.machine)).toEqual([]);
  });

  it('of a frame that others have mapped: it and the owner’s entry stay until the last of them lets go (35)', () => {
    s.grant(9, { by: A, grantee: B });
    s.map(HOST, { by: B, ref: 9, domain: A });
    s.map(HOST | RO, { by: B, ref: 9, domain: A, hostAddress: page(1) });
    expect(s.during(() => expect(balloon(m)).toBe(1))).toEqual([]);
    expect([s.isAllocated(m), s.rights(A, m), s.references(m)]).toEqual([true, 'rw', 2]);
    // The pinned ref can still be mapped.
    expect(s.map(HOST | RO, { by: B, ref: 9, domain: A, hostAddress: page(2) }).status).toBe(0);
    for (const handle of [0, 1]) s.unmap({ handle, hostAddress: page(handle) }, { by: B });
    expect(s.isAllocated(m)).toBe(true);
    expect(s.during(() => s.unmap({ handle: 2, hostAddress: page(2) }, { by: B }))).toEqual([`page ${m} of ${A}`]);
    expect([s.isAllocated(m), s.rights(A, m)]).toEqual([false, '-']);
    // A ref of a frame that is gone is bad_page.
    expect(s.map(HOST | RO, { by: B, ref: 9, domain: A }).status).toBe(-9);
  });

  it('does not unpin a page table, which stays until it is unpinned (XSA-252)', () => {
    pin(m);
    expect(balloon(m)).toBe(1);
    expect([s.isAllocated(m), typeOf(m)]).toEqual([true, 'l1PageTable 1']);
    expect(unpin(m)).toBe(0);
    expect(s.isAllocated(m)).toBe(false);
  });

  it('stops at what is not there to be given back, and counts what went', () => {
    const frames = [m, s.frame(B), s.frame(A, 1)];
    expect(s.do({ op: 'decrease_reservation', domain: A, frames }).result).toBe(1);
    expect([s.isAllocated(m), s.isAllocated(s.frame(A, 1))]).toEqual([false, true]);
    expect(balloon(m)).toBe(0);
    expect(balloon(s.machine.parts.grants.frame(A as never, 0)), 'its grant frame, as recorded').toBe(1);
  });

  it('makes room for others: what comes back is writable, and reachable', () => {
    balloon(m);
    const { result, frames } = s.do({ op: 'increase_reservation', domain: A, gfns: [0], allocate: [m] });
    expect([result, frames]).toEqual([1, [m]]);
    // increase_reservation leaves the type open until the frame is put to use.
    expect([typeOf(m), s.rights(A, m)]).toEqual(['none 0', '-']);
    mapOwn(1, m, WRITABLE);
    expect(s.rights(A, m)).toBe('rw');
    balloon(s.frame(A, 1));
    s.do({ op: 'populate_physmap', domain: A, gfns: [0], allocate: [s.frame(A, 1)] });
    expect([typeOf(s.frame(A, 1)), s.rights(A, s.frame(A, 1))]).toEqual(['writable 0', 'rw']);
  });
});

describe('2.5 what a freed frame holds', () => {
  const populate = (domain: number, frame: number) =>
    s.do({ op: 'populate_physmap', domain, gfns: [0], allocate: [frame] });
  const held = (frame: number) => s.bytes(frame, 0, 4);

  it('is gone, by default', () => {
    s.store(m, 0, 'c0ffee00');
    balloon(m);
    populate(B, m);
    expect(held(m)).toBe('00000000');
  });

  it('is there for the next one if not scrubbed, as recorded, but not of the dead nor of what a transfer lost', () => {
    begin({ scrubFreed: false });
    const [given, lost, kept] = [m, s.frame(A, 1), s.frame(A, 2)];
    for (const frame of [given, lost, kept]) s.store(frame, 0, 'c0ffee00');
    balloon(given);
    populate(B, given);
    const elements = [{ frame: lost, domain: 5, ref: 8 }];
    expect(s.do({ op: 'transfer', domain: A, elements }).elements).toEqual([{ status: -2 }]);
    populate(B, lost);
    s.do({ op: 'destroy_domain', domain: A });
    populate(B, kept);
    expect([given, lost, kept].map(held)).toEqual(['c0ffee00', '00000000', '00000000']);
    // What the hypervisor takes for itself it clears.
    balloon(given, B);
    const own = s.machine.parts.frames.allocate(HW as never, { xenHeap: true, at: given });
    expect([own, held(given)]).toEqual([given, '00000000']);
  });
});
