// Two versions of the grant table: section 1.1 (layouts, bit for bit), 1.6 (status words), 1.9 (set_version and the
// calls on tables), 1.16 (life of status frames); section 9 row 23; note 15 of the recordings.

import { beforeEach, describe, expect, it } from 'vitest';
import { GNTCOPY, GrantStatus, GTF } from '../../grant/index.ts';
import { Errno, type MachineOptions, type OpResult } from '../../hypervisor/index.ts';
import { violations } from '../../verify/index.ts';
import { A, B, type Casting, DEV, GuestScene, H, HOST, HW, page, RO, SELF } from './guest-scene.ts';

let s: GuestScene;
const begin = (options: MachineOptions = {}, casting: Casting = {}) => {
  s = new GuestScene(options, casting);
};
beforeEach(() => begin());

const setVersion = (version: number, domain = B): OpResult => s.step({ op: 'set_version', domain, version });
const v2 = () => expect(setVersion(2)).toEqual({ result: 0, version: 2 });
const USED = GTF.reading | GTF.writing;

describe('1.1 version 1: 8 bytes, flags 0..1, domid 2..3, frame 4..7', () => {
  it('is written as the guest says, by little-endian bytes', () => {
    s.do({ op: 'grant_write', domain: B, ref: 9, flags: 0x0125, grantee: 0x7ff3, frame: 0x12345678 });
    const table = s.machine.parts.grants.frame(B as never, 0);
    expect(s.bytes(table, 9 * 8, 8)).toBe('2501f37f78563412');
  });
});

describe('1.1 version 2: 16 bytes, three overlays behind flags 0..1 and domid 2..3', () => {
  const bytes = (ref: number) => s.bytes(s.machine.parts.grants.frame(B as never, 0), ref * 16, 16);
  const write = (fields: object) =>
    s.do({ op: 'grant_write', domain: B, ref: 9, layout: 2, grantee: 0x0a0b, flags: 0, ...fields });
  beforeEach(() => {
    v2();
    s.store(s.machine.parts.grants.frame(B as never, 0), 9 * 16, 'ee'.repeat(16));
  });

  it('full page: frame 8..15, the bytes 4..7 stay', () => {
    write({ flags: 1, frame: '0x1122334455667788' });
    expect(bytes(9)).toBe('01000b0aeeeeeeee8877665544332211');
  });

  it('sub-page: offset 4..5, length 6..7, frame 8..15', () => {
    write({ flags: 0x101, frame: 0x77, subPage: { offset: 0x0123, length: 0x0456 } });
    expect(bytes(9)).toBe('01010b0a230156047700000000000000');
  });

  it('transitive: next domid 4..5, next ref 8..11, the others stay', () => {
    write({ flags: 3, transitive: { domain: 0x0c0d, ref: 0x01020304 } });
    expect(bytes(9)).toBe('03000b0a0d0ceeee04030201eeeeeeee');
  });

  it('a transfer entry is a full page', () => {
    write({ flags: 2, frame: 0x99 });
    expect(bytes(9)).toBe('02000b0aeeeeeeee9900000000000000');
  });

  it('is what a guest may write with the wrong version in mind, too', () => {
    s.do({ op: 'grant_write', domain: B, ref: 18, layout: 1, flags: 1, grantee: 2, frame: 3 });
    expect(bytes(9)).toBe(`0100020003000000${'ee'.repeat(8)}`);
  });
});

describe('1.6 version 2 has usage bits in status words of 16 bits, and leaves the entry alone', () => {
  beforeEach(v2);

  it('in a frame of 2048, one per ref', () => {
    s.grant(9);
    const [word] = s.entry(9);
    const status = s.machine.parts.grants.statusFrame(B as never, 0);
    s.map(HOST, { ref: 9 });
    expect([s.entry(9)[0], s.bytes(status, 16, 6)]).toEqual([word, '000018000000']);
    s.map(HOST | RO, { ref: 9, hostAddress: page(1) });
    s.unmap({ handle: 0, hostAddress: page(0) });
    expect(s.bytes(status, 16, 6)).toBe('000008000000');
    s.unmap({ handle: 1, hostAddress: page(1) });
    expect([s.entry(9)[0], s.bytes(status, 16, 6)]).toEqual([word, '000000000000']);
  });

  it('lets the guest preset them in the entry, where they mean nothing', () => {
    s.grant(9, { flags: GTF.permit_access | USED });
    s.map(HOST | RO, { ref: 9 });
    s.unmap({ handle: 0, hostAddress: page(0) });
    expect([s.entry(9)[0]! & USED, s.usage(9)]).toEqual([USED, '--']);
  });
});

describe('1.9 get_status_frames, and their growth with the table', () => {
  const status = (frames: number) => s.step({ op: 'get_status_frames', domain: B, target: SELF, frames });

  it('there are none in version 1', () => {
    expect([status(0).status, status(1).status]).toEqual([0, GrantStatus.general_error]);
  });

  it('there is one for 8 shared frames', () => {
    begin({ frames: 400, grants: { grantFrames: 20 } }, { [B]: { frames: undefined, memory: {} } as never });
    const setup = (frames: number) => s.do({ op: 'setup_table', domain: B, target: SELF, frames });
    const counts = [8, 9, 16, 17].map((frames) => {
      expect(setup(frames).frames).toHaveLength(frames);
      if (frames === 8) v2();
      return s.machine.parts.grants.statusFrameCount(B as never);
    });
    expect(counts).toEqual([1, 2, 2, 3]);
    expect(status(3).frames).toHaveLength(3);
    expect(status(4).status).toBe(GrantStatus.general_error);
    expect(setup(2).frames).toHaveLength(2);
    expect(s.do({ op: 'query_size', domain: B, target: SELF }).size).toEqual({ frames: 17, maxFrames: 20 });
    expect(s.step({ op: 'setup_table', domain: B, target: SELF, frames: 21 }).status).toBe(GrantStatus.general_error);
  });
});

describe('1.9 set_version: refusals in order, the version in force told all the same', () => {
  it('1 a count below zero, as for get_version', () => {
    const count = 0x80000000;
    expect(s.step({ op: 'set_version', domain: B, version: 2, count })).toEqual({ result: Errno.EINVAL });
    expect(s.step({ op: 'get_version', domain: B, target: SELF, count })).toEqual({ result: Errno.EINVAL });
    expect(s.step({ op: 'get_version', domain: B, target: SELF })).toMatchObject({ version: 1 });
  });

  it('2 a version that there is not', () => {
    for (const version of [0, 3, 0xffffffff]) {
      expect(setVersion(version)).toEqual({ result: Errno.EINVAL, version: 1 });
    }
  });

  it('3 version 2 of a domain, or a machine, that may not', () => {
    begin({}, { [B]: { grantVersion: 1 } });
    expect(setVersion(2)).toEqual({ result: Errno.ENOSYS, version: 1 });
    begin({ grants: { version: 1 } });
    expect(setVersion(2)).toEqual({ result: Errno.ENOSYS, version: 1 });
    expect(setVersion(1)).toEqual({ result: 0, version: 1 });
  });

  it('4 the same version: done, and entries stay, in use or not', () => {
    s.grant(9);
    s.map(HOST, { ref: 9 });
    const before = s.fingerprint;
    expect(setVersion(1)).toEqual({ result: 0, version: 1 });
    expect(s.fingerprint).toBe(before);
  });

  it('5 a ref from 8 on that is in use', () => {
    s.grant(9);
    s.map(HOST, { ref: 9 });
    const before = s.fingerprint;
    expect(setVersion(2)).toEqual({ result: Errno.EBUSY, version: 1 });
    expect(s.fingerprint).toBe(before);
    s.unmap({ handle: 0, hostAddress: page(0) });
    expect(setVersion(2)).toEqual({ result: 0, version: 2 });
  });

  it('6 no memory for status frames: nothing is changed, entries least of all', () => {
    s.grant(9);
    s.grant(1);
    while (s.machine.parts.frames.allocate(A as never) >= 0);
    const before = s.fingerprint;
    expect(setVersion(2)).toEqual({ result: Errno.ENOMEM, version: 1 });
    expect(s.fingerprint).toBe(before);
  });

  it('no memory for all the frames of a larger table: it does not grow at all, and the free frames stay free', () => {
    begin({ frames: 400, grants: { grantFrames: 20 } }, { [B]: { frames: undefined, memory: {} } as never });
    const { frames } = s.machine.parts;
    const taken: number[] = [];
    for (let frame: number = frames.allocate(A as never); frame >= 0; frame = frames.allocate(A as never))
      taken.push(frame);
    for (const frame of taken.slice(0, 3)) {
      frames.dropReferences(frame as never, 1, 0);
      frames.free(frame as never);
    }
    const before = s.fingerprint;
    const setup = (count: number) => s.step({ op: 'setup_table', domain: B, target: SELF, frames: count }).status;
    expect([setup(20), s.fingerprint]).toEqual([GrantStatus.general_error, before]);
    expect(setup(4)).toBe(0);
  });

  it('7 a use of version 2 in progress: a copy from a sub-page, looked at between two micro-steps', () => {
    begin({ vcpus: 2 });
    v2();
    // Of a reserved ref, for others would be -EBUSY before.
    s.grant(1, { flags: GTF.permit_access | GTF.sub_page, subPage: { offset: 0, length: 8 } });
    const copy = {
      source: { ref: 1, domain: B, offset: 0 },
      destination: { frame: s.frame(A), domain: SELF, offset: 0 },
      length: 8,
      flags: GNTCOPY.source_gref,
    };
    const seen: number[] = [];
    s.inPieces({ op: 'copy', vcpu: 1, domain: A, elements: [copy] }, (step) => {
      if (step === 0) seen.push(setVersion(1).result);
    });
    expect(seen).toEqual([Errno.EAGAIN]);
    expect(setVersion(1)).toEqual({ result: 0, version: 1 });
  });

  it('8 a reserved ref that version 1 cannot hold', () => {
    v2();
    s.grant(3, { flags: GTF.transitive, transitive: { domain: HW, ref: 1 } });
    expect(setVersion(1)).toEqual({ result: Errno.ERANGE, version: 2 });
    s.grant(3, { frame: '0x100000000' });
    expect(setVersion(1)).toEqual({ result: Errno.ERANGE, version: 2 });
    // Of an entry that permits nothing the frame does not count, nor do those of other refs.
    s.grant(3, { flags: 0, frame: '0x100000000' });
    s.grant(8, { frame: '0x100000000' });
    expect(setVersion(1)).toEqual({ result: 0, version: 1 });
  });

  it('9 a status frame that somebody has mapped', () => {
    v2();
    const frame = s.machine.parts.grants.statusFrame(B as never, 0);
    s.do({ op: 'map_foreign', domain: HW, address: page(0), owner: B, frame, writable: true });
    const before = s.fingerprint;
    expect(setVersion(1)).toEqual({ result: Errno.EBUSY, version: 2 });
    expect(s.fingerprint).toBe(before);
    s.do({ op: 'map_foreign', domain: HW, address: page(0), owner: B, frame: null, writable: false });
    expect(setVersion(1)).toEqual({ result: 0, version: 1 });
    expect(s.isAllocated(frame)).toBe(false);
  });
});

describe('1.9 set_version: what becomes of entries', () => {
  it('there are half as many refs in version 2', () => {
    expect(s.map(HOST, { ref: 300 }).status).toBe(GrantStatus.general_error);
    v2();
    expect(s.map(HOST, { ref: 300 }).status).toBe(GrantStatus.bad_gntref);
    expect(s.step({ op: 'get_version', domain: B, target: SELF })).toEqual({ result: 0, version: 2 });
  });

  it('1 to 2: reserved refs are kept, others go; usage bits move to the status word', () => {
    s.grant(0, { flags: GTF.permit_access | GTF.writing });
    s.grant(7);
    s.grant(8);
    s.map(HOST | RO, { ref: 7 });
    v2();
    expect(s.entry(0)).toEqual([(A << 16) | GTF.permit_access, 0, s.frame(B), 0]);
    expect([s.usage(0), s.usage(7)]).toEqual(['-w', 'r-']);
    expect(s.entry(8)).toEqual([0, 0, 0, 0]);
    // The use goes on: pins are where they were, and its end clears the bit where that is now.
    expect(s.unmap({ handle: 0, hostAddress: page(0) })).toBe(0);
    expect([s.usage(7), s.entry(7)[0]]).toEqual(['--', (A << 16) | GTF.permit_access]);
    expect(violations(s.machine)).toEqual([]);
  });

  it('2 to 1: likewise, the status word is merged into the flags', () => {
    v2();
    s.grant(7, { frame: s.frame(B, 1) });
    s.grant(8);
    s.map(HOST, { ref: 7 });
    expect(setVersion(1)).toEqual({ result: 0, version: 1 });
    expect(s.entry(7)).toEqual([(A << 16) | GTF.permit_access | USED, s.frame(B, 1)]);
    expect(s.entry(8)).toEqual([0, 0]);
    expect(s.unmap({ handle: 0, hostAddress: page(0) })).toBe(0);
    expect(s.usage(7)).toBe('--');
  });

  it('2 to 1: a reserved ref that permits nothing becomes zero', () => {
    v2();
    s.grant(5, { flags: GTF.accept_transfer });
    s.grant(6, { flags: 0 });
    setVersion(1);
    expect([s.entry(5), s.entry(6)]).toEqual([
      [0, 0],
      [0, 0],
    ]);
  });

  it('there and back again leaves no trace', () => {
    s.grant(1);
    const [fingerprint, free] = [s.fingerprint, s.machine.parts.frames.owned(B as never)];
    v2();
    setVersion(1);
    expect([s.fingerprint, s.machine.parts.frames.owned(B as never)]).toEqual([fingerprint, free]);
  });
});

describe('1.9, 1.16 status frames of an HVM guest, which may have them at a gfn', () => {
  const status = () => s.machine.parts.grants.statusFrame(H as never, 0);
  const place = () => s.do({ op: 'add_to_physmap', domain: H, space: 1, index: 0x80000000, gfn: 20 });
  beforeEach(() => {
    s.do({ op: 'deassign_device', device: DEV });
    s.assign(H);
    expect(setVersion(2, H)).toEqual({ result: 0, version: 2 });
    place();
  });

  it('are within reach of its devices, but not listed for it, as recorded', () => {
    expect([s.machineFrame(H, 20), s.dma(20, 'write')]).toEqual([status(), status()]);
    const list = { op: 'get_status_frames', domain: H, target: SELF, frames: 1 } as const;
    expect(s.machine.step(list)).toEqual({ result: Errno.ENOSYS });
  });

  it('9 are taken from there, and that is flushed, before they are free', () => {
    const frame = status();
    const seen: string[] = [];
    const submitted = s.during(() =>
      s.inPieces({ op: 'set_version', domain: H, version: 1 }, () => {
        const now = `${s.rights(H, 20)} ${s.isAllocated(frame)}`;
        if (seen.at(-1) !== now) seen.push(now);
      }),
    );
    expect(seen).toEqual(['- true', '- false']);
    expect(submitted).toEqual([`page 20 of ${H}`]);
    expect([s.machine.parts.grants.version(H as never), s.dma(20)]).toEqual([1, 'readNotPermitted']);
    expect(violations(s.machine)).toEqual([]);
  });

  it('9 cost the guest its life if somebody else has one mapped', () => {
    s.do({ op: 'map_foreign', domain: HW, address: page(0), owner: H, frame: 20, writable: true });
    expect(s.step({ op: 'set_version', domain: H, version: 1 })).toEqual({
      result: Errno.EBUSY,
      version: 2,
      crashed: [{ domain: H, reason: 'status frame 0 is in use' }],
    });
  });
});

describe('1.9 swap_grant_ref', () => {
  const swap = (a: number, b: number) =>
    s.do({ op: 'swap_grant_ref', domain: B, elements: [{ a, b }] }).elements![0]!.status;

  it('exchanges entries, in version 2 with their status words', () => {
    s.grant(8);
    expect(swap(8, 9)).toBe(0);
    expect([s.entry(8), s.entry(9)]).toEqual([
      [0, 0],
      [(A << 16) | 1, s.frame(B)],
    ]);
    v2();
    s.grant(8, { flags: GTF.permit_access | GTF.sub_page, subPage: { offset: 1, length: 2 } });
    s.machine.parts.grants.setStatusWord(B as never, 8, GTF.reading);
    const entry = s.entry(8);
    expect(swap(9, 8)).toBe(0);
    expect([s.entry(9), s.usage(9), s.usage(8)]).toEqual([entry, 'r-', '--']);
  });

  it('refuses refs beyond the table first, then nothing of a ref with itself, then what is in use', () => {
    s.grant(8);
    s.map(HOST);
    expect([swap(512, 8), swap(8, 512), swap(512, 512)]).toEqual([-3, -3, -3]);
    expect(swap(8, 8)).toBe(0);
    expect([swap(8, 9), swap(9, 8)]).toEqual([GrantStatus.eagain, GrantStatus.eagain]);
  });
});
