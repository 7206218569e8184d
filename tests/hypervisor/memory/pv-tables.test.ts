// What entries of a PV domain's page tables may say, and what a table leaves in its frame (xen: arch/x86/mm.c
// get_page_from_l1e to _l4e, promote_l4_table, adjust_guest_l1e). All as recorded (scen9-417).

import { beforeEach, describe, expect, it } from 'vitest';
import { Errno } from '../../../hypervisor/index.ts';
import type { Mfn } from '../../../machine/frame-number.ts';
import { DOMID_IO, DOMID_SELF, DOMID_XEN } from '../../../machine/ids.ts';
import { violations } from '../../../verify/index.ts';
import { A, B, DEV, GuestScene, HW, page } from '../../grant/guest-scene.ts';

type Level = 1 | 2 | 3 | 4;
const LEVELS = [1, 2, 3, 4] as const;
const [RO, RW] = [0x65, 0x67];

let s: GuestScene;
let x: number;
let y: number;
let z: number;
beforeEach(() => {
  s = new GuestScene();
  [x, y, z] = [s.frame(A), s.frame(A, 1), s.frame(A, 2)];
});

const put = (table: number, frame: number, flags: number, at = 0) =>
  s.do({
    op: 'store',
    frame: table,
    offset: at * 8,
    bytes: Buffer.from(new BigUint64Array([BigInt(frame) * 4096n + BigInt(flags)]).buffer).toString('hex'),
  });
const clear = (frame: number) => s.do({ op: 'store', frame, offset: 0, fill: { byte: 0, length: 4096 } });
const pin = (frame: number, level: Level, domain = A) => s.step({ op: 'pin_table', domain, frame, level }).result;
const unpin = (frame: number, domain = A) => s.step({ op: 'unpin_table', domain, frame }).result;
/** Pins a frame as each level in turn, and unpins it. */
const each = (frame: number, domain = A) =>
  LEVELS.map((level) => {
    const result = pin(frame, level, domain);
    if (result === 0) unpin(frame, domain);
    return result;
  });

describe('what a top table leaves in its frame', () => {
  it('is an entry that leads back: the frame can be no table of another level until it is cleared', () => {
    expect(each(x)).toEqual([0, 0, 0, 0]);
    expect(each(x)).toEqual([Errno.EBUSY, Errno.EINVAL, Errno.EINVAL, 0]);
    put(y, x, RW);
    expect([pin(y, 4), pin(y, 2)]).toEqual([Errno.EINVAL, Errno.EBUSY]);
    clear(x);
    expect(each(x)).toEqual([0, 0, 0, 0]);
  });

  it('is there in a top table from the start', () => {
    const root = s.machine.parts.pvTables.root(A as never);
    expect([pin(root, 4), unpin(root), pin(root, 4)]).toEqual([Errno.EINVAL, 0, 0]);
    expect(s.machine.parts.frames.readWord(root, 258 * 2) >>> 12).toBe(root);
  });
});

describe('entries that lead to a table of the same level', () => {
  it.each(LEVELS)('level %i: to its own, only to be read', (level) => {
    put(x, x, RO, 1);
    expect(pin(x, level)).toBe(0);
    expect(LEVELS.map((other) => (other === level ? Errno.EINVAL : pin(x, other)))).toEqual(LEVELS.map(() => -22));
    expect(violations(s.machine)).toEqual([]);
    expect([unpin(x), s.references(x)]).toEqual([0, 1]);
    put(x, x, RW, 1);
    expect(pin(x, level)).toBe(level === 1 ? Errno.EBUSY : Errno.EINVAL);
    expect(s.references(x)).toBe(1);
  });

  it.each([2, 3, 4] as const)('level %i: to a valid one, which stays one as long as that is so', (level) => {
    put(x, y, RO);
    expect([pin(y, level), pin(x, level), unpin(y)]).toEqual([0, 0, 0]);
    expect(LEVELS.map((other) => (other === level ? Errno.EINVAL : pin(y, other)))).toEqual(LEVELS.map(() => -22));
    expect([s.references(y), violations(s.machine)]).toEqual([2, []]);
    // No chain of them: what leads on is not led to, and the other way round.
    put(z, x, RO);
    expect(pin(z, level)).toBe(Errno.EINVAL);
    expect([pin(y, level), unpin(x), unpin(y)]).toEqual([0, 0, 0]);
    expect([s.references(x), s.references(y)]).toEqual([1, 1]);
    put(y, z, RO);
    put(z, x, 0);
    expect([pin(z, level), pin(y, level), pin(x, level)]).toEqual([0, 0, Errno.EINVAL]);
  });

  it('not to one that can be written, or is none yet, or is another domain’s', () => {
    put(x, y, RW);
    pin(y, 4);
    expect(pin(x, 4)).toBe(Errno.EINVAL);
    const foreign = s.machine.parts.pvTables.root(B as never);
    put(z, foreign, RO);
    expect(pin(z, 4)).toBe(Errno.EINVAL);
    expect([s.references(y), s.references(z)]).toEqual([2, 1]);
  });

  it('no L1 table is found through them', () => {
    const root = s.machine.parts.pvTables.root(A as never);
    put(root, root, RO, 3);
    s.step({ op: 'unpin_table', domain: A, frame: root });
    const address = 3 * 2 ** 39;
    expect(s.step({ op: 'update_va_mapping', domain: A, address, entry: 0 }).result).toBe(Errno.EINVAL);
  });
});

describe('flags of entries', () => {
  const map = (domain: number, frame: number, flags: number) =>
    s.step({ op: 'update_va_mapping', domain, address: page(3), entry: frame * 4096 + flags }).result;

  it.each([2, 3, 4] as const)('level %i: neither caching nor large nor global', (level) => {
    const results = [0x8, 0x10, 0x80, 0x100, 0x200, 0x800].map((flag) => {
      put(x, y, RO | flag);
      const result = pin(x, level);
      if (result === 0) unpin(x);
      return result;
    });
    expect(results).toEqual([-22, -22, -22, -22, 0, 0]);
  });

  it('level 1: caching is for domains that have a device', () => {
    const shared = (domain: number) => s.machine.parts.grants.frame(domain as never, 0);
    const frame = s.frame(B);
    expect([0x8, 0x10, 0x80, 0x100].map((flag) => map(B, frame, RO | flag))).toEqual([-22, -22, -22, 0]);
    put(frame, s.frame(B, 1), RO | 0x10);
    map(B, 0, 0);
    expect(pin(frame, 1, B)).toBe(Errno.EINVAL);
    expect([0x8, 0x10, 0x80, 0x100].map((flag) => map(A, x, RO | flag))).toEqual([0, 0, 0, 0]);
    expect(map(A, shared(A), RW | 0x10), 'not of a page of the hypervisor’s').toBe(Errno.EACCES);
    map(A, 0, 0);
    s.do({ op: 'deassign_device', device: DEV });
    expect(map(A, x, RO | 0x10)).toBe(Errno.EINVAL);
  });

  it('an entry that was in an L1 is global from then on, or the kernel’s: no entry of a higher level', () => {
    put(x, y, RO);
    expect(each(x)).toEqual([0, -22, -22, -22]);
    expect(s.machine.parts.frames.readWord(x, 0) & 0xfff).toBe(0x165);
    put(x, y, 0x61);
    expect(each(x)).toEqual([0, 0, 0, 0]);
    expect([0, 1].map((word) => s.machine.parts.frames.readWord(x, word))).toEqual([y * 4096 + 0x65, 1 << 20]);
  });
});

describe('what is no memory, and memory of others', () => {
  const IO = 0xfe200;
  const foreign = (owner: number, frame: number, writable = false) =>
    s.step({ op: 'map_foreign', domain: HW, address: page(0), owner, frame, writable }).result;
  const own = (domain: number, frame: number) =>
    s.step({ op: 'update_va_mapping', domain, address: page(0), entry: frame * 4096 + RO }).result;

  it('is mapped with the right of both, the mapper and the named owner', () => {
    expect([own(HW, IO), own(A, IO)]).toEqual([0, Errno.EPERM]);
    expect([DOMID_SELF, DOMID_IO, DOMID_XEN, A, B].map((owner) => foreign(owner, IO))).toEqual([0, 0, -1, -1, -1]);
  });

  it('is not mapped at all where the hypervisor keeps it', () => {
    s = new GuestScene({ keptIo: [[0xfed90, 0xfed90]] });
    expect([0xfedff, 0xfee00, 0xfeeff, 0xfef00].map((frame) => own(HW, frame))).toEqual([0, -1, -1, 0]);
    expect([0xfed8f, 0xfed90, 0xfed91].map((frame) => foreign(DOMID_IO, frame))).toEqual([0, -1, 0]);
    expect(own(A, 2 ** 40 - 1), 'the number of no frame').toBe(Errno.EINVAL);
  });

  it('counts memory in, of reserved regions and where the machine says so, without references', () => {
    const reservedRegions = [{ firstFrame: 60, frames: 1, devices: [] }];
    s = new GuestScene({ ioFrames: [[62, 63]], reservedRegions });
    const { frames } = s.machine.parts;
    const before = frames.references(62 as Mfn);
    expect([60, 62, 63].map((frame) => foreign(DOMID_SELF, frame, true))).toEqual([0, 0, 0]);
    expect([own(HW, 62), own(A, 62), foreign(A, 62)]).toEqual([0, -1, -1]);
    expect(own(HW, s.frame(HW)), 'in its place').toBe(0);
    expect(frames.references(62 as Mfn)).toBe(before);
  });

  it('memory is mapped as that of its owner', () => {
    const table = s.machine.parts.pvTables.root(A as never) as Mfn;
    expect([foreign(A, x), foreign(A, x, true), foreign(A, table), foreign(A, table, true)]).toEqual([0, 0, 0, -16]);
    const others = [s.frame(B), s.frame(HW), s.machine.parts.frames.ram - 1];
    expect(others.map((frame) => foreign(A, frame))).toEqual([-16, -16, -16]);
    expect([DOMID_IO, DOMID_XEN].map((owner) => foreign(owner, x))).toEqual([-16, -16]);
    expect([foreign(DOMID_SELF, s.frame(HW)), foreign(HW, s.frame(HW)), foreign(5, x)]).toEqual([0, -3, -3]);
  });
});
