// GNTTABOP_transfer: section 1.12 of the reference (xen: gnttab_transfer, steal_page), row by row, and the note on
// transfers of the recordings: what fails after the page was stolen costs the giver the page.

import { beforeEach, describe, expect, it } from 'vitest';
import { GrantStatus, GTF } from '../../grant/index.ts';
import { Errno } from '../../hypervisor/index.ts';
import type { Mfn } from '../../machine/frame-number.ts';
import { violations } from '../../verify/index.ts';
import { A, B, GuestScene, H, HOST, page } from './guest-scene.ts';

const ACCEPT = { flags: GTF.accept_transfer, grantee: A, frame: 0 };
const DONE = GTF.accept_transfer | GTF.transfer_committed | GTF.transfer_completed;

let s: GuestScene;
beforeEach(() => {
  s = new GuestScene();
  s.grant(8, ACCEPT);
});

/** Domain 1 gives its frame `index` to domain 2 by ref 8, unless told otherwise. */
function transfer(fields: { frame?: number | '0xffffffffffffffff'; domain?: number; ref?: number; by?: number } = {}) {
  const { by = A, ...rest } = fields;
  const element = { frame: s.frame(A), domain: B, ref: 8, ...rest };
  return s.step({ op: 'transfer', domain: by, elements: [element] }).elements![0]!.status;
}
const owner = (frame: number) => (s.isAllocated(frame) ? s.machine.parts.frames.owner(frame as Mfn) : 'nobody');
const owned = (domain: number) => s.machine.parts.frames.owned(domain as never);

describe('1.12 a page changes hands', () => {
  it('to a version 1 entry: its frame is written, committed and completed are set', () => {
    const [frame, before, after] = [s.frame(A), owned(A), owned(B)];
    s.store(frame, 0, 'c0ffee');
    expect(transfer()).toBe(0);
    expect([owner(frame), owned(A), owned(B)]).toEqual([B, before - 1, after + 1]);
    expect(s.entry(8)).toEqual([(A << 16) | DONE, frame]);
    expect(s.bytes(frame, 0, 3)).toBe('c0ffee');
    expect(s.references(frame)).toBe(1);
  });

  it('to a version 2 entry: all 64 bits of the frame', () => {
    s.do({ op: 'set_version', domain: B, version: 2 });
    s.grant(8, { ...ACCEPT, frame: '0xffffffffffffffff' });
    expect(transfer()).toBe(0);
    expect(s.entry(8)).toEqual([(A << 16) | DONE, 0, s.frame(A), 0]);
  });

  it('to an HVM guest: at the gfn that the entry names, which stays as it is', () => {
    s.grant(8, { by: H, ...ACCEPT, frame: 20 });
    const frame = s.frame(A);
    expect(transfer({ domain: H })).toBe(0);
    expect([s.machineFrame(H, 20), s.rights(H, 20)]).toEqual([frame, 'rw']);
    expect(s.entry(8, H)).toEqual([(A << 16) | DONE, 20]);
  });

  it.each([
    ['beyond its memory', 5000],
    ['beyond 32 bits', '0x100000014'],
  ] as const)('to an HVM guest at a gfn %s: it has the page, completed, but nowhere', (_, gfn) => {
    s.do({ op: 'set_version', domain: H, version: 2 });
    s.grant(8, { by: H, ...ACCEPT, frame: gfn });
    const frame = s.frame(A);
    expect(transfer({ domain: H })).toBe(GrantStatus.general_error);
    expect([owner(frame), s.rights(H, 0x14), s.entry(8, H)[0]]).toEqual([H, '-', (A << 16) | DONE]);
    expect(violations(s.machine)).toEqual([]);
  });

  it('to an HVM guest at a gfn where it has mapped a grant: that costs it its life', () => {
    s.grant(9, { grantee: H });
    s.do({ op: 'map_grant_ref', domain: H, elements: [{ hostAddress: 0x14000, flags: HOST, ref: 9, domain: B }] });
    s.grant(8, { by: H, ...ACCEPT, frame: 0x14 });
    expect(transfer({ domain: H })).toBe(GrantStatus.general_error);
    expect([owner(s.frame(A)), s.machine.control.root.domains[H]!.state]).toEqual([H, 'crashed']);
  });

  it('to oneself', () => {
    s.grant(8, { by: A, ...ACCEPT });
    expect(transfer({ domain: A })).toBe(0);
    expect([owner(s.frame(A)), s.rights(A, s.frame(A))]).toEqual([A, 'rw']);
  });

  it('goes on with the elements after one that fails', () => {
    s.grant(9, ACCEPT);
    const elements = [
      { frame: s.frame(A), domain: B, ref: 99 },
      { frame: s.frame(A, 1), domain: B, ref: 8 },
      { frame: s.frame(A, 2), domain: B, ref: 8 },
      { frame: s.frame(A, 3), domain: B, ref: 9 },
    ];
    const { elements: done } = s.do({ op: 'transfer', domain: A, elements });
    expect(done!.map(({ status }) => status)).toEqual([-1, 0, -1, 0]);
  });
});

describe('1.12, 2.4 devices: the giver’s lose the page, and that is flushed, before the receiver’s get it', () => {
  it('in this order of steps', () => {
    s = new GuestScene({}, { [B]: { iommu: true } });
    s.grant(8, ACCEPT);
    const frame = s.frame(A);
    const unit = s.machine.units[0]!;
    const before = unit.counter('waits');
    const seen: string[] = [];
    const submitted = s.during(() =>
      s.inPieces({ op: 'transfer', domain: A, elements: [{ frame, domain: B, ref: 8 }] }, () => {
        const now = `${s.rights(A, frame)} ${unit.counter('waits') - before} ${owner(frame)} ${s.rights(B, frame)}`;
        if (seen.at(-1) !== now) seen.push(now);
      }),
    );
    expect(submitted).toEqual([`page ${frame} of ${A}`]);
    // In between the frame is nobody's (DOMID_INVALID), and then the receiver's, but not yet put to use.
    expect(seen).toEqual(['- 0 32756 -', '- 1 32756 -', `- 1 ${B} -`, `- 1 ${B} rw`]);
  });

  it('under caching mode the new entry is flushed, too', () => {
    s = new GuestScene({ units: [{ capabilities: { cachingMode: true } }] });
    s.do({ op: 'deassign_device', device: '0000:03:00.0' });
    s.grant(8, { by: H, ...ACCEPT, frame: 20 });
    s.assign(H);
    expect(s.during(() => transfer({ domain: H }))).toEqual([`page 20 of ${H}`]);
  });

  it('does nothing for a page that the giver’s devices cannot reach: its type is not writable', () => {
    const frame = s.frame(A, 1);
    s.do({ op: 'pin_table', domain: A, frame, level: 1 });
    s.do({ op: 'unpin_table', domain: A, frame });
    expect(s.during(() => expect(transfer({ frame })).toBe(0))).toEqual([]);
  });
});

describe('1.12 rows 1, 2: the page stays with the giver', () => {
  const cases: readonly (readonly [string, () => { frame?: number | '0xffffffffffffffff' }])[] = [
    ['a frame that is free', () => ({ frame: s.machine.parts.frames.frames - 1 })],
    ['a frame beyond memory', () => ({ frame: '0xffffffffffffffff' })],
    ['a frame of another domain', () => ({ frame: s.frame(B) })],
    ['a page of the hypervisor’s heap', () => ({ frame: s.machine.parts.grants.frame(A as never, 0) })],
    ['a page table', () => ({ frame: s.machine.parts.pvTables.root(A as never) })],
  ];
  it.each(cases)('%s is bad_page', (_, fields) => {
    const before = s.fingerprint;
    expect(transfer(fields())).toBe(GrantStatus.bad_page);
    expect(s.fingerprint).toBe(before);
  });

  it('a page that somebody has mapped, the giver included, is bad_page', () => {
    s.grant(9, { by: A, grantee: B });
    expect(s.map(HOST, { by: B, ref: 9, domain: A }).status).toBe(0);
    const before = s.fingerprint;
    expect(transfer()).toBe(GrantStatus.bad_page);
    expect(s.fingerprint).toBe(before);
    const own = s.frame(A, 1);
    s.do({ op: 'update_va_mapping', domain: A, address: page(9), entry: own * 4096 + 1 });
    expect(transfer({ frame: own })).toBe(GrantStatus.bad_page);
  });

  it('an HVM giver is refused', () => {
    const before = s.fingerprint;
    const element = { frame: 3, domain: B, ref: 8 };
    expect(s.step({ op: 'transfer', domain: H, elements: [element] }).result, 'as recorded').toBe(Errno.ENOSYS);
    expect(s.fingerprint).toBe(before);
  });

  it('the call as a whole is refused where the boot option says so', () => {
    s = new GuestScene({ grants: { transfer: false } });
    expect(s.step({ op: 'transfer', domain: A, elements: [] })).toEqual({ result: Errno.EOPNOTSUPP });
  });
});

describe('1.12 rows 4 to 8: the page is lost', () => {
  const lost = (status: number, fields: Parameters<typeof transfer>[0] = {}) => {
    const frame = s.frame(A);
    expect(s.during(() => expect(transfer(fields)).toBe(status))).toEqual([`page ${frame} of ${A}`]);
    expect([owner(frame), s.rights(A, frame)]).toEqual(['nobody', '-']);
    expect(transfer(fields)).toBe(GrantStatus.bad_page);
    expect(violations(s.machine)).toEqual([]);
  };

  it.each([
    ['4 no such domain', GrantStatus.bad_domain, { domain: 5 }],
    ['4 DOMID_SELF means nothing here', GrantStatus.bad_domain, { domain: 0x7ff0 }],
    ['8 a ref beyond the table', GrantStatus.general_error, { ref: 512 }],
    ['8 an entry of another kind', GrantStatus.general_error, { ref: 9 }],
  ])('%s', (_, status, fields) => {
    s.grant(9);
    lost(status, fields);
  });

  it.each([
    ['another bit in it', { flags: GTF.accept_transfer | GTF.readonly }],
    ['completed before', { flags: DONE }],
    ['for somebody else', { grantee: H }],
  ])('8 an entry with %s', (_, fields) => {
    s.grant(8, { ...ACCEPT, ...fields });
    const before = s.entry(8);
    lost(GrantStatus.general_error);
    expect(s.entry(8)).toEqual(before);
  });

  it('7 a target that has all the pages that it may have', () => {
    s = new GuestScene({}, { [B]: { maxPages: 1 } });
    s.grant(8, ACCEPT);
    lost(GrantStatus.general_error);
  });

  it('7 a target that is dying', () => {
    s.grant(9);
    s.map(HOST, { ref: 9 });
    s.step({ op: 'destroy_domain', domain: B });
    lost(GrantStatus.general_error);
  });
});

describe('1.12 row 9: between the entry that accepts and its completion no lock is held', () => {
  const COMMITTED = GTF.accept_transfer | GTF.transfer_committed;
  /** What happens on another CPU as soon as the entry is committed. */
  function meanwhile(domain: number, other: Parameters<GuestScene['step']>[0]) {
    let isDone = false;
    const elements = [{ frame: s.frame(A), domain, ref: 8 }];
    const { elements: statuses } = s.inPieces({ op: 'transfer', domain: A, elements }, () => {
      if (isDone || (s.entry(8, domain)[0]! & 0xffff) !== COMMITTED) return;
      isDone = true;
      expect(owner(s.frame(A))).toBe(domain);
      s.step(other);
    });
    expect(isDone).toBe(true);
    return statuses![0]!.status;
  }

  it.each([B, H])('domain %i changes the version of its table: it has the page, of no type and at no gfn', (domain) => {
    s = new GuestScene({ vcpus: 2 });
    s.grant(8, { by: domain, ...ACCEPT, frame: 20 });
    const status = meanwhile(domain, { op: 'set_version', vcpu: 1, domain, version: 2 });
    expect([status, owner(s.frame(A)), s.entry(8, domain)]).toEqual([-1, domain, [0, 0, 0, 0]]);
    expect(s.machine.parts.frames.type(s.frame(A) as Mfn)).toBe(0);
    expect(violations(s.machine)).toEqual([]);
  });

  it('the entry names another gfn by then: that is where the page is', () => {
    s = new GuestScene({ vcpus: 2 });
    s.grant(8, { by: H, ...ACCEPT, frame: 20 });
    const entry = { op: 'grant_write', domain: H, ref: 8, flags: COMMITTED, grantee: A, frame: 21 } as const;
    expect([meanwhile(H, entry), s.machineFrame(H, 21)]).toEqual([0, s.frame(A)]);
  });

  it('the target dies: the page goes with it', () => {
    s = new GuestScene({ vcpus: 2 });
    s.grant(8, ACCEPT);
    expect(meanwhile(B, { op: 'destroy_domain', vcpu: 1, domain: B })).toBe(GrantStatus.general_error);
    expect([owner(s.frame(A)), violations(s.machine)]).toEqual(['nobody', []]);
  });
});
