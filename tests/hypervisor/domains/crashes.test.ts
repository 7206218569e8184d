// Who is crashed by what: the result of an operation names the domains that it crashed, whoever called, each once.

import { describe, expect, it } from 'vitest';
import { GrantStatus, GTF } from '../../../grant/index.ts';
import { fingerprint, fork, type Hypervisor, Progress, rollback, snapshot } from '../../../hypervisor/index.ts';
import type { Domid, Vcpu } from '../../../machine/ids.ts';
import { A, B, DEV, GuestScene, H, HOST, page } from '../../grant/guest-scene.ts';

const [V0, V1] = [0 as Vcpu, 1 as Vcpu];
const C = 5;
/** Frames of 2 MiB and more apart from all that is in use: a device entry for one takes a new table. */
const FAR: Readonly<Record<number, number>> = { [A]: 1024, [C]: 1536 };
const reasonOf = (domain: number) => `device tables: ENOMEM at dfn ${FAR[domain]}`;
const stateOf = (machine: Hypervisor, domain: number) => machine.control.root.domains[domain]?.state ?? 'gone';

/** Domains 1 and 5 grant domain 2 frames that their devices cannot reach any more: a writable map crashes them. */
function withFatalGrants(): GuestScene {
  const s = new GuestScene({ frames: 2560, vcpus: 2 });
  s.do({ op: 'create_domain', domain: C, kind: 'pv', frames: 8, iommu: true });
  for (const domain of [A, C]) {
    s.do({ op: 'increase_reservation', domain, gfns: [0], allocate: [FAR[domain]!] });
    s.grant(9, { by: domain, grantee: B, frame: FAR[domain]! });
  }
  while (s.machine.parts.frames.allocate(4 as Domid) >= 0);
  return s;
}

/** Domain 2 maps the fatal grants of others. */
const mapOf = (granters: readonly number[], vcpu = 0) =>
  ({
    op: 'map_grant_ref',
    vcpu,
    domain: B,
    elements: granters.map((domain, at) => ({ flags: HOST, ref: 9, domain, hostAddress: page(at) })),
  }) as const;

/** Micro-steps until a domain is no longer alive. */
function untilCrashed(machine: Hypervisor, vcpu: Vcpu, domain: number): void {
  while (stateOf(machine, domain) === 'alive') machine.microStep(vcpu);
}

function toItsEnd(machine: Hypervisor, vcpu: Vcpu) {
  while (machine.microStep(vcpu) !== Progress.done) for (const unit of machine.units) while (unit.step());
  return machine.finish(vcpu);
}

/** A mapping of domain 1 whose granter is gone. */
function withOrphan(): GuestScene {
  const s = new GuestScene({ vcpus: 2 });
  s.grant(8);
  s.map(HOST);
  s.do({ op: 'update_va_mapping', domain: A, address: page(0), entry: 0 });
  s.do({ op: 'destroy_domain', domain: B });
  return s;
}
const unmapOrphan = { op: 'unmap_grant_ref', domain: A, elements: [{ handle: 0, hostAddress: page(0) }] } as const;

describe('a result names', () => {
  it('the granter that a map crashed', () => {
    const s = withFatalGrants();
    const result = s.step(mapOf([A]));
    expect(result.elements).toEqual([{ status: GrantStatus.general_error }]);
    expect(result.crashed).toEqual([{ domain: A, reason: reasonOf(A) }]);
    expect([stateOf(s.machine, A), stateOf(s.machine, B)]).toEqual(['crashed', 'alive']);
  });

  it('all that one batch crashed, in their order', () => {
    const s = withFatalGrants();
    const crashed = [C, A].map((domain) => ({ domain, reason: reasonOf(domain) }));
    expect(s.step(mapOf([C, A, C])).crashed).toEqual(crashed);
  });

  it('the target of a transfer', () => {
    const s = new GuestScene();
    s.grant(9, { grantee: H });
    s.do({ op: 'map_grant_ref', domain: H, elements: [{ hostAddress: 0x14000, flags: HOST, ref: 9, domain: B }] });
    s.grant(8, { by: H, flags: GTF.accept_transfer, grantee: A, frame: 0x14 });
    const result = s.step({ op: 'transfer', domain: A, elements: [{ frame: s.frame(A), domain: H, ref: 8 }] });
    expect(result.crashed).toEqual([{ domain: H, reason: 'mapped over the grant at gfn 20' }]);
  });

  it('the mapper that ends the mapping of a granter that is gone', () => {
    const s = withOrphan();
    expect(s.step(unmapOrphan).crashed).toEqual([{ domain: A, reason: 'handle 0 is of a domain that is gone' }]);
  });

  it('nobody who was crashed before, by another operation or by an earlier element', () => {
    const s = withFatalGrants();
    s.step(mapOf([A]));
    for (const op of [mapOf([A]), { op: 'tick', nowUs: 1 }, { op: 'destroy_domain', domain: A }] as const)
      expect(s.step(op).crashed).toBeUndefined();
  });
});

describe('operations in flight', () => {
  it('each name what their own micro-steps did', () => {
    const s = withFatalGrants();
    const { machine } = s;
    machine.begin(mapOf([A]));
    // Crashed in the middle of an operation of its own, by another's.
    machine.begin({ op: 'unmap_grant_ref', vcpu: 1, domain: A, elements: [{ handle: 3 }] });
    untilCrashed(machine, V0, A);
    expect(toItsEnd(machine, V1)).toEqual({ result: 0, elements: [{ status: GrantStatus.bad_handle }] });
    machine.begin(mapOf([C], 1));
    untilCrashed(machine, V1, C);
    expect(toItsEnd(machine, V0).crashed).toEqual([{ domain: A, reason: reasonOf(A) }]);
    expect(toItsEnd(machine, V1).crashed).toEqual([{ domain: C, reason: reasonOf(C) }]);
    expect(machine.control.root.crashes).toEqual([]);
  });

  it('name a domain that was destroyed, and made again, before they were over', () => {
    const { machine } = withFatalGrants();
    machine.begin(mapOf([A]));
    untilCrashed(machine, V0, A);
    expect(machine.step({ op: 'destroy_domain', vcpu: 1, domain: A })).toEqual({ result: 0 });
    expect(machine.step({ op: 'create_domain', domain: A, kind: 'pv', frames: 1 })).toEqual({ result: 0 });
    expect(toItsEnd(machine, V0).crashed).toEqual([{ domain: A, reason: reasonOf(A) }]);
    expect(stateOf(machine, A)).toBe('alive');
  });

  it('do not crash a domain that is dying', () => {
    const { machine } = withOrphan();
    machine.begin(unmapOrphan);
    machine.begin({ op: 'destroy_domain', vcpu: 1, domain: A });
    expect(toItsEnd(machine, V0).crashed).toBeUndefined();
    expect(stateOf(machine, A)).toBe('dying');
    expect(toItsEnd(machine, V1)).toEqual({ result: 0 });
    expect(stateOf(machine, A)).toBe('gone');
  });

  it('have nothing to do with what is done in one piece meanwhile', () => {
    const { machine } = withFatalGrants();
    machine.begin(mapOf([A]));
    untilCrashed(machine, V0, A);
    const [unit] = machine.units;
    // Whatever it is that such an operation crashes, and in whose name: here an onlooker of the unit's does it.
    unit!.observer = { taken: () => machine.context.grants.crash(V0, H as Domid, 'for a test') };
    machine.begin({ op: 'deassign_device', vcpu: 1, device: DEV });
    while (machine.microStep(V1) !== Progress.blocked);
    const results = [1, 2, 3].map(() => machine.step({ op: 'hardware', unit: 0 }));
    expect(results.flatMap(({ crashed = [] }) => crashed)).toEqual([{ domain: H, reason: 'for a test' }]);
    expect(toItsEnd(machine, V0).crashed).toEqual([{ domain: A, reason: reasonOf(A) }]);
  });

  it('name it again after a rollback, and in a fork', () => {
    const { machine } = withFatalGrants();
    const before = [snapshot(machine), fingerprint(machine)] as const;
    machine.begin(mapOf([A]));
    untilCrashed(machine, V0, A);
    const between = snapshot(machine);
    const twin = fork(machine);
    const end = () => [toItsEnd(machine, V0), fingerprint(machine), machine.control.journal.length];
    const first = end();
    expect(first[0]).toMatchObject({ crashed: [{ domain: A, reason: reasonOf(A) }] });
    rollback(machine, between);
    expect(end()).toEqual(first);
    expect([toItsEnd(twin, V0), fingerprint(twin), twin.control.journal.length]).toEqual(first);
    rollback(machine, before[0]);
    expect([fingerprint(machine), stateOf(machine, A)]).toEqual([before[1], 'alive']);
    expect(machine.step({ op: 'tick', nowUs: 1 }).crashed).toBeUndefined();
  });

  it('end in the same state in pieces as in one', () => {
    const [whole, pieces] = [withFatalGrants(), withFatalGrants()];
    expect(pieces.inPieces(mapOf([C, A]), () => {})).toEqual(whole.step(mapOf([C, A])));
    expect(pieces.fingerprint).toBe(whole.fingerprint);
  });
});
