// Random operations of every kind in pieces: rolled back with operations in flight, and stepped through one by one.

import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { isVcpuOp } from '../../hypervisor/door/vcpu-ops.ts';
import {
  fingerprint,
  fork,
  type Hypervisor,
  inspect,
  type Op,
  Progress,
  rollback,
  snapshot,
} from '../../hypervisor/index.ts';
import type { Vcpu } from '../../machine/ids.ts';
import { type Draw, drawArbitrary, mixedMachine, mixedVariants, opOf } from '../../verify/index.ts';

const draws = fc.array(drawArbitrary(fc), { minLength: 1, maxLength: 40, size: 'max' });
const variants = fc.constantFrom(...mixedVariants);
const ROWS = [
  ['xen', 'afterFlush'],
  ['strict-page', 'afterFlush'],
  ['deferred', 'afterFlush'],
] as const;

/** Does an operation by micro-steps, units going on whenever the virtual CPU cannot. */
function inPieces(machine: Hypervisor, op: Op, between: () => void = () => {}): unknown {
  if (!isVcpuOp(op)) return machine.step(op);
  const vcpu = machine.begin(op);
  if (typeof vcpu !== 'number') return vcpu;
  for (let progress = machine.microStep(vcpu); progress !== Progress.done; progress = machine.microStep(vcpu)) {
    between();
    if (progress === Progress.blocked) for (const unit of machine.units) while (unit.step());
  }
  return machine.finish(vcpu);
}

describe.each(ROWS)('policy %s, release %s', (policy, release) => {
  test.prop([variants, draws], { numRuns: 15 })(
    'micro-steps end in the state that step ends in',
    (variant, sequence) => {
      const whole = mixedMachine(policy, { release, variant });
      const pieces = mixedMachine(policy, { release, variant });
      for (const draw of sequence) {
        const op = opOf(whole, draw);
        const expected = whole.step(op);
        expect(inPieces(pieces, op)).toEqual(expected);
        expect(fingerprint(pieces)).toBe(fingerprint(whole));
      }
    },
  );

  test.prop([variants, draws, draws, fc.nat({ max: 20 })], { numRuns: 10 })(
    'rollback restores everything, with an operation in flight',
    (variant, before, after, steps) => {
      const machine = mixedMachine(policy, { release, variant });
      const run = (on: Hypervisor, sequence: readonly Draw[]) => {
        for (const draw of sequence) inPieces(on, opOf(on, draw));
      };
      run(machine, before.slice(1));
      const last = opOf(machine, before[0]!);
      const vcpu = isVcpuOp(last) ? machine.begin(last) : null;
      for (let step = 0; step < steps && typeof vcpu === 'number' && machine.isBusy(vcpu); step += 1) {
        const progress = machine.microStep(vcpu);
        if (progress === Progress.done) machine.finish(vcpu);
        else if (progress === Progress.blocked) for (const unit of machine.units) unit.step();
      }
      const [print, view] = [fingerprint(machine), inspect(machine)];
      const taken = snapshot(machine);
      const go = (on: Hypervisor) => {
        if (typeof vcpu === 'number' && on.isBusy(vcpu)) {
          finish(on, vcpu);
        }
        run(on, after);
      };
      go(machine);
      rollback(machine, taken);
      expect(fingerprint(machine)).toBe(print);
      expect(inspect(machine)).toEqual(view);
      const twin = fork(machine);
      go(machine);
      go(twin);
      expect(fingerprint(twin)).toBe(fingerprint(machine));
    },
  );
});

function finish(machine: Hypervisor, vcpu: Vcpu): void {
  for (let progress = machine.microStep(vcpu); progress !== Progress.done; progress = machine.microStep(vcpu)) {
    if (progress === Progress.blocked) for (const unit of machine.units) while (unit.step());
  }
  machine.finish(vcpu);
}
