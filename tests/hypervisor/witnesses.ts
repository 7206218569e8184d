// What random operations should come to, counted: a property says little about states that are never reached.

import { GNTMAP, GTF } from '../../grant/index.ts';
import { type Hypervisor, type Op, type OpResult, P2mType } from '../../hypervisor/index.ts';
import type { Gfn, Mfn } from '../../machine/frame-number.ts';
import type { Domid } from '../../machine/ids.ts';
import { exemptions, isConfined, violations } from '../../verify/index.ts';
import { domainsOf, handlesOf } from '../../verify/invariants/invariant.ts';

const { host_map: HOST, device_map: DEVICE, readonly: READONLY } = GNTMAP;

/** An operation that was done, and the machine after it. */
interface Seen {
  readonly op: Op;
  readonly result: OpResult;
  readonly machine: Hypervisor;
}

type Witness = (seen: Seen) => boolean;

/** Elements of a batch that came to a status, with their results. */
function elementsOf<Name extends Op['op']>({ op, result }: Seen, name: Name, status = 0) {
  type Element = Extract<Op, { op: Name }> extends { elements: readonly (infer E)[] } ? E : never;
  if (op.op !== name || !('elements' in op)) return [];
  const elements = op.elements as readonly unknown[] as readonly Element[];
  return elements.filter((_, at) => result.elements?.[at]?.status === status);
}

const did =
  (name: Op['op']): Witness =>
  ({ op, result }) =>
    op.op === name && result.result >= 0;
const refused =
  (name: Op['op'], errno: number): Witness =>
  ({ op, result }) =>
    op.op === name && result.result === errno;
const gave =
  (name: Op['op'], status: number): Witness =>
  (seen) =>
    elementsOf(seen, name, status).length > 0;

function handles(machine: Hypervisor) {
  return domainsOf(machine).flatMap((mapper) => handlesOf(machine, mapper).map((handle) => ({ mapper, ...handle })));
}

/** Whether two live handles have to do with one another. */
const pair =
  (fits: (a: ReturnType<typeof handles>[number], b: ReturnType<typeof handles>[number]) => boolean): Witness =>
  ({ op, machine }) => {
    if (op.op !== 'map_grant_ref') return false;
    const all = handles(machine);
    return all.some((a, at) => all.some((b, other) => at !== other && a.frame === b.frame && fits(a, b)));
  };

const WITNESSES: Readonly<Record<string, Witness>> = {
  'a frame mapped by two domains': pair((a, b) => a.mapper !== b.mapper),
  'a frame mapped twice by one domain, by two refs': pair((a, b) => a.mapper === b.mapper && a.ref !== b.ref),
  'read-only and writable handles on one frame': pair((a, b) => ((a.flags ^ b.flags) & READONLY) !== 0),
  'pins of three kinds on one entry': ({ op, machine }) =>
    op.op === 'map_grant_ref' &&
    handles(machine).some(({ granter, ref }) => {
      const pins = machine.parts.grants.pins(granter, ref);
      return [0, 8, 16, 24].filter((shift) => ((pins >>> shift) & 0xff) !== 0).length >= 3;
    }),
  'a handle with both halves, one of them gone': (seen) =>
    elementsOf(seen, 'unmap_grant_ref').some(({ handle, hostAddress }) => {
      if (seen.op.op !== 'unmap_grant_ref') return false;
      const flags = seen.machine.parts.grants.maptrack(seen.op.domain as Domid).flags(handle);
      return hostAddress !== undefined && (flags & (HOST | DEVICE)) === DEVICE;
    }),
  'an entry of version 2 mapped': (seen) =>
    elementsOf(seen, 'map_grant_ref').some(({ domain }) => seen.machine.parts.grants.version(domain as Domid) === 2),
  'a grant mapped by an HVM domain': (seen) =>
    seen.op.op === 'map_grant_ref' && isHvmOp(seen) && gave(seen.op.op, 0)(seen),
  'a grant of an HVM domain mapped': (seen) =>
    elementsOf(seen, 'map_grant_ref').some(({ domain }) => seen.machine.control.root.domains[domain]?.kind === 'hvm'),
  'a copy from ref to ref': (seen) => elementsOf(seen, 'copy').some(({ flags, length }) => flags === 3 && length > 0),
  'a copy from frame to ref': (seen) => elementsOf(seen, 'copy').some(({ flags, length }) => flags === 2 && length > 0),
  'a copy by a sub-page entry': (seen) => copiedBy(seen, GTF.permit_access | GTF.sub_page),
  'a copy by a transitive entry': (seen) => copiedBy(seen, GTF.transitive),
  'a transfer to a PV domain': (seen) => transferred(seen, 'pv'),
  'a transfer to an HVM domain': (seen) => transferred(seen, 'hvm'),
  'a replacement with a new mapping': (seen) =>
    elementsOf(seen, 'unmap_and_replace').some(({ newAddress }) => (newAddress ?? 0) !== 0),
  'a change to version 2': (seen) => seen.op.op === 'set_version' && seen.op.version === 2 && did('set_version')(seen),
  'a change to version 1': (seen) => seen.op.op === 'set_version' && seen.op.version === 1 && did('set_version')(seen),
  'a change of version while refs are pinned': refused('set_version', -16),
  'a frame given back while it is granted': ({ op, machine }) =>
    op.op === 'decrease_reservation' &&
    op.frames.some((frame) => machine.parts.frames.isAllocated(frame) && !machine.parts.frames.isHeld(frame as Mfn)),
  'a status frame at a gfn': (seen) =>
    seen.op.op === 'add_to_physmap' && seen.op.index > 0x7fffffff && did('add_to_physmap')(seen),
  'RAM of an HVM domain replaced by a grant': ({ op, result, machine }) =>
    op.op === 'map_grant_ref' &&
    machine.control.root.domains[op.domain]?.kind === 'hvm' &&
    op.elements.some(
      ({ hostAddress }, at) =>
        result.elements?.[at]?.status === 0 &&
        machine.parts.p2m.type(op.domain as Domid, (Number(hostAddress) / 4096) as Gfn) > P2mType.ram,
    ),
  'a grant at a gfn of shared tables': ({ op, result, machine }) =>
    op.op === 'map_grant_ref' &&
    result.elements?.some(({ status }) => status === 0) === true &&
    machine.parts.driver.tables.largestLeafOf(op.domain as Domid) < machine.parts.driver.tables.largestLeaf,
  'DMA of a hardware domain that is not confined': ({ op, result, machine }) =>
    op.op === 'dma' &&
    result.dma?.frame !== undefined &&
    machine.control.root.devices.some(({ device, owner }) => device === op.device && !isConfined(machine, owner ?? -1)),
  'X1: a mapping of a grant written over': ({ op, result, machine }) =>
    (op.op === 'update_va_mapping' || op.op === 'map_foreign') &&
    result.result === 0 &&
    violations(machine, exemptions).length > 0,
  'a domain built again': did('create_domain'),
  'a domain crashed': ({ result }) => (result.crashed ?? []).length > 0,
  'a continuation': ({ result }) => result.continuation !== undefined,
  'an argument that is not there': ({ result }) => result.result === -14,
  'a promotion': () => false,
  'a demotion': () => false,
  ...Object.fromEntries(
    (
      [
        'swap_grant_ref',
        'get_version',
        'setup_table',
        'query_size',
        'get_status_frames',
        'update_va_mapping',
        'map_foreign',
        'pin_table',
        'unpin_table',
        'decrease_reservation',
        'populate_physmap',
        'increase_reservation',
        'add_to_physmap',
        'remove_from_physmap',
        'assign_device',
        'deassign_device',
        'remove_device',
        'add_device',
        'remove_unit',
        'handle_faults',
        'destroy_domain',
      ] as const
    ).flatMap((name) => [[name, did(name)]]),
  ),
  ...Object.fromEntries(
    (
      [
        ['map_grant_ref', [-1, -2, -3, -9]],
        ['unmap_grant_ref', [-1, -4, -6]],
        ['unmap_and_replace', [-1, -4]],
        ['copy', [-1, -2, -8, -9, -10]],
        ['transfer', [-1, -2, -9]],
        ['swap_grant_ref', [-3, -12]],
      ] as const
    ).flatMap(([name, statuses]) => statuses.map((status) => [`${name} refused with ${status}`, gave(name, status)])),
  ),
  ...Object.fromEntries(
    (['pin_table', 'unpin_table', 'update_va_mapping', 'map_foreign'] as const).map((name) => [
      `${name} refused`,
      refused(name, name.endsWith('table') ? -22 : -16),
    ]),
  ),
};

function isHvmOp({ op, machine }: Seen): boolean {
  return 'domain' in op && op.domain !== undefined && machine.control.root.domains[op.domain]?.kind === 'hvm';
}

/** Whether a copy was done by way of an entry with these flags. Entries stay as they are while a copy goes on. */
function copiedBy(seen: Seen, flags: number): boolean {
  const { grants } = seen.machine.parts;
  return elementsOf(seen, 'copy').some(
    ({ source, destination, length }) =>
      length > 0 &&
      [source, destination].some(
        ({ ref, domain }) =>
          ref !== undefined &&
          seen.machine.control.root.domains[domain] &&
          (grants.sharedFlags(domain as Domid, ref) & (GTF.type_mask | GTF.sub_page)) === flags,
      ),
  );
}

function transferred(seen: Seen, kind: 'pv' | 'hvm'): boolean {
  return elementsOf(seen, 'transfer').some(({ domain }) => seen.machine.control.root.domains[domain]?.kind === kind);
}

export class Witnesses {
  readonly counts = new Map<string, number>(Object.keys(WITNESSES).map((name) => [name, 0]));
  #machine: Hypervisor | null = null;
  /** Device rights to frames of others, of the mappers whose devices follow their grants. */
  #rights = new Map<string, number>();

  begin(machine: Hypervisor): void {
    this.#machine = machine;
    this.#rights = new Map();
  }

  see(op: Op, result: OpResult): void {
    const machine = this.#machine!;
    for (const [name, witness] of Object.entries(WITNESSES)) if (witness({ op, result, machine })) this.#count(name);
    if (op.op !== 'map_grant_ref' && op.op !== 'unmap_grant_ref') return;
    for (const mapper of [0, 1] as Domid[]) {
      for (let frame = 0; frame < machine.config.frames; frame += 1) {
        const readers = machine.parts.grants.readers(mapper, frame as Mfn);
        const rights = machine.parts.grants.writers(mapper, frame as Mfn) > 0 ? 3 : readers > 0 ? 1 : 0;
        const key = `${mapper}/${frame}`;
        const before = this.#rights.get(key) ?? 0;
        if (before === 1 && rights === 3) this.#count('a promotion');
        if (before === 3 && rights === 1) this.#count('a demotion');
        this.#rights.set(key, rights);
      }
    }
  }

  #count(name: string): void {
    this.counts.set(name, this.counts.get(name)! + 1);
  }

  /** What happened less often than `times`. */
  missing(times = 1): string[] {
    return [...this.counts].filter(([, count]) => count < times).map(([name, count]) => `${name}: ${count}`);
  }
}
