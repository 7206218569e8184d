// What HVM domains do with their gfn maps and grants at once. Statuses, return values and what is where afterwards are
// those of recordings of Xen 4.17.

import { describe, expect, it } from 'vitest';
import { GNTMAP, GrantStatus, GTF } from '../../grant/index.ts';
import { Errno, Hypervisor, type Op } from '../../hypervisor/index.ts';
import type { Domid } from '../../machine/ids.ts';

const DEVICE = '0000:03:00.0';
const PV = 0;
const HVM = 1;
const OTHER = 2;
/** A gfn without RAM. */
const WINDOW = 12;
const { okay, general_error: GENERAL_ERROR, bad_page: BAD_PAGE } = GrantStatus;

function machine(): Hypervisor {
  const made = new Hypervisor({
    domains: 3,
    frames: 96,
    gfns: 16,
    windowPages: 4,
    grants: { maptrackFrames: 2 },
    devices: [{ device: DEVICE, unit: 0 }],
  });
  made.step({ op: 'create_domain', domain: PV, kind: 'pv', frames: 4, iommu: true });
  made.step({ op: 'create_domain', domain: HVM, kind: 'hvm', frames: 6, iommu: true, maxPages: 16 });
  made.step({ op: 'create_domain', domain: OTHER, kind: 'hvm', frames: 4 });
  made.step({ op: 'assign_device', device: DEVICE, domain: HVM });
  return made;
}

const grant = (domain: number, ref: number, grantee: number, frame: number, flags = 0): Op => ({
  op: 'grant_write',
  domain,
  ref,
  flags: GTF.permit_access | flags,
  grantee,
  frame,
});

function mapAt(made: Hypervisor, mapper: number, gfn: number, granter: number, ref: number, flags = 0) {
  const element = { flags: GNTMAP.host_map | flags, ref, domain: granter, hostAddress: gfn * 4096 };
  const { elements } = made.step({ op: 'map_grant_ref', domain: mapper, elements: [element] });
  return elements![0]!;
}

function unmapAt(made: Hypervisor, mapper: number, gfn: number, handle: number): number {
  const { elements } = made.step({
    op: 'unmap_grant_ref',
    domain: mapper,
    elements: [{ hostAddress: gfn * 4096, busAddress: 0, handle }],
  });
  return elements![0]!.status;
}

const frameAt = (made: Hypervisor, gfn: number): number | null =>
  made.parts.p2m.type(HVM as Domid, gfn as never) === 0 ? null : made.parts.p2m.frame(HVM as Domid, gfn as never);

/** The domain maps a grant of its own page 2 at the window; the page is there and nowhere else. */
function selfGranted(readOnly = false) {
  const made = machine();
  const frame = frameAt(made, 2)!;
  made.step(grant(HVM, 8, HVM, 2));
  const { status, handle } = mapAt(made, HVM, WINDOW, HVM, 8, readOnly ? GNTMAP.readonly : 0);
  expect([status, frameAt(made, 2), frameAt(made, WINDOW)]).toEqual([okay, null, frame]);
  return { made, frame, handle: handle! };
}

describe('an own page at the gfn where a grant of it is mapped', () => {
  it.each([false, true])('is granted on and copied by that gfn (read-only: %s)', (readOnly) => {
    const { made, frame } = selfGranted(readOnly);
    made.step(grant(HVM, 9, OTHER, WINDOW));
    const { status, busAddress } = mapAt(made, OTHER, WINDOW, HVM, 9);
    expect([status, busAddress]).toEqual([okay, frame * 4096]);
    const end = { frame: WINDOW, domain: 0x7ff0, offset: 0 };
    const copied = made.step({
      op: 'copy',
      domain: HVM,
      elements: [{ source: end, destination: end, length: 8, flags: 0 }],
    });
    expect(copied.elements).toEqual([{ status: okay }]);
  });

  it('is given back by that gfn, and the handle finds nothing there', () => {
    const { made, frame, handle } = selfGranted();
    const { result } = made.step({ op: 'decrease_reservation', domain: HVM, frames: [WINDOW] });
    expect([result, frameAt(made, WINDOW)]).toEqual([1, null]);
    expect(unmapAt(made, HVM, WINDOW, handle)).toBe(GENERAL_ERROR);
    expect(made.parts.frames.isHeld(frame as never)).toBe(false);
    expect(made.parts.frames.references(frame as never)).toBe(1);
  });

  it('is taken out of the map by that gfn', () => {
    const { made, frame, handle } = selfGranted();
    expect(made.step({ op: 'remove_from_physmap', domain: HVM, gfn: WINDOW }).result).toBe(0);
    expect(unmapAt(made, HVM, WINDOW, handle)).toBe(GENERAL_ERROR);
    expect(made.parts.frames.isHeld(frame as never)).toBe(true);
  });
});

describe("another's page at a gfn", () => {
  it("is not the domain's to grant, to give back or to take out", () => {
    const made = machine();
    made.step(grant(PV, 8, HVM, made.control.root.domains[PV]!.ram.first));
    const { handle } = mapAt(made, HVM, WINDOW, PV, 8);
    made.step(grant(HVM, 9, OTHER, WINDOW));
    expect(mapAt(made, OTHER, WINDOW, HVM, 9).status).toBe(BAD_PAGE);
    expect(made.step({ op: 'decrease_reservation', domain: HVM, frames: [WINDOW] }).result).toBe(0);
    expect(made.step({ op: 'remove_from_physmap', domain: HVM, gfn: WINDOW }).result).toBe(Errno.ENOENT);
    expect(unmapAt(made, HVM, WINDOW, handle!)).toBe(okay);
  });
});

describe('a grant frame', () => {
  const add = (gfn: number): Op => ({ op: 'add_to_physmap', domain: HVM, space: 1, index: 0, gfn });

  it('leaves its gfn and comes back when it is added there again', () => {
    const made = machine();
    expect(made.step(add(WINDOW)).result).toBe(0);
    const flushes = made.units[0]!.counter('waits');
    expect(made.step(add(WINDOW)).result).toBe(0);
    expect(made.units[0]!.counter('waits')).toBeGreaterThan(flushes);
    expect(frameAt(made, WINDOW)).toBe(made.parts.grants.frame(HVM as Domid, 0));
  });

  it("does not replace the mapping of another's grant, and nobody is crashed", () => {
    const made = machine();
    made.step(grant(PV, 8, HVM, made.control.root.domains[PV]!.ram.first));
    mapAt(made, HVM, WINDOW, PV, 8);
    expect(made.step(add(WINDOW)).result).toBe(Errno.ENXIO);
    expect(made.control.root.domains[HVM]!.state).toBe('alive');
  });

  it('replaces the mapping of an own grant, whose page is given back', () => {
    const { made, frame } = selfGranted();
    expect(made.step(add(WINDOW)).result).toBe(0);
    expect(frameAt(made, WINDOW)).toBe(made.parts.grants.frame(HVM as Domid, 0));
    expect(made.parts.frames.isHeld(frame as never)).toBe(false);
  });
});

describe('status frames', () => {
  const STATUS_FRAME = 0x80000000;
  const withStatus = (machine: Hypervisor) => {
    machine.step({ op: 'set_version', domain: HVM, version: 2 });
    const frame = machine.parts.grants.statusFrame(HVM as Domid, 0);
    machine.step({ op: 'add_to_physmap', domain: HVM, space: 1, index: STATUS_FRAME, gfn: WINDOW });
    expect(frameAt(machine, WINDOW)).toBe(frame);
    return frame;
  };

  it('leave the gfn map, and the reach of devices, before version 1 is in force', () => {
    const made = machine();
    const frame = withStatus(made);
    const flushes = made.units[0]!.counter('waits');
    expect(made.step({ op: 'set_version', domain: HVM, version: 1 })).toEqual({ result: 0, version: 1 });
    expect(frameAt(made, WINDOW)).toBeNull();
    expect(made.units[0]!.counter('waits')).toBeGreaterThan(flushes);
    expect(made.mayTranslate(DEVICE, WINDOW).every(({ rights }) => rights === 0)).toBe(true);
    expect(made.parts.frames.isAllocated(frame)).toBe(false);
  });

  it('that others have mapped keep version 2 in force, and the domain is crashed', () => {
    const made = machine();
    withStatus(made);
    made.step({ ...grant(HVM, 1, OTHER, WINDOW), layout: 2 } as Op);
    expect(mapAt(made, OTHER, WINDOW, HVM, 1).status).toBe(okay);
    const { result, version, crashed } = made.step({ op: 'set_version', domain: HVM, version: 1 });
    expect([result, version]).toEqual([Errno.EBUSY, 2]);
    expect(crashed).toMatchObject([{ domain: HVM }]);
  });
});

describe('a gfn moves (XENMAPSPACE_gmfn)', () => {
  const move = (made: Hypervisor, index: number, gfn: number, domain = HVM) =>
    made.step({ op: 'add_to_physmap', domain, space: 2, index, gfn }).result;
  const owned = (made: Hypervisor) => made.parts.frames.owned(HVM as Domid);

  it('into a hole, and leaves one', () => {
    const made = machine();
    const [frame, pages] = [frameAt(made, 2), owned(made)];
    expect([move(made, 2, WINDOW), frameAt(made, 2), frameAt(made, WINDOW)]).toEqual([0, null, frame]);
    expect(move(made, 2, 3), 'from the hole').toBe(Errno.EINVAL);
    expect([move(made, WINDOW, WINDOW), frameAt(made, WINDOW)], 'onto itself').toEqual([0, frame]);
    expect(owned(made)).toBe(pages);
    const device = (gfn: number) => made.step({ op: 'dma', device: DEVICE, address: gfn * 4096, access: 'read' });
    expect([device(WINDOW).dma?.frame, device(2).dma?.fault?.name]).toEqual([frame, 'readNotPermitted']);
  });

  it('onto RAM, which is given back, unless others have it mapped', () => {
    const made = machine();
    const [frame, old, pages] = [frameAt(made, 2), frameAt(made, 3)!, owned(made)];
    made.step(grant(HVM, 8, OTHER, 3));
    const { handle } = mapAt(made, OTHER, WINDOW, HVM, 8);
    expect([move(made, 2, 3), frameAt(made, 3), owned(made)]).toEqual([0, frame, pages]);
    expect(unmapAt(made, OTHER, WINDOW, handle!)).toBe(okay);
    expect([owned(made), made.parts.frames.isAllocated(old)]).toEqual([pages - 1, false]);
  });

  it('where grants are mapped: a foreign one neither moves nor makes room, one of its own only makes room', () => {
    const made = machine();
    made.step(grant(OTHER, 8, HVM, 1));
    mapAt(made, HVM, WINDOW, OTHER, 8);
    expect([move(made, WINDOW, 3), move(made, 3, WINDOW)]).toEqual([Errno.EINVAL, Errno.ENXIO]);
    made.step(grant(HVM, 9, HVM, 2));
    const { handle } = mapAt(made, HVM, WINDOW + 1, HVM, 9);
    expect(move(made, WINDOW + 1, 2)).toBe(Errno.EXDEV);
    expect(move(made, 3, WINDOW + 1)).toBe(0);
    expect(unmapAt(made, HVM, WINDOW + 1, handle!)).toBe(GENERAL_ERROR);
  });

  it('takes grant frames along, and puts them aside', () => {
    const made = machine();
    made.step({ op: 'add_to_physmap', domain: HVM, space: 1, index: 0, gfn: WINDOW });
    const table = frameAt(made, WINDOW);
    expect([move(made, WINDOW, 3), frameAt(made, WINDOW), frameAt(made, 3)]).toEqual([0, null, table]);
    expect([move(made, 3, 3), frameAt(made, 3)]).toEqual([0, table]);
    expect([move(made, 2, 3), made.parts.frames.isAllocated(table!)]).toEqual([0, true]);
  });

  it('not for PV domains, and in none of the other spaces', () => {
    const made = machine();
    const add = (space: number, index: number) =>
      made.step({ op: 'add_to_physmap', domain: HVM, space, index, gfn: 3 });
    expect(move(made, 1, 3, PV)).toBe(Errno.EACCES);
    expect([add(0, 1), add(4, 2), add(5, 2), add(99, 2)].map(({ result }) => result)).toEqual([-22, -38, -13, -22]);
    expect(() => add(3, 2)).toThrow(RangeError);
  });
});
