// What devices may reach, held against what their domains own or have pinned.

import { hasWritePins } from '../../grant/index.ts';
import { type Hypervisor, P2mType } from '../../hypervisor/index.ts';
import type { Gfn, Mfn } from '../../machine/frame-number.ts';
import type { Domid } from '../../machine/ids.ts';
import { domainsOf, type Invariant, isReserved } from './invariant.ts';
import { overwrittenGrants, tableEntries, tableLevel } from './table-entries.ts';

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
  sentence:
    'What a device may reach, through tables or cached entries, its domain owns, has pinned, or needs as its region.',
  check(machine, reach) {
    const { frames } = machine.parts;
    const pinned = pinnedRights(machine);
    const overwritten = overwrittenGrants(machine);
    return reach().flatMap(({ index, device, owner, dfn, frame, rights, current }) => {
      if (dfn === frame && isReserved(machine, index, owner, frame)) return [];
      if (overwritten.has(`${owner}/${frame}`)) return [];
      if (frames.isAllocated(frame) && frames.owner(frame as Mfn) === owner) return [];
      const excess = rights & ~(pinned.get(`${owner}/${frame}`) ?? 0);
      if (excess === 0) return [];
      const how = current ? 'by the tables' : 'by a cached entry';
      const what = (excess & 2) !== 0 ? 'write' : 'read';
      return [`${device} of domain ${owner} may ${what} frame ${frame} at dfn ${dfn} ${how}`];
    });
  },
};

/** P1. Nothing leads to a free frame: no entry of the processor's, none of a device's, nothing cached. */
export const freeFramesAreUnreachable: Invariant = {
  id: 'P1',
  sentence: 'A free frame is reachable by no device, through tables or cached entries, and by no processor.',
  check(machine, reach) {
    const { frames, p2m } = machine.parts;
    const overwritten = overwrittenGrants(machine);
    const isFree = (frame: number) => frames.isMemory(frame) && !frames.isAllocated(frame);
    const broken = reach()
      .filter(({ owner, frame }) => isFree(frame) && !overwritten.has(`${owner}/${frame}`))
      .map(({ device, dfn, frame }) => `${device} may reach free frame ${frame} at dfn ${dfn}`);
    for (const { domain, frame } of tableEntries(machine)) {
      if (isFree(frame)) broken.push(`a page table of domain ${domain} maps free frame ${frame}`);
    }
    for (const domain of domainsOf(machine)) {
      for (let at = 0; at < p2m.gfns; at += 1) {
        const frame = p2m.frame(domain, at as Gfn);
        const isMapped = p2m.type(domain, at as Gfn) !== P2mType.hole;
        if (isMapped && isFree(frame)) broken.push(`gfn ${at} of domain ${domain} is free frame ${frame}`);
      }
    }
    return broken;
  },
};

/** P2. No device writes a page table that is in use. */
export const tablesAreBeyondDevices: Invariant = {
  id: 'P2',
  sentence: 'No device may write a frame that is a page table in use, through tables or cached entries.',
  check(machine, reach) {
    const overwritten = overwrittenGrants(machine);
    return reach()
      .filter(({ owner, frame, rights }) => {
        const isTable = (rights & 2) !== 0 && tableLevel(machine, frame) > 0;
        return isTable && !overwritten.has(`${owner}/${frame}`);
      })
      .map(({ device, dfn, frame }) => `${device} may write page table ${frame} at dfn ${dfn}`);
  },
};

/**
 * X1. No invariant of Xen's: a report of what it lets happen. G7, M1, M3, P1 and P2 pass over these frames as far as
 * that domain is concerned.
 */
export const mappingsAreNotOverwritten: Invariant = {
  id: 'X1',
  sentence: 'A PV domain has an entry for every live host half of its grants, so that none outlives its reference.',
  check(machine, reach) {
    const { frames } = machine.parts;
    return [...overwrittenGrants(machine)].map((key) => {
      const [domain, frame] = key.split('/').map(Number) as [number, number];
      const rights = reach().reduce(
        (all, at) => (at.owner === domain && at.frame === frame ? all | at.rights : all),
        0,
      );
      const what = tableLevel(machine, frame) > 0 ? 'a page table' : 'memory';
      const fate = frames.isAllocated(frame) ? `${what} of domain ${frames.owner(frame as Mfn)}` : 'free';
      const may = ['not reach', 'read', 'write', 'write'][rights]!;
      return `domain ${domain} wrote over a mapping of frame ${frame}: its devices may ${may} it, and it is ${fate}`;
    });
  },
};
