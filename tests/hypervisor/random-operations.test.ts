// Every operation on grants and memory, drawn at random on four domains of all kinds: the invariants hold after each,
// results are of the ABI, and what is interesting does happen.

import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { GrantStatus } from '../../grant/index.ts';
import { Errno, type Hypervisor, type Op, type OpResult, policies } from '../../hypervisor/index.ts';
import {
  type Draw,
  drawArbitrary,
  invariants,
  mixedMachine,
  mixedVariants,
  opOf,
  violations,
} from '../../verify/index.ts';
import { Witnesses } from './witnesses.ts';

const draws = fc.array(drawArbitrary(fc), { minLength: 1, maxLength: 50, size: 'max' });
const variants = fc.constantFrom(...mixedVariants);
const WITH_REACH = ['A2', 'A3', 'F1', 'M1', 'P1', 'P2'];
const ofState = invariants.filter(({ id }) => !WITH_REACH.includes(id));

/** Runs draws one after the other, telling of each operation. */
function run(machine: Hypervisor, sequence: readonly Draw[], done: (op: Op, result: OpResult) => void): void {
  for (const draw of sequence) {
    const op = opOf(machine, draw);
    done(op, machine.step(op));
  }
}

const statuses = new Set<number>(Object.values(GrantStatus));
const errnos = new Set<number>(Object.values(Errno));

/** What of a result no guest of Xen's would ever see; null: nothing. */
function strangeness(op: Op, { result, status = 0, elements = [] }: OpResult): string | null {
  // Not a guest's: how many faults there were.
  if (op.op === 'handle_faults') return null;
  const counts = 'frames' in op && Array.isArray(op.frames) ? op.frames.length : 'gfns' in op ? op.gfns.length : 0;
  if (!errnos.has(result) && !(result >= 0 && result <= counts)) return `${op.op}: result ${result}`;
  const strange = [status, ...elements.map((element) => element.status)].find((of) => !statuses.has(of));
  if (strange !== undefined) return `${op.op}: status ${strange}`;
  // 0 if and only if every element was processed. A continuation has those that are left.
  if (!('elements' in op) || op.op === 'cache_flush') return null;
  const isWhole = elements.length === op.elements.length;
  if ((result === 0 && !isWhole) || elements.length > op.elements.length)
    return `${op.op}: ${elements.length} elements`;
  return null;
}

/** Mistakes in the running machine: of each kind of value one that is of the other kind, or of the model's own. */
const mistakes: readonly (readonly [string, (machine: Hypervisor) => void])[] = [
  [
    'an errno for a status',
    ({ context }) => {
      context.physmap.steal = () => Errno.EBUSY as never;
    },
  ],
  [
    'a status for an errno',
    ({ context }) => {
      context.pages.getTable = () => GrantStatus.bad_handle;
    },
  ],
];

describe('random operations on four domains', () => {
  test.prop([variants, draws], { numRuns: 60 })(
    `${ofState.map(({ id }) => id).join(', ')} hold after each`,
    (variant, sequence) => {
      const machine = mixedMachine('strict-page', { variant });
      run(machine, sequence, () => expect(violations(machine, ofState)).toEqual([]));
    },
  );

  test.prop([variants, draws], { numRuns: 60 })('results are of the ABI', (variant, sequence) => {
    const machine = mixedMachine('strict-page', { variant });
    run(machine, sequence, (op, result) => expect(strangeness(op, result)).toBeNull());
  });

  it.each(mistakes)('a result that is not of the ABI is noticed: %s', (_, plant) => {
    const property = fc.property(draws, (sequence) => {
      const machine = mixedMachine();
      plant(machine);
      run(machine, sequence, (op, result) => {
        if (strangeness(op, result) !== null) throw new Error('noticed');
      });
    });
    expect(fc.check(property, { numRuns: 60, seed: 3, endOnFailure: true }).errorInstance).toMatchObject({
      message: 'noticed',
    });
  });

  it('reaches what is interesting', () => {
    const witnesses = new Witnesses();
    for (const [at, sequence] of fc.sample(draws, { numRuns: 240, seed: 11 }).entries()) {
      const machine = mixedMachine('strict-page', { variant: mixedVariants[at % mixedVariants.length]! });
      witnesses.begin(machine);
      run(machine, sequence, (op, result) => witnesses.see(op, result));
    }
    expect(witnesses.missing()).toEqual([]);
  });
});

const strict = policies.flatMap((policy) =>
  policy.releases
    .filter((release) => policy.promise(release).kind === 'strict')
    .map((release) => ({ policy, release, name: `${policy.name} ${release}` })),
);

describe.each(strict)('policy $name', ({ policy, release }) => {
  test.prop([variants, draws], { numRuns: 12 })(
    `${WITH_REACH.join(', ')} and all others: nothing stale outlives release, whatever the operation`,
    (variant, sequence) => {
      const machine = mixedMachine(policy, { release, variant });
      run(machine, sequence, () => expect(violations(machine)).toEqual([]));
    },
  );
});
