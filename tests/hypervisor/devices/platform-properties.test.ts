// Goal: whatever becomes of devices, on whatever platform, they reach what their owners may, and nothing else; entries,
// dids, regions and tables follow. Method: random operations on devices, grants and domains, on one to four units of
// random capabilities, with bridges, phantom functions, hidden devices, reserved regions; all invariants after each
// operation, and those that hold at every step at every micro-step.

import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { isGuest } from '../../../hypervisor/devices/owners.ts';
import { isVcpuOp, type VcpuOp } from '../../../hypervisor/door/vcpu-ops.ts';
import { fingerprint, type Hypervisor, type Op, Progress } from '../../../hypervisor/index.ts';
import type { Vcpu } from '../../../machine/ids.ts';
import { type Draw, drawArbitrary, mixedMachine, opOf, platformArbitrary, violations } from '../../../verify/index.ts';
import { freedTables, missedRegions } from '../../../verify/invariants/assignment-invariants.ts';
import { sharedDids } from '../../../verify/invariants/domain-id-invariants.ts';
import { inPieces } from '../pieces.ts';

const platforms = platformArbitrary(fc);
const draws = fc.array(drawArbitrary(fc, { about: 'devices' }), { minLength: 1, maxLength: 30, size: 'max' });
/** Strict with the release `afterFlush`. */
const policies = fc.constantFrom('xen', 'strict-page', 'strict-domain', 'queued', 'deferred');

/** A7 and A10, of one operation: a broken device goes to no guest, and guests get devices from no guest. */
function wrongMoves(before: Hypervisor['control']['root'], machine: Hypervisor, op: Op): string[] {
  return machine.control.root.devices.flatMap(({ device, owner }, at) => {
    const old = before.devices[at]!;
    if (old.owner === owner || !isGuest(machine.control, owner)) return [];
    const wrong: string[] = [];
    if (old.broken) wrong.push(`A7: broken ${device} went to domain ${owner}`);
    if (isGuest(machine.control, old.owner)) wrong.push(`A10: ${device} went from guest to guest by ${op.op}`);
    return wrong;
  });
}

describe('random operations on devices, on random platforms', () => {
  test.prop([platforms, policies, draws], { numRuns: 20 })(
    'all invariants hold after each (A1 to A7, D1 to D5, F1, F6, M1, M5, W3 above all)',
    (platform, policy, sequence) => {
      const machine = mixedMachine(policy, { machine: platform, release: 'afterFlush' });
      expect(violations(machine)).toEqual([]);
      for (const draw of sequence) {
        const op = opOf(machine, draw);
        const before = machine.control.root;
        machine.step(op);
        expect({ op, broken: [...violations(machine), ...wrongMoves(before, machine, op)] }).toEqual({
          op,
          broken: [],
        });
      }
    },
  );

  test.prop([platforms, draws], { numRuns: 15 })(
    'end alike, whole or in micro-steps; A5, A6 and D2 hold at each of these',
    (platform, sequence) => {
      const machine = mixedMachine('xen', { machine: platform });
      const twin = mixedMachine('xen', { machine: platform });
      for (const draw of sequence) {
        const op = opOf(machine, draw);
        // A device that is taken out of the machine misses everything.
        const missed = () => (op.op.startsWith('remove') ? [] : missedRegions(twin));
        const wrong = () => [...missed(), ...freedTables(twin), ...sharedDids(twin)];
        const told = inPieces(twin, op, () => expect({ op, wrong: wrong() }).toEqual({ op, wrong: [] }));
        expect(told).toEqual(machine.step(op));
        expect(fingerprint(twin)).toBe(fingerprint(machine));
      }
    },
  );

  test.prop([platforms, draws, fc.array(fc.nat({ max: 99 }), { minLength: 20, maxLength: 120 })], { numRuns: 30 })(
    'hold with grants in flight: two processors and the units take turns',
    (platform, sequence, choices) => {
      const machine = mixedMachine('xen', { machine: platform });
      const waiting = [...sequence];
      for (const choice of choices) turn(machine, waiting, choice);
      finishAll(machine);
      expect(violations(machine)).toEqual([]);
    },
  );

  it('reach what is interesting', () => {
    const seen = new Map<string, number>();
    const note = (what: string) => seen.set(what, (seen.get(what) ?? 0) + 1);
    const both = fc.sample(fc.tuple(platforms, draws), { numRuns: 100, seed: 5 });
    for (const [platform, sequence] of both) {
      const machine = mixedMachine('xen', { machine: platform });
      for (const draw of sequence) run(machine, draw, note);
    }
    const wanted = [
      ...['assign_device', 'deassign_device', 'remove_device', 'add_device', 'remove_unit'].map((op) => `${op} 0`),
      ...[-1, -16, -19, -22].map((errno) => `assign_device ${errno}`),
      'remove_device -16',
      'a device in quarantine by order',
      'a region counted twice',
      'a fault counted',
      'a grant mapped for devices behind two units',
    ];
    expect(wanted.filter((what) => !seen.has(what))).toEqual([]);
  });
});

/** One draw, and what is interesting of what it came to. */
function run(machine: Hypervisor, draw: Draw, note: (what: string) => void): void {
  const op = opOf(machine, draw);
  const { result } = machine.step(op);
  note(`${op.op} ${Math.min(result, 0)}`);
  const { devices, domains } = machine.control.root;
  if (devices.some(({ quarantine }) => quarantine)) note('a device in quarantine by order');
  if (devices.some(({ faults }) => faults.count > 0)) note('a fault counted');
  if (domains.some((domain) => domain?.regions.some(({ count }) => count > 1))) note('a region counted twice');
  const isWide = (domain: number) => {
    const units = machine.parts.driver.tables.units(domain as never);
    return (units & (units - 1)) !== 0;
  };
  if (op.op === 'map_grant_ref' && result === 0 && isWide(op.domain))
    note('a grant mapped for devices behind two units');
}

/** One step of somebody: a processor in the middle of something, a new operation, or a unit. */
function turn(machine: Hypervisor, waiting: Draw[], choice: number): void {
  const vcpu = (choice % 2) as Vcpu;
  if (choice >= 90) return void machine.units[choice % machine.units.length]!.step();
  if (machine.isBusy(vcpu)) {
    if (machine.microStep(vcpu) === Progress.done) machine.finish(vcpu);
    return;
  }
  const draw = waiting.shift();
  if (!draw) return;
  const op = opOf(machine, draw);
  if (!isVcpuOp(op)) return void machine.step(op);
  machine.begin({ ...op, vcpu } as VcpuOp);
}

/** Both processors go on to the end of what they are in: when one waits for the other, that comes first. */
function finishAll(machine: Hypervisor): void {
  const busy = () => ([0, 1] as Vcpu[]).filter((vcpu) => machine.isBusy(vcpu));
  for (let [vcpu] = busy(); vcpu !== undefined; ) {
    const progress = machine.microStep(vcpu);
    if (progress === Progress.done) machine.finish(vcpu);
    let moved = progress !== Progress.blocked;
    for (const unit of moved ? [] : machine.units) while (unit.step()) moved = true;
    const left = busy();
    vcpu = moved && left.includes(vcpu) ? vcpu : (left.find((other) => other !== vcpu) ?? left[0]);
  }
}
