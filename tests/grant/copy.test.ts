// GNTTABOP_copy by frames and whole pages: section 1.10 of the reference (xen: gnttab_copy_one), its order of checks
// and what stays claimed between elements. Sub-pages and transitive entries: copy-of-parts.test.ts.

import { beforeEach, describe, expect, it } from 'vitest';
import { GNTCOPY, GrantStatus, GTF } from '../../grant/index.ts';
import { Errno } from '../../hypervisor/index.ts';
import { A, B, GuestScene, H, HOST, page, RO, SELF } from './guest-scene.ts';

const { source_gref: FROM_REF, dest_gref: TO_REF } = GNTCOPY;

let s: GuestScene;
beforeEach(() => {
  s = new GuestScene();
  s.grant(8);
  s.grant(9, { index: 1 });
});

const ref = (of: number, offset = 0, domain: number = B) => ({ ref: of, domain, offset });
const own = (index: number, offset = 0) => ({ frame: s.frame(A, index), domain: SELF, offset });
/** From ref 8 of domain 2 to the first frame of domain 1, unless told otherwise. */
const element = (fields: object = {}) => ({
  source: ref(8),
  destination: own(0),
  length: 8,
  flags: FROM_REF,
  ...fields,
});

describe('1.10 bytes move', () => {
  it('from a grant to a frame, a frame to a grant, a grant to a grant, and between frames of one’s own', () => {
    s.store(s.frame(B), 16, '0123456789abcdef');
    expect(s.copy([element({ source: ref(8, 17), destination: own(0, 3), length: 5 })])).toEqual([0]);
    expect(s.bytes(s.frame(A), 0, 10)).toBe('00000023456789ab0000');
    expect(s.copy([element({ source: own(0, 3), destination: ref(9, 100), length: 5, flags: TO_REF })])).toEqual([0]);
    expect(s.bytes(s.frame(B, 1), 99, 7)).toBe('0023456789ab00');
    const both = { source: ref(9, 100), destination: ref(8, 4095), length: 1, flags: FROM_REF | TO_REF };
    expect(s.copy([element(both)])).toEqual([0]);
    expect(s.bytes(s.frame(B), 4094, 2)).toBe('0023');
    expect(s.copy([element({ source: own(0, 3), destination: own(1), length: 5, flags: 0 })])).toEqual([0]);
    expect(s.bytes(s.frame(A, 1), 0, 6)).toBe('23456789ab00');
  });

  it('up to a whole page, and names its own table as DOMID_SELF', () => {
    s.grant(8, { by: A, grantee: A });
    s.store(s.frame(A), 0, 'ff'.repeat(4096));
    const whole = { source: ref(8, 0, SELF), destination: own(1), length: 4096 };
    expect(s.copy([element(whole)])).toEqual([0]);
    expect(s.bytes(s.frame(A, 1), 4000, 96)).toBe('ff'.repeat(96));
    expect(s.copy([element({ ...whole, source: ref(8, 0, A) })])).toEqual([0]);
  });

  it('by gfn in an HVM guest', () => {
    s.grant(10, { grantee: H });
    s.store(s.frame(B), 0, 'aabb');
    expect(
      s.copy([element({ source: ref(10), destination: { frame: 3, domain: SELF, offset: 0 }, length: 2 })], H),
    ).toEqual([0]);
    expect(s.bytes(s.machineFrame(H, 3), 0, 2)).toBe('aabb');
  });

  it('forward where source and destination overlap within a frame, 8 at a time and the rest one by one', () => {
    s.store(s.frame(A), 0, '0011223344556677');
    const within = (from: number, to: number, length: number) =>
      s.copy([element({ source: own(0, from), destination: own(0, to), length, flags: 0 })]);
    expect(within(0, 8, 16)).toEqual([0]);
    // The second eight bytes are read after the first eight were written.
    expect(s.bytes(s.frame(A), 0, 24)).toBe('0011223344556677'.repeat(3));
    s.store(s.frame(A), 0, '0011223344556677');
    expect(within(0, 1, 3)).toEqual([0]);
    expect(s.bytes(s.frame(A), 0, 5)).toBe('0000000044');
    s.store(s.frame(A), 0, '0011223344556677');
    expect(within(2, 0, 4)).toEqual([0]);
    expect(s.bytes(s.frame(A), 0, 6)).toBe('223344554455');
  });

  it('touches no device table of the copier, and leaves nothing in use', () => {
    expect(s.during(() => s.copy([element(), element({ source: ref(9) })]))).toEqual([]);
    expect([s.rights(A, s.frame(B)), s.usage(8), s.pins(8)]).toEqual(['-', '--', '0/0/0/0']);
    expect([s.references(s.frame(B)), s.references(s.frame(A))]).toEqual([1, 1]);
  });
});

describe('1.10 the order of checks', () => {
  const frameOf = (domain: number) => ({ frame: 0, domain, offset: 0 });

  it.each([
    ['2 a frame of another domain', { source: frameOf(B), flags: 0 }, GrantStatus.permission_denied],
    ['2 a frame of one’s own by number', { source: frameOf(A), flags: 0 }, GrantStatus.permission_denied],
    ['3 no such source domain', { source: ref(8, 0, 5) }, GrantStatus.bad_domain],
    ['3 a reserved id that is not DOMID_SELF', { source: ref(8, 0, 0x7ff1) }, GrantStatus.bad_domain],
    ['4 the destination likewise', { destination: frameOf(B) }, GrantStatus.permission_denied],
    ['4 no such domain, before the source is claimed', { source: ref(999), destination: ref(8, 0, 5), flags: 3 }, -2],
    ['6 a source ref beyond the table', { source: ref(512) }, GrantStatus.bad_gntref],
    ['6 a source ref that grants nothing', { source: ref(100) }, GrantStatus.general_error],
    ['6 a source frame that is not one’s own', { source: { frame: 1, domain: SELF, offset: 0 }, flags: 0 }, -9],
    ['6 a source frame beyond memory', { source: { frame: 2 ** 40, domain: SELF, offset: 0 }, flags: 0 }, -9],
    ['7 a destination ref beyond the table', { destination: ref(512), flags: 3 }, GrantStatus.bad_gntref],
    ['8 a source that crosses its page, though the length is fine', { source: ref(8, 4089) }, GrantStatus.bad_copy_arg],
    ['8 a destination that crosses its page', { destination: { frame: 0, domain: SELF, offset: 4095 } }, -10],
    ['8 claims come first: a crossing source of no grant', { source: ref(100, 4000), length: 200 }, -1],
  ])('%s', (_, fields, status) => {
    const destination = 'destination' in fields ? fields.destination : undefined;
    const mine = destination && 'frame' in destination && destination.domain === SELF;
    const given = mine ? { ...fields, destination: own(0, destination.offset) } : fields;
    const before = s.fingerprint;
    expect(s.copy([element(given)])).toEqual([status]);
    expect(s.fingerprint).toBe(before);
  });

  it('7 the destination must be writable: a page table, or a read-only grant, is refused; as sources both are fine', () => {
    const table = s.machine.parts.pvTables.root(A as never);
    const frame = { frame: table, domain: SELF, offset: 0 };
    expect(s.copy([element({ destination: frame })])).toEqual([GrantStatus.general_error]);
    expect(s.copy([element({ source: frame, flags: 0 })])).toEqual([0]);
    s.grant(10, { flags: GTF.permit_access | GTF.readonly });
    const readOnly = { source: own(0), destination: ref(10), flags: TO_REF };
    expect(s.copy([element(readOnly)])).toEqual([GrantStatus.general_error]);
    expect(s.copy([element({ source: ref(10) })])).toEqual([0]);
  });

  it('goes on with the elements after one that fails, and ignores flags that it does not know', () => {
    const batch = [element({ source: ref(100) }), element(), element({ length: 5000 }), element({ flags: 0xfff1 })];
    expect(s.copy(batch)).toEqual([GrantStatus.general_error, 0, GrantStatus.bad_copy_arg, 0]);
  });

  it('does nothing for a copier that is not there', () => {
    expect(s.step({ op: 'copy', domain: 5, elements: [element()] })).toEqual({ result: Errno.ESRCH });
  });
});

describe('1.10 rules of a version: copyZeroLength, copyFrameCheck, copyPageBorder, badFrame', () => {
  const nonsense = () => element({ source: ref(8, 0, 0x7fff), length: 0 });
  const unknownFrame = () => element({ source: { frame: 0, domain: 5, offset: 0 }, flags: 0 });

  it('4.23 does a copy of no bytes without a look, 4.17 checks it', () => {
    expect(s.copy([nonsense()])).toEqual([0]);
    s = new GuestScene({ rules: 'xen4_17' });
    expect(s.copy([nonsense()])).toEqual([GrantStatus.bad_domain]);
  });

  it('4.23 refuses a frame of an unknown domain before it looks the domain up, 4.17 after', () => {
    expect(s.copy([unknownFrame()])).toEqual([GrantStatus.permission_denied]);
    s = new GuestScene({ rules: 'xen4_17' });
    expect(s.copy([unknownFrame()])).toEqual([GrantStatus.bad_domain]);
  });

  it.each([
    ['xen2008', -8, -10, -1],
    ['xen4_23', -2, -2, -9],
    ['xen4_17', -2, -2, -9],
  ] as const)('%s: which of two faults is named, and what a bad frame is', (rules, foreign, border, badFrame) => {
    s = new GuestScene({ rules });
    s.grant(8, { frame: 9999 });
    const unknown = ref(8, 0, 5);
    const destination = { frame: s.frame(B), domain: B, offset: 0 };
    expect(s.copy([element({ source: unknown, destination })]), 'unknown domain, foreign frame').toEqual([foreign]);
    expect(s.copy([element({ source: unknown, length: 5000 })]), 'unknown domain, off the page').toEqual([border]);
    expect([...s.copy([element()]), s.map(HOST).status]).toEqual([badFrame, badFrame]);
  });

  it.each(['xen4_17', 'xen4_23'] as const)(
    '%s refuses a foreign frame also after an element with the same domains (XSA-523)',
    (rules) => {
      s = new GuestScene({ rules });
      s.grant(8);
      s.store(s.frame(B, 3), 0, '5ec4e7');
      const foreign = element({ source: { frame: s.frame(B, 3), domain: B, offset: 0 }, flags: 0 });
      expect(s.copy([element(), foreign])).toEqual([0, GrantStatus.permission_denied]);
      expect(s.copy([element({ source: ref(100) }), foreign])).toEqual([-1, GrantStatus.permission_denied]);
      expect(s.bytes(s.frame(A), 0, 3)).toBe('000000');
    },
  );
});

describe('1.10 claims are kept for the next element, and pin the entry meanwhile', () => {
  /** Pins of refs 8 and 9 after each micro-step, each once. */
  function pinsDuring(elements: ReturnType<typeof element>[]): string[] {
    const seen: string[] = [];
    s.inPieces({ op: 'copy', domain: A, elements }, () => {
      const now = `${s.pins(8)} ${s.usage(8)} ${s.pins(9)} ${s.usage(9)}`;
      if (seen.at(-1) !== now) seen.push(now);
    });
    return seen;
  }
  const none = '0/0/0/0 -- 0/0/0/0 --';
  const reads8 = '0/1/0/0 r- 0/0/0/0 --';

  it('pins a source once for all elements that name it, and lets go at the end', () => {
    expect(pinsDuring([element(), element(), element()])).toEqual([reads8, none]);
  });

  it('changes over when another ref is named', () => {
    expect(pinsDuring([element(), element({ source: ref(9) }), element()])).toEqual([
      reads8,
      '0/0/0/0 -- 0/1/0/0 r-',
      reads8,
      none,
    ]);
  });

  it('lets go on a failure', () => {
    expect(pinsDuring([element(), element({ source: ref(8, 4095) }), element()])).toEqual([reads8, none, reads8, none]);
  });

  it('pins both ends, each by its kind, and counts beside mappings', () => {
    s.map(HOST | RO);
    const both = element({ destination: ref(9), flags: FROM_REF | TO_REF });
    expect(pinsDuring([both])).toEqual(['0/2/0/0 r- 1/0/0/0 rw', '0/1/0/0 r- 0/0/0/0 --']);
  });

  it('reads the frame that was claimed, though the guest rewrites the entry in between', () => {
    s.store(s.frame(B), 0, 'aa');
    s.store(s.frame(B, 1), 0, 'bb');
    const elements = [element({ length: 1 }), element({ length: 1, destination: own(0, 1) })];
    let isRewritten = false;
    s.inPieces({ op: 'copy', domain: A, elements }, () => {
      if (!isRewritten) s.grant(8, { index: 1 });
      isRewritten = true;
    });
    expect(s.bytes(s.frame(A), 0, 2)).toBe('aaaa');
    expect([s.usage(8), s.pins(8)]).toEqual(['--', '0/0/0/0']);
  });
});

describe('1.11 acquisition of an entry that is in use', () => {
  it('is refused to another domain, and above 128 pins of the kind', () => {
    s.grant(10, { grantee: H });
    s.map(HOST, { ref: 10, by: H, hostAddress: 20 * 4096 });
    expect(s.copy([element({ source: ref(10) })])).toEqual([GrantStatus.general_error]);
    s = new GuestScene({ windowPages: 256 });
    s.grant(8);
    for (let at = 0; at < 128; at += 1) expect(s.map(HOST | RO, { hostAddress: page(at) }).status).toBe(0);
    expect(s.copy([element()])).toEqual([GrantStatus.general_error]);
    const write = element({ source: own(0), destination: ref(8), flags: TO_REF });
    expect(s.copy([write])).toEqual([0]);
  });

  it('takes the frame of the first use, whatever the entry says now', () => {
    s.map(HOST | RO);
    s.store(s.frame(B), 0, 'aa');
    s.grant(8, { index: 1, flags: GTF.invalid, grantee: H });
    expect(s.copy([element({ length: 1 })])).toEqual([0]);
    expect(s.bytes(s.frame(A), 0, 1)).toBe('aa');
  });

  it('looks again for the first writable use: the entry must still say the same (XSA-500)', () => {
    const write = element({ source: own(0), destination: ref(8), flags: TO_REF });
    s.map(HOST | RO);
    s.grant(8, { index: 1 });
    expect(s.copy([write])).toEqual([GrantStatus.general_error]);
    expect([s.usage(8), s.pins(8)]).toEqual(['r-', '0/1/0/0']);
    s.grant(8, { flags: GTF.permit_access | GTF.reading | GTF.readonly });
    expect(s.copy([write])).toEqual([GrantStatus.general_error]);
    s.grant(8, { flags: GTF.permit_access | GTF.reading });
    expect(s.copy([write])).toEqual([0]);
  });

  it('is bad_domain of a granter that is dying', () => {
    s.map(HOST | RO);
    s.step({ op: 'destroy_domain', domain: B });
    expect(s.copy([element()])).toEqual([GrantStatus.bad_domain]);
    expect(s.pins(8)).toBe('0/1/0/0');
  });
});
