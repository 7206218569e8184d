// Copies by way of version 2's own entries, sub-pages and transitive ones: section 1.11 of the reference
// (xen: acquire_grant_for_copy, release_grant_for_copy).

import { beforeEach, describe, expect, it } from 'vitest';
import { GNTCOPY, GrantStatus, GTF } from '../../grant/index.ts';
import { Errno } from '../../hypervisor/index.ts';
import { violations } from '../../verify/index.ts';
import { A, B, GuestScene, H, HOST, HW, SELF } from './guest-scene.ts';

const { source_gref: FROM_REF, dest_gref: TO_REF } = GNTCOPY;
const SUB_PAGE = GTF.permit_access | GTF.sub_page;

let s: GuestScene;
function begin(options: ConstructorParameters<typeof GuestScene>[0] = {}): void {
  s = new GuestScene(options);
  s.do({ op: 'set_version', domain: B, version: 2 });
  s.do({ op: 'set_version', domain: HW, version: 2 });
}
beforeEach(() => begin());

const ref = (of: number, offset = 0, domain: number = B) => ({ ref: of, domain, offset });
const own = (offset = 0) => ({ frame: s.frame(A), domain: SELF, offset });
const read = (of: number, offset: number, length: number) =>
  s.copy([{ source: ref(of, offset), destination: own(), length, flags: FROM_REF }])[0]!;
const write = (of: number, offset: number, length: number) =>
  s.copy([{ source: own(), destination: ref(of, offset), length, flags: TO_REF }])[0]!;

/** Domain 2 passes on what domain 0 grants it under ref 20, under its own ref 9. */
function chain(outer: { flags?: number } = {}, inner: object = {}): void {
  s.grant(20, { by: HW, grantee: B, ...inner });
  s.grant(9, { flags: GTF.transitive | (outer.flags ?? 0), transitive: { domain: HW, ref: 20 } });
}

describe('1.11 a sub-page entry', () => {
  beforeEach(() => s.grant(8, { flags: SUB_PAGE, subPage: { offset: 100, length: 50 } }));

  it('permits [page_off, page_off + length), for reading and writing', () => {
    expect([read(8, 100, 50), read(8, 149, 1), write(8, 100, 50)]).toEqual([0, 0, 0]);
    for (const [offset, length] of [
      [99, 1],
      [100, 51],
      [150, 1],
      [0, 4096],
    ] as const) {
      expect([read(8, offset, length), write(8, offset, length)]).toEqual([-1, -1]);
    }
  });

  it('says bad_copy_arg first, of what crosses the page', () => {
    expect(read(8, 4095, 2)).toBe(GrantStatus.bad_copy_arg);
  });

  it('cannot be mapped, not even while a copy has it in use', () => {
    expect(s.map(HOST).status).toBe(GrantStatus.general_error);
    const copy = { source: ref(8, 100), destination: own(), length: 1, flags: FROM_REF };
    let during: number | undefined;
    const two = new GuestScene({ vcpus: 2 });
    two.do({ op: 'set_version', domain: B, version: 2 });
    two.grant(8, { flags: SUB_PAGE, subPage: { offset: 100, length: 50 } });
    const source = { ...copy, destination: { ...own(), frame: two.frame(A) } };
    two.inPieces({ op: 'copy', domain: A, elements: [source, source] }, (step) => {
      if (step > 0) return;
      // The guest makes a full page of it meanwhile: what is in use is still part of one.
      two.grant(8);
      during = two.map(HOST, { vcpu: 1 }).status;
    });
    expect(during).toBe(GrantStatus.general_error);
    expect(two.map(HOST).status).toBe(0);
  });

  it('ends with the use: a full page is permitted again to the next', () => {
    expect(read(8, 100, 50)).toBe(0);
    s.grant(8);
    expect(read(8, 0, 4096)).toBe(0);
  });

  it('has offsets of 15 bits and lengths of 16', () => {
    s.grant(8, { flags: SUB_PAGE, subPage: { offset: 0, length: 0xffff } });
    expect(read(8, 0, 4096)).toBe(0);
    s.grant(8, { flags: SUB_PAGE, subPage: { offset: 4095, length: 1 } });
    expect([read(8, 4095, 1), read(8, 4094, 1)]).toEqual([0, -1]);
  });

  it('keeps 15 bits of an offset of 16, which then are not those of the entry any more', () => {
    s.grant(8, { flags: SUB_PAGE, subPage: { offset: 0x8040, length: 16 } });
    expect([read(8, 64, 16), write(8, 64, 16), read(8, 0, 16)]).toEqual([0, 0, -1]);
    const both = s.copy([{ source: ref(8, 64), destination: ref(8, 64), length: 1, flags: FROM_REF | TO_REF }]);
    expect(both).toEqual([GrantStatus.general_error]);
  });

  it('is an ordinary entry in version 1, whatever its bit says, to a copy', () => {
    s = new GuestScene();
    s.grant(8, { flags: SUB_PAGE });
    expect(read(8, 0, 4096)).toBe(0);
    expect(s.map(HOST).status).toBe(GrantStatus.general_error);
  });
});

describe('1.11 a promotion by a copy of an entry in use', () => {
  it('wants the same bytes as before (XSA-500)', () => {
    s = new GuestScene({ vcpus: 2 });
    s.do({ op: 'set_version', domain: B, version: 2 });
    const part = (offset: number) => s.grant(8, { flags: SUB_PAGE, subPage: { offset, length: 8 } });
    part(0);
    const reads = { source: ref(8), destination: own(), length: 1, flags: FROM_REF };
    const writes = { source: own(), destination: ref(8), length: 1, flags: TO_REF };
    const statuses: number[] = [];
    const second = () => s.step({ op: 'copy', vcpu: 1, domain: A, elements: [writes] }).elements![0]!.status;
    s.inPieces({ op: 'copy', domain: A, elements: [reads, reads] }, (step) => {
      if (step > 0) return;
      statuses.push(second());
      part(4);
      statuses.push(second());
      s.grant(8);
      statuses.push(second());
    });
    expect(statuses).toEqual([0, -1, -1]);
  });
});

describe('1.11 a transitive entry', () => {
  it('leads to the frame that the next domain grants, and pins both on the way', () => {
    chain();
    s.store(s.frame(HW), 0, 'abcd');
    const seen: string[] = [];
    s.inPieces(
      { op: 'copy', domain: A, elements: [{ source: ref(9), destination: own(), length: 2, flags: FROM_REF }] },
      () => {
        const now = `${s.pins(9)} ${s.usage(9)} ${s.pins(20, HW)} ${s.usage(20, HW)}`;
        if (seen.at(-1) !== now) seen.push(now);
      },
    );
    expect(seen).toEqual(['0/1/0/0 r- 0/1/0/0 r-', '0/0/0/0 -- 0/0/0/0 --']);
    expect([s.bytes(s.frame(A), 0, 2), s.references(s.frame(HW))]).toEqual(['abcd', 1]);
  });

  it('writes through it, too', () => {
    chain();
    s.store(s.frame(A), 0, 'abcd');
    expect(write(9, 8, 2)).toBe(0);
    expect(s.bytes(s.frame(HW), 8, 2)).toBe('abcd');
  });

  it('is bound by a sub-page of the next entry, and ignores a sub-page bit of its own', () => {
    chain({ flags: GTF.sub_page }, { flags: SUB_PAGE, subPage: { offset: 8, length: 8 } });
    expect([read(9, 8, 8), read(9, 7, 1), read(9, 15, 2)]).toEqual([0, -1, -1]);
  });

  it('forbids writing where anything on the way is read-only', () => {
    chain({ flags: GTF.readonly });
    expect([read(9, 0, 1), write(9, 0, 1)]).toEqual([0, -1]);
    chain({}, { flags: GTF.permit_access | GTF.readonly });
    expect([read(9, 0, 1), write(9, 0, 1)]).toEqual([0, -1]);
    expect([s.usage(9), s.usage(20, HW)]).toEqual(['--', '--']);
  });

  it('goes one step only', () => {
    s.grant(21, { by: HW, grantee: B, flags: GTF.transitive, transitive: { domain: H, ref: 1 } });
    s.grant(9, { flags: GTF.transitive, transitive: { domain: HW, ref: 21 } });
    expect(read(9, 0, 1)).toBe(GrantStatus.general_error);
  });

  it.each([
    ['the granter itself', { domain: B, ref: 8 }, GrantStatus.general_error],
    ['a domain that is not there', { domain: 5, ref: 8 }, GrantStatus.general_error],
    ['a reserved domain', { domain: SELF, ref: 8 }, GrantStatus.general_error],
    ['a ref beyond the next table', { domain: HW, ref: 256 }, GrantStatus.bad_gntref],
    ['a ref that grants nothing', { domain: HW, ref: 99 }, GrantStatus.general_error],
    ['a ref that is not granted to the granter', { domain: HW, ref: 22 }, GrantStatus.general_error],
  ])('leads nowhere: %s', (_, transitive, status) => {
    s.grant(8);
    s.grant(22, { by: HW, grantee: A });
    s.grant(9, { flags: GTF.transitive, transitive });
    const before = s.fingerprint;
    expect(read(9, 0, 1)).toBe(status);
    expect(s.fingerprint).toBe(before);
  });

  it('may lead back to the copier', () => {
    s.grant(20, { by: A, grantee: B, index: 1 });
    s.grant(9, { flags: GTF.transitive, transitive: { domain: A, ref: 20 } });
    s.store(s.frame(A, 1), 0, '77');
    expect(read(9, 0, 1)).toBe(0);
    expect(s.bytes(s.frame(A), 0, 1)).toBe('77');
  });

  it('cannot be mapped, and means nothing in version 1', () => {
    chain();
    expect(s.map(HOST, { ref: 9 }).status).toBe(GrantStatus.general_error);
    s = new GuestScene();
    s.grant(9, { flags: GTF.transitive });
    expect(read(9, 0, 1)).toBe(GrantStatus.general_error);
  });

  it('is refused where the boot option says so', () => {
    begin({ grants: { transitive: false } });
    chain();
    expect(read(9, 0, 1)).toBe(GrantStatus.general_error);
    expect(s.usage(9)).toBe('--');
  });
});

describe('1.11 a transitive entry in use that is rewritten', () => {
  const reads = () => ({ source: ref(9), destination: own(), length: 1, flags: FROM_REF });

  it('has a second copy tried again: no status is written, the continuation starts at the element', () => {
    s = new GuestScene({ vcpus: 2 });
    for (const domain of [B, HW]) s.do({ op: 'set_version', domain, version: 2 });
    chain();
    s.grant(21, { by: HW, grantee: B, index: 1 });
    let retried: ReturnType<GuestScene['step']> | undefined;
    s.inPieces({ op: 'copy', domain: A, elements: [reads(), reads()] }, (step) => {
      if (step > 0) return;
      s.grant(9, { flags: GTF.transitive, transitive: { domain: HW, ref: 21 } });
      retried = s.step({ op: 'copy', vcpu: 1, domain: A, elements: [reads()] });
    });
    expect(retried).toMatchObject({ result: Errno.ERESTART, elements: [] });
    expect([s.pins(21, HW), s.usage(21, HW), s.pins(9)]).toEqual(['0/0/0/0', '--', '0/0/0/0']);
    expect(s.step(retried!.continuation!)).toMatchObject({ result: 0, elements: [{ status: 0 }] });
    expect(violations(s.machine)).toEqual([]);
  });

  it('is still let go by the way that it came', () => {
    chain();
    s.inPieces({ op: 'copy', domain: A, elements: [reads()] }, (step) => {
      if (step === 0) s.grant(9);
    });
    expect([s.pins(9), s.pins(20, HW), s.usage(20, HW)]).toEqual(['0/0/0/0', '0/0/0/0', '--']);
    expect(s.references(s.frame(HW))).toBe(1);
  });

  it('counts as a use of version 2, which keeps the granter from going back', () => {
    chain();
    const seen = new Set<number>();
    s.inPieces({ op: 'copy', domain: A, elements: [reads()] }, () => {
      seen.add(Number(s.machine.parts.grants.hasV2Uses(B as never)));
    });
    expect([...seen]).toEqual([1, 0]);
  });
});
