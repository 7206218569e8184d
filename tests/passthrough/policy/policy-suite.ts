// The policy suite: whether a flush policy keeps its promise. Call `policySuite(policy)` in a test file of your own.
//
// Strict: whatever was given back (a range of device frames released, a grant's usage bits cleared) no device can use,
// at any moment; and what was taken away is given back in the end. Bounded: a deadline after the last removal nothing
// stale is left. None: something stale is left indeed, or else the promise is too modest. For all but the last, what
// was mapped can be used at once. Random operations of two virtual CPUs, one after the other and interleaved.

import { fc } from '@fast-check/vitest';
import { describe, expect, test } from 'vitest';
import type { FlushPolicy, Release } from '../../../passthrough/policy/index.ts';
import { type Command, PolicyMachine, REFS, VCPUS, WINDOW_PER_VCPU } from './policy-machine.ts';

const at = fc.nat(WINDOW_PER_VCPU - 1);
const pages = fc.integer({ min: 1, max: 4 });
const command: fc.Arbitrary<Command> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant('grantMap' as const),
      ref: fc.nat(REFS - 1),
      readOnly: fc.boolean(),
      half: fc.constantFrom('host' as const, 'device' as const),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant('grantUnmap' as const),
      which: fc.array(fc.nat(5), { minLength: 1, maxLength: 3 }),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant('dmaMap' as const),
      at,
      pages,
      access: fc.constantFrom('r' as const, 'rw' as const),
    }),
  },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('dmaUnmap' as const), at, pages }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('tick' as const), us: fc.nat(8000) }) },
);
const sequence = fc.array(fc.record({ vcpu: fc.nat(VCPUS - 1), command }), { maxLength: 25 });
/** Cases that no random sequence may miss: a demotion, a range of pages, taken and left, a reuse, a stronger mapping over a weaker. */
const scripted: [{ vcpu: number; command: Command }[]][] = [
  [
    { kind: 'grantMap', ref: 0, readOnly: true, half: 'host' },
    { kind: 'grantMap', ref: 0, readOnly: false, half: 'device' },
    { kind: 'grantUnmap', which: [1] },
  ] satisfies Command[],
  [
    { kind: 'dmaMap', at: 0, pages: 2, access: 'rw' },
    { kind: 'dmaUnmap', at: 0, pages: 2 },
    { kind: 'dmaMap', at: 0, pages: 2, access: 'r' },
  ] satisfies Command[],
  [
    { kind: 'dmaMap', at: 0, pages: 2, access: 'rw' },
    { kind: 'dmaUnmap', at: 0, pages: 2 },
  ] satisfies Command[],
].map((commands) => [commands.map((command) => ({ vcpu: 0, command }))]);
const interleaving = fc.record({
  commands: fc.array(fc.array(command, { maxLength: 6 }), { minLength: VCPUS, maxLength: VCPUS }),
  turns: fc.array(fc.nat(VCPUS + 1), { maxLength: 400 }),
});

/** No interleaving of so few commands takes more. */
const ROUNDS_MAX = 4000;

/** One thing that a promise entails. `run` throws when it does not hold. */
export interface PolicyCheck {
  readonly title: string;
  readonly run: () => void;
}

/** The longest time after which a policy with a timer has acted. */
const settleUs = (policy: FlushPolicy, release: Release): number => {
  const promise = policy.promise(release);
  return Math.max(policy.timerUs ?? 0, promise.kind === 'bounded' ? promise.staleUsMax : 0);
};

function inTurn(policy: FlushPolicy, release: Release, after: (machine: PolicyMachine, isOver: boolean) => void): void {
  fc.assert(
    fc.property(sequence, (steps) => {
      const machine = new PolicyMachine(policy, release);
      for (const { vcpu, command: one } of steps) {
        machine.do(vcpu, one);
        after(machine, false);
      }
      machine.settle(settleUs(policy, release));
      after(machine, true);
    }),
    { numRuns: 25, examples: scripted },
  );
}

/** Turns say who goes on: a virtual CPU, or a unit. When they are used up, everyone does until nothing is left. */
function interleaved(
  policy: FlushPolicy,
  release: Release,
  after: (machine: PolicyMachine, isOver: boolean) => void,
): void {
  fc.assert(
    fc.property(interleaving, ({ commands, turns }) => {
      const machine = new PolicyMachine(policy, release);
      const left = commands.map((list) => [...list]);
      const turn = (who: number): boolean => {
        if (who >= VCPUS) return machine.machine.parts.units[who - VCPUS]?.step() ?? false;
        while (!machine.isBusy(who)) {
          const next = left[who]!.shift();
          if (!next) return false;
          machine.begin(who, next);
        }
        return machine.goOn(who);
      };
      for (const who of turns) if (turn(who)) after(machine, false);
      const everyone = Array.from({ length: VCPUS + 2 }, (_, who) => who);
      for (let round = 0; everyone.map(turn).some((moved) => moved); round += 1) {
        if (round > ROUNDS_MAX) throw new Error('the operations do not come to an end');
        after(machine, false);
      }
      for (let vcpu = 0; vcpu < VCPUS; vcpu += 1) expect(machine.isBusy(vcpu), `vCPU ${vcpu} hangs`).toBe(false);
      machine.settle(settleUs(policy, release));
      after(machine, true);
    }),
    { numRuns: 25 },
  );
}

function strictChecks(policy: FlushPolicy, release: Release): PolicyCheck[] {
  const check = (machine: PolicyMachine, isOver: boolean) => {
    expect(machine.staleReleased()).toEqual([]);
    if (!isOver) return;
    expect(machine.heldBack(), 'given back in the end').toEqual([]);
    expect(machine.stale(), 'nothing stale in the end').toEqual([]);
  };
  return [
    { title: 'nothing that was given back is reachable', run: () => inTurn(policy, release, check) },
    { title: 'nothing that was given back is reachable, step by step', run: () => interleaved(policy, release, check) },
  ];
}

function boundedChecks(policy: FlushPolicy, release: Release): PolicyCheck[] {
  const check = (machine: PolicyMachine, isOver: boolean) => {
    if (!isOver) return;
    expect(machine.stale()).toEqual([]);
    expect(machine.heldBack()).toEqual([]);
  };
  return [
    { title: 'nothing stale is left after the deadline', run: () => inTurn(policy, release, check) },
    { title: 'nothing stale is left after the deadline, step by step', run: () => interleaved(policy, release, check) },
  ];
}

function usableCheck(policy: FlushPolicy, release: Release): PolicyCheck {
  const check = (machine: PolicyMachine) => expect(machine.unusable).toEqual([]);
  return { title: 'what was mapped can be used at once', run: () => inTurn(policy, release, check) };
}

function noneCheck(policy: FlushPolicy, release: Release): PolicyCheck {
  return {
    title: 'something stale is left, as a promise of none says',
    run: () => {
      const machine = new PolicyMachine(policy, release);
      machine.do(0, { kind: 'dmaMap', at: 0, pages: 1, access: 'rw' });
      machine.do(0, { kind: 'dmaUnmap', at: 0, pages: 1 });
      machine.settle(60_000_000);
      expect(machine.staleReleased()).not.toEqual([]);
    },
  };
}

/** What a policy's promise entails with a release. */
export function policyChecks(policy: FlushPolicy, release: Release): PolicyCheck[] {
  const { kind } = policy.promise(release);
  if (kind === 'none') return [noneCheck(policy, release)];
  const checks = kind === 'strict' ? strictChecks(policy, release) : boundedChecks(policy, release);
  return [...checks, usableCheck(policy, release)];
}

/** Registers the tests of a policy, with each of its releases. */
export function policySuite(policy: FlushPolicy): void {
  describe.each(policy.releases.map((release) => [release, policy.promise(release)] as const))(
    `the policy ${policy.name} with release %s`,
    (release, promise) => {
      describe(`promises ${promise.kind}`, () => {
        for (const { title, run } of policyChecks(policy, release)) test(title, run);
      });
    },
  );
}
