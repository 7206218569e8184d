// Arguments that cannot be read or written, and what hypercall entry refuses: section 1.2 of the reference
// (xen: do_grant_table_op), section 9 rows 18 and 20, and the recordings' notes 1, 16 and 18.

import { beforeEach, describe, expect, it } from 'vitest';
import { GNTCOPY, GrantStatus, GTF } from '../../grant/index.ts';
import { Errno, type Op } from '../../hypervisor/index.ts';
import { A, B, GuestScene, H, HOST, HW, page, SELF } from './guest-scene.ts';

let s: GuestScene;
beforeEach(() => {
  s = new GuestScene();
  for (let ref = 8; ref < 12; ref += 1) s.grant(ref, { index: ref - 8 });
});

const element = (at: number) => ({ flags: HOST, ref: 8 + at, domain: B, hostAddress: page(at) });
const elements = [element(0), element(1), element(2)];
const live = () => s.machine.parts.grants.maptrack(A as never).live();

describe('1.2 a batch that faults', () => {
  it('has done the elements before the one that cannot be read, and nothing after it', () => {
    const result = s.step({ op: 'map_grant_ref', domain: A, elements, unreadableFrom: 1 });
    expect(result).toMatchObject({ result: Errno.EFAULT, elements: [{ status: 0, handle: 0 }] });
    expect([live(), s.pins(8), s.pins(9)]).toEqual([[0], '1/0/0/0', '0/0/0/0']);
  });

  it('leaves a mapping whose handle the guest never learns, when the outcome cannot be written', () => {
    const result = s.step({ op: 'map_grant_ref', domain: A, elements, unwritableFrom: 1 });
    expect(result).toMatchObject({ result: Errno.EFAULT, elements: [{ status: 0, handle: 0 }] });
    expect([live(), s.pins(9), s.pins(10)]).toEqual([[0, 1], '1/0/0/0', '0/0/0/0']);
    expect(s.rights(A, s.frame(B, 1))).toBe('rw');
    // A guest that guesses it can unmap it.
    expect(s.unmap({ handle: 1, hostAddress: page(1) })).toBe(0);
  });

  it('completes what an unmap has begun: the flush and the second pass run for every element done', () => {
    s.do({ op: 'map_grant_ref', domain: A, elements });
    const handles = elements.map(({ hostAddress }, handle) => ({ handle, hostAddress }));
    const submitted = s.during(() => {
      const result = s.step({ op: 'unmap_grant_ref', domain: A, elements: handles, unwritableFrom: 1 });
      expect(result).toEqual({ result: Errno.EFAULT, elements: [{ status: 0 }] });
    });
    expect(submitted).toEqual([`page ${s.frame(B, 0)} of ${A}`, `page ${s.frame(B, 1)} of ${A}`]);
    expect([s.usage(8), s.usage(9), s.usage(10)]).toEqual(['--', '--', 'rw']);
    expect(live()).toEqual([2]);
  });

  it('completes an unmap before the element that cannot be read', () => {
    s.do({ op: 'map_grant_ref', domain: A, elements });
    const handles = elements.map(({ hostAddress }, handle) => ({ handle, hostAddress }));
    expect(s.step({ op: 'unmap_grant_ref', domain: A, elements: handles, unreadableFrom: 2 }).result).toBe(
      Errno.EFAULT,
    );
    expect([s.usage(8), s.usage(9), s.usage(10), live()]).toEqual(['--', '--', 'rw', [2]]);
  });

  it('has moved the bytes of a copy whose status cannot be written, and holds nothing any more', () => {
    s.store(s.frame(B), 0, '11223344');
    const copy = {
      source: { ref: 8, domain: B, offset: 0 },
      destination: { frame: s.frame(A), domain: SELF, offset: 0 },
      length: 4,
      flags: GNTCOPY.source_gref,
    };
    const result = s.step({ op: 'copy', domain: A, elements: [copy, copy], unwritableFrom: 0 });
    expect(result).toEqual({ result: Errno.EFAULT, elements: [] });
    expect([s.bytes(s.frame(A), 0, 4), s.pins(8), s.usage(8)]).toEqual(['11223344', '0/0/0/0', '--']);
  });

  it('has transferred a page, and swapped entries, whose status cannot be written', () => {
    s.grant(9, { by: A, flags: GTF.accept_transfer, grantee: B, frame: 0 });
    const frame = s.frame(B, 5);
    const transfer = {
      op: 'transfer',
      domain: B,
      elements: [{ frame, domain: A, ref: 9 }],
      unwritableFrom: 0,
    } as const;
    expect(s.step(transfer)).toEqual({ result: Errno.EFAULT, elements: [] });
    expect(s.machine.parts.frames.owner(frame as never)).toBe(A);
    const before = [s.entry(8), s.entry(9)];
    const swap = { op: 'swap_grant_ref', domain: B, elements: [{ a: 8, b: 9 }], unwritableFrom: 0 } as const;
    expect(s.step(swap)).toEqual({ result: Errno.EFAULT, elements: [] });
    expect([s.entry(9), s.entry(8)]).toEqual(before);
  });
});

const batches: readonly Op[] = [
  { op: 'map_grant_ref', domain: A, elements },
  { op: 'unmap_grant_ref', domain: A, elements: [{ handle: 0 }] },
  { op: 'unmap_and_replace', domain: A, elements: [{ handle: 0 }] },
  { op: 'copy', domain: A, elements: [] },
  { op: 'transfer', domain: A, elements: [] },
  { op: 'swap_grant_ref', domain: A, elements: [{ a: 8, b: 9 }] },
];
const singles: readonly Op[] = [
  { op: 'setup_table', domain: A, target: SELF, frames: 1 },
  { op: 'query_size', domain: A, target: SELF },
  { op: 'get_status_frames', domain: A, target: SELF, frames: 0 },
  { op: 'set_version', domain: A, version: 2 },
  { op: 'get_version', domain: A, target: SELF },
];

describe('1.2 where the argument lies', () => {
  it.each(batches)('$op refuses an address that no guest may name, even of an empty batch', (op) => {
    const before = s.fingerprint;
    expect(s.step({ ...op, elements: [], argument: 'forbidden' } as Op).result).toBe(Errno.EFAULT);
    expect(s.step({ ...op, argument: 'forbidden' } as Op).result).toBe(Errno.EFAULT);
    expect(s.fingerprint).toBe(before);
  });

  it.each(batches.filter((op) => 'elements' in op && op.elements.length > 0))(
    '$op faults on an address where nothing is, but not when it has no elements',
    (op) => {
      const before = s.fingerprint;
      expect(s.step({ ...op, argument: 'unmapped' } as Op)).toMatchObject({ result: Errno.EFAULT, elements: [] });
      expect(s.step({ ...op, elements: [], argument: 'unmapped' } as Op).result).toBe(0);
      expect(s.fingerprint).toBe(before);
    },
  );

  it.each(singles)('$op faults on both', (op) => {
    const before = s.fingerprint;
    expect(s.step({ ...op, argument: 'forbidden' } as Op).result).toBe(Errno.EFAULT);
    expect(s.step({ ...op, argument: 'unmapped' } as Op).result).toBe(Errno.EFAULT);
    expect(s.fingerprint).toBe(before);
  });

  it('of a list of frames: forbidden faults, unmapped is bad_virt_addr with 0 returned; none is written for none', () => {
    const setup = { op: 'setup_table', domain: A, target: SELF } as const;
    expect(s.step({ ...setup, frames: 1, list: 'forbidden' })).toEqual({ result: Errno.EFAULT });
    expect(s.step({ ...setup, frames: 1, list: 'unmapped' })).toEqual({ result: 0, status: GrantStatus.bad_virt_addr });
    expect(s.step({ ...setup, frames: 0, list: 'unmapped' })).toEqual({ result: 0, status: 0, frames: [] });
    s.do({ op: 'set_version', domain: A, version: 2 });
    const status = { op: 'get_status_frames', domain: A, target: SELF, list: 'unmapped' } as const;
    expect(s.step({ ...status, frames: 1 })).toEqual({ result: 0, status: GrantStatus.bad_virt_addr });
  });
});

describe('1.2 do_grant_table_op: what entry refuses, in this order', () => {
  const enter = (command: number, count: number, argument: 'unmapped' | 'forbidden' = 'unmapped') =>
    s.step({ op: 'grant_table_op', domain: A, command, count, argument }).result;

  it('a count that is negative as a signed number, of any command', () => {
    for (const command of [0, 6, 12, 3, 99, 0x1000]) expect(enter(command, 0x80000000)).toBe(Errno.EINVAL);
    expect(enter(0, 0x7fffffff)).toBe(Errno.EFAULT);
  });

  it('a command with bits above the low 12, cache_flush aside', () => {
    for (const command of [0x1000, 0x1005, 0x80000006]) expect(enter(command, 1)).toBe(Errno.EINVAL);
    expect(enter(0x100c, 1)).toBe(Errno.ENOSYS);
  });

  it('dump_table, cache_flush on x86, and every command that there is not', () => {
    for (const command of [3, 12, 13, 0xfff]) expect(enter(command, 1, 'forbidden')).toBe(Errno.ENOSYS);
  });

  it('a count other than 1 of commands on one structure; set_version and get_version do not look', () => {
    for (const command of [2, 6, 9])
      expect([enter(command, 0), enter(command, 2)]).toEqual([Errno.EINVAL, Errno.EINVAL]);
    for (const command of [8, 10]) expect([enter(command, 0), enter(command, 2)]).toEqual([Errno.EFAULT, Errno.EFAULT]);
  });

  it('an argument that is not there, unless there is nothing to read from it', () => {
    for (const command of [0, 1, 4, 5, 7, 11]) {
      expect([enter(command, 1), enter(command, 0)]).toEqual([Errno.EFAULT, 0]);
      expect([enter(command, 1, 'forbidden'), enter(command, 0, 'forbidden')]).toEqual([Errno.EFAULT, Errno.EFAULT]);
    }
  });

  it('has cache_flush in 4.17', () => {
    s = new GuestScene({ rules: 'xen4_17' });
    expect([enter(12, 1), enter(12, 0), enter(0x100c, 0)]).toEqual([Errno.EFAULT, 0, 0]);
    const flush = { address: s.frame(A) * 4096, offset: 0, length: 64, operation: 1 };
    expect(s.step({ op: 'cache_flush', domain: A, elements: [flush] }).result).toBe(0);
    expect(new GuestScene().step({ op: 'cache_flush', domain: A, elements: [flush] }).result).toBe(Errno.ENOSYS);
  });
});

describe('1.9 counts and targets of calls on a table', () => {
  it.each(singles.slice(0, 3))('$op wants a count of 1', (op) => {
    expect(s.step({ ...op, count: 2 } as Op)).toEqual({ result: Errno.EINVAL });
    expect(s.step({ ...op, count: 0 } as Op)).toEqual({ result: Errno.EINVAL });
  });

  it('lets only the hardware domain name another', () => {
    for (const op of singles.slice(0, 3)) {
      expect(s.step({ ...op, target: B } as Op)).toEqual({ result: 0, status: GrantStatus.permission_denied });
      expect(s.step({ ...op, target: 5 } as Op)).toEqual({ result: 0, status: GrantStatus.bad_domain });
      expect(s.step({ ...op, domain: HW, target: B } as Op)).toMatchObject({ result: 0, status: 0 });
    }
    const get = { op: 'get_version', domain: A } as const;
    expect(s.step({ ...get, target: B })).toEqual({ result: Errno.EPERM });
    expect(s.step({ ...get, target: 5 })).toEqual({ result: Errno.ESRCH });
    expect(s.step({ ...get, target: A })).toEqual({ result: 0, version: 1 });
  });

  it('refuses unmap_and_replace of an HVM guest as a whole', () => {
    const replace = { op: 'unmap_and_replace', domain: H, elements: [{ handle: 0 }] } as const;
    expect(s.step(replace).result).toBe(Errno.ENOSYS);
  });
});
