// Goal: D1 to D5 can fail. Method: one mistake at a time planted in a machine's parts; random moves of devices on random
// platforms, with ids of each unit and shared ones, must find it by that invariant's id.

import { fc } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import type { Hypervisor } from '../../../hypervisor/index.ts';
import type { Domid } from '../../../machine/ids.ts';
import { isQuarantine } from '../../../passthrough/index.ts';
import { violations } from '../../../verify/index.ts';
import { sharedDids } from '../../../verify/invariants/domain-id-invariants.ts';
import { type MoveOp, machineOf, moves, platforms } from '../../hypervisor/assignment-platforms.ts';
import { inPieces } from '../../hypervisor/pieces.ts';
import { expectFound } from '../found.ts';

interface Mistake {
  readonly breaks: string;
  readonly mistake: string;
  readonly plant: (machine: Hypervisor) => void;
}

/** Context entries get another did than the one that they should have. */
function plantDid(machine: Hypervisor, wrong: (did: number) => number): void {
  const { contexts } = machine.parts.driver;
  const set = contexts.set.bind(contexts);
  contexts.set = (unit, source, root, did, isPassThrough) => set(unit, source, root, wrong(did), isPassThrough);
}

/** A domain leaves a unit with the first device that it loses there. */
function plantEarlyLeave({ parts }: Hypervisor): void {
  const { driver } = parts;
  const attach = driver.attach.bind(driver);
  driver.attach = (vcpu, domain, unit, device) => {
    const old = driver.contexts.didOf(unit, device % 0x10000);
    const from = old < 0 ? -1 : driver.ids[unit]!.domainOf(old);
    const errno = attach(vcpu, domain, unit, device);
    if (from >= 0 && from !== domain && !isQuarantine(from)) driver.leave(from as Domid, unit);
    return errno;
  };
}

const mistakes: readonly Mistake[] = [
  {
    breaks: 'D1',
    mistake: 'a did is never given back',
    plant({ parts }) {
      for (const ids of parts.driver.ids) ids.release = () => {};
    },
  },
  { breaks: 'D1', mistake: 'a did is given back with the first device that leaves', plant: plantEarlyLeave },
  { breaks: 'D2', mistake: 'all devices go by one did', plant: (machine) => plantDid(machine, () => 1) },
  {
    breaks: 'D2',
    mistake: 'an entry changes and nothing is invalidated by the old did',
    plant({ parts }) {
      parts.driver.flush.requestContextFlush = () => {};
    },
  },
  {
    breaks: 'D3',
    mistake: 'the place that did 0 leaves free stands for a domain (before b111a41acd)',
    plant({ parts }) {
      for (const ids of parts.driver.ids) {
        const [didOf, obtain] = [ids.didOf.bind(ids), ids.obtain.bind(ids)];
        ids.didOf = (domain) => (domain === 1 ? (0 as never) : didOf(domain));
        ids.obtain = (domain) => (domain === 1 ? (0 as never) : obtain(domain));
      }
    },
  },
  {
    breaks: 'D4',
    mistake: 'an entry has the did beside its own',
    plant: (machine) => plantDid(machine, (did) => did + 1),
  },
  {
    breaks: 'D4',
    mistake: 'an entry has a did beyond the last',
    plant: (machine) => plantDid(machine, (did) => did | 64),
  },
  { breaks: 'D5', mistake: 'a unit is forgotten with the first device that leaves', plant: plantEarlyLeave },
  {
    breaks: 'D5',
    mistake: 'a unit is never forgotten',
    plant({ parts }) {
      const { tables } = parts.driver;
      const setUnits = tables.setUnits.bind(tables);
      tables.setUnits = (domain, units) => setUnits(domain, units | tables.units(domain));
    },
  },
];

/** Ids of the invariants that some moves break. */
function brokenBy(machine: Hypervisor, sequence: Parameters<Hypervisor['step']>[0][]): Set<string> {
  const broken = new Set<string>();
  for (const op of sequence) {
    try {
      machine.step(op);
    } catch {
      // A guard of the model's own was faster.
      return broken;
    }
    for (const { invariant } of violations(machine)) broken.add(invariant);
    if (broken.size > 0) return broken;
  }
  return broken;
}

describe.each(['per-unit', 'shared'] as const)('with domain ids %s', (domainIds) => {
  it.each(mistakes)('$breaks finds that $mistake', ({ breaks, plant }) => {
    const property = fc.property(platforms, moves, (platform, sequence) => {
      const machine = machineOf({ ...platform, iommu: { ...platform.iommu, domainIds } });
      plant(machine);
      return !brokenBy(machine, [...sequence]).has(breaks);
    });
    expectFound(fc.check(property, { numRuns: 100, seed: 7, endOnFailure: true }));
  });
});

/** A did is given back as soon as the entry is written, when nothing is invalidated yet. */
function plantEarlyRelease({ parts }: Hypervisor): void {
  const { driver } = parts;
  const detach = driver.detach.bind(driver);
  driver.detach = (vcpu, unit, device) => {
    const old = driver.contexts.didOf(unit, device % 0x10000);
    detach(vcpu, unit, device);
    if (old >= 0) driver.ids[unit]!.release(driver.ids[unit]!.domainOf(old) as Domid);
  };
}

describe('D2 at every step', () => {
  it('finds that a did is given back before the invalidation', () => {
    const machine = machineOf({ hardware: false, unit: { domainIds: 16 }, machine: { domains: 10 } });
    const device = '0000:01:00.0';
    const during = (op: MoveOp) => {
      const found = new Set<string>();
      const look = () => {
        for (const one of sharedDids(machine)) found.add(one);
      };
      expect(inPieces(machine, op, look).result).toBe(0);
      return [...found];
    };
    expect(during({ op: 'assign_device', device, domain: 1 })).toEqual([]);
    plantEarlyRelease(machine);
    expect(during({ op: 'deassign_device', device })).toEqual(['unit 0: did 0 is in use, and nobody has it']);
    // Which nothing shows any more when the operation is over.
    expect(violations(machine)).toEqual([]);
  });
});

describe('D1 compares bitmap and map', () => {
  it.each([
    ['domain of did', 'unit 0: did 3: bitmap and map disagree'],
    ['did of domain', 'unit 0: did 0 is not the one of its domain 0'],
  ])('%s', (name, message) => {
    const machine = machineOf({ unit: { domainIds: 16 }, machine: { domains: 10 } });
    expect(violations(machine)).toEqual([]);
    const { heap } = machine.parts;
    const { base } = heap.segments.find((segment) => segment.name === `unit 0 ${name}`)!;
    heap.write(base + (name === 'domain of did' ? 3 : 0), 6);
    expect(violations(machine)).toContainEqual({ invariant: 'D1', message });
  });
});
