// A refused operation changes nothing but what the table of refused operations' effects says.

import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { GNTMAP, GTF, grantStatusName } from '../../grant/index.ts';
import {
  batchEffects,
  errnoName,
  type Hypervisor,
  inspect,
  type Op,
  type OpResult,
  PV_WINDOW_BASE,
  type RefusedEffect,
  refusedEffects,
  StatePart,
} from '../../hypervisor/index.ts';
import type { Gfn, Mfn } from '../../machine/frame-number.ts';
import type { Domid } from '../../machine/ids.ts';
import { type Draw, drawArbitrary, mixedMachine, opOf } from '../../verify/index.ts';

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
  set('other', 'devices', view.control.devices);
  return found;
}

/** What differs, by part and name. */
function differences(before: Map<string, string>, after: Map<string, string>): string[] {
  const changed = [...new Set([...before.keys(), ...after.keys()])].filter((key) => before.get(key) !== after.get(key));
  // The type of a frame that is gone went with it.
  return changed.filter((key) => !key.startsWith('frameType') || (before.has(key) && after.has(key)));
}

/** What an operation was refused with, status by status; null: it did something. */
function refusals(op: Op, { result, status, elements }: OpResult): number[] | null {
  if ('unwritableFrom' in op && op.unwritableFrom !== undefined) return null;
  if (result === -85) return null;
  const statuses = (elements ?? []).map((element) => element.status);
  if (statuses.some((of) => of === 0)) return null;
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

/** The first refusal that changed more than the table says. */
function offence(sequence: readonly Draw[]): string | null {
  const machine = mixedMachine();
  let before = facets(machine);
  for (const draw of sequence) {
    const op = opOf(machine, draw);
    const result = machine.step(op);
    const after = facets(machine);
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

interface Script {
  readonly name: string;
  readonly part: StatePart;
  /** Operations, the last of which is refused. */
  readonly ops: (machine: Hypervisor) => readonly Op[];
}

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

const scripts: readonly Script[] = [
  {
    name: 'a map turns the queue of handles',
    part: 'handleQueue',
    ops: (machine) => [granted(machine, 1), mapped(1, PV_WINDOW_BASE), mapped(1, NOWHERE)],
  },
  {
    name: 'a map clears usage bits that the guest had set',
    part: 'usageBits',
    ops: (machine) => [granted(machine, 1, BAD_BITS), mapped(1, NOWHERE)],
  },
  {
    name: 'a map makes a frame writable',
    part: 'frameType',
    ops: (machine) => [...untyped(machine), granted(machine, 1), mapped(1, NOWHERE)],
  },
  {
    name: 'a map over a grant crashes an HVM domain',
    part: 'domain',
    ops: (machine) => [granted(machine, 2), mapped(2, 0x5000), mapped(2, 0x5000)],
  },
  {
    name: 'a replacement empties the new address',
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
  {
    name: 'a copy clears usage bits that the guest had set',
    part: 'usageBits',
    ops: (machine) => [granted(machine, 1, BAD_BITS), copied(64, 4090)],
  },
  {
    name: 'a copy makes its destination writable',
    part: 'frameType',
    ops: (machine) => [...untyped(machine), granted(machine, 1), copied(64, 4090)],
  },
  {
    name: 'a transfer loses the frame',
    part: 'frame',
    ops: (machine) => [{ op: 'transfer', domain: 1, elements: [{ frame: first(machine, 1), domain: 3, ref: 8 }] }],
  },
  {
    name: 'a transfer to a gfn that an HVM domain does not have',
    part: 'grantEntry',
    ops: (machine) => [
      { op: 'decrease_reservation', domain: 2, frames: [0] },
      { op: 'grant_write', domain: 2, ref: 9, layout: 2, flags: GTF.accept_transfer, grantee: 1, frame: 0xffff },
      { op: 'transfer', domain: 1, elements: [{ frame: first(machine, 1), domain: 2, ref: 9 }] },
    ],
  },
  {
    name: 'a frame that cannot be a table loses its type',
    part: 'frameType',
    ops: (machine) => [
      { op: 'store', frame: first(machine, 1), offset: 0, bytes: '0100000000000000' },
      { op: 'pin_table', domain: 1, frame: first(machine, 1), level: 2 },
    ],
  },
];

describe('a refused operation', () => {
  test.prop([draws], { numRuns: 60 })('changes nothing but what the table names', (sequence) => {
    expect(offence(sequence)).toBeNull();
  });

  it.each(scripts)('$name, as the table says', ({ part, ops }) => {
    const machine = mixedMachine();
    const made = ops(machine);
    for (const op of made.slice(0, -1)) machine.step(op);
    const before = facets(machine);
    const last = made.at(-1)!;
    const refused = refusals(last, machine.step(last))!;
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
      ['pin_table', 'add_to_physmap'].includes(operation) ? errnoName(refusal) : grantStatusName(refusal);
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
