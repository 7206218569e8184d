// Invariants over a machine's state, by the ids of docs/invariants.md. Each is a function that names what breaks it.

import { GNTMAP, hasWritePins, Pin } from '../grant/index.ts';
import { type Hypervisor, P2mType } from '../hypervisor/index.ts';
import type { Dfn, Gfn, Mfn } from '../machine/frame-number.ts';
import { DOMID_FIRST_RESERVED, type Domid, type MaptrackHandle, parseSbdf } from '../machine/ids.ts';

/** One way in which a state breaks an invariant. */
export interface Violation {
  readonly invariant: string;
  readonly message: string;
}

/** A named predicate over a state in which no operation is in progress. */
export interface Invariant {
  readonly id: string;
  readonly sentence: string;
  readonly check: (machine: Hypervisor, reach: () => readonly Reach[]) => readonly string[];
}

/** One frame that a device may reach. */
export interface Reach {
  readonly device: string;
  /** Domain that the device is assigned to. */
  readonly owner: number;
  readonly dfn: number;
  readonly frame: number;
  /** Bit 0 read, bit 1 write. */
  readonly rights: number;
  /** By the tables as they are, or only by something cached. */
  readonly current: boolean;
}

/**
 * Everything that devices may reach which somebody has. Needs the cache profile `adversary`. Bridges are left out: what
 * goes by their requester ids is done for the devices behind them.
 */
export function reachOf(machine: Hypervisor): Reach[] {
  const found: Reach[] = [];
  const dfns = Math.max(machine.config.frames, machine.config.gfns);
  for (const [index, { device, owner }] of machine.control.root.devices.entries()) {
    if (owner === null || machine.parts.functions[index]!.requesters.length === 0) continue;
    for (let dfn = 0; dfn < dfns; dfn += 1) {
      for (const { frame, rights, current } of machine.mayTranslate(device, dfn)) {
        if (frame >= 0 && rights !== 0) found.push({ device, owner, dfn, frame, rights, current });
      }
    }
  }
  // A translated access reaches its frame whatever becomes of the translation.
  for (const { unit, sourceId, dfn, frame, access } of machine.parts.dma.all()) {
    const of = machine.control.root.devices.find(
      (device) => device.unit === unit && parseSbdf(device.device) % 0x10000 === sourceId && device.owner !== null,
    );
    if (of) found.push({ device: of.device, owner: of.owner!, dfn, frame, rights: access, current: false });
  }
  return found;
}

function domainsOf(machine: Hypervisor): Domid[] {
  return machine.control.root.domains.flatMap((domain) => (domain ? [domain.domain as Domid] : []));
}

function handlesOf(
  machine: Hypervisor,
  mapper: Domid,
): { handle: MaptrackHandle; granter: Domid; ref: number; flags: number; frame: Mfn }[] {
  const { grants } = machine.parts;
  const maptrack = grants.maptrack(mapper);
  return maptrack.live().flatMap((handle) => {
    const [granter, ref] = [maptrack.domain(handle), maptrack.ref(handle)];
    // A handle can outlive its granter, if the mapper has overwritten its PTE. It stands for no use then.
    if (granter >= DOMID_FIRST_RESERVED) return [];
    return [{ handle, granter, ref, flags: maptrack.flags(handle), frame: grants.activeFrame(granter, ref) }];
  });
}

/** Whether some completion is still held back, so that pins are more than live halves. */
function holdsBack(machine: Hypervisor): boolean {
  const { ledger } = machine.parts.driver.flush;
  return Array.from({ length: machine.config.vcpus }, (_, vcpu) => ledger.size(vcpu)).some((size) => size > 0);
}

/** G3. Each pin counter equals the live halves of its kind; at rest, with nothing held back. */
export const pinsAreLiveHalves: Invariant = {
  id: 'G3',
  sentence: 'Each pin counter of an entry equals the number of live halves of its kind.',
  check(machine) {
    if (holdsBack(machine)) return [];
    const expected = new Map<string, number>();
    for (const mapper of domainsOf(machine)) {
      for (const { granter, ref, flags } of handlesOf(machine, mapper)) {
        const readOnly = (flags & GNTMAP.readonly) !== 0;
        const key = `${granter}/${ref}`;
        let pins = expected.get(key) ?? 0;
        if ((flags & GNTMAP.host_map) !== 0) pins += readOnly ? Pin.hostRead.one : Pin.hostWrite.one;
        if ((flags & GNTMAP.device_map) !== 0) pins += readOnly ? Pin.deviceRead.one : Pin.deviceWrite.one;
        expected.set(key, pins);
      }
    }
    const { grants } = machine.parts;
    const broken: string[] = [];
    const compare = (name: string, pins: number, live: number) => {
      if (pins !== live) broken.push(`${name}: pins 0x${pins.toString(16)}, live halves 0x${live.toString(16)}`);
    };
    for (const granter of domainsOf(machine)) {
      for (let ref = 0; ref < grants.entries(granter); ref += 1) {
        const pins = grants.pins(granter, ref);
        if (pins === 0) continue;
        compare(`domain ${granter} ref ${ref}`, pins, expected.get(`${granter}/${ref}`) ?? 0);
        expected.delete(`${granter}/${ref}`);
      }
    }
    for (const [key, live] of expected) compare(`domain/ref ${key}`, 0, live);
    return broken;
  },
};

/** M3. The mapper's counts are its live handles on a frame, and its device entry is what the counts say. */
export const countsAreHandles: Invariant = {
  id: 'M3',
  sentence: "A mapper's counts of a frame are its live handles on it, and its device entry says what the counts say.",
  check(machine) {
    const { grants, driver } = machine.parts;
    const broken: string[] = [];
    for (const mapper of domainsOf(machine)) {
      const control = machine.control.root.domains[mapper]!;
      if (!control.grantView.syncDevices) continue;
      const handles = handlesOf(machine, mapper).filter(({ granter }) => granter !== mapper);
      for (let at = 0; at < machine.config.frames; at += 1) {
        const frame = at as Mfn;
        const mine = handles.filter((handle) => handle.frame === frame);
        const readers = mine.filter(({ flags }) => (flags & GNTMAP.readonly) !== 0).length;
        const writers = mine.length - readers;
        if (grants.readers(mapper, frame) !== readers || grants.writers(mapper, frame) !== writers) {
          broken.push(
            `domain ${mapper} frame ${frame}: counts differ from its ${readers} RO and ${writers} RW handles`,
          );
        }
        if (machine.parts.frames.isAllocated(frame) && machine.parts.frames.owner(frame) === mapper) continue;
        const rights = driver.lookup(mapper, frame as number as Dfn).rights;
        const wanted = writers > 0 ? 3 : readers > 0 ? 1 : 0;
        if (rights !== wanted)
          broken.push(`domain ${mapper} frame ${frame}: device rights ${rights}, handles give ${wanted}`);
      }
    }
    return broken;
  },
};

/**
 * Rights (1 read, 2 write) that pins give each mapper to frames of others, by `mapper/frame`. A translated mapper may
 * write, too, while its p2m has a writable grant entry of the frame: Xen unmaps by frame alone (xen:
 * replace_grant_p2m_mapping asks whether the entry is a grant's, not whether it is this handle's), so a read-only and a
 * writable handle on one frame can end each other's entry.
 */
function pinnedRights(machine: Hypervisor): ReadonlyMap<string, number> {
  const { grants } = machine.parts;
  const rights = new Map<string, number>();
  for (const granter of domainsOf(machine)) {
    for (let ref = 0; ref < grants.entries(granter); ref += 1) {
      const pins = grants.pins(granter, ref);
      if (pins === 0) continue;
      const mapper = grants.activeMapper(granter, ref);
      const frame = grants.activeFrame(granter, ref);
      const mayWrite = hasWritePins(pins) || hasWritableEntry(machine, mapper, frame);
      const key = `${mapper}/${frame}`;
      rights.set(key, (rights.get(key) ?? 0) | (mayWrite ? 3 : 1));
    }
  }
  return rights;
}

function hasWritableEntry(machine: Hypervisor, mapper: Domid, frame: Mfn): boolean {
  if (machine.control.root.domains[mapper]?.kind !== 'hvm') return false;
  const { p2m } = machine.parts;
  for (let at = 0; at < p2m.gfns; at += 1) {
    const gfn = at as Gfn;
    if (p2m.type(mapper, gfn) === P2mType.grantWritable && p2m.frame(mapper, gfn) === frame) return true;
  }
  return false;
}

/**
 * M1. What a device may reach, through tables or anything cached, its domain owns or has pinned. Pins are given up on
 * release, so this says that nothing stale outlives release.
 */
export const reachIsAuthorised: Invariant = {
  id: 'M1',
  sentence: 'Every frame that a device may reach, through tables or cached entries, is owned or pinned by its domain.',
  check(machine, reach) {
    const { frames } = machine.parts;
    const pinned = pinnedRights(machine);
    return reach().flatMap(({ device, owner, dfn, frame, rights, current }) => {
      if (frames.isAllocated(frame) && frames.owner(frame as Mfn) === owner) return [];
      const excess = rights & ~(pinned.get(`${owner}/${frame}`) ?? 0);
      if (excess === 0) return [];
      const how = current ? 'by the tables' : 'by a cached entry';
      const what = (excess & 2) !== 0 ? 'write' : 'read';
      return [`${device} of domain ${owner} may ${what} frame ${frame} at dfn ${dfn} ${how}`];
    });
  },
};

/** P1. A free frame is in no table that a device walks, and nothing cached leads to it. */
export const freeFramesAreUnreachable: Invariant = {
  id: 'P1',
  sentence: 'A frame on the free heap is reachable by no device, through tables or cached entries.',
  check(machine, reach) {
    const free = reach().filter(({ frame }) => !machine.parts.frames.isAllocated(frame));
    return free.map(({ device, dfn, frame }) => `${device} may reach free frame ${frame} at dfn ${dfn}`);
  },
};

/** The invariants that there are, in the order of their ids. */
export const invariants: readonly Invariant[] = [
  pinsAreLiveHalves,
  reachIsAuthorised,
  countsAreHandles,
  freeFramesAreUnreachable,
];

/** What is broken in a state at rest; nothing when all invariants hold. */
export function violations(machine: Hypervisor, of: readonly Invariant[] = invariants): Violation[] {
  let known: Reach[] | null = null;
  const reach = () => {
    known ??= reachOf(machine);
    return known;
  };
  return of.flatMap(({ id, check }) => check(machine, reach).map((message) => ({ invariant: id, message })));
}
