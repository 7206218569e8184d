// An HVM guest's gfns, what lies at them and what its devices reach there: section 2.3 of the reference (xen: p2m.c,
// p2m-pt.c p2m_pt_set_entry, xenmem_add_to_physmap_one), 2.5, and the recordings' notes on HVM mappers.

import { beforeEach, describe, expect, it } from 'vitest';
import { GrantStatus } from '../../../grant/index.ts';
import { Errno, type MachineOptions } from '../../../hypervisor/index.ts';
import type { Mfn } from '../../../machine/frame-number.ts';
import { violations } from '../../../verify/index.ts';
import { A, B, DEVICE, GuestScene, H, HOST, HW, PTE, page, RO, SELF } from '../../grant/guest-scene.ts';

const at = (gfn: number) => gfn * 4096;
let s: GuestScene;
function begin(options: MachineOptions = {}): void {
  s = new GuestScene(options, { [A]: { iommu: false } });
  s.assign(H);
  s.grant(8, { grantee: H });
}
beforeEach(() => begin());

const mapAt = (gfn: number, flags: number = HOST, fields: object = {}) =>
  s.map(flags, { by: H, hostAddress: at(gfn), ...fields });
const unmapAt = (handle: number, gfn: number) => s.unmap({ handle, hostAddress: at(gfn) }, { by: H });
const owned = () => s.machine.parts.frames.owned(H as never);

describe('2.3 a grant over RAM', () => {
  it('replaces the page, which is not freed but at no gfn; after the unmap there is a hole', () => {
    const [ram, pages] = [s.machineFrame(H, 3), owned()];
    expect(s.during(() => expect(mapAt(3).status).toBe(0))).toEqual([`page 3 of ${H}`]);
    expect([s.dma(3), owned(), s.isAllocated(ram)]).toEqual([s.frame(B), pages, true]);
    expect(s.during(() => expect(unmapAt(0, 3)).toBe(0))).toEqual([`page 3 of ${H}`]);
    expect([s.dma(3), owned()]).toEqual(['readNotPermitted', pages]);
    s.grant(9, { by: H, grantee: B, frame: 3 });
    expect(s.map(HOST, { by: B, ref: 9, domain: H }).status).toBe(GrantStatus.bad_page);
    s.do({ op: 'populate_physmap', domain: H, gfns: [3] });
    expect([owned(), s.dma(3)]).toEqual([pages + 1, s.machineFrame(H, 3)]);
  });
});

describe('2.3 a grant of one’s own', () => {
  beforeEach(() => s.grant(9, { by: H, grantee: H, frame: 2 }));
  const mapOwn = (gfn: number, flags: number = HOST) => mapAt(gfn, flags, { domain: H, ref: 9 }).status;

  it.each([HOST, HOST | RO])('moves the page from its gfn to where it is mapped (flags %i)', (flags) => {
    const frame = s.machineFrame(H, 2);
    expect(s.during(() => expect(mapOwn(20, flags)).toBe(0))).toEqual([`page 2 of ${H}`]);
    expect([s.dma(2), s.dma(20)]).toEqual(['readNotPermitted', frame]);
    // The pinned ref can be mapped again, and both places show the page.
    expect(mapOwn(21, flags)).toBe(0);
    expect(s.dma(21)).toBe(frame);
    expect([unmapAt(0, 20), unmapAt(1, 21)]).toEqual([0, 0]);
    expect(mapOwn(20, flags)).toBe(GrantStatus.bad_page);
    expect([s.isAllocated(frame), owned()]).toEqual([true, 8]);
  });

  it('at its own gfn changes nothing for devices, until the unmap leaves a hole', () => {
    const frame = s.machineFrame(H, 2);
    expect(s.during(() => expect(mapOwn(2)).toBe(0))).toEqual([]);
    expect(s.dma(2)).toBe(frame);
    expect(s.during(() => expect(unmapAt(0, 2)).toBe(0))).toEqual([`page 2 of ${H}`]);
    expect(s.dma(2)).toBe('readNotPermitted');
  });
});

describe('1.7 what an HVM mapper may not', () => {
  it('has no device maps, application maps or PTEs, said before the domain is looked at', () => {
    for (const flags of [DEVICE, HOST | DEVICE, HOST | 8, HOST | PTE]) {
      expect(mapAt(20, flags, { domain: 5 }).status).toBe(GrantStatus.general_error);
    }
    expect(mapAt(20, HOST | 0x30000).status).toBe(GrantStatus.general_error);
  });

  it('has no gfns beyond its own, and none but the low bits of the page ignored', () => {
    expect(mapAt(32).status).toBe(GrantStatus.general_error);
    expect(mapAt(0, HOST, { hostAddress: '0xfffffffffffff000' }).status).toBe(GrantStatus.general_error);
    expect(mapAt(0, HOST, { hostAddress: at(20) + 0x123 }).status).toBe(0);
    expect(s.dma(20)).toBe(s.frame(B));
    expect([s.pins(8), s.usage(8)]).toEqual(['1/0/0/0', 'rw']);
  });

  it('is crashed for mapping over a grant, and maps nothing', () => {
    mapAt(20);
    const elements = [{ flags: HOST, ref: 8, domain: B, hostAddress: at(20) }];
    const result = s.step({ op: 'map_grant_ref', domain: H, elements });
    expect(result.elements).toEqual([{ status: -1 }]);
    expect(result.crashed).toEqual([{ domain: H, reason: 'mapped over the grant at gfn 20' }]);
    expect([s.pins(8), s.rights(H, 20)]).toEqual(['1/0/0/0', 'rw']);
  });
});

describe('1.8 an unmap wants the entry that the grant made', () => {
  it('of the same frame, at the gfn named', () => {
    s.grant(10, { grantee: H, index: 1 });
    mapAt(20);
    mapAt(21, HOST, { ref: 10 });
    expect([unmapAt(0, 21), unmapAt(0, 22), unmapAt(0, 3)]).toEqual([-1, -1, -1]);
    expect([unmapAt(0, 20), unmapAt(1, 21)]).toEqual([0, 0]);
  });
});

describe('1.7 an HVM granter', () => {
  it('names gfns: RAM is granted, a hole and a grant’s mapping are bad_page', () => {
    mapAt(20);
    for (const [ref, frame, status] of [
      [10, 4, 0],
      [11, 25, -9],
      [12, 20, -9],
      [13, 32, -9],
    ] as const) {
      s.grant(ref, { by: H, grantee: B, frame });
      expect(s.map(HOST, { by: B, ref, domain: H, hostAddress: page(ref) }).status).toBe(status);
    }
  });

  it('keeps the frame of a gfn that it gives back while others have it mapped', () => {
    const frame = s.machineFrame(H, 4);
    s.grant(10, { by: H, grantee: B, frame: 4 });
    s.map(HOST, { by: B, ref: 10, domain: H });
    expect(s.during(() => s.do({ op: 'decrease_reservation', domain: H, frames: [4] }))).toEqual([`page 4 of ${H}`]);
    expect([s.isAllocated(frame), s.references(frame), s.dma(4)]).toEqual([true, 1, 'readNotPermitted']);
    s.unmap({ handle: 0, hostAddress: page(0) }, { by: B });
    expect(s.isAllocated(frame)).toBe(false);
  });
});

describe('2.5 decrease_reservation by gfn', () => {
  it('stops at a hole, at a grant’s mapping and at a page of the hypervisor’s', () => {
    mapAt(20);
    s.do({ op: 'add_to_physmap', domain: H, space: 1, index: 0, gfn: 21 });
    const give = (frames: number[]) => s.do({ op: 'decrease_reservation', domain: H, frames }).result;
    expect([give([30]), give([20]), give([32]), give([4, 30, 5])]).toEqual([0, 0, 0, 1]);
    expect(s.dma(5)).toBe(s.machineFrame(H, 5));
  });

  it('is flushed before the frame is free', () => {
    const frame = s.machineFrame(H, 4);
    const reached: (number | string)[] = [];
    const unit = s.machine.units[0]!;
    const before = unit.counter('waits');
    s.inPieces({ op: 'decrease_reservation', domain: H, frames: [4] }, () => {
      if (!s.isAllocated(frame)) reached.push(unit.counter('waits') - before);
    });
    expect(violations(s.machine)).toEqual([]);
    expect(reached[0]).toBe(1);
  });
});

describe('add_to_physmap', () => {
  const add = (index: number, gfn: number, domain = H) =>
    s.step({ op: 'add_to_physmap', domain, space: 1, index, gfn }).result;
  const tableFrames = () => s.do({ op: 'setup_table', domain: H, target: SELF, frames: 1 }).frames;

  it('puts a grant frame at a gfn, which setup_table then names; devices reach it', () => {
    expect(tableFrames()).toEqual(['0xffffffffffffffff']);
    expect(s.during(() => expect(add(0, 20)).toBe(0))).toEqual([]);
    expect([tableFrames(), s.dma(20)]).toEqual([[20], s.machine.parts.grants.frame(H as never, 0)]);
  });

  it('moves it when it is put somewhere else', () => {
    add(0, 20);
    expect(s.during(() => expect(add(0, 21)).toBe(0))).toEqual([`page 20 of ${H}`]);
    expect([s.dma(20), tableFrames()]).toEqual(['readNotPermitted', [21]]);
  });

  it('frees the RAM that was there, and takes the table with it as it grows', () => {
    begin({ grants: { grantFrames: 3 } });
    const ram = s.machineFrame(H, 5);
    expect(add(2, 5)).toBe(0);
    expect([s.isAllocated(ram), s.machine.parts.grants.frameCount(H as never)]).toEqual([false, 3]);
    expect(add(3, 6)).toBe(Errno.EINVAL);
  });

  it('refuses status frames that there are none of, gfns beyond the guest’s, and PV guests', () => {
    expect([add(0x80000000, 20), add(0, 32), add(0, 20, B)]).toEqual([Errno.EINVAL, Errno.EINVAL, Errno.EACCES]);
    expect(s.step({ op: 'remove_from_physmap', domain: B, gfn: 0 }).result).toBe(Errno.EACCES);
    expect(s.step({ op: 'remove_from_physmap', domain: H, gfn: 30 }).result).toBe(Errno.ENOENT);
  });

  it('is refused over a grant of another domain, as recorded', () => {
    mapAt(20);
    const onto = { op: 'add_to_physmap', domain: H, space: 1, index: 0, gfn: 20 } as const;
    expect(s.step(onto)).toEqual({ result: Errno.ENXIO });
  });

  it('leaves the frame’s page to its guest when it is taken out again', () => {
    add(0, 20);
    expect(s.during(() => s.do({ op: 'remove_from_physmap', domain: H, gfn: 20 }))).toEqual([`page 20 of ${H}`]);
    expect(s.isAllocated(s.machine.parts.grants.frame(H as never, 0))).toBe(true);
    const ram = s.machineFrame(H, 6);
    s.do({ op: 'remove_from_physmap', domain: H, gfn: 6 });
    // RAM that is at no gfn is still the guest's.
    expect(s.machine.parts.frames.owner(ram as Mfn)).toBe(H);
  });
});

describe('map_foreign of a gfn', () => {
  const foreign = (frame: number) =>
    s.step({ op: 'map_foreign', domain: HW, address: page(0), owner: H, frame, writable: true });

  it('takes RAM, and refuses holes; where a grant is mapped, versions differ', () => {
    expect(foreign(4)).toEqual({ result: 0, frames: [s.machineFrame(H, 4)] });
    expect(foreign(30).result).toBe(Errno.EINVAL);
    s.grant(9, { by: H, grantee: H, frame: 2 });
    mapAt(20, HOST, { domain: H, ref: 9 });
    expect(foreign(20).result).toBe(Errno.EINVAL);
    begin({ rules: 'xen4_17' });
    s.grant(9, { by: H, grantee: H, frame: 2 });
    mapAt(20, HOST, { domain: H, ref: 9 });
    expect(foreign(20).result).toBe(0);
    // Not if it is somebody else's.
    mapAt(21);
    expect(foreign(21).result).toBe(Errno.EINVAL);
  });
});
