// The properties that everything else rests on, for random operations on a small machine under every shipped policy:
// exact rollback with operations in flight, micro-steps that add up to the operation, refusals that change nothing.

import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import {
  fingerprint,
  fork,
  type Hypervisor,
  inspect,
  type Op,
  Progress,
  policies,
  rollback,
  snapshot,
} from '../../hypervisor/index.ts';
import type { Vcpu } from '../../machine/ids.ts';
import { invariants, opArbitrary, smallMachine, violations } from '../../verify/index.ts';
import { expectFound } from '../verify/found.ts';

const RUNS = 25;
const shape = smallMachine('strict-page');
const ops = fc.array(opArbitrary(fc, shape), { minLength: 5, maxLength: 40 });
const rows = policies.flatMap((policy) =>
  policy.releases.map((release) => ({ policy, release, name: `${policy.name} ${release}` })),
);

type VcpuOp = Parameters<Hypervisor['begin']>[0];
const VCPU_OPS = ['map_grant_ref', 'unmap_grant_ref', 'assign_device', 'deassign_device'];
const isVcpuOp = (op: Op): op is VcpuOp => VCPU_OPS.includes(op.op);

/** Runs operations by micro-steps, `choices` saying who goes next: a virtual CPU, a unit, or a new operation. */
function interleave(machine: Hypervisor, queue: readonly Op[], choices: readonly number[]): void {
  const waiting = [...queue];
  for (const choice of choices) {
    const vcpu = (choice & 1) as Vcpu;
    if (choice % 5 === 4) machine.units[vcpu]?.step();
    else if (machine.isBusy(vcpu)) {
      if (machine.microStep(vcpu) === Progress.done) machine.finish(vcpu);
    } else {
      const next = waiting.shift();
      if (!next) continue;
      const placed = isVcpuOp(next) ? { ...next, vcpu } : next;
      if (isVcpuOp(placed)) machine.begin(placed);
      else machine.step(placed);
    }
  }
}

describe.each(rows)('policy $name', ({ policy, release }) => {
  test.prop([ops, ops, fc.array(fc.nat({ max: 99 }), { minLength: 40, maxLength: 200 }), fc.nat({ max: 39 })], {
    numRuns: RUNS,
  })(
    'rollback restores the fingerprint and the decoded state, with operations in flight',
    (before, after, choices, cut) => {
      const machine = smallMachine(policy, { release });
      interleave(machine, before, choices.slice(0, 40 + cut));
      const [print, view] = [fingerprint(machine), inspect(machine)];
      const taken = snapshot(machine);
      interleave(machine, after, choices);
      rollback(machine, taken);
      expect(fingerprint(machine)).toBe(print);
      expect(inspect(machine)).toEqual(view);
      // And what follows is the same, too: for the machine that went back, and for a copy of it.
      const twin = fork(machine);
      expect(fingerprint(twin)).toBe(print);
      interleave(machine, after, choices);
      interleave(twin, after, choices);
      expect(fingerprint(twin)).toBe(fingerprint(machine));
    },
  );

  test.prop([ops], { numRuns: RUNS })(
    'stepping an operation by micro-steps ends in the state that step ends in',
    (sequence) => {
      const whole = smallMachine(policy, { release });
      const pieces = smallMachine(policy, { release });
      for (const op of sequence) {
        const expected = whole.step(op);
        expect(inPieces(pieces, op)).toEqual(expected);
        expect(fingerprint(pieces)).toBe(fingerprint(whole));
      }
    },
  );

  test.prop([ops], { numRuns: RUNS })('a refused operation changes nothing', (sequence) => {
    const machine = smallMachine(policy, { release });
    for (const op of sequence) {
      const before = inspect(machine);
      const heldBack = [0, 1].some((vcpu) => machine.parts.driver.flush.ledger.size(vcpu) > 0);
      const { result, elements, crashed } = machine.step(op);
      const allRefused = elements !== undefined && elements.length > 0 && elements.every(({ status }) => status < 0);
      if (crashed || !(result < 0 || allRefused)) continue;
      // The one effect that a refused batch may have: at its end a flush that is due lets go of what earlier ones held.
      if (heldBack) continue;
      expect(inspect(machine)).toEqual(before);
    }
  });

  const kept = invariants.filter(({ id }) => policy.promise(release).kind === 'strict' || id === 'G3' || id === 'M3');
  test.prop([ops], { numRuns: RUNS })(
    `keeps ${kept.map(({ id }) => id).join(', ')} after every operation`,
    (sequence) => {
      const machine = smallMachine(policy, { release });
      for (const op of sequence) {
        machine.step(op);
        expect(violations(machine, kept)).toEqual([]);
      }
    },
  );
});

/** Does an operation by micro-steps, units going on whenever the virtual CPU cannot. */
function inPieces(machine: Hypervisor, op: Op): unknown {
  if (!isVcpuOp(op)) return machine.step(op);
  const vcpu = machine.begin(op);
  if (typeof vcpu !== 'number') return vcpu;
  for (let progress = machine.microStep(vcpu); progress !== Progress.done; progress = machine.microStep(vcpu)) {
    if (progress !== Progress.blocked) continue;
    let moved = false;
    for (const unit of machine.units) while (unit.step()) moved = true;
    // A drain waits for an access that was translated: it is performed.
    if (!moved) machine.step({ op: 'dma_perform', slot: machine.parts.dma.all()[0]!.slot });
  }
  return machine.finish(vcpu);
}

describe('policies that promise less leave something behind', () => {
  test.each(['deferred', 'never'])('%s with release onReturn breaks M1 in some short run', (name) => {
    const broken = fc.check(
      fc.property(fc.array(opArbitrary(fc, shape), { minLength: 1, maxLength: 60 }), (sequence) => {
        const machine = smallMachine(name, { release: 'onReturn' });
        for (const op of sequence) {
          machine.step(op);
          if (violations(machine).some(({ invariant }) => invariant === 'M1')) return false;
        }
        return true;
      }),
      { numRuns: 2000, seed: 1 },
    );
    expectFound(broken);
    expect(broken.counterexample![0].length).toBeLessThanOrEqual(6);
  });
});
