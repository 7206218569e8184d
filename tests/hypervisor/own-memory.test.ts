// What PV domains may put into their own page tables, and what they give back that is not theirs to free. Return values
// are those of recordings of Xen 4.17.

import { describe, expect, it } from 'vitest';
import { GNTMAP, GrantStatus, GTF } from '../../grant/index.ts';
import { Errno, Hypervisor, PV_WINDOW_BASE } from '../../hypervisor/index.ts';
import type { Domid } from '../../machine/ids.ts';

const PRESENT_WRITABLE = 3;
const GUEST = 1;
const OTHER = 2;

function machine(): Hypervisor {
  const made = new Hypervisor({ domains: 3, frames: 96, windowPages: 4, grants: { maptrackFrames: 1 } });
  for (const domain of [0, GUEST, OTHER]) made.step({ op: 'create_domain', domain, kind: 'pv', frames: 4 });
  return made;
}

const ramOf = (made: Hypervisor, domain: number): number => made.control.root.domains[domain]!.ram.first;

function enter(made: Hypervisor, domain: number, frame: number): number {
  const entry = frame * 4096 + PRESENT_WRITABLE;
  return made.step({ op: 'update_va_mapping', domain, address: PV_WINDOW_BASE, entry }).result;
}

describe('an entry of a page table', () => {
  it("is refused with EBUSY for another's page and for one that cannot be written, with EPERM for no memory", () => {
    const made = machine();
    const own = ramOf(made, GUEST);
    expect(enter(made, GUEST, own)).toBe(0);
    expect(enter(made, GUEST, ramOf(made, OTHER))).toBe(Errno.EBUSY);
    expect(enter(made, GUEST, made.parts.pvTables.root(GUEST as Domid))).toBe(Errno.EBUSY);
    expect(enter(made, GUEST, 0xfee00)).toBe(Errno.EPERM);
  });

  it('has the table refused that it is in, in the same way', () => {
    const made = machine();
    const table = ramOf(made, GUEST);
    const other = ramOf(made, OTHER);
    const bytes = [PRESENT_WRITABLE, (other & 0xf) << 4, other >>> 4]
      .map((byte) => byte.toString(16).padStart(2, '0'))
      .join('');
    made.step({ op: 'store', frame: table, offset: 8, bytes });
    expect(made.step({ op: 'pin_table', domain: GUEST, frame: table, level: 1 }).result).toBe(Errno.EBUSY);
  });
});

describe('a grant frame that its domain gives back', () => {
  const { okay, bad_page: BAD_PAGE } = GrantStatus;

  it('stays a grant frame, but nobody gets it any more', () => {
    const made = machine();
    const frame = made.parts.grants.frame(GUEST as Domid, 0);
    const grant = {
      op: 'grant_write',
      domain: GUEST,
      ref: 8,
      grantee: OTHER,
      flags: GTF.permit_access,
      frame,
    } as const;
    made.step(grant);
    const map = { flags: GNTMAP.device_map, ref: 8, domain: GUEST };
    const mapped = made.step({ op: 'map_grant_ref', domain: OTHER, elements: [map] }).elements![0]!;
    expect(mapped.status).toBe(okay);
    // While others refer to it, it can be given back over and over.
    for (const _ of [1, 2]) {
      expect(made.step({ op: 'decrease_reservation', domain: GUEST, frames: [frame] }).result).toBe(1);
    }
    const unmap = { hostAddress: 0, busAddress: frame * 4096, handle: mapped.handle! };
    made.step({ op: 'unmap_grant_ref', domain: OTHER, elements: [unmap] });
    expect(made.step({ op: 'decrease_reservation', domain: GUEST, frames: [frame] }).result).toBe(0);
    made.step(grant);
    expect(made.step({ op: 'map_grant_ref', domain: OTHER, elements: [map] }).elements![0]!.status).toBe(BAD_PAGE);
    expect(made.parts.grants.frame(GUEST as Domid, 0)).toBe(frame);
    expect(made.step({ op: 'destroy_domain', domain: GUEST }).result).toBe(0);
    expect(made.parts.frames.isAllocated(frame)).toBe(false);
  });
});
