// The properties can fail: each mistake planted here is found by the property that guards against it.

import { fc } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { GNTMAP, GTF } from '../../grant/index.ts';
import { type FlushPolicy, fingerprint, Hypervisor, rollback, snapshot } from '../../hypervisor/index.ts';
import type { Dfn } from '../../machine/frame-number.ts';
import type { Domid } from '../../machine/ids.ts';
import { isRemoval, strictDomain, strictPage } from '../../passthrough/index.ts';
import { opArbitrary, smallMachine, violations } from '../../verify/index.ts';
import { expectFound } from '../verify/found.ts';

const shape = smallMachine('strict-page');

/**
 * Policies that call themselves strict, each with one thing wrong. They release on return: held back until flushed,
 * nothing could be released wrongly, for the ledger believes only what was submitted.
 */
const mistakes: readonly (FlushPolicy & { readonly mistake: string })[] = [
  {
    ...strictPage,
    releases: ['onReturn'],
    mistake: 'does not flush when write access is taken but read access stays',
    change(change, flush) {
      if (change.to !== 'ro') strictPage.change(change, flush);
    },
  },
  {
    ...strictPage,
    releases: ['onReturn'],
    mistake: 'flushes the page beside the one that changed',
    change(change, flush) {
      strictPage.change({ ...change, dfn: (change.dfn + 1) as Dfn }, flush);
    },
  },
  {
    ...strictPage,
    releases: ['onReturn'],
    mistake: 'flushes one domain whatever domain changed',
    change(change, flush) {
      strictPage.change({ ...change, domain: 0 as Domid }, flush);
    },
  },
  {
    ...strictDomain,
    mistake: 'flushes at the end of an operation, but releases before',
    releases: ['onReturn'],
    operationEnd() {},
    change(change, flush) {
      if (!isRemoval(change)) return;
      flush.domain(change.domain);
    },
  },
];

describe('a policy that breaks its promise is refuted', () => {
  it.each(mistakes)('$mistake', (policy) => {
    const outcome = fc.check(
      fc.property(fc.array(opArbitrary(fc, shape), { minLength: 1, maxLength: 60 }), (sequence) => {
        const machine = smallMachine(policy);
        for (const op of sequence) {
          try {
            machine.step(op);
          } catch (error) {
            // A policy whose flushes never cover what was removed fills its queue: found, too.
            if (error instanceof RangeError && /never flushed/.test(error.message)) return false;
            throw error;
          }
          if (violations(machine).some(({ invariant }) => invariant === 'M1' || invariant === 'P1')) return false;
        }
        return true;
      }),
      { numRuns: 500, seed: 7, endOnFailure: true },
    );
    expectFound(outcome);
  });
});

describe('a write past the undo log is noticed', () => {
  it('by the fingerprint after a rollback', () => {
    const machine = smallMachine('strict-page');
    const before = fingerprint(machine);
    const taken = snapshot(machine);
    const frames = machine.parts.heap.segments.find(({ name }) => name === 'frames')!;
    machine.parts.heap.words[frames.base + 1]! += 1;
    rollback(machine, taken);
    expect(fingerprint(machine)).not.toBe(before);
  });
});

describe('M1 sees through an HVM mapper', () => {
  const PAGE = 4096;
  /** Domain 0 is HVM, has a device, and may map ref 8 of domain 1. */
  function hvmScene(policy: string) {
    const machine = new Hypervisor({
      domains: 2,
      frames: 64,
      gfns: 16,
      devices: [{ device: '0000:03:00.0', unit: 0 }],
      caches: { kind: 'adversary', mayEntries: 256 },
      policy,
      release: policy === 'strict-page' ? 'afterFlush' : 'onReturn',
    });
    machine.step({ op: 'create_domain', domain: 0, kind: 'hvm', frames: 2, iommu: true });
    machine.step({ op: 'create_domain', domain: 1, kind: 'pv', frames: 2 });
    machine.step({ op: 'assign_device', device: '0000:03:00.0', domain: 0 });
    const { first } = machine.control.root.domains[1]!.ram;
    machine.step({ op: 'grant_write', domain: 1, ref: 8, flags: GTF.permit_access, grantee: 0, frame: first });
    const map = (gfn: number, flags: number) =>
      machine.step({
        op: 'map_grant_ref',
        domain: 0,
        elements: [{ flags, ref: 8, domain: 1, hostAddress: gfn * PAGE }],
      }).elements![0]!.handle!;
    const unmap = (handle: number, gfn: number) =>
      machine.step({ op: 'unmap_grant_ref', domain: 0, elements: [{ handle, hostAddress: gfn * PAGE }] });
    return { machine, first, map, unmap, broken: () => violations(machine).map(({ invariant }) => invariant) };
  }

  it.each(['never', 'deferred'])('%s leaves a writable entry cached under a read-only pin', (policy) => {
    const { map, unmap, broken } = hvmScene(policy);
    const writable = map(8, GNTMAP.host_map);
    map(9, GNTMAP.host_map | GNTMAP.readonly);
    expect(broken()).toEqual([]);
    unmap(writable, 8);
    expect(broken()).toEqual(['F1', 'M1']);
  });

  it('a device entry that is stronger than the grant', () => {
    const { machine, first, map, broken } = hvmScene('strict-page');
    map(8, GNTMAP.host_map | GNTMAP.readonly);
    expect(broken()).toEqual([]);
    machine.parts.driver.map(0 as never, 0 as Domid, 8 as Dfn, first as never, 3);
    expect(broken()).toEqual(['M1', 'M4']);
  });

  it('two handles on one frame, each unmapped at the address of the other, are as Xen has it', () => {
    const { map, unmap, broken } = hvmScene('strict-page');
    const writable = map(8, GNTMAP.host_map);
    const readable = map(9, GNTMAP.host_map | GNTMAP.readonly);
    expect(unmap(writable, 9).elements).toEqual([{ status: 0 }]);
    expect(broken()).toEqual([]);
    expect(unmap(readable, 8).elements).toEqual([{ status: 0 }]);
    expect(broken()).toEqual([]);
  });
});

describe('the invariants over grants can fail', () => {
  it('G3 notices a pin without a handle, M3 a handle that is not counted', () => {
    const machine = smallMachine('strict-page');
    expect(violations(machine)).toEqual([]);
    const { grants } = machine.parts;
    grants.activate(1 as Domid, 8, grants.pins(1 as Domid, 8) + 1, 0 as Domid, grants.activeFrame(1 as Domid, 8));
    expect(violations(machine).map(({ invariant }) => invariant)).toEqual(['G3', 'G7']);
    const other = smallMachine('strict-page');
    other.parts.grants.countHandle(0 as Domid, 30 as never, false, 1);
    expect(violations(other).map(({ invariant }) => invariant)).toContain('M3');
  });
});
