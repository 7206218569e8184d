// Goal: a device whose TLB does not answer is waited for, or given up, as the rules say, and the door says so clearly.
// Method: whole operations and micro-steps on a machine with one such device, under both rules.

import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import {
  type FlushPolicy,
  fingerprint,
  Hypervisor,
  type MachineOptions,
  type Op,
  rollback,
  rulePresets,
  snapshot,
} from '../../hypervisor/index.ts';
import type { UnitIndex, Vcpu } from '../../machine/ids.ts';
import { Progress } from '../../machine/pending.ts';
import { contextEntry, decode } from '../../passthrough/hardware/layouts.ts';
import { entryFrame, invalidationOf, queued as queuedPolicy, Register } from '../../passthrough/index.ts';
import { violations } from '../../verify/index.ts';

const DEVICE = '0000:05:00.0';
const OTHER = '0000:06:00.0';
const CPU = 0 as Vcpu;
const spins = rulePresets.xen4_23;
const disabled = { ...spins, passthrough: { ...spins.passthrough, deviceTlbTimeout: 'disabled' as const } };

/** Guest 1 has the device, guest 2 another one behind the same unit, and both may map what they like. */
function machineWith(rules: NonNullable<MachineOptions['rules']>, options: MachineOptions = {}): Hypervisor {
  const machine = new Hypervisor({
    domains: 4,
    vcpus: 2,
    frames: 128,
    gfns: 16,
    units: [{ capabilities: { deviceTlb: true } }],
    devices: [DEVICE, OTHER].map((device) => ({ device, unit: 0, ats: true })),
    iommu: { ats: true },
    rules,
    ...options,
  });
  machine.step({ op: 'create_domain', domain: 0, kind: 'pv', frames: 2, iommu: true, hardware: true });
  for (const domain of [1, 2])
    machine.step({ op: 'create_domain', domain, kind: 'pv', frames: 4, iommu: true, deviceTables: 'empty' });
  machine.step({ op: 'assign_device', device: DEVICE, domain: 1 });
  machine.step({ op: 'assign_device', device: OTHER, domain: 2 });
  for (const domain of [1, 2]) machine.step(map(machine, domain));
  return machine;
}

const map = (machine: Hypervisor, domain: number): Op => ({
  op: 'dma_map',
  domain,
  dfn: 5,
  frame: machine.control.root.domains[domain]!.ram.first,
  pages: 1,
  access: 'rw',
});
const unmap = (domain: number, vcpu = 0) => ({ op: 'dma_unmap', vcpu, domain, dfn: 5, pages: 1 }) as const;
const silence = (machine: Hypervisor, device = DEVICE, answers = false) =>
  machine.step({ op: 'device_tlb', device, answers });
const may = (machine: Hypervisor, device = DEVICE) =>
  machine.mayTranslate(device, 5).flatMap(({ frame, rights }) => (frame >= 0 && rights !== 0 ? [frame] : []));
/** M3 is about grants, and takes what a DMA API maps for one. */
const broken = (machine: Hypervisor) => violations(machine).filter(({ invariant }) => invariant !== 'M3');
const control = (machine: Hypervisor, device = DEVICE) =>
  machine.control.root.devices.find((one) => one.device === device)!;

describe('the operation', () => {
  test('is refused for a device that there is not, or whose unit knows no device TLBs', () => {
    expect(silence(machineWith('xen4_23'), '0000:09:00.0')).toEqual({ result: -19 });
    expect(silence(machineWith('xen4_23', { units: [{}] }))).toEqual({ result: -95 });
    expect(silence(machineWith('xen4_23'))).toEqual({ result: 0 });
  });

  test('is part of the state, and taken back by its opposite', () => {
    const machine = machineWith('xen4_23');
    const before = fingerprint(machine);
    silence(machine);
    expect(fingerprint(machine)).not.toBe(before);
    silence(machine, DEVICE, true);
    expect(fingerprint(machine)).toBe(before);
  });
});

describe('a driver that waits for ever', () => {
  test('cannot end the operation: the error names unit and device, and the machine is as it was', () => {
    const machine = machineWith('xen4_23');
    silence(machine);
    const before = fingerprint(machine);
    const journal = machine.control.journal.length;
    const message = `vCPU 0 cannot go on: unit 0 waits for the device TLB of ${DEVICE}, which does not answer`;
    expect(() => machine.step(unmap(1))).toThrow(message);
    expect([fingerprint(machine), machine.control.journal.length]).toEqual([before, journal]);
  });

  test('goes on when the device answers again', () => {
    const machine = machineWith('xen4_23');
    silence(machine);
    expect(() => machine.step(unmap(1))).toThrow(TypeError);
    silence(machine, DEVICE, true);
    expect(machine.step(unmap(1))).toEqual({ result: 1 });
    expect(may(machine)).toEqual([]);
  });

  test('stays blocked in micro-steps, after the time-out, too', () => {
    const machine = machineWith('xen4_23');
    silence(machine);
    machine.begin(unmap(1));
    const seen = new Set<Progress>();
    for (let round = 0; round < 40; round += 1) {
      const progress = machine.microStep(CPU);
      seen.add(progress);
      if (progress === Progress.blocked) machine.step({ op: 'hardware', unit: 0 });
    }
    expect(seen.has(Progress.done)).toBe(false);
    expect(machine.microStep(CPU)).toBe(Progress.blocked);
    expect(machine.units[0]!.readLow(Register.FSTS)).toBe(0x40);
    expect(machine.units[0]!.readHigh(Register.IQER)).toBe(0x500);
    expect(() => machine.step(unmap(2, 1))).toThrow(`unit 0 waits for the device TLB of ${DEVICE}`);
  });

  test('is not bothered where nothing is asked of that device', () => {
    const machine = machineWith('xen4_23');
    silence(machine);
    expect(machine.step(unmap(2))).toEqual({ result: 1 });
  });
});

describe('a driver that gives up', () => {
  test('disables ATS of the device, marks it broken and crashes its domain', () => {
    const machine = machineWith(disabled);
    silence(machine);
    const { result, crashed } = machine.step(unmap(1));
    expect([result, crashed]).toEqual([1, [{ domain: 1, reason: `the device TLB of ${DEVICE} did not answer` }]]);
    expect([control(machine).broken, control(machine, OTHER).broken]).toEqual([true, false]);
    expect(machine.control.root.domains[1]!.state).toBe('crashed');
    expect(machine.units[0]!.readLow(Register.FSTS)).toBe(0);
    expect(may(machine), 'what it kept is gone').toEqual([]);
    expect(machine.units[0]!.deviceTlbs!.enabled()).toEqual([0x600]);
    expect(broken(machine)).toEqual([]);
  });

  test('tells it nothing any more, and its next entry says that it may keep nothing', () => {
    const machine = machineWith(disabled);
    silence(machine);
    machine.step(unmap(1));
    const sent: string[] = [];
    machine.units[0]!.observer = {
      taken: (_, w0, w1, w2, w3, byRegister) => sent.push(invalidationOf([w0, w1, w2, w3], byRegister).t),
    };
    expect(machine.step({ op: 'destroy_domain', domain: 1 })).toEqual({ result: 0 });
    expect(sent).not.toContain('dev-iotlb');
    expect(machine.step({ op: 'deassign_device', device: DEVICE })).toEqual({ result: 0 });
    const { frames, driver } = machine.parts;
    const root = driver.rootTable(0 as UnitIndex);
    const table = entryFrame(frames.readWord(root, 20), frames.readWord(root, 21));
    const words = [0, 1, 2, 3].map((word) => frames.readWord(table, word));
    expect(decode(contextEntry, words)).toMatchObject({ present: 1, translationType: 0 });
  });

  test('spares the hardware domain', () => {
    const machine = machineWith(disabled);
    for (const step of [1, 2]) machine.step({ op: 'deassign_device', device: DEVICE, domain: step === 1 ? 1 : 0x7ff1 });
    silence(machine);
    expect(control(machine).owner).toBe(0);
    const granted = machine.control.root.domains[2]!.ram.first;
    machine.step({ op: 'grant_write', domain: 2, ref: 8, flags: 1, grantee: 0, frame: granted });
    const mapped = machine.step({
      op: 'map_grant_ref',
      domain: 0,
      elements: [{ flags: 1, ref: 8, domain: 2, hostAddress: 0 }],
    });
    const { handle, busAddress } = mapped.elements![0]!;
    const done = machine.step({
      op: 'unmap_grant_ref',
      domain: 0,
      elements: [{ handle: handle!, hostAddress: 0, busAddress: busAddress! }],
    });
    expect(done.crashed).toBe(undefined);
    expect([control(machine).broken, machine.control.root.domains[0]!.state]).toEqual([true, 'alive']);
  });

  test('repeats the waits of others that the unit gave up along with it', () => {
    const machine = machineWith(disabled);
    silence(machine);
    const both: readonly [Vcpu, Op & { op: 'dma_unmap' }][] = [
      [0 as Vcpu, unmap(1, 0)],
      [1 as Vcpu, unmap(2, 1)],
    ];
    for (const [, op] of both) machine.begin(op);
    const left = new Set(both.map(([vcpu]) => vcpu));
    for (let round = 0; round < 200 && left.size > 0; round += 1) {
      let moved = false;
      for (const vcpu of left) {
        const progress = machine.microStep(vcpu);
        if (progress === Progress.done) left.delete(vcpu);
        if (progress !== Progress.blocked) moved = true;
      }
      if (!moved) machine.step({ op: 'hardware', unit: 0 });
    }
    expect([...left]).toEqual([]);
    for (const [vcpu] of both) expect(machine.finish(vcpu).result).toBe(1);
    expect([may(machine), may(machine, OTHER)]).toEqual([[], []]);
  });

  test.each<[string, string | FlushPolicy]>([
    ['strict-domain', 'strict-domain'],
    ['queued', queuedPolicy],
    ['xen', 'xen'],
  ])('under the policy %s', (_, policy) => {
    const machine = machineWith(disabled, { policy });
    silence(machine);
    expect(machine.step(unmap(1)).result).toBe(1);
    expect(control(machine).broken).toBe(true);
    expect(broken(machine)).toEqual([]);
  });
});

const op: fc.Arbitrary<(machine: Hypervisor) => Op> = fc.oneof(
  fc.constantFrom(1, 2).map((domain) => (machine: Hypervisor) => map(machine, domain)),
  fc.constantFrom(1, 2).map((domain) => () => unmap(domain)),
  fc.record({ device: fc.constantFrom(DEVICE, OTHER), answers: fc.boolean() }).map((of) => () => ({
    op: 'device_tlb' as const,
    ...of,
  })),
  fc.constant(() => ({ op: 'hardware' as const, unit: 0 })),
  fc.record({ device: fc.constantFrom(DEVICE, OTHER), domain: fc.constantFrom(1, 2) }).map((of) => () => ({
    op: 'assign_device' as const,
    ...of,
  })),
  fc.constantFrom(DEVICE, OTHER).map((device) => () => ({ op: 'deassign_device' as const, device })),
);

test.prop([fc.constantFrom(spins, disabled), fc.array(op, { maxLength: 25 })], { numRuns: 60 })(
  'an operation is done or leaves no trace, whoever answers; and all of it rolls back',
  (rules, ops) => {
    const machine = machineWith(rules);
    const begin = fingerprint(machine);
    const taken = snapshot(machine);
    for (const make of ops) {
      const before = fingerprint(machine);
      try {
        machine.step(make(machine));
      } catch (error) {
        expect(error).toBeInstanceOf(TypeError);
        expect(rules.passthrough.deviceTlbTimeout).toBe('spins');
        expect(fingerprint(machine)).toBe(before);
      }
      expect(broken(machine)).toEqual([]);
    }
    rollback(machine, taken);
    expect(fingerprint(machine)).toBe(begin);
  },
);
