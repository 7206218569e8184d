// Goal: every policy that ships keeps its promise, and the suite that says so is able to say the opposite.
// Method: the policy suite over all policies and releases; then policies with one mistake each, which it must catch.

import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Dfn } from '../../../machine/frame-number.ts';
import {
  deferred,
  type FlushPolicy,
  makeDeferred,
  policies,
  policyNamed,
  strictDomain,
  strictPage,
  xen,
} from '../../../passthrough/policy/index.ts';
import { policyChecks, policySuite } from './policy-suite.ts';

for (const policy of [...policies, xen]) policySuite(policy);
policySuite(makeDeferred({ entries: 2, timeoutUs: 500 }));

/** Titles of the checks that a policy fails, by all of its releases. */
function failures(policy: FlushPolicy): string[] {
  return policy.releases.flatMap((release) =>
    policyChecks(policy, release).flatMap(({ title, run }) => {
      try {
        run();
        return [];
      } catch {
        return [title];
      }
    }),
  );
}

const strict: Pick<FlushPolicy, 'releases' | 'onReuse' | 'promise'> = {
  releases: ['afterFlush'],
  onReuse: 'flush',
  promise: () => ({ kind: 'strict' }),
};

const broken: readonly FlushPolicy[] = [
  {
    ...strict,
    name: 'no-wait',
    summary: 'invalidates each page and never waits',
    change: (change, flush) => flush.page(change.domain, change.dfn, change.order),
  },
  {
    ...strict,
    name: 'wrong-order',
    summary: 'invalidates one page of each range',
    change: (change, flush) => {
      flush.page(change.domain, change.dfn, 0);
      flush.wait();
    },
  },
  {
    ...strict,
    name: 'wrong-page',
    summary: 'invalidates the page after',
    change: (change, flush) => {
      flush.page(change.domain, (change.dfn + 2 ** change.order) as Dfn, change.order);
      flush.wait();
    },
  },
  {
    ...strict,
    name: 'removals-only',
    summary: 'forgets that absent and weaker entries are cached too',
    change: (change, flush) => {
      if (change.to === 'rw') return;
      flush.page(change.domain, change.dfn, change.order);
      flush.wait();
    },
  },
  {
    ...strict,
    name: 'no-demotion',
    summary: 'takes a lost right to write for no removal',
    change: (change, flush) => {
      if (change.from === 'rw' && change.to === 'ro') return;
      strictPage.change(change, flush);
    },
  },
  { ...deferred, name: 'deferred-strict', releases: ['onReturn'], promise: () => ({ kind: 'strict' }) },
  { ...strictDomain, name: 'no-end', summary: 'forgets the end of operations', operationEnd: () => {} },
  {
    ...makeDeferred({ entries: 100, timeoutUs: 500 }),
    name: 'too-late',
    summary: 'promises less than its timer can keep',
    releases: ['onReturn'],
    promise: () => ({ kind: 'bounded', staleUsMax: 100 }),
    timerUs: 0,
  },
  { ...strictPage, name: 'too-modest', promise: () => ({ kind: 'none' }) },
];

describe('the suite catches a policy that', () => {
  // One seed: whether a mistake is found must not depend on luck.
  beforeAll(() => fc.configureGlobal({ seed: 11 }));
  afterAll(() => fc.resetConfigureGlobal());

  test.each(broken.map((policy) => [policy.summary, policy] as const))('%s', (_, policy) => {
    expect(failures(policy)).not.toEqual([]);
  });

  test('and finds nothing wrong with the policy that they were made of', () => {
    expect(failures(strictPage)).toEqual([]);
  });
});

describe('policies by name', () => {
  test('are found, and have names of their own', () => {
    expect(new Set(policies.map(({ name }) => name)).size).toBe(policies.length);
    for (const policy of [...policies, xen]) expect(policyNamed(policy.name)).toBe(policy);
    expect(() => policyNamed('none')).toThrow(/strict-page, strict-domain, queued, deferred, never, xen/);
  });

  test('a deferred one needs room and time', () => {
    expect(() => makeDeferred({ entries: 0, timeoutUs: 1 })).toThrow(RangeError);
    expect(() => makeDeferred({ entries: 1, timeoutUs: 0 })).toThrow(RangeError);
  });
});
