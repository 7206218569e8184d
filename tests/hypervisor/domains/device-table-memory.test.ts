// No memory for device tables: sections 1.7 row 13, 1.8 row 9, 2.2 and 3.2 of the reference. A change that fails costs a
// domain its life, but never the hardware domain (C2), and the status is general_error.

import { describe, expect, it } from 'vitest';
import { GrantStatus } from '../../../grant/index.ts';
import { Errno } from '../../../hypervisor/index.ts';
import type { Domid } from '../../../machine/ids.ts';
import { violations } from '../../../verify/index.ts';
import { A, B, type Casting, GuestScene, H, HOST, HW, page, RO } from '../../grant/guest-scene.ts';

/** Frames of 2 MiB and more apart from all that is in use, so that a device entry for them takes a new table. */
const FAR = 1024;

function scene(casting: Casting = {}): GuestScene {
  return new GuestScene({ frames: 2048, gfns: 1024, iommu: { superpages: true } }, casting);
}

/** Domain 2 has a frame that is far off, and grants it under ref 8. */
function withFarGrant(mapper: number, casting: Casting = {}): GuestScene {
  const s = scene(casting);
  s.do({ op: 'increase_reservation', domain: B, gfns: [0], allocate: [FAR] });
  s.grant(8, { grantee: mapper, frame: FAR });
  return s;
}

/** Takes all the memory that there is; domain 4 has it. */
function exhaust(s: GuestScene): void {
  while (s.machine.parts.frames.allocate(4 as Domid) >= 0);
}
function free(s: GuestScene, count: number): void {
  const { frames } = s.machine.parts;
  for (let at = 0; at < count; at += 1) {
    const frame = frames.nextOwned(4 as Domid, 0, frames.frames);
    frames.dropReferences(frame as never, 1, 0);
    frames.free(frame as never);
  }
}
const stateOf = (s: GuestScene, domain: number) => s.machine.control.root.domains[domain]!.state;

describe('1.7 row 13: a map whose device entry cannot be made', () => {
  it('crashes a PV guest, and undoes everything else of the map', () => {
    const s = withFarGrant(A);
    exhaust(s);
    const elements = [
      { flags: HOST, ref: 8, domain: B, hostAddress: page(0) },
      { flags: HOST, ref: 9999, domain: B, hostAddress: page(1) },
    ];
    const result = s.step({ op: 'map_grant_ref', domain: A, elements });
    // The call goes on to its end.
    expect(result.elements!.map(({ status }) => status)).toEqual([GrantStatus.general_error, GrantStatus.bad_gntref]);
    expect(result.crashed).toEqual([{ domain: A, reason: `device tables: ENOMEM at dfn ${FAR}` }]);
    const { grants } = s.machine.parts;
    expect([s.pins(8), s.usage(8), s.references(FAR), grants.maptrack(A as Domid).live()]).toEqual([
      '0/0/0/0',
      '--',
      1,
      [],
    ]);
    expect([grants.writers(A as Domid, FAR as never), violations(s.machine)]).toEqual([0, []]);
  });

  it('does not crash the hardware domain', () => {
    const s = withFarGrant(HW);
    exhaust(s);
    expect(s.map(HOST, { by: HW }).status).toBe(GrantStatus.general_error);
    expect([stateOf(s, HW), s.pins(8), s.usage(8), s.references(FAR)]).toEqual(['alive', '0/0/0/0', '--', 1]);
    free(s, 4);
    expect(s.map(HOST, { by: HW }).status).toBe(0);
  });

  it('is none of a guest without device tables', () => {
    const s = withFarGrant(A, { [A]: { iommu: false } });
    exhaust(s);
    expect(s.map(HOST).status).toBe(0);
  });

  it('crashes an HVM guest whose p2m entry it is', () => {
    const s = withFarGrant(H);
    exhaust(s);
    const elements = [{ flags: HOST, ref: 8, domain: B, hostAddress: 700 * 4096 }];
    const result = s.step({ op: 'map_grant_ref', domain: H, elements });
    expect(result).toMatchObject({ elements: [{ status: -1 }], crashed: [{ domain: H }] });
    expect([s.pins(8), s.rights(H, 700), s.machine.parts.p2m.type(H as Domid, 700 as never)]).toEqual([
      '0/0/0/0',
      '-',
      0,
    ]);
  });
});

/** A mapper with 512 frames of one block mapped, so that one large leaf leads to them. */
function withLargeLeaf(mapper: number): GuestScene {
  const s = new GuestScene(
    { frames: 3072, windowPages: 1024, batchMax: 512, grants: { maptrackFrames: 4, grantFrames: 2 } },
    {},
  );
  s.do({ op: 'increase_reservation', domain: B, gfns: [0], order: 9, allocate: [FAR] });
  s.do({ op: 'setup_table', domain: B, target: B, frames: 2 });
  for (let at = 0; at < 512; at += 1) s.grant(8 + at, { grantee: mapper, frame: FAR + at });
  const elements = Array.from({ length: 512 }, (_, at) => ({
    flags: HOST,
    ref: 8 + at,
    domain: B,
    hostAddress: page(at),
  }));
  s.do({ op: 'map_grant_ref', domain: mapper, elements });
  return s;
}

describe('1.8 row 9: an unmap whose device entry cannot be taken away, for the large leaf cannot be split', () => {
  it('crashes a guest with general_error; the halves are gone and completed all the same', () => {
    const s = withLargeLeaf(A);
    exhaust(s);
    const elements = [{ handle: 7, hostAddress: page(7) }];
    const result = s.step({ op: 'unmap_grant_ref', domain: A, elements });
    expect(result.elements).toEqual([{ status: GrantStatus.general_error }]);
    expect(result.crashed).toEqual([{ domain: A, reason: `device tables: ENOMEM at dfn ${FAR + 7}` }]);
    expect([s.pins(15), s.usage(15), s.machine.parts.grants.maptrack(A as Domid).flags(7)]).toEqual([
      '0/0/0/0',
      '--',
      0,
    ]);
    // What the device reaches it reaches until the domain is destroyed.
    expect(s.rights(A, FAR + 7)).toBe('rw');
    expect(s.step({ op: 'destroy_domain', domain: A }).result).toBe(0);
    expect(violations(s.machine)).toEqual([]);
  });

  it('tells the hardware domain, which lives on', () => {
    const s = withLargeLeaf(HW);
    exhaust(s);
    expect(s.unmap({ handle: 7, hostAddress: page(7) }, { by: HW })).toBe(GrantStatus.general_error);
    expect(stateOf(s, HW)).toBe('alive');
    // Its counts stay with what its devices reach.
    const grants = s.machine.parts.grants;
    expect(s.rights(HW, FAR + 7)).toBe('rw');
    expect([grants.readers(HW as Domid, (FAR + 7) as never), grants.writers(HW as Domid, (FAR + 7) as never)]).toEqual([
      0, 1,
    ]);
  });
});

describe('2.4, 2.5 a page type that devices cannot follow', () => {
  it('a pin fails, and crashes the guest', () => {
    const s = scene();
    const far = s.do({ op: 'populate_physmap', domain: A, gfns: [0], order: 9, allocate: [FAR] }).frames![0] as number;
    exhaust(s);
    const result = s.step({ op: 'pin_table', domain: A, frame: far, level: 1 });
    expect(result).toMatchObject({ result: Errno.EINVAL, crashed: [{ domain: A }] });
    expect(s.rights(A, far)).toBe('rw');
  });

  it('a frame that cannot be taken from devices is lost rather than freed', () => {
    const s = scene();
    const far = s.do({ op: 'populate_physmap', domain: A, gfns: [0], order: 9, allocate: [FAR] }).frames![0] as number;
    exhaust(s);
    const result = s.step({ op: 'decrease_reservation', domain: A, frames: [far + 3] });
    expect(result.crashed).toMatchObject([{ domain: A }]);
    expect([s.rights(A, far + 3), s.isAllocated(far + 3)]).toEqual(['rw', true]);
    expect(violations(s.machine)).toEqual([]);
  });

  it('a transfer keeps the page with its owner', () => {
    const s = scene();
    const far = s.do({ op: 'populate_physmap', domain: A, gfns: [0], order: 9, allocate: [FAR] }).frames![0] as number;
    s.grant(8, { flags: 2, grantee: A, frame: 0 });
    exhaust(s);
    const result = s.step({ op: 'transfer', domain: A, elements: [{ frame: far, domain: B, ref: 8 }] });
    expect(result).toMatchObject({ elements: [{ status: -1 }], crashed: [{ domain: A }] });
    expect([s.machine.parts.frames.owner(far as never), s.rights(A, far)]).toEqual([A, 'rw']);
  });

  it('a grant of a former page table, mapped writable, is refused: its granter cannot reach it', () => {
    const s = scene();
    s.do({ op: 'increase_reservation', domain: A, gfns: [0], allocate: [FAR] });
    s.grant(9, { by: A, grantee: B, frame: FAR });
    exhaust(s);
    const map = (flags: number) => s.map(flags, { by: B, ref: 9, domain: A }).status;
    expect([map(HOST), map(HOST | RO)]).toEqual([GrantStatus.general_error, 0]);
    expect(stateOf(s, A)).toBe('crashed');
  });
});
