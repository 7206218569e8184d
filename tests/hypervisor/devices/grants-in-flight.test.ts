// Goal: a device that moves while a grant is mapped or unmapped never reaches more than its owner may, and never less
// when both are done. Method: every cut of one operation's micro-steps, with the other one in between, from end to end;
// M1 at every step, everything at rest.

import { describe, expect, it } from 'vitest';
import { isVcpuOp, type VcpuOp } from '../../../hypervisor/door/vcpu-ops.ts';
import { GNTMAP, GTF, Hypervisor, type Op, Progress } from '../../../hypervisor/index.ts';
import type { Domid, Vcpu } from '../../../machine/ids.ts';
import { invariants, violations } from '../../../verify/index.ts';

const NEAR = '0000:01:00.0';
const FAR = '0000:02:00.0';
const GRANTER = 3;
const M1 = invariants.filter(({ id }) => id === 'M1');

/** Domain 1 has NEAR, and FAR is the hardware domain's; domain 3 grants a page to domain 1, which may have mapped it. */
function scene(policy: string, isMapped: boolean, cachingMode: boolean) {
  const machine = new Hypervisor({
    domains: 4,
    frames: 160,
    gfns: 8,
    vcpus: 2,
    windowPages: 4,
    units: [{ capabilities: { domainIds: 16, cachingMode } }, { capabilities: { domainIds: 64 } }],
    devices: [
      { device: NEAR, unit: 0 },
      { device: FAR, unit: 1 },
    ],
    policy,
    release: 'afterFlush',
  });
  const setUp: Op[] = [
    { op: 'create_domain', domain: 0, kind: 'pv', frames: 2, iommu: true, hardware: true },
    { op: 'create_domain', domain: 1, kind: 'pv', frames: 2, iommu: true },
    { op: 'create_domain', domain: 2, kind: 'pv', frames: 2, iommu: true },
    { op: 'create_domain', domain: GRANTER, kind: 'pv', frames: 2 },
    { op: 'assign_device', device: NEAR, domain: 1 },
  ];
  for (const op of setUp) expect(machine.step(op).result).toBe(0);
  const frame = machine.control.root.domains[GRANTER]!.ram.first;
  machine.step({ op: 'grant_write', domain: GRANTER, ref: 8, flags: GTF.permit_access, grantee: 1, frame });
  if (isMapped) machine.step(MAP);
  return { machine, frame };
}

const MAP: Op = {
  op: 'map_grant_ref',
  domain: 1,
  elements: [{ flags: GNTMAP.device_map, ref: 8, domain: GRANTER }],
};
const unmapOf = (frame: number): Op => ({
  op: 'unmap_grant_ref',
  domain: 1,
  elements: [{ handle: 0, busAddress: frame * 4096 }],
});
const MOVES: readonly (readonly [string, Op])[] = [
  ['the device is taken away', { op: 'deassign_device', vcpu: 1, device: NEAR }],
  ['another comes, behind another unit', { op: 'assign_device', vcpu: 1, device: FAR, domain: 1 }],
  ['the device is removed', { op: 'remove_device', vcpu: 1, device: NEAR }],
  ['its unit is removed', { op: 'remove_unit', vcpu: 1, unit: 0 }],
];

/** On its way the device that comes goes by its new owner's entry, and is still counted as the old one's. */
function isSafe(machine: Hypervisor): void {
  const isOnItsWay = (message: string) => message.startsWith(FAR) && machine.isBusy(1 as Vcpu);
  expect(violations(machine, M1).filter(({ message }) => !isOnItsWay(message))).toEqual([]);
}

function runHardware(machine: Hypervisor): boolean {
  let moved = false;
  for (const unit of machine.units) while (unit.step()) moved = true;
  return moved;
}

/** One micro-step; whether there are more. What it waits for may be the other processor. */
function advance(machine: Hypervisor, vcpu: Vcpu): 'more' | 'stuck' | 'done' {
  const progress = machine.microStep(vcpu);
  isSafe(machine);
  if (progress === Progress.done) return 'done';
  return progress === Progress.more || runHardware(machine) ? 'more' : 'stuck';
}

/** The one operation up to a cut, the other one whole, then the rest of the first. False: the cut is beyond its end. */
function interleave(machine: Hypervisor, first: VcpuOp, second: VcpuOp, cut: number): boolean {
  const [one, two] = [machine.begin(first), machine.begin(second)] as Vcpu[];
  let [of, other]: ReturnType<typeof advance>[] = ['more', 'more'];
  for (let at = 0; at < cut && of !== 'done'; at += 1) of = advance(machine, one!);
  if (of === 'done') {
    machine.finish(one!);
    while (advance(machine, two!) !== 'done');
    machine.finish(two!);
    return false;
  }
  while (of !== 'done' || other !== 'done') {
    if (other !== 'done') other = advance(machine, two!);
    if (other !== 'more' && of !== 'done') of = advance(machine, one!);
    if (of === 'stuck' && other === 'stuck') throw new Error('both wait for one another');
  }
  for (const vcpu of [one!, two!]) expect(machine.finish(vcpu).result).toBe(0);
  return true;
}

describe.each(['xen', 'strict-page', 'queued', 'deferred'])('under policy %s', (policy) => {
  describe.each([false, true])('caching mode %s', (cachingMode) => {
    it.each(MOVES)('a grant is unmapped while %s', (_, move) => {
      for (let cut = 0; ; cut += 1) {
        const { machine, frame } = scene(policy, true, cachingMode);
        const isCut = interleave(machine, unmapOf(frame) as VcpuOp, move as VcpuOp, cut);
        expect(violations(machine)).toEqual([]);
        expect(machine.parts.driver.lookup(1 as Domid, frame as never).rights).toBe(0);
        if (!isCut) break;
      }
    });

    it.each(MOVES)('a grant is mapped while %s', (_, move) => {
      for (let cut = 0; ; cut += 1) {
        const { machine, frame } = scene(policy, false, cachingMode);
        const isCut = interleave(machine, MAP as VcpuOp, move as VcpuOp, cut);
        expect(violations(machine)).toEqual([]);
        expect(machine.parts.driver.lookup(1 as Domid, frame as never).rights).toBe(3);
        // U1: who came meanwhile reaches it too.
        const isOwn = (device: string) =>
          machine.control.root.devices.some((of) => of.device === device && of.owner === 1);
        for (const device of [NEAR, FAR].filter(isOwn)) {
          const all = machine.mayTranslate(device, frame).map((may) => [may.frame, may.rights]);
          expect(all).toEqual([[frame, 3]]);
        }
        if (!isCut) break;
      }
    });
  });
});

it('the operations are those that run in micro-steps', () => {
  expect([MAP, unmapOf(0), ...MOVES.map(([, op]) => op)].every(isVcpuOp)).toBe(true);
});
