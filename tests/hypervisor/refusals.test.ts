// A refused operation changes nothing but what the table of refused operations' effects says.

import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { GNTMAP, GTF, grantStatusName } from '../../grant/index.ts';
import {
  batchEffects,
  errnoName,
  fork,
  type Hypervisor,
  inspect,
  type MachineOptions,
  type Op,
  type OpResult,
  Progress,
  PV_WINDOW_BASE,
  type RefusedEffect,
  refusedEffects,
  StatePart,
} from '../../hypervisor/index.ts';
import type { Gfn, Mfn } from '../../machine/frame-number.ts';
import type { Domid, Vcpu } from '../../machine/ids.ts';
import { quarantineDomid } from '../../passthrough/index.ts';
import { type Draw, drawArbitrary, mixedMachine, mixedVariants, opOf } from '../../verify/index.ts';
import { expectFound } from '../verify/found.ts';
import { doAndTell } from './cut-batches.ts';

/** Everything that an operation could change, by the part of the table's words that it is of. */
function facets(machine: Hypervisor): Map<string, string> {
  const { frames, grants, p2m } = machine.parts;
  const view = inspect(machine);
  const found = new Map<string, string>();
  const set = (part: StatePart | 'other', name: string, value: unknown) =>
    found.set(`${part} ${name}`, typeof value === 'string' ? value : JSON.stringify(value));
  for (const [at, { owner, references, type, typeCount }] of Object.entries(view.frames)) {
    if (owner >= 0x7ff0) continue;
    const isTable = type.endsWith('PageTable') && typeCount > 0;
    set('frame', at, { owner, references, typeCount });
    set('frameType', at, type);
    const words = new Uint32Array(1024);
    frames.readFrame(Number(at), words);
    // Grant tables are looked at entry by entry.
    if (!frames.isXenHeap(Number(at) as Mfn)) set(isTable ? 'tableEntry' : 'frame', `content of ${at}`, words.join());
  }
  for (const [name, { flags, grantee, frame, pins }] of Object.entries(view.grants)) {
    set('grantEntry', name, { flags: flags & ~0x18, grantee, frame, pins });
  }
  for (const [name, handle] of Object.entries(view.handles)) set('other', `handle ${name}`, handle);
  for (const [name, entry] of Object.entries(view.devices)) set('deviceEntry', name, entry);
  for (const domain of view.control.domains) {
    if (!domain) continue;
    const id = domain.domain as Domid;
    set('handleQueue', `${id}`, grants.maptrack(id).idle());
    set('grantTable', `${id}`, grants.frameCount(id));
    for (let ref = 0; ref < grants.entries(id); ref += 1) {
      if (grants.usage(id, ref) !== 0) set('usageBits', `${id}/${ref}`, grants.usage(id, ref));
    }
    for (let gfn = 0; domain.kind === 'hvm' && gfn < p2m.gfns; gfn += 1) {
      const at = gfn as Gfn;
      if (p2m.type(id, at) !== 0) set('p2mEntry', `${id}/${gfn}`, [p2m.type(id, at), p2m.frame(id, at)]);
    }
    set('domain', `${id}`, domain);
  }
  for (const device of view.control.devices) set('device', device.device, device);
  for (const { endpointIndex: index } of machine.parts.functions) {
    const { quarantine, ids } = machine.parts.driver;
    if (!quarantine.hasTables(index)) continue;
    set('quarantine', `${index}`, [quarantine.root(index), ids.map((of) => of.didOf(quarantineDomid(index)))]);
  }
  return found;
}

/** What differs, by part and name. */
function differences(before: Map<string, string>, after: Map<string, string>): string[] {
  const changed = [...new Set([...before.keys(), ...after.keys()])].filter((key) => before.get(key) !== after.get(key));
  // The type of a frame that is gone went with it.
  return changed.filter((key) => !key.startsWith('frameType') || (before.has(key) && after.has(key)));
}

/** What an operation was refused with, status by status; null: it did something. */
function refusals(op: Op, { result, status, elements, crashed }: OpResult): number[] | null {
  const statuses = (elements ?? []).map((element) => element.status);
  // The one refusal that says okay.
  const isFatal = op.op === 'unmap_grant_ref' && crashed !== undefined && statuses.length === 1;
  if (statuses.some((of) => of === 0) && !isFatal) return null;
  if (statuses.length > 0) return statuses;
  if (status !== undefined && status !== 0) return [status];
  return result < 0 ? [result] : null;
}

function unnamed(effects: readonly RefusedEffect[], op: Op, refused: readonly number[], changed: string[]): string[] {
  const parts = new Set<string>(
    effects
      .filter(({ operation, refusals: of }) => operation === op.op && of.some((status) => refused.includes(status)))
      .flatMap((effect) => effect.parts),
  );
  return changed.filter((name) => !parts.has(name.split(' ')[0]!));
}

const draws = fc.array(drawArbitrary(fc), { minLength: 1, maxLength: 40, size: 'max' });
const variants = fc.constantFrom(...mixedVariants);

/** The first refusal that changed more than the table says, or batch cut short that did more than its part. */
function offence(machine: Hypervisor, sequence: readonly Draw[]): string | null {
  let before = facets(machine);
  for (const draw of sequence) {
    const { op, result, copy } = doAndTell(machine, opOf(machine, draw));
    const after = facets(machine);
    const besides = copy ? differences(facets(copy), after) : [];
    if (besides.length > 0) return `${JSON.stringify(op)} by itself does not change ${besides.join('; ')}`;
    const refused = refusals(op, result);
    if (refused) {
      const changed = differences(before, after);
      const beyond = unnamed(refusedEffects, op, refused, changed);
      if (beyond.length > 0)
        return `${JSON.stringify(op)} gave ${refused.join(', ')}, yet changed ${beyond.join('; ')}`;
    }
    before = after;
  }
  return null;
}

/** Shows a row of the table. */
interface Script {
  /** Something of the row's parts that changes. */
  readonly part: StatePart;
  /** Operations, the last of which is refused. */
  readonly ops: (machine: Hypervisor) => readonly Op[];
  readonly machine?: MachineOptions;
  /** What another virtual CPU does meanwhile, as soon as something is so. */
  readonly meanwhile?: { readonly op: Op; readonly when: (machine: Hypervisor) => boolean };
}

/** An operation in micro-steps, another in between. */
function interrupted(machine: Hypervisor, op: Op, { op: other, when }: NonNullable<Script['meanwhile']>): OpResult {
  const vcpu = machine.begin(op as Extract<Op, { op: 'transfer' }>) as Vcpu;
  for (let isOver = false; ; ) {
    if (!isOver && when(machine)) {
      machine.step(other);
      isOver = true;
    }
    const progress = machine.microStep(vcpu);
    if (progress === Progress.done) return machine.finish(vcpu);
    if (progress === Progress.blocked) for (const unit of machine.units) while (unit.step());
  }
}

const nameOf = ({ operation, when }: RefusedEffect) => `${operation}: ${when}`;

const first = (machine: Hypervisor, domain: number) => machine.control.root.domains[domain]!.ram.first;
/** Domain 3 grants its first frame to a domain. */
const granted = (machine: Hypervisor, grantee: number, flags: number = GTF.permit_access): Op => ({
  op: 'grant_write',
  domain: 3,
  ref: 8,
  flags,
  grantee,
  frame: first(machine, 3),
});
const mapped = (domain: number, hostAddress: number, flags: number = GNTMAP.host_map): Op => ({
  op: 'map_grant_ref',
  domain,
  elements: [{ hostAddress, flags, ref: 8, domain: 3 }],
});
const untyped = (machine: Hypervisor): Op[] => [
  { op: 'pin_table', domain: 3, frame: first(machine, 3), level: 1 },
  { op: 'unpin_table', domain: 3, frame: first(machine, 3) },
];
const NOWHERE = 0x5000000000;
const BAD_BITS = GTF.permit_access | GTF.reading;
const copied = (length: number, offset: number): Op => ({
  op: 'copy',
  domain: 1,
  elements: [
    {
      source: { ref: 8, domain: 3, offset: 0 },
      destination: { ref: 8, domain: 3, offset },
      length,
      flags: 3,
    },
  ],
});

const mixedDevices = mixedMachine().config.devices;
/** A region that is for two devices. */
const sharing: MachineOptions = {
  reservedRegions: [{ firstFrame: 0x100, frames: 1, devices: ['0000:01:00.0', '0000:09:00.0'] }],
};

/** By the row that they show. */
const scripts: Readonly<Record<string, Script>> = {
  'map_grant_ref: a handle was taken before the refusal': {
    part: 'handleQueue',
    ops: (machine) => [granted(machine, 1), mapped(1, PV_WINDOW_BASE), mapped(1, NOWHERE)],
  },
  'map_grant_ref: the entry was marked as used before the refusal': {
    part: 'usageBits',
    ops: (machine) => [granted(machine, 1, BAD_BITS), mapped(1, NOWHERE)],
  },
  'map_grant_ref: the map was to write, and the host mapping failed': {
    part: 'frameType',
    ops: (machine) => [...untyped(machine), granted(machine, 1), mapped(1, NOWHERE)],
  },
  'map_grant_ref: an HVM domain maps where it has mapped a grant already': {
    part: 'domain',
    ops: (machine) => [granted(machine, 2), mapped(2, 0x5000), mapped(2, 0x5000)],
  },
  'unmap_and_replace: the mapping at the host address is not that of the handle': {
    part: 'tableEntry',
    ops: (machine) => [
      granted(machine, 1),
      mapped(1, PV_WINDOW_BASE),
      {
        op: 'update_va_mapping',
        domain: 1,
        address: PV_WINDOW_BASE + 4096,
        entry: first(machine, 1) * 4096 + 1,
      },
      {
        op: 'unmap_and_replace',
        domain: 1,
        elements: [{ handle: 0, hostAddress: PV_WINDOW_BASE + 8192, newAddress: PV_WINDOW_BASE + 4096 }],
      },
    ],
  },
  'copy: an entry was marked as used before the refusal': {
    part: 'usageBits',
    ops: (machine) => [granted(machine, 1, BAD_BITS), copied(64, 4090)],
  },
  'copy: the destination was claimed before the refusal': {
    part: 'frameType',
    ops: (machine) => [...untyped(machine), granted(machine, 1), copied(64, 4090)],
  },
  'transfer: the frame was taken from its owner before the refusal': {
    part: 'frame',
    ops: (machine) => [{ op: 'transfer', domain: 1, elements: [{ frame: first(machine, 1), domain: 3, ref: 8 }] }],
  },
  'transfer: an HVM target cannot have the frame at the gfn that its entry names': {
    part: 'grantEntry',
    ops: (machine) => [
      { op: 'decrease_reservation', domain: 2, frames: [0] },
      { op: 'grant_write', domain: 2, ref: 9, layout: 2, flags: GTF.accept_transfer, grantee: 1, frame: 0xffff },
      { op: 'transfer', domain: 1, elements: [{ frame: first(machine, 1), domain: 2, ref: 9 }] },
    ],
  },
  'transfer: the target changed the version of its table after its entry had accepted, or died': {
    part: 'frameType',
    ops: (machine) => [
      { op: 'grant_write', domain: 3, ref: 8, flags: GTF.accept_transfer, grantee: 1, frame: 0 },
      { op: 'transfer', domain: 1, elements: [{ frame: first(machine, 1), domain: 3, ref: 8 }] },
    ],
    meanwhile: {
      op: { op: 'set_version', vcpu: 1, domain: 3, version: 2 },
      when: ({ parts: { grants } }) => (grants.sharedFlags(3 as Domid, 8) & GTF.transfer_committed) !== 0,
    },
  },
  'pin_table: nothing needed the frame’s type, and what the frame holds is no table': {
    part: 'frameType',
    ops: (machine) => [
      { op: 'store', frame: first(machine, 1), offset: 0, bytes: '0100000000000000' },
      { op: 'pin_table', domain: 1, frame: first(machine, 1), level: 2 },
    ],
  },
  "unmap_grant_ref: the handle's granter is gone": {
    part: 'domain',
    ops: (machine) => [
      granted(machine, 1),
      mapped(1, PV_WINDOW_BASE),
      { op: 'update_va_mapping', domain: 1, address: PV_WINDOW_BASE, entry: 0 },
      { op: 'destroy_domain', domain: 3 },
      { op: 'unmap_grant_ref', domain: 1, elements: [{ handle: 0, hostAddress: PV_WINDOW_BASE }] },
    ],
  },
  'add_to_physmap: the table had to grow, and what is at the gfn cannot go from there': {
    part: 'grantTable',
    ops: (machine) => [
      { op: 'destroy_domain', domain: 2 },
      { op: 'create_domain', domain: 2, kind: 'hvm', memory: { p2m: [[0, 90, 1, 1]] } },
      granted(machine, 2),
      mapped(2, 0x5000),
      { op: 'add_to_physmap', domain: 2, space: 1, index: 1, gfn: 5 },
    ],
  },
  'assign_device: the device was to leave the hardware domain, and needs tables in quarantine': {
    part: 'quarantine',
    machine: sharing,
    ops: () => [{ op: 'assign_device', device: '0000:01:00.0', domain: 1 }],
  },
  'assign_device: the device had faults': {
    part: 'device',
    machine: sharing,
    ops: () => [
      { op: 'dma', device: '0000:01:00.0', address: 0x7ffff000, access: 'read' },
      { op: 'handle_faults' },
      { op: 'assign_device', device: '0000:01:00.0', domain: 1 },
    ],
  },
  // The last device of the hardware domain behind the unit: its did goes before the phantom function follows.
  'assign_device: a phantom function could not follow its device': {
    part: 'device',
    machine: { devices: [...mixedDevices, { device: '0000:04:00.0', unit: 1, phantomStride: 4 }] },
    ops: () => [{ op: 'assign_device', device: '0000:04:00.0', domain: 1 }],
  },
  'remove_device: virtual functions of it are there': {
    part: 'device',
    machine: { devices: [...mixedDevices, { device: '0000:04:00.0', unit: 1, physicalFunction: '0000:01:00.0' }] },
    ops: () => [{ op: 'remove_device', device: '0000:01:00.0' }],
  },
  'add_device: no function answers there': {
    part: 'device',
    machine: { devices: [...mixedDevices, { device: '0000:04:00.0', unit: 1, type: 'unknown' }] },
    ops: () => [{ op: 'add_device', device: '0000:04:00.0' }],
  },
  'remove_device: no function answers there': {
    part: 'device',
    machine: { devices: [...mixedDevices, { device: '0000:04:00.0', unit: 1, type: 'unknown' }] },
    ops: () => ['add_device', 'remove_device'].map((op) => ({ op, device: '0000:04:00.0' }) as Op),
  },
};

/** Mistakes in the running machine. */
const mistakes: readonly (readonly [string, (machine: Hypervisor) => void])[] = [
  [
    'a map that fails keeps its pins',
    ({ parts: { grants } }) => {
      const drop = grants.dropPins.bind(grants);
      grants.dropPins = (granter, ref, pins, readOnly) => drop(granter, ref, 0 * pins, readOnly);
    },
  ],
  [
    'a batch goes on beyond what it can tell',
    (machine) => {
      const step = machine.step.bind(machine);
      machine.step = (op) => {
        const result = step(op);
        if (result.continuation) step(result.continuation);
        return result;
      };
    },
  ],
];

describe('a refused operation', () => {
  test.prop([variants, draws], { numRuns: 60 })('changes nothing but what the table names', (variant, sequence) => {
    expect(offence(mixedMachine('strict-page', { variant }), sequence)).toBeNull();
  });

  it.each(mistakes)('is found out when %s', (_, plant) => {
    const property = fc.property(draws, (sequence) => {
      const machine = mixedMachine();
      plant(machine);
      return offence(machine, sequence) === null;
    });
    expectFound(fc.check(property, { numRuns: 60, seed: 4, endOnFailure: true }));
  });

  it('has a script for each row of the table', () => {
    expect(Object.keys(scripts).sort()).toEqual(refusedEffects.map(nameOf).sort());
  });

  it.each(refusedEffects.map((row) => [nameOf(row), row] as const))('%s, as the table says', (name, row) => {
    const { part, ops, meanwhile, machine: options } = scripts[name]!;
    expect(row.parts).toContain(part);
    const machine = mixedMachine('strict-page', options ? { machine: options } : {});
    const made = ops(machine);
    for (const op of made.slice(0, -1)) machine.step(op);
    const other = fork(machine);
    if (meanwhile) other.step(meanwhile.op);
    const before = facets(other);
    const last = made.at(-1)!;
    const refused = refusals(last, meanwhile ? interrupted(machine, last, meanwhile) : machine.step(last))!;
    expect(row.refusals).toContain(refused[0]);
    const changed = differences(before, facets(machine));
    expect(changed.map((name) => name.split(' ')[0])).toContain(part);
    expect(unnamed(refusedEffects, last, refused, changed)).toEqual([]);
    const without = refusedEffects.filter(({ operation }) => operation !== last.op);
    expect(unnamed(without, last, refused, changed)).not.toEqual([]);
  });
});

describe('docs/refused-operations.md', () => {
  it('is the table', async () => {
    const name = (operation: Op['op'], refusal: number) =>
      ['pin_table', 'add_to_physmap', 'assign_device', 'remove_device', 'add_device'].includes(operation)
        ? errnoName(refusal)
        : grantStatusName(refusal);
    const rows = refusedEffects.map(
      ({ operation, refusals: of, when, effect, parts, source }) =>
        `| \`${operation}\` | ${of.map((refusal) => name(operation, refusal)).join(', ')} | ${when} | ${effect} | ` +
        `${parts.map((part) => StatePart[part]).join('; ')} | ${source} |`,
    );
    const batches = batchEffects.map(({ when, effect, source }) => `| ${when} | ${effect} | ${source} |`);
    const text = [
      '# Refused operations',
      '',
      'A refused operation changes nothing, but for this, which Xen does, too. Made from `hypervisor/door/refused-effects.ts`;',
      'a property holds every refusal against it.',
      '',
      '| operation | refused with | when | what stays | parts | xen |',
      '| --- | --- | --- | --- | --- | --- |',
      ...rows,
      '',
      'Of every operation on a batch:',
      '',
      '| when | what stays | source |',
      '| --- | --- | --- |',
      ...batches,
      '',
    ].join('\n');
    await expect(text).toMatchFileSnapshot('../../docs/refused-operations.md');
  });
});
