// The end of a domain: sections 1.14, 1.15 and 3.9 of the reference (xen: domain_kill, gnttab_release_mappings,
// domain_relinquish_resources), and the recordings' note on destroydomain. Limits of domains: 1.9.

import { beforeEach, describe, expect, it } from 'vitest';
import { GrantStatus } from '../../../grant/index.ts';
import { diff, Errno, inspect, type MachineOptions } from '../../../hypervisor/index.ts';
import type { Mfn } from '../../../machine/frame-number.ts';
import { violations } from '../../../verify/index.ts';
import { A, B, type Casting, DEV, DEVICE, GuestScene, H, HOST, HW, page, RO, SELF } from '../../grant/guest-scene.ts';

let s: GuestScene;
const begin = (options: MachineOptions = {}, casting: Casting = {}) => {
  s = new GuestScene(options, casting);
  s.grant(8);
};
beforeEach(() => begin());

const destroy = (domain: number) => s.step({ op: 'destroy_domain', domain });
const stateOf = (domain: number) => s.machine.control.root.domains[domain]?.state ?? 'gone';
const owned = (domain: number) => s.machine.parts.frames.owned(domain as never);

describe('1.15, 3.9 a mapper dies', () => {
  it.each([A, H])('gives up its handles, and the granters’ pins and usage bits with them (domain %i)', (mapper) => {
    s.grant(9, { grantee: mapper, index: 1 });
    const where = (at: number) => (mapper === H ? (16 + at) * 4096 : page(at));
    s.map(HOST, { by: mapper, ref: 9, hostAddress: where(0) });
    s.map(HOST | RO, { by: mapper, ref: 9, hostAddress: where(1) });
    if (mapper === A) s.map(HOST | DEVICE, { by: mapper, ref: 9, hostAddress: where(2) });
    expect(s.usage(9)).toBe('rw');
    expect(destroy(mapper).result).toBe(0);
    expect([s.usage(9), s.pins(9), s.references(s.frame(B, 1)), stateOf(mapper)]).toEqual(['--', '0/0/0/0', 1, 'gone']);
    expect(violations(s.machine)).toEqual([]);
  });

  it('loses its device first: context and domain flushed, and not one page by page', () => {
    s.map(HOST);
    expect(s.during(() => destroy(A))).toEqual([`context of ${A}`, `domain of ${A}`]);
    expect(s.dma(s.frame(B))).toBe('contextNotPresent');
    // The device is in quarantine now.
    expect(s.machine.control.root.devices[0]!.owner).toBe(0x7ff1);
  });

  it('does so in the order: pins, device, tables, memory', () => {
    s.map(HOST);
    const own = s.frame(A);
    const seen: string[] = [];
    s.inPieces({ op: 'destroy_domain', domain: A }, () => {
      const hasTables = s.machine.parts.driver.tables.exists(A as never);
      const isAssigned = s.machine.control.root.devices[0]!.owner === A;
      const now = [s.pins(8) !== '0/0/0/0', isAssigned, hasTables, s.isAllocated(own)].map(Number).join('');
      if (seen.at(-1) !== now) seen.push(now);
    });
    expect(seen).toEqual(['0111', '0011', '0001', '0000']);
  });

  it('gives back all of its memory: no more is missing than before it was made', () => {
    const before = new GuestScene({}, { [A]: null });
    const free = (scene: GuestScene) => {
      let count = 0;
      for (let frame = 0; frame < scene.machine.parts.frames.ram; frame += 1)
        count += Number(!scene.isAllocated(frame));
      return count;
    };
    destroy(A);
    expect(free(s)).toBe(free(before));
  });

  it('lets frames go that were granted away and that nobody has mapped', () => {
    const frame = s.frame(B);
    destroy(B);
    expect([s.isAllocated(frame), stateOf(B)]).toEqual([false, 'gone']);
  });
});

describe('1.14 a granter dies while others have its frames mapped', () => {
  beforeEach(() => {
    s.grant(9, { index: 1 });
    s.map(HOST);
    expect(destroy(B).result).toBe(0);
  });

  it('it is dying, with what others hold; everything else of it is free', () => {
    expect([stateOf(B), owned(B)]).toEqual(['dying', 1]);
    expect([s.isAllocated(s.frame(B)), s.isAllocated(s.frame(B, 1))]).toEqual([true, false]);
    expect(s.rights(A, s.frame(B))).toBe('rw');
  });

  it('it does nothing more; destroying it again is done', () => {
    expect(s.step({ op: 'query_size', domain: B, target: SELF })).toEqual({ result: Errno.ESRCH });
    expect(s.step({ op: 'grant_write', domain: B, ref: 8, flags: 0, grantee: 0 })).toEqual({ result: Errno.ESRCH });
    expect(s.step({ op: 'assign_device', device: DEV, domain: B }).result).toBeLessThan(0);
    expect(destroy(B)).toEqual({ result: 0 });
    expect(s.step({ op: 'create_domain', domain: B, kind: 'pv', frames: 1 }).result).toBe(Errno.EEXIST);
  });

  it('a pinned ref can be mapped again, an unpinned one cannot, and nothing be copied', () => {
    expect(s.map(HOST, { hostAddress: page(1) }).status).toBe(0);
    expect(s.map(HOST, { ref: 9, hostAddress: page(2) }).status).toBeLessThan(0);
    const source = { ref: 8, domain: B, offset: 0 };
    const destination = { frame: s.frame(A), domain: SELF, offset: 0 };
    expect(s.copy([{ source, destination, length: 1, flags: 1 }])).toEqual([GrantStatus.bad_domain]);
  });

  it('the hardware domain can still ask about its table', () => {
    expect(s.step({ op: 'query_size', domain: HW, target: B })).toMatchObject({ status: 0, size: { frames: 1 } });
  });

  it('the last unmap ends it: flushed, the frame freed, the id free', () => {
    const frame = s.frame(B);
    s.map(HOST | RO, { hostAddress: page(1) });
    expect(s.unmap({ handle: 0, hostAddress: page(0) })).toBe(0);
    expect(stateOf(B)).toBe('dying');
    expect(s.during(() => s.unmap({ handle: 1, hostAddress: page(1) }))).toEqual([`page ${frame} of ${A}`]);
    expect([stateOf(B), s.isAllocated(frame)]).toEqual(['gone', false]);
    expect(violations(s.machine)).toEqual([]);
  });

  it('or the mapper’s own death does', () => {
    destroy(A);
    expect([stateOf(A), stateOf(B)]).toEqual(['gone', 'gone']);
    expect(violations(s.machine)).toEqual([]);
  });
});

describe('the id of a domain that is gone', () => {
  it('is taken by the next one, which finds nothing of the last', () => {
    s.grant(9, { by: A, grantee: H, index: 2 });
    s.map(HOST);
    s.map(HOST | RO, { by: H, ref: 9, domain: A, hostAddress: 20 * 4096 });
    s.do({ op: 'set_version', domain: B, version: 1 });
    s.unmap({ handle: 0, hostAddress: 20 * 4096 }, { by: H });
    for (const domain of [A, B]) destroy(domain);
    for (const domain of [B, A]) {
      s.do({ op: 'create_domain', domain, kind: 'pv', frames: 8, iommu: domain === A });
    }
    const fresh = new GuestScene();
    fresh.do({ op: 'deassign_device', device: DEV });
    const [then, now] = [inspect(fresh.machine), inspect(s.machine)];
    expect([now.handles, now.grants, now.vcpus]).toEqual([then.handles, then.grants, then.vcpus]);
    expect(now.control.domains[A]!.grantView).toEqual(then.control.domains[A]!.grantView);
    // Handles start over, too.
    s.grant(8);
    expect(s.map(HOST)).toMatchObject({ status: 0, handle: 0 });
    expect(violations(s.machine)).toEqual([]);
  });

  it('finds no pins of handles that the last one’s mapper can never unmap: their PTE was overwritten', () => {
    s.map(HOST);
    s.do({ op: 'update_va_mapping', domain: A, address: page(0), entry: 0 });
    destroy(B);
    expect(stateOf(B)).toBe('gone');
    s.do({ op: 'create_domain', domain: B, kind: 'pv', frames: 8 });
    expect([s.pins(8), s.entry(8)]).toEqual(['0/0/0/0', [0, 0]]);
    s.grant(8, { grantee: H });
    expect(s.map(HOST, { by: H, hostAddress: 20 * 4096 }).status).toBe(0);
    // The handle of before is of nobody: its end changes nothing for the new domain.
    destroy(A);
    expect([stateOf(A), s.pins(8)]).toEqual(['gone', '1/0/0/0']);
  });

  it('finds no counts of such a handle either: its first map of the frame reaches devices', () => {
    const frame = s.frame(B);
    s.map(HOST);
    s.do({ op: 'update_va_mapping', domain: A, address: page(0), entry: 0 });
    for (const domain of [B, A]) destroy(domain);
    s.do({ op: 'create_domain', domain: A, kind: 'pv', frames: 1, iommu: true });
    s.do({ op: 'create_domain', domain: B, kind: 'pv', frames: 0 });
    s.do({ op: 'increase_reservation', domain: B, gfns: [0], allocate: [frame] });
    s.grant(8, { frame });
    expect(s.map(HOST).status).toBe(0);
    expect(s.rights(A, frame)).toBe('rw');
    expect(violations(s.machine)).toEqual([]);
  });
});

describe('1.8 row 3: the granting domain is gone', () => {
  it.each(['and so it stays', 'though its id is taken again'])('costs the mapper its life at the unmap, %s', (how) => {
    s.map(HOST);
    s.do({ op: 'update_va_mapping', domain: A, address: page(0), entry: 0 });
    destroy(B);
    if (how !== 'and so it stays') s.do({ op: 'create_domain', domain: B, kind: 'pv', frames: 8 });
    const elements = [{ handle: 0, hostAddress: page(0) }];
    const result = s.step({ op: 'unmap_grant_ref', domain: A, elements });
    expect(result.crashed).toEqual([{ domain: A, reason: 'handle 0 is of a domain that is gone' }]);
    expect(destroy(A).result).toBe(0);
    expect(stateOf(A)).toBe('gone');
  });
});

describe('2.4 a grant’s PTE that is overwritten', () => {
  it('drops the reference, but neither count nor device entry: release builds let the frame be freed under it', () => {
    const frame = s.frame(B);
    s.map(HOST);
    s.do({ op: 'update_va_mapping', domain: A, address: page(0), entry: 0 });
    expect([s.rights(A, frame), violations(s.machine)]).toEqual(['rw', []]);
    s.do({ op: 'decrease_reservation', domain: B, frames: [frame] });
    expect([s.isAllocated(frame), s.rights(A, frame)]).toEqual([false, 'rw']);
    // Invariants pass over such a frame: it is Xen's hole, and docs/invariants.md tells of it.
    expect(violations(s.machine)).toEqual([]);
    // A device half holds a reference of its own, and with it there is no such hole.
    begin();
    s.map(HOST | DEVICE);
    s.do({ op: 'update_va_mapping', domain: A, address: page(0), entry: 0 });
    s.do({ op: 'decrease_reservation', domain: B, frames: [frame] });
    expect([s.isAllocated(frame), violations(s.machine)]).toEqual([true, []]);
  });

  it('is not what M3 and G3 stumble over once the granter is gone', () => {
    s.map(HOST);
    s.do({ op: 'update_va_mapping', domain: A, address: page(0), entry: 0 });
    destroy(B);
    expect(violations(s.machine)).toEqual([]);
  });
});

describe('a crashed domain', () => {
  beforeEach(() => {
    s.grant(9, { grantee: H });
    s.map(HOST, { by: H, ref: 9, hostAddress: 20 * 4096 });
    s.map(HOST, { by: H, ref: 9, hostAddress: 20 * 4096 });
  });

  it('does nothing more, but keeps what it has until it is destroyed', () => {
    expect(stateOf(H)).toBe('crashed');
    expect(s.step({ op: 'map_grant_ref', domain: H, elements: [] })).toEqual({ result: Errno.ESRCH });
    expect(s.step({ op: 'assign_device', device: DEV, domain: H }).result).toBeLessThan(0);
    expect([s.pins(9), s.usage(9), s.rights(H, 20)]).toEqual(['1/0/0/0', 'rw', 'rw']);
    expect(destroy(H).result).toBe(0);
    expect([stateOf(H), s.pins(9), s.usage(9)]).toEqual(['gone', '0/0/0/0', '--']);
  });

  it('still grants to others', () => {
    expect(s.machine.control.root.domains[H]!.reason).toBe('mapped over the grant at gfn 20');
    expect(s.step({ op: 'query_size', domain: HW, target: H })).toMatchObject({ status: 0 });
  });
});

describe('who can be destroyed', () => {
  it('not the hardware domain, not one that there is not', () => {
    expect([destroy(HW).result, destroy(5).result]).toEqual([Errno.EINVAL, Errno.ESRCH]);
    expect(stateOf(HW)).toBe('alive');
  });
});

describe('limits of a domain', () => {
  const create = (fields: object) =>
    s.step({ op: 'create_domain', domain: 5, kind: 'pv', frames: 2, ...fields }).result;

  it('are at most the machine’s, and one grant frame at least; a domain refused leaves no trace', () => {
    begin({ grants: { grantFrames: 2, maptrackFrames: 2 } });
    const before = s.fingerprint;
    expect(create({ grantFrames: 0 })).toBe(Errno.EINVAL);
    expect(create({ grantFrames: 3 })).toBe(Errno.EINVAL);
    expect(create({ maptrackFrames: 3 })).toBe(Errno.EINVAL);
    expect(create({ frames: 10_000 })).toBe(Errno.ENOMEM);
    expect(s.fingerprint).toBe(before);
    expect(
      diff(
        inspect(new GuestScene({ grants: { grantFrames: 2, maptrackFrames: 2 } }).machine).frames as never,
        inspect(s.machine).frames as never,
      ),
    ).toEqual([]);
    expect(create({ grantFrames: 1, maptrackFrames: 0, grantVersion: 1, maxPages: 3 })).toBe(0);
    const query = s.do({ op: 'query_size', domain: HW, target: 5 });
    expect(query.size).toEqual({ frames: 1, maxFrames: 1 });
    expect(s.step({ op: 'setup_table', domain: 5, target: SELF, frames: 2 }).status).toBe(GrantStatus.general_error);
    expect(s.step({ op: 'set_version', domain: 5, version: 2 })).toEqual({ result: Errno.ENOSYS, version: 1 });
  });

  it('hold for maptrack: 255 handles of one frame', () => {
    begin({ grants: { maptrackFrames: 2 }, windowPages: 512 }, { [A]: { maptrackFrames: 1 } });
    const elements = Array.from({ length: 128 }, (_, at) => ({
      flags: HOST,
      ref: 8,
      domain: B,
      hostAddress: page(at),
    }));
    s.do({ op: 'map_grant_ref', domain: A, elements });
    s.do({ op: 'map_grant_ref', domain: A, elements: elements.map((one) => ({ ...one, flags: HOST | RO })) });
    expect(s.machine.parts.grants.maptrack(A as never).live()).toHaveLength(255);
    expect(s.map(HOST | RO).status).toBe(GrantStatus.no_space);
  });

  it('hold for pages: nothing beyond maxPages by ballooning or transfer', () => {
    begin({}, { [A]: { maxPages: 14 } });
    const has = owned(A);
    const more = s.step({ op: 'increase_reservation', domain: A, gfns: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0] });
    expect([more.result, owned(A)]).toEqual([14 - has, 14]);
    expect(s.step({ op: 'populate_physmap', domain: A, gfns: [0] }).result).toBe(0);
    s.do({ op: 'decrease_reservation', domain: A, frames: [s.frame(A) as Mfn] });
    expect(s.step({ op: 'populate_physmap', domain: A, gfns: [0], order: 1 }).result).toBe(0);
    expect(s.step({ op: 'populate_physmap', domain: A, gfns: [0] }).result).toBe(1);
  });
});
