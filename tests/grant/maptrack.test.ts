// Handles with several virtual CPUs: section 1.4 of the reference (xen: get_maptrack_handle, steal_maptrack_handle).

import { beforeEach, describe, expect, it } from 'vitest';
import { GrantStatus } from '../../grant/index.ts';
import type { MachineOptions } from '../../hypervisor/index.ts';
import { A, GuestScene, HOST, page } from './guest-scene.ts';

let s: GuestScene;
let next: number;

function begin(maptrackFrames: number, options: MachineOptions = {}): void {
  s = new GuestScene({ frames: 640, vcpus: 3, windowPages: 1024, grants: { maptrackFrames }, ...options });
  for (let ref = 8; ref < 16; ref += 1) s.grant(ref);
  next = 0;
}

/** A virtual CPU maps something somewhere: its handle, or the status. */
function take(vcpu: number): number {
  const { status, handle } = s.map(HOST, { vcpu, ref: 8 + (next % 8), hostAddress: page(next++) });
  return handle ?? status;
}
const takeMany = (vcpu: number, count: number) => Array.from({ length: count }, () => take(vcpu));

/** Unmaps a handle whose page is known by when it was taken. */
const giveBack = (handle: number, at: number, vcpu = 0) => s.unmap({ handle, hostAddress: page(at) }, { vcpu });

const range = (first: number, last: number) => Array.from({ length: last - first + 1 }, (_, at) => first + at);

describe('1.4 one virtual CPU', () => {
  beforeEach(() => begin(2));

  it('gives 0 to 254, then 256 to 511: 256 per frame less one, which stays the end of the list', () => {
    expect(takeMany(0, 511)).toEqual([...range(0, 254), ...range(256, 511)]);
    expect(take(0)).toBe(GrantStatus.no_space);
  });

  it('gives the end of the list out once something was freed behind it', () => {
    takeMany(0, 511);
    giveBack(7, 7);
    expect(take(0)).toBe(255);
    expect(take(0)).toBe(GrantStatus.no_space);
  });

  it('reuses first in, first out, after what was never used', () => {
    takeMany(0, 3);
    giveBack(1, 1);
    giveBack(0, 0);
    expect(takeMany(0, 252)).toEqual(range(3, 254));
    expect(takeMany(0, 2)).toEqual([255, 1]);
  });
});

describe('1.4 each virtual CPU has a list, and a frame, of its own', () => {
  beforeEach(() => begin(3));

  it('takes a frame when its list is dry, whatever lies in the lists of others', () => {
    expect([take(0), take(1), take(2), take(0), take(1), take(2)]).toEqual([0, 256, 512, 1, 257, 513]);
  });

  it('gives a handle back to the list of the virtual CPU that took it, not of the one that unmaps', () => {
    take(0);
    take(1);
    expect(giveBack(256, 1, 0)).toBe(0);
    // CPU 0 goes on as if nothing had happened; CPU 1 finds 256 at its tail, after the sentinel.
    expect(takeMany(0, 254)).toEqual(range(1, 254));
    expect(takeMany(1, 255)).toEqual([...range(257, 511)]);
    expect(take(1)).toBe(512);
  });

  it('gives the handle of a failed map back to the CPU that tried', () => {
    expect(s.map(HOST, { vcpu: 1, ref: 400 }).status).toBe(GrantStatus.general_error);
    expect([take(1), take(0)]).toEqual([1, 256]);
  });
});

describe('1.4 no frame can be added', () => {
  beforeEach(() => begin(1));

  it('steals one handle as the end of a list, then one to use', () => {
    expect(takeMany(0, 2)).toEqual([0, 1]);
    // 2 becomes the end of CPU 1's list, 3 is used.
    expect(take(1)).toBe(3);
    expect(take(0)).toBe(4);
    // CPU 1 has a list now, of its end alone: it steals just one.
    expect(take(1)).toBe(5);
  });

  it('has a stolen handle come back to the thief’s list', () => {
    takeMany(0, 2);
    take(1);
    giveBack(3, 2);
    // Behind the end that was stolen first, which is then no longer the last.
    expect(take(1)).toBe(2);
    expect(take(1)).toBe(4);
  });

  it('leaves each list its end: 256 per frame, less one for every virtual CPU that has a list', () => {
    expect(takeMany(0, 10)).toEqual(range(0, 9));
    expect(takeMany(1, 244)).toEqual(range(11, 254));
    expect([take(1), take(0)]).toEqual([GrantStatus.no_space, GrantStatus.no_space]);
    // CPU 2 has no list, and nobody has one handle, let alone two, to spare.
    expect(take(2)).toBe(GrantStatus.no_space);
  });

  it('may lose a handle to a virtual CPU that finds an end for its list, but nothing to use', () => {
    expect(takeMany(0, 254)).toEqual(range(0, 253));
    expect(take(1)).toBe(GrantStatus.no_space);
    expect(take(0)).toBe(GrantStatus.no_space);
    giveBack(0, 0);
    // CPU 1 has the end that it stole, and CPU 0 a handle more than its own end.
    expect(take(1)).toBe(255);
  });
});

describe('1.4 no maptrack at all', () => {
  it.each([0, 1, 2])(
    'refuses every map of virtual CPU %i with no_space, after the domain and before the ref',
    (vcpu) => {
      begin(0);
      expect(take(vcpu)).toBe(GrantStatus.no_space);
      expect(s.map(HOST, { vcpu, ref: 9999 }).status).toBe(GrantStatus.no_space);
      expect(s.map(HOST, { vcpu, domain: 5 }).status).toBe(GrantStatus.bad_domain);
      expect(s.map(0, { vcpu }).status).toBe(GrantStatus.bad_gntref);
    },
  );

  it('is a limit of the domain, too', () => {
    s = new GuestScene({ grants: { maptrackFrames: 2 } }, { [A]: { maptrackFrames: 0 } });
    next = 0;
    s.grant(8);
    expect(take(0)).toBe(GrantStatus.no_space);
  });

  it('is the same with the lowest handle first', () => {
    begin(0, { maptrackOrder: 'lowest-free' });
    expect(take(0)).toBe(GrantStatus.no_space);
  });
});
