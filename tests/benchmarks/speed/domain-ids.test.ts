// Goal: the figures of the bench `domain-ids` are what the patch of 2009 claims, and what whole hypercalls give.
// Method: small platforms; the driver by itself, as in the bench, and assign_device through the door.

import { describe, expect, test } from 'vitest';
import { guestsUntilBusy } from '../../../benchmarks/speed/domain-ids.bench.ts';
import { Hypervisor } from '../../../hypervisor/index.ts';
import type { DomainIdSpaces } from '../../../passthrough/index.ts';

const DIDS = 16;
/** Every unit has its own PCI segment, with more functions than dids. */
const FUNCTIONS = DIDS + 2;
const device = (unit: number, at: number) => `000${unit}:01:${(at >>> 3).toString(16).padStart(2, '0')}.${at & 7}`;

/** Guests that get a function through assign_device, the units in turn, until the first -EBUSY. */
function guestsByHypercall(units: number, domainIds: DomainIdSpaces): number {
  const all = Array.from({ length: units }, (_, unit) => unit);
  const machine = new Hypervisor({
    domains: units * DIDS + 2,
    frames: 1024,
    gfns: 0,
    windowPages: 0,
    units: all.map(() => ({ capabilities: { domainIds: DIDS } })),
    devices: all.flatMap((unit) => Array.from({ length: FUNCTIONS }, (_, at) => ({ device: device(unit, at), unit }))),
    caches: { kind: 'lru' },
    iommu: { domainIds },
  });
  const create = { op: 'create_domain', kind: 'hvm', frames: 0, iommu: true, deviceTables: 'empty' } as const;
  expect(machine.step({ ...create, domain: 0, kind: 'pv', hardware: true }).result).toBe(0);
  for (let guest = 0; ; guest += 1) {
    expect(machine.step({ ...create, domain: guest + 1 }).result).toBe(0);
    const given = device(guest % units, Math.floor(guest / units));
    const { result } = machine.step({ op: 'assign_device', device: given, domain: guest + 1 });
    if (result === -16) return guest;
    expect(result).toBe(0);
  }
}

describe('guests that can be given a device, the hardware domain having one did of each space', () => {
  test.each([1, 2, 4])('%i units: NR_DID with shared ids, N times that with each unit’s own', (units) => {
    const guests = (spaces: DomainIdSpaces) => guestsUntilBusy(units, DIDS, spaces, 'one');
    expect([guests('shared'), guests('per-unit')]).toEqual([DIDS - 1, units * (DIDS - 1)]);
    expect([guestsByHypercall(units, 'shared'), guestsByHypercall(units, 'per-unit')]).toEqual([
      DIDS - 1,
      units * (DIDS - 1),
    ]);
  });

  test('it is all the same for guests with devices behind every unit', () => {
    const guests = (spaces: DomainIdSpaces) => guestsUntilBusy(4, DIDS, spaces, 'each');
    expect([guests('shared'), guests('per-unit')]).toEqual([DIDS - 1, DIDS - 1]);
  });
});
