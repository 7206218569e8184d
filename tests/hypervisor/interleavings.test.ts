// Two virtual CPUs, their micro-steps in any order: what an operation promises at its return holds for each of them,
// whatever the other one did meanwhile.

import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { GNTMAP, GTF } from '../../grant/index.ts';
import {
  fingerprint,
  Hypervisor,
  type Op,
  Progress,
  PV_WINDOW_BASE,
  policies,
  type UnitDescription,
} from '../../hypervisor/index.ts';
import type { Domid, Vcpu } from '../../machine/ids.ts';
import { violations } from '../../verify/index.ts';

const DEVICE = '0000:03:00.0';
type VcpuOp = Parameters<Hypervisor['begin']>[0];

/** Domain 0 has a device and maps two frames of domain 1, under refs 8 and 9. */
function scene(policy: string, unit: UnitDescription = {}): Hypervisor {
  const machine = new Hypervisor({
    domains: 2,
    frames: 64,
    gfns: 4,
    vcpus: 2,
    windowPages: 4,
    grants: { maptrackFrames: 2 },
    units: [unit],
    devices: [{ device: DEVICE, unit: 0 }],
    caches: { kind: 'adversary', mayEntries: 256 },
    policy,
    release: 'afterFlush',
  });
  machine.step({ op: 'create_domain', domain: 0, kind: 'pv', frames: 2, iommu: true });
  machine.step({ op: 'create_domain', domain: 1, kind: 'pv', frames: 2 });
  machine.step({ op: 'assign_device', device: DEVICE, domain: 0 });
  const { first } = machine.control.root.domains[1]!.ram;
  for (const at of [0, 1]) {
    const grant = { domain: 1, ref: 8 + at, flags: GTF.permit_access, grantee: 0, frame: first + at };
    machine.step({ op: 'grant_write', ...grant });
    const { elements } = machine.step({ op: 'map_grant_ref', vcpu: at, domain: 0, elements: [element(at)] });
    expect(elements).toMatchObject([{ status: 0 }]);
  }
  return machine;
}

const element = (at: number) => ({
  flags: GNTMAP.host_map,
  ref: 8 + at,
  domain: 1,
  hostAddress: PV_WINDOW_BASE + at * 4096,
});
const unmap = (vcpu: number, handle: number): VcpuOp => ({
  op: 'unmap_grant_ref',
  vcpu,
  domain: 0,
  elements: [{ handle, hostAddress: PV_WINDOW_BASE + vcpu * 4096 }],
});

/** Usage bits of domain 1's refs 8 and 9. */
const usage = (machine: Hypervisor) =>
  [8, 9].map((ref) => machine.parts.grants.sharedFlags(1 as Domid, ref) & (GTF.reading | GTF.writing));

/** Runs both operations, `schedule` saying who goes next; then each to its end. Calls `returned` as each returns. */
function run(
  machine: Hypervisor,
  ops: readonly VcpuOp[],
  schedule: readonly number[],
  returned: (vcpu: number) => void,
): void {
  for (const op of ops) machine.begin(op);
  const turn = (who: number) => {
    if (who === 2) machine.units[0]!.step();
    else if (machine.isBusy(who as Vcpu) && machine.microStep(who as Vcpu) === Progress.done) {
      machine.finish(who as Vcpu);
      returned(who);
    }
  };
  schedule.forEach(turn);
  for (let round = 0; round < 200; round += 1) [0, 1, 2].forEach(turn);
  expect([machine.isBusy(0 as Vcpu), machine.isBusy(1 as Vcpu)]).toEqual([false, false]);
}

const schedules = fc.array(fc.nat({ max: 2 }), { maxLength: 60 });

describe.each(policies.filter(({ name }) => name !== 'never' && name !== 'deferred'))('policy $name', ({ name }) => {
  test.prop([schedules], { numRuns: 40 })(
    'an unmap has given up pins and usage bits when it returns, and nothing stale is left',
    (schedule) => {
      const machine = scene(name);
      const handles = [0, 1].map((at) => machine.parts.grants.maptrack(0 as Domid).live()[at]!);
      run(machine, [unmap(0, handles[0]!), unmap(1, handles[1]!)], schedule, (vcpu) => {
        expect(usage(machine)[vcpu]).toBe(0);
        expect(violations(machine).filter(({ invariant }) => invariant === 'M1')).toEqual([]);
      });
      expect(usage(machine)).toEqual([0, 0]);
      expect(violations(machine)).toEqual([]);
    },
  );
});

describe('an operation that another one stands in the way of', () => {
  it('cannot be stepped through, says who is in the way, and goes on once that one has', () => {
    const machine = scene('strict-page');
    const handles = machine.parts.grants.maptrack(0 as Domid).live();
    machine.begin(unmap(0, handles[0]!));
    while (machine.parts.locks.holder(0) !== 0) machine.microStep(0 as Vcpu);
    const other: Op = unmap(1, handles[1]!);
    expect(() => machine.step(other)).toThrow(/vCPU 1 cannot go on: vCPU 0 holds a lock/);
    expect(machine.isBusy(1 as Vcpu)).toBe(true);
    run(machine, [], [], () => {});
    expect(usage(machine)).toEqual([0, 0]);
  });
});

describe('a translated access', () => {
  it('is held under the did that it went through, also when another answer was chosen', () => {
    const machine = scene('queued');
    const { first } = machine.control.root.domains[1]!.ram;
    const handles = machine.parts.grants.maptrack(0 as Domid).live();
    machine.begin(unmap(0, handles[0]!));
    const stale = () =>
      machine.mayTranslate(DEVICE, first).findIndex(({ frame, current }) => frame === first && !current);
    while (stale() < 0) machine.microStep(0 as Vcpu);
    const access = { device: DEVICE, address: first * 4096, access: 'write' as const, choose: stale(), value: 7 };
    expect(machine.step({ op: 'dma_translate', ...access }).dma).toMatchObject({ frame: first });
    const did = machine.parts.driver.ids[0]!.didOf(0 as Domid);
    expect(machine.parts.dma.all().map((held) => held.did)).toEqual([did]);
    // The unmap cannot be over before the access is: its invalidation drains.
    for (let round = 0; round < 50; round += 1) {
      machine.units[0]!.step();
      expect(machine.microStep(0 as Vcpu)).not.toBe(Progress.done);
    }
    expect(machine.step({ op: 'dma_perform', slot: 0 }).dma).toEqual({ frame: first });
    run(machine, [], [], () => {});
    expect(machine.parts.frames.readWord(first, 0)).toBe(7);
  });
});

describe('a device that goes while another CPU is in the middle of an unmap', () => {
  it('takes with it what was not flushed, so that the frame can be mapped again', () => {
    const machine = scene('deferred');
    const handles = machine.parts.grants.maptrack(0 as Domid).live();
    machine.begin(unmap(0, handles[0]!));
    const { ledger } = machine.parts.driver.flush;
    while (ledger.size(0) === 0) machine.microStep(0 as Vcpu);
    expect(machine.step({ op: 'deassign_device', vcpu: 1, device: DEVICE }).result).toBe(0);
    run(machine, [], [], () => {});
    expect(ledger.size(0)).toBe(0);
    expect(usage(machine)[0]).toBe(0);
    const again = machine.step({ op: 'map_grant_ref', vcpu: 1, domain: 0, elements: [element(0)] });
    expect(again.elements).toMatchObject([{ status: 0 }]);
    expect(violations(machine)).toEqual([]);
  });
});

describe('a flush by one CPU', () => {
  it('ends what was held back on another one that is idle', () => {
    const machine = scene('deferred');
    const handles = machine.parts.grants.maptrack(0 as Domid).live();
    machine.step(unmap(0, handles[0]!));
    machine.step({ op: 'tick', vcpu: 1, nowUs: 5000 });
    machine.step(unmap(1, handles[1]!));
    expect(usage(machine)).toEqual([GTF.reading | GTF.writing, GTF.reading | GTF.writing]);
    machine.step({ op: 'tick', vcpu: 0, nowUs: 10_000 });
    expect(usage(machine)).toEqual([0, 0]);
    expect(violations(machine)).toEqual([]);
  });
});

describe('a micro-step that is blocked', () => {
  it.each([true, false])('changes nothing, by queue (%s) or registers', (queuedInvalidation) => {
    const machine = scene('deferred', { capabilities: { queuedInvalidation } });
    const handles = machine.parts.grants.maptrack(0 as Domid).live();
    machine.step(unmap(0, handles[0]!));
    const [only] = machine.units;
    // Somebody else's command keeps the registers busy.
    if (!queuedInvalidation) only!.writeRegister(only!.iotlbRegister, 0, 0x90000000);
    // The removal is pending, so the map must have it flushed first.
    machine.begin({ op: 'map_grant_ref', vcpu: 0, domain: 0, elements: [element(0)] });
    let blocked = 0;
    for (let turn = 0; turn < 60 && machine.isBusy(0 as Vcpu); turn += 1) {
      const before = fingerprint(machine);
      const progress = machine.microStep(0 as Vcpu);
      if (progress === Progress.done) machine.finish(0 as Vcpu);
      if (progress !== Progress.blocked) continue;
      blocked += 1;
      expect(fingerprint(machine)).toBe(before);
      machine.units[0]!.step();
    }
    expect(machine.isBusy(0 as Vcpu)).toBe(false);
    expect(blocked).toBeGreaterThan(0);
  });
});
