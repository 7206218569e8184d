// Hypercalls that are interrupted: section 1.2 of the reference, batches and continuations. What is left is repeated by
// the guest's processor, and at the end nothing tells that it was interrupted.

import { describe, expect, it } from 'vitest';
import { GNTCOPY, GTF } from '../../grant/index.ts';
import { diff, Errno, inspect, type Op, type OpResult } from '../../hypervisor/index.ts';
import { A, B, GuestScene, HOST, page, RO, SELF } from './guest-scene.ts';

type BatchOp = Extract<Op, { readonly elements: readonly unknown[] }>;

/** Refs 8 to 15 of domain 2 grant its frames to domain 1, which has refs of its own for transfers. */
function scene(): GuestScene {
  const s = new GuestScene({ vcpus: 2, grants: { maptrackFrames: 2 } });
  for (let ref = 8; ref < 16; ref += 1) s.grant(ref, { index: ref - 8 });
  for (let ref = 8; ref < 12; ref += 1) s.grant(ref, { by: A, flags: GTF.accept_transfer, grantee: B, frame: 0 });
  return s;
}

const mapped = (count: number) =>
  Array.from({ length: count }, (_, at) => ({
    flags: at % 3 === 0 ? HOST | RO : HOST,
    ref: 8 + (at % 8),
    domain: B,
    hostAddress: page(at),
  }));
const unmapped = (count: number) => Array.from({ length: count }, (_, at) => ({ handle: at, hostAddress: page(at) }));
const copied = Array.from({ length: 6 }, (_, at) => ({
  source: { ref: 8 + at, domain: B, offset: 8 * at },
  destination: { ref: 8 + ((at + 1) % 8), domain: B, offset: 1024 + at },
  length: 40 + at,
  flags: GNTCOPY.source_gref | GNTCOPY.dest_gref,
}));

/** Repeats an operation until nothing is left of it: every result. */
function repeat(s: GuestScene, op: Op, preemptAfter?: number): OpResult[] {
  const results: OpResult[] = [];
  for (let left: Op | undefined = op; left; left = results.at(-1)!.continuation) {
    results.push(s.step(preemptAfter === undefined ? left : ({ ...left, preemptAfter } as Op)));
  }
  return results;
}

const cases: readonly (readonly [string, (s: GuestScene) => BatchOp, readonly number[]])[] = [
  ['map', () => ({ op: 'map_grant_ref', domain: A, elements: mapped(7) }), [1, 2, 5]],
  ['copy', () => ({ op: 'copy', domain: A, elements: copied }), [1, 2, 5]],
  [
    'transfer',
    (s) => ({
      op: 'transfer',
      domain: B,
      elements: [0, 1, 2].map((at) => ({ frame: s.frame(B, at), domain: A, ref: 8 + at })),
    }),
    [1, 2],
  ],
  [
    'swap',
    () => ({
      op: 'swap_grant_ref',
      domain: B,
      elements: [
        { a: 8, b: 9 },
        { a: 9, b: 10 },
        { a: 8, b: 10 },
      ],
    }),
    [1, 2],
  ],
];

describe.each(cases)('1.2 %s looks for something more urgent before every element but the first', (_, make, after) => {
  it.each(after)('stops after %i elements, and says what is left', (count) => {
    const s = scene();
    const op = make(s);
    const result = s.step({ ...op, preemptAfter: count });
    expect(result.result).toBe(Errno.ERESTART);
    expect(result.elements).toHaveLength(count);
    const left = result.continuation as BatchOp;
    expect([left.op, left.domain, left.elements.length]).toEqual([op.op, op.domain, op.elements.length - count]);
  });

  it.each(after)('comes to the same as without interruption, every %i elements', (count) => {
    const [whole, pieces] = [scene(), scene()];
    const expected = whole.step(make(whole));
    const results = repeat(pieces, make(pieces), count);
    expect(results.length).toBe(Math.ceil(expected.elements!.length / count));
    expect(results.map(({ result }) => result)).toEqual([
      ...results.slice(1).map(() => Errno.ERESTART),
      expected.result,
    ]);
    expect(results.flatMap(({ elements }) => elements)).toEqual(expected.elements);
    expect(diff(inspect(whole.machine), inspect(pieces.machine))).toEqual([]);
    expect(pieces.fingerprint).toBe(whole.fingerprint);
  });

  it('does the first element whatever waits, and is not interrupted when none is left', () => {
    const s = scene();
    const op = make(s);
    expect(s.step({ ...op, elements: op.elements.slice(0, 1), preemptAfter: 0 } as Op).continuation).toBeUndefined();
    const t = scene();
    expect(t.step({ ...op, preemptAfter: op.elements.length } as Op).continuation).toBeUndefined();
  });

  it('with 0 stops after the first element, as with 1', () => {
    const stoppedBy = (preemptAfter: number) => {
      const s = scene();
      return s.step({ ...make(s), preemptAfter } as Op);
    };
    expect(stoppedBy(0)).toEqual(stoppedBy(1));
    expect(stoppedBy(0).continuation).toBeDefined();
  });

  it('is repeated by the processor that made the call', () => {
    const s = scene();
    const { continuation } = s.step({ ...make(s), vcpu: 1, preemptAfter: 1 } as Op);
    expect(continuation).toMatchObject({ vcpu: 1 });
  });
});

describe('1.2 unmap looks for something more urgent after each full batch of 32', () => {
  const unmap = (count: number, preemptAfter?: number): Op => ({
    op: 'unmap_grant_ref',
    domain: A,
    elements: unmapped(count),
    ...(preemptAfter === undefined ? {} : { preemptAfter }),
  });
  function prepared(count: number): GuestScene {
    const s = scene();
    s.do({ op: 'map_grant_ref', domain: A, elements: mapped(count) });
    return s;
  }

  it.each([1, 5, 31, 32])('stops after 32 when something comes up after %i', (after) => {
    const s = prepared(50);
    const { result, elements, continuation } = s.step(unmap(50, after));
    expect([result, elements!.length]).toEqual([Errno.ERESTART, 32]);
    expect((continuation as BatchOp).elements).toMatchObject(unmapped(50).slice(32));
    // What was done is complete: pins, usage bits, references.
    expect(s.step(continuation!)).toMatchObject({ result: 0, elements: unmapped(18).map(() => ({ status: 0 })) });
    const whole = prepared(50);
    whole.do(unmap(50));
    expect(diff(inspect(whole.machine), inspect(s.machine))).toEqual([]);
    expect(s.fingerprint).toBe(whole.fingerprint);
  });

  it('is not interrupted within a batch, nor after the last one', () => {
    expect(prepared(20).step(unmap(20, 1))).toMatchObject({ result: 0 });
    expect(prepared(32).step(unmap(32, 1))).toMatchObject({ result: 0 });
  });

  it('leaves what is left untouched: handles, pins and PTEs', () => {
    const s = prepared(50);
    s.step(unmap(50, 1));
    const live = s.machine.parts.grants.maptrack(A as never).live();
    expect(live).toEqual(Array.from({ length: 18 }, (_, at) => 32 + at));
  });

  it('holds for unmap_and_replace, too', () => {
    const s = prepared(40);
    const elements = unmapped(40).map(({ handle, hostAddress }) => ({ handle, hostAddress }));
    const { continuation } = s.step({ op: 'unmap_and_replace', domain: A, elements, preemptAfter: 1 });
    expect(continuation).toMatchObject({ op: 'unmap_and_replace', elements: elements.slice(32) });
    expect(s.step(continuation!).result).toBe(0);
    expect(s.machine.parts.grants.maptrack(A as never).live()).toEqual([]);
  });
});

describe('1.2 a continuation', () => {
  it('repeats addresses, frames and refs as the guest wrote them', () => {
    const s = scene();
    const frame = { frame: '0xfffffffffffff000', domain: SELF, offset: 1 } as const;
    const gref = { ref: 8, domain: B, offset: 2 };
    const elements = [copied[0]!, { source: frame, destination: gref, length: 3, flags: GNTCOPY.dest_gref }];
    const { continuation } = s.step({ op: 'copy', domain: A, elements, preemptAfter: 1 });
    expect(continuation).toEqual({ op: 'copy', vcpu: 0, domain: A, elements: elements.slice(1) });
  });

  it('knows where the argument ends, counted from its own start', () => {
    const s = scene();
    const call = { op: 'map_grant_ref', domain: A, elements: mapped(5) } as const;
    const { continuation } = s.step({ ...call, preemptAfter: 2, unreadableFrom: 4, unwritableFrom: 3 });
    expect(continuation).toMatchObject({ unreadableFrom: 2, unwritableFrom: 1 });
    expect(s.step(continuation!)).toMatchObject({ result: Errno.EFAULT, elements: [{ status: 0 }] });
  });

  it('is a fault, not an interruption, where the element before it could not be written', () => {
    const s = scene();
    const call = { op: 'map_grant_ref', domain: A, elements: mapped(5) } as const;
    expect(s.step({ ...call, preemptAfter: 2, unwritableFrom: 1 }).result).toBe(Errno.EFAULT);
  });
});
