// The door beyond single fields: operations that there are not, fields that exclude each other, and batches that are
// refused as a whole because of one element.

import { beforeEach, describe, expect, it } from 'vitest';
import { Errno, type Op } from '../../../hypervisor/index.ts';
import { A, B, GuestScene, HW, page, SELF } from '../../grant/guest-scene.ts';

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
