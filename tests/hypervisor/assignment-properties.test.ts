// Goal: whatever devices do between domains, each context entry leads where its owner says, under a did of the owner's.
// Method: random assignments of six devices (two behind one bridge) between three guests, on machines of every kind;
// the tables read back entry by entry.

import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { fingerprint, type Hypervisor, type Op, Progress, rollback, snapshot } from '../../hypervisor/index.ts';
import type { Domid, UnitIndex } from '../../machine/ids.ts';
import { isQuarantine, quarantineDomid } from '../../passthrough/index.ts';
import { violations } from '../../verify/index.ts';
import { AssignmentMachine, type AssignmentOptions, CPU, QUARANTINE } from './assignment-machine.ts';

/** Domain 3 has no device tables. */
const GUESTS = [1, 2, 4] as const;
const DEVICES = [
  { device: '0000:00:05.0', unit: 0, type: 'pci-endpoint' },
  { device: '0000:00:06.0', unit: 0, type: 'pci-endpoint' },
  { device: '0000:01:00.0', unit: 0, type: 'endpoint', ats: true },
  { device: '0000:03:00.0', unit: 0, type: 'pcie-to-pci-bridge', secondary: 4, subordinate: 4 },
  { device: '0000:04:01.0', unit: 0, type: 'pci-endpoint' },
  { device: '0000:04:02.0', unit: 0, type: 'pci-endpoint' },
  { device: '0000:07:00.0', unit: 1, type: 'endpoint' },
] as const;
const MOVABLE = DEVICES.filter(({ type }) => type !== 'pcie-to-pci-bridge').map(({ device }) => device);

type MoveOp = Extract<Op, { op: 'assign_device' | 'deassign_device' }>;
const device = fc.constantFrom(...MOVABLE);
const move: fc.Arbitrary<MoveOp> = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({ op: fc.constant('assign_device' as const), device, domain: fc.nat({ max: 4 }) }),
  },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('deassign_device' as const), device }) },
  {
    weight: 1,
    arbitrary: fc.record({
      op: fc.constant('deassign_device' as const),
      device,
      domain: fc.constantFrom(...GUESTS, QUARANTINE),
    }),
  },
);
const moves = fc.array(move, { minLength: 1, maxLength: 20 });
const shapes: fc.Arbitrary<AssignmentOptions> = fc
  .record({
    hardware: fc.boolean(),
    cachingMode: fc.boolean(),
    domainIds: fc.constantFrom(16, 65536),
    quarantine: fc.constantFrom('none' as const, 'basic' as const, 'scratch' as const),
    queuedInvalidation: fc.boolean(),
    ats: fc.boolean(),
  })
  .map(({ hardware, cachingMode, domainIds, quarantine, queuedInvalidation, ats }) => ({
    hardware,
    iommu: { quarantine, queuedInvalidation, ats },
    machine: {
      devices: DEVICES,
      units: [{ capabilities: { cachingMode, domainIds, deviceTlb: true } }, { capabilities: { cachingMode } }],
    },
  }));

function machineOf(options: AssignmentOptions): Hypervisor {
  const { machine } = new AssignmentMachine(options);
  machine.step({ op: 'create_domain', domain: 4, kind: 'pv', frames: 1, iommu: true });
  return machine;
}

/** The domid that an owner's entries go by; -1 when it has none. */
function expectedDomain(machine: Hypervisor, index: number): number {
  const { owner } = machine.control.root.devices[index]!;
  if (owner === null) return -1;
  if (owner !== QUARANTINE) return owner;
  const { endpointIndex } = machine.parts.functions[index]!;
  return machine.config.iommu.quarantine === 'scratch' ? quarantineDomid(endpointIndex) : -1;
}

/** Words of a requester's context entry, found from the root table by hand. */
function contextWords(machine: Hypervisor, unit: number, source: number): number[] {
  const { frames, driver } = machine.parts;
  const table = frames.readWord(driver.rootTable(unit as UnitIndex), (source >>> 8) * 4);
  return [0, 1, 2, 3].map((word) =>
    (table & 1) === 0 ? 0 : frames.readWord(table >>> 12, (source & 0xff) * 4 + word),
  );
}

/** The domid that an entry leads to, by its did; -1 when it is not present. Its table must be that domain's. */
function entryDomain(machine: Hypervisor, unit: number, source: number): number {
  const { driver } = machine.parts;
  const words = contextWords(machine, unit, source);
  if ((words[0]! & 1) === 0) return -1;
  const domain = driver.ids[unit]!.domainOf((words[2]! >>> 8) & 0xffff);
  const root = isQuarantine(domain) ? driver.quarantine.root(domain - 0x8000) : driver.tables.root(domain as Domid);
  expect({ domain, table: words[0]! >>> 12 }).toEqual({ domain, table: root });
  return domain;
}

function checkEntries(machine: Hypervisor): void {
  const { functions } = machine.parts;
  const expected = functions.map((_, index) => expectedDomain(machine, index));
  for (const [index, { unit, requesters }] of functions.entries()) {
    const [own, ...shared] = requesters.map((requester) => entryDomain(machine, unit, requester % 0x10000));
    if (own === undefined) continue;
    expect([index, own]).toEqual([index, expected[index]]);
    // The bridge's entries are those of some device behind it.
    const behind = functions.flatMap(({ requesters: ids }, at) => (ids.length > 1 ? [expected[at]] : []));
    for (const domain of shared) expect([-1, ...behind]).toContain(domain);
  }
}

function checkUnits(machine: Hypervisor): void {
  const { driver, functions } = machine.parts;
  for (const control of machine.control.root.domains) {
    if (!control?.iommu) continue;
    const domain = control.domain as Domid;
    const owned = machine.control.root.devices.filter(
      ({ owner }, index) => owner === domain && functions[index]!.requesters.length > 0,
    );
    const units = owned.reduce((mask, { unit }) => mask | (1 << unit), 0);
    expect([domain, driver.tables.units(domain)]).toEqual([domain, units]);
    for (const { index, capabilities } of machine.units) {
      if (capabilities.domainIds === 65536) continue;
      const hasDid = driver.ids[index]!.didOf(domain) >= 0;
      expect([domain, index, hasDid]).toEqual([domain, index, (units & (1 << index)) !== 0]);
    }
  }
}

/** The operation by its micro-steps, the hardware running when nothing else can go on. */
function inPieces(machine: Hypervisor, op: MoveOp): number {
  const vcpu = machine.begin(op);
  if (typeof vcpu !== 'number') return vcpu.result;
  for (let progress = machine.microStep(CPU); progress !== Progress.done; progress = machine.microStep(CPU)) {
    if (progress === Progress.blocked) for (const unit of machine.units) while (unit.step());
  }
  return machine.finish(CPU).result;
}

describe('devices that change hands', () => {
  test.prop([shapes, moves], { numRuns: 30 })('have entries that lead where their owners say', (shape, sequence) => {
    const machine = machineOf(shape);
    for (const op of sequence) {
      const before = fingerprint(machine);
      const { result } = machine.step(op);
      if (result !== 0) expect(fingerprint(machine)).toBe(before);
      checkEntries(machine);
      checkUnits(machine);
      expect(violations(machine)).toEqual([]);
    }
  });

  test.prop([shapes, moves, moves], { numRuns: 20 })('go back exactly', (shape, first, second) => {
    const machine = machineOf(shape);
    for (const op of first) machine.step(op);
    const before = fingerprint(machine);
    const taken = snapshot(machine);
    const results = second.map((op) => machine.step(op).result);
    const after = fingerprint(machine);
    rollback(machine, taken);
    expect(fingerprint(machine)).toBe(before);
    expect(second.map((op) => machine.step(op).result)).toEqual(results);
    expect(fingerprint(machine)).toBe(after);
  });

  test.prop([shapes, moves], { numRuns: 20 })('end alike, whole or in micro-steps', (shape, sequence) => {
    const machine = machineOf(shape);
    const twin = machineOf(shape);
    for (const op of sequence) {
      expect(inPieces(twin, op)).toBe(machine.step(op).result);
      expect(fingerprint(twin)).toBe(fingerprint(machine));
    }
  });
});
