// The door beyond single fields: operations that there are not, fields that exclude each other, and batches that are
// refused as a whole because of one element.

import { beforeEach, describe, expect, it } from 'vitest';
import { Errno, type Op } from '../../../hypervisor/index.ts';
import { A, B, GuestScene, H, HW, page, SELF } from '../../grant/guest-scene.ts';

let s: GuestScene;
beforeEach(() => {
  s = new GuestScene({ rules: 'xen4_17' });
  s.grant(8);
});

function refused(op: unknown, message: RegExp): void {
  const before = s.fingerprint;
  expect(() => s.step(op as Op)).toThrow(message);
  expect([s.fingerprint, s.machine.isBusy(0 as never)]).toEqual([before, false]);
}

describe('what is no operation', () => {
  it.each([null, undefined, 5, 'tick', {}, { op: 'nonsense' }, { op: 'toString' }, { op: ['tick'] }])('%j', (op) => {
    refused(op, /unknown operation/);
  });

  it('what runs in one piece cannot be begun', () => {
    const op = { op: 'query_size', domain: A, target: SELF } as const;
    expect(() => s.machine.begin(op as never)).toThrow(/query_size runs in one piece/);
  });
});

describe('a batch', () => {
  const good = { a: 8, b: 9 };

  it.each([
    ['swap_grant_ref', [good, { a: 8 }], /b undefined/],
    ['swap_grant_ref', [good, null], /elements\[1\]/],
    [
      'map_grant_ref',
      [
        { flags: 2, ref: 8, domain: B },
        { flags: 2, ref: 8 },
      ],
      /domain undefined/,
    ],
    ['unmap_grant_ref', [{ handle: 0 }, {}], /handle undefined/],
    ['transfer', [{ domain: B, ref: 8 }], /frame/],
  ])('of %s does nothing at all when one element is none', (op, elements, message) => {
    refused({ op, domain: A, elements }, message);
  });

  it.each(['map_grant_ref', 'copy'])('of %s has at most as many elements as the machine takes', (op) => {
    refused({ op, domain: A, elements: Array.from({ length: 129 }, () => ({})) }, /129 elements.*batchMax/);
  });
});

describe('fields that exclude each other', () => {
  it('an end of a copy is a ref or a frame', () => {
    const destination = { frame: s.frame(A), domain: SELF, offset: 0 };
    const copy = (source: object) => ({
      op: 'copy',
      domain: A,
      elements: [{ source, destination, length: 1, flags: 1 }],
    });
    refused(copy({ domain: B, offset: 0 }), /source: expected one of ref and frame/);
    refused(copy({ ref: 8, frame: 8, domain: B, offset: 0 }), /source: expected one of ref and frame/);
    refused(copy({ ref: 2 ** 32, domain: B, offset: 0 }), /source\.ref 4294967296/);
  });

  it('a store has bytes, or is filled', () => {
    const store = { op: 'store', frame: s.frame(A), offset: 0 };
    refused(store, /bytes, fill/);
    refused({ ...store, bytes: 'aa', fill: { byte: 0, length: 1 } }, /bytes, fill/);
    refused({ ...store, bytes: 'abc' }, /bytes: expected pairs of hex digits/);
    refused({ ...store, fill: { byte: 256, length: 1 } }, /byte 256/);
    refused({ ...store, offset: 4095, bytes: 'aabb' }, /offset 4095/);
  });

  it('a domain has frames, or memory', () => {
    const create = { op: 'create_domain', domain: 4, kind: 'pv' };
    refused({ ...create, frames: 1, memory: {} }, /frames, memory/);
    refused({ ...create, memory: { ram: [[1]] } }, /memory\.ram\[0\]: expected 2 items/);
    refused({ ...create, memory: { pageTables: [[1, 5]] } }, /memory\.pageTables\[0\]\[1\] 5/);
    refused({ ...create, memory: { mappings: [[0, 1, 1, 1, 'wx']] } }, /memory\.mappings\[0\]\[4\] "wx"/);
  });

  it('a version 1 entry has 32 bits of frame', () => {
    const write = { op: 'grant_write', domain: B, ref: 8, flags: 1, grantee: A, frame: '0x100000000' };
    refused(write, /frame/);
    refused({ ...write, frame: 0, ref: 512 }, /ref 512: expected 0 to 511/);
    refused({ ...write, layout: 2, transitive: { domain: 1, ref: -1 } }, /transitive\.ref -1/);
    refused({ ...write, layout: 2, subPage: { offset: 0, length: 65536 } }, /subPage\.length 65536/);
  });
});

describe('frames that are asked for', () => {
  const setup = { op: 'setup_table', domain: B, target: SELF, frames: 2 } as const;
  const free = 300;
  const calls = (allocate: readonly number[]): readonly object[] => [
    { ...setup, allocate },
    { ...setup, allocateStatus: allocate },
    // Even where nothing will be taken.
    { ...setup, frames: 1, allocate },
    { op: 'set_version', domain: B, version: 2, allocate },
  ];
  const FIELD = 'allocate(Status)?';

  it("are refused by number if they are another's, twice the same, or not there", () => {
    for (const op of calls([s.frame(A)])) refused(op, new RegExp(`${FIELD}\\[0\\] \\d+: .* free .* domain ${A}'s$`));
    for (const op of calls([free, s.frame(B)])) refused(op, new RegExp(`${FIELD}\\[1\\] \\d+: .* domain ${B}'s$`));
    for (const op of calls([free, free])) refused(op, new RegExp(`${FIELD}\\[1\\] 300: .* asked for twice$`));
    for (const op of calls([320])) refused(op, new RegExp(`${FIELD}\\[0\\] 320: .* beyond the 320 that there are$`));
    refused({ ...setup, allocate: [free], allocateStatus: [free] }, /allocateStatus\[0\] 300: .* twice$/);
  });

  it('are taken if they are free', () => {
    s = new GuestScene({ grants: { grantFrames: 2 } }, { [B]: null });
    s.do({ op: 'create_domain', domain: B, kind: 'pv', memory: { ram: [[200, 207]] } });
    const { frames } = s.do({ ...setup, allocate: [free] });
    expect([frames!.length, frames![1]]).toEqual([2, free]);
    s.do({ op: 'set_version', domain: B, version: 2, allocate: [free + 1] });
    expect(s.do({ op: 'get_status_frames', domain: B, target: SELF, frames: 1 }).frames).toEqual([free + 1]);
  });

  it('where a grant frame is put at a gfn: one', () => {
    s = new GuestScene({ grants: { grantFrames: 2 } }, { [H]: null });
    s.do({ op: 'create_domain', domain: H, kind: 'hvm', memory: { p2m: [[0, 200, 8, 1]] } });
    const add = { op: 'add_to_physmap', domain: H, space: 1, index: 1, gfn: 20 } as const;
    refused({ ...add, allocate: 201 }, /allocate 201: expected a free frame of RAM, but it is domain 3's/);
    refused({ ...add, allocate: -1 }, /allocate -1/);
    refused({ ...add, allocate: [free] }, /allocate 300: expected an integer/);
    s.do({ ...add, allocate: free });
    expect(s.machineFrame(H, 20)).toBe(free);
  });

  it('of a reservation end it where they are not free, as memory that is used up would', () => {
    const increase = { op: 'increase_reservation', domain: B, gfns: [0, 1] } as const;
    expect(s.do({ ...increase, allocate: [free, s.frame(A)] })).toEqual({ result: 1, frames: [free] });
  });
});

describe('a second hardware domain', () => {
  it('is refused', () => {
    const before = s.fingerprint;
    const create = { op: 'create_domain', domain: 4, kind: 'pv', frames: 1, hardware: true } as const;
    expect(s.step(create)).toEqual({ result: Errno.EEXIST });
    expect([s.fingerprint, s.machine.control.root.hardwareDomain]).toEqual([before, HW]);
  });
});

describe('a caller that is not there', () => {
  it.each([5, 17, 0x7ff0, 0xffff])('is -ESRCH, whatever it asks for (%i)', (domain) => {
    const ops: readonly Op[] = [
      { op: 'map_grant_ref', domain, elements: [] },
      { op: 'swap_grant_ref', domain, elements: [] },
      { op: 'set_version', domain, version: 7 },
      { op: 'query_size', domain, target: SELF },
      { op: 'update_va_mapping', domain, address: page(0), entry: 0 },
      { op: 'destroy_domain', domain },
      { op: 'dma_unmap', domain, dfn: 0, pages: 1 },
    ];
    for (const op of ops) expect(s.step(op)).toEqual({ result: Errno.ESRCH });
  });
});
