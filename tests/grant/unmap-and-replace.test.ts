// GNTTABOP_unmap_and_replace, and host mappings named by their PTE: sections 1.7 and 1.8 of the reference (xen:
// create_grant_pv_mapping, replace_grant_pv_mapping, steal_linear_address), notes 9 to 12 of the recordings.

import { beforeEach, describe, expect, it } from 'vitest';
import { GrantStatus } from '../../grant/index.ts';
import type { Wide } from '../../machine/frame-number.ts';
import { violations } from '../../verify/index.ts';
import { A, B, DEVICE, GuestScene, HOST, PTE, page, RO } from './guest-scene.ts';

let s: GuestScene;
beforeEach(() => {
  s = new GuestScene();
  s.grant(8);
});

const replace = (handle: number, hostAddress: Wide, newAddress: Wide = 0) =>
  s.step({ op: 'unmap_and_replace', domain: A, elements: [{ handle, hostAddress, newAddress }] }).elements![0]!.status;
const mapOwn = (at: number, frame: number) =>
  s.do({ op: 'update_va_mapping', domain: A, address: page(at), entry: frame * 4096 + 3 });
/** Low word of the PTE of a page of the window. */
const pte = (at: number) => {
  const { pvTables } = s.machine.parts;
  pvTables.find(A as never, page(at) >>> 0, Math.floor(page(at) / 2 ** 32));
  return pvTables.low;
};
/** Machine address of that PTE. */
const pteAddress = (at: number) => {
  pte(at);
  const { pvTables } = s.machine.parts;
  return pvTables.frame * 4096 + pvTables.entry * 8;
};

describe('1.8 unmap_and_replace', () => {
  it('without a new address is an unmap of the host half', () => {
    s.map(HOST);
    expect(s.during(() => expect(replace(0, page(0))).toBe(0))).toEqual([`page ${s.frame(B)} of ${A}`]);
    expect([pte(0), s.usage(8)]).toEqual([0, '--']);
  });

  it('moves the PTE at the new address to the old one, with its references', () => {
    const own = s.frame(A);
    mapOwn(1, own);
    s.map(HOST);
    expect(replace(0, page(0), page(1))).toBe(0);
    // It was the kernel’s alone, which Xen writes as a user’s.
    expect([pte(0), pte(1)]).toEqual([own * 4096 + 7, 0]);
    expect([s.references(own), s.references(s.frame(B)), s.pins(8)]).toEqual([2, 1, '0/0/0/0']);
  });

  it('moves an empty PTE, too', () => {
    s.map(HOST);
    expect(replace(0, page(0), page(1))).toBe(0);
    expect([pte(0), pte(1)]).toEqual([0, 0]);
  });

  it('has emptied the new address when the old one then turns out to be wrong', () => {
    mapOwn(1, s.frame(A));
    s.map(HOST);
    expect(replace(0, page(2), page(1))).toBe(GrantStatus.general_error);
    expect([pte(1), s.pins(8), s.usage(8)]).toEqual([0, '1/0/0/0', 'rw']);
  });

  it('touches nothing when the new address has no page table', () => {
    s.map(HOST);
    const before = s.fingerprint;
    expect(replace(0, page(0), 0x1000)).toBe(GrantStatus.general_error);
    expect(replace(0, page(0), '0x800000000000')).toBe(GrantStatus.general_error);
    expect(s.fingerprint).toBe(before);
  });

  it('never releases a device half, and does nothing to a handle that has no other', () => {
    s.map(HOST | DEVICE);
    s.map(DEVICE);
    expect([replace(0, page(0)), replace(1, page(0)), replace(1, 0, page(1))]).toEqual([0, 0, 0]);
    expect([s.pins(8), s.rights(A, s.frame(B))]).toEqual(['0/0/2/0', 'rw']);
  });

  it('knows no handle that is not live', () => {
    expect(replace(0, page(0), page(1))).toBe(GrantStatus.bad_handle);
  });
});

describe('1.7 contains_pte: the host mapping is named by the machine address of its PTE', () => {
  it('maps and unmaps there', () => {
    const address = pteAddress(3);
    expect(s.map(HOST | PTE, { hostAddress: address }).status).toBe(0);
    expect(pte(3) >>> 12).toBe(s.frame(B));
    expect(s.unmap({ handle: 0, hostAddress: page(3) })).toBe(GrantStatus.general_error);
    expect(s.unmap({ handle: 0, hostAddress: address })).toBe(0);
    expect([pte(3), s.usage(8)]).toEqual([0, '--']);
  });

  it.each([
    ['not aligned to 8', () => pteAddress(3) + 4],
    ['in a frame that is no page table', () => s.frame(A) * 4096],
    ['in a page table of a higher level', () => s.machine.parts.pvTables.root(A as never) * 4096],
    ['in another domain’s page table', () => s.machine.parts.pvTables.root(B as never) * 4096],
    ['beyond memory', () => '0xfffffffffffff000' as const],
  ])('refuses one %s, and undoes the rest of the map', (_, address) => {
    expect(s.map(HOST | PTE, { hostAddress: address() })).toEqual({ status: GrantStatus.general_error });
    expect([s.usage(8), s.pins(8), s.references(s.frame(B)), s.rights(A, s.frame(B))]).toEqual([
      '--',
      '0/0/0/0',
      1,
      '-',
    ]);
  });

  it('cannot be replaced by another address', () => {
    const address = pteAddress(3);
    s.map(HOST | PTE, { hostAddress: address });
    expect(replace(0, address, page(1))).toBe(GrantStatus.general_error);
    expect(replace(0, address)).toBe(0);
  });
});

describe('1.8 a PTE is compared, not remembered', () => {
  it('another handle’s mapping of the frame with the same rights is accepted, and then that one’s is gone', () => {
    s.map(HOST);
    s.map(HOST, { hostAddress: page(1) });
    expect(s.unmap({ handle: 0, hostAddress: page(1) })).toBe(0);
    expect(s.unmap({ handle: 1, hostAddress: page(1) })).toBe(GrantStatus.general_error);
    expect(s.unmap({ handle: 1, hostAddress: page(0) })).toBe(0);
    expect(violations(s.machine)).toEqual([]);
  });

  it('a mapping over an occupied PTE is accepted; the old handle cannot be unmapped there if frame or rights differ', () => {
    s.grant(9, { index: 1 });
    s.map(HOST);
    expect(s.map(HOST | RO, { ref: 9 }).status).toBe(0);
    expect(s.unmap({ handle: 0, hostAddress: page(0) })).toBe(GrantStatus.general_error);
    expect([s.pins(8), s.references(s.frame(B))]).toEqual(['1/0/0/0', 1]);
    expect(s.unmap({ handle: 1, hostAddress: page(0) })).toBe(0);
  });

  it('host_addr 0 names nothing to unmap, and the low 12 bits of another do not count', () => {
    s.map(HOST);
    expect([s.unmap({ handle: 0, hostAddress: 0 }), s.pins(8)]).toEqual([0, '1/0/0/0']);
    expect([s.unmap({ handle: 0, hostAddress: page(0) + 0xfff }), s.pins(8)]).toEqual([0, '0/0/0/0']);
  });
});
