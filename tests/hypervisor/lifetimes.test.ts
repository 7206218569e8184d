// What outlives what: page tables in use, frames that change hands or type before they are flushed, handles whose
// granter is gone. Each was found by random operations.

import { describe, expect, it } from 'vitest';
import { GNTMAP, GrantStatus, GTF } from '../../grant/index.ts';
import { Hypervisor, type Op, PV_WINDOW_BASE } from '../../hypervisor/index.ts';
import type { Mfn } from '../../machine/frame-number.ts';
import type { Domid } from '../../machine/ids.ts';
import { violations } from '../../verify/index.ts';

const DEVICE = '0000:03:00.0';
const PAGE = 4096;

/** Domain 1 has a device, and may map ref 8 of domain 2; domain 2 takes frames of domain 1 by ref 9. */
function scene(policy = 'strict-page') {
  const machine = new Hypervisor({
    domains: 3,
    frames: 64,
    gfns: 8,
    windowPages: 4,
    devices: [{ device: DEVICE, unit: 0 }],
    caches: { kind: 'adversary', mayEntries: 512 },
    policy,
    release: 'afterFlush',
  });
  const step = (op: Op) => machine.step(op);
  step({ op: 'create_domain', domain: 1, kind: 'pv', frames: 3, iommu: true });
  step({ op: 'create_domain', domain: 2, kind: 'pv', frames: 3 });
  step({ op: 'assign_device', device: DEVICE, domain: 1 });
  const own = machine.control.root.domains[1]!.ram.first;
  const frame = machine.control.root.domains[2]!.ram.first;
  step({ op: 'grant_write', domain: 2, ref: 8, flags: GTF.permit_access, grantee: 1, frame });
  step({ op: 'grant_write', domain: 2, ref: 9, flags: GTF.accept_transfer, grantee: 1, frame: 0 });
  const map = (flags: number) =>
    step({
      op: 'map_grant_ref',
      domain: 1,
      elements: [{ hostAddress: PV_WINDOW_BASE, flags, ref: 8, domain: 2 }],
    }).elements![0]!;
  return { machine, step, map, own, frame };
}

describe('the page table in use', () => {
  it('outlives its unpinning, and what it maps stays mapped', () => {
    const { machine, step, map } = scene();
    const { handle } = map(GNTMAP.host_map);
    const root = machine.parts.pvTables.root(1 as Domid);
    expect(step({ op: 'unpin_table', domain: 1, frame: root }).result).toBe(0);
    const unmap = { op: 'unmap_grant_ref', domain: 1, elements: [{ handle: handle!, hostAddress: PV_WINDOW_BASE }] };
    expect(step(unmap as Op).elements).toEqual([{ status: GrantStatus.okay }]);
    expect(step({ op: 'destroy_domain', domain: 1 }).result).toBe(0);
    expect(machine.control.root.domains[1]).toBeNull();
    expect(violations(machine)).toEqual([]);
  });
});

describe('a page table that leads to itself', () => {
  it('is one only if that is to be read, and holds no references by it', () => {
    const { machine, step, own } = scene();
    machine.parts.frames.writeEntry(own as Mfn, 0, own * PAGE + 3, 0);
    expect(step({ op: 'pin_table', domain: 1, frame: own, level: 4 }).result).toBe(-22);
    expect(machine.parts.frames.references(own as Mfn)).toBe(1);
    machine.parts.frames.writeEntry(own as Mfn, 0, own * PAGE + 1, 0);
    expect(step({ op: 'pin_table', domain: 1, frame: own, level: 4 }).result).toBe(0);
    expect(machine.parts.frames.references(own as Mfn)).toBe(2);
    expect(violations(machine)).toEqual([]);
  });
});

describe('under a policy that flushes later and releases after that', () => {
  it('a table below another one is beyond devices, too', () => {
    const { machine, step, own } = scene('deferred');
    machine.parts.frames.writeEntry(own as Mfn, 0, (own + 1) * PAGE + 1, 0);
    expect(step({ op: 'pin_table', domain: 1, frame: own, level: 2 }).result).toBe(0);
    expect(violations(machine)).toEqual([]);
  });

  it('a frame is transferred only when its owner’s devices reach it no more', () => {
    const { machine, step, own } = scene('deferred');
    const given = step({ op: 'transfer', domain: 1, elements: [{ frame: own, domain: 2, ref: 9 }] });
    expect(given.elements).toEqual([{ status: GrantStatus.okay }]);
    expect(violations(machine)).toEqual([]);
  });

  it('a frame that was given back is nobody’s before it is free', () => {
    const { step, own } = scene('deferred');
    step({ op: 'decrease_reservation', domain: 1, frames: [own] });
    expect(step({ op: 'pin_table', domain: 1, frame: own, level: 1 }).result).toBe(-22);
    const entry = own * PAGE + 3;
    expect(step({ op: 'update_va_mapping', domain: 1, address: PV_WINDOW_BASE, entry }).result).toBe(-16);
    expect(step({ op: 'tick', nowUs: 100_000 }).result).toBe(0);
  });

  it('a frame becomes a page table only when no device writes it any more', () => {
    const { machine, step, own } = scene('deferred');
    expect(step({ op: 'pin_table', domain: 1, frame: own, level: 1 }).result).toBe(0);
    expect(violations(machine)).toEqual([]);
  });
});

describe('a handle whose granter is gone', () => {
  it('is no handle of the next domain of that number', () => {
    const { machine, step, map } = scene();
    const { handle } = map(GNTMAP.host_map);
    // The mapping is written over, its reference dropped: nothing keeps the granter.
    step({ op: 'update_va_mapping', domain: 1, address: PV_WINDOW_BASE, entry: 0 });
    step({ op: 'destroy_domain', domain: 2 });
    expect(machine.control.root.domains[2]).toBeNull();
    step({ op: 'create_domain', domain: 2, kind: 'pv', frames: 3 });
    expect(machine.parts.grants.pins(2 as Domid, 8)).toBe(0);
    const unmap = { handle: handle!, hostAddress: PV_WINDOW_BASE };
    expect(step({ op: 'unmap_grant_ref', domain: 1, elements: [unmap] }).crashed).toMatchObject([{ domain: 1 }]);
    expect(step({ op: 'destroy_domain', domain: 1 }).result).toBe(0);
  });
});

describe('a grant frame that an HVM domain gives back', () => {
  it('goes from its gfn only, and stays the table', () => {
    const { machine, step } = scene();
    step({ op: 'create_domain', domain: 0, kind: 'hvm', frames: 1 });
    step({ op: 'add_to_physmap', domain: 0, space: 1, index: 0, gfn: 5 });
    expect(step({ op: 'decrease_reservation', domain: 0, frames: [5] }).result).toBe(1);
    expect(machine.parts.p2m.type(0 as Domid, 5 as never)).toBe(0);
    expect(machine.parts.frames.isAllocated(machine.parts.grants.frame(0 as Domid, 0))).toBe(true);
    expect(violations(machine)).toEqual([]);
  });
});
