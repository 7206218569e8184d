// Domain ids: who has one on each unit, and what goes by it.

import type { Hypervisor } from '../../hypervisor/index.ts';
import { DOMID_IO, type Domid } from '../../machine/ids.ts';
import { type DomainIds, isQuarantine, quarantineIndex } from '../../passthrough/index.ts';
import { contextEntries, rememberedTables } from './context-entries.ts';
import { type Invariant, ownerOf } from './invariant.ts';

/** Whether a domain has a device behind one of the units, a bridge included, and one that has context entries. */
function devicesBehind(machine: Hypervisor, domain: number, units: readonly number[]): { any: boolean; own: boolean } {
  const { devices } = machine.control.root;
  const found = { any: false, own: false };
  for (const [index, { present, unit }] of devices.entries()) {
    if (!present || ownerOf(machine, index) !== domain || !units.includes(unit)) continue;
    found.any = true;
    if (machine.parts.functions[index]!.requesters.length > 0) found.own = true;
  }
  return found;
}

/** Domids that there may be, whose domains have device tables or are gone. */
function domidsOf(machine: Hypervisor): Domid[] {
  return machine.control.root.domains.flatMap((control, domain) =>
    control && !control.iommu ? [] : [domain as Domid],
  );
}

/** What breaks D1 in one space of ids, which these units have. */
function brokenSpace(machine: Hypervisor, ids: DomainIds, units: readonly number[]): string[] {
  const where = `unit ${units.join(', ')}`;
  const broken: string[] = [];
  for (let did = 0; did < ids.size; did += 1) {
    const domain = ids.domainOf(did);
    const isReserved = did === 0 && ids.reservesZero;
    if (ids.isUsed(did) !== (isReserved || domain >= 0)) broken.push(`${where}: did ${did}: bitmap and map disagree`);
    if (domain < 0) continue;
    if (ids.didOf(domain as Domid) !== did) broken.push(`${where}: did ${did} is not the one of its domain ${domain}`);
    const isIdle = !isQuarantine(domain) && !devicesBehind(machine, domain, units).any;
    if (isIdle) broken.push(`${where}: did ${did} stays with domain ${domain}, which has no device there`);
  }
  for (const domain of domidsOf(machine)) {
    const lacksDid = ids.didOf(domain) < 0 && devicesBehind(machine, domain, units).own;
    if (lacksDid) broken.push(`${where}: domain ${domain} has a device there and no did`);
  }
  return broken;
}

/** D1. Where ids are handed out; a quarantine keeps its own for good. A bridge has no entries, and may keep an id. */
export const didsFollowDevices: Invariant = {
  id: 'D1',
  sentence: 'A domain has a did of a unit, one, while it has a device there; bitmap and map say the same.',
  check(machine) {
    const { ids } = machine.parts.driver;
    return [...new Set(ids)].flatMap((space) => {
      const units = ids.flatMap((one, unit) => (one === space ? [unit] : []));
      return space.areHandedOut ? brokenSpace(machine, space, units) : [];
    });
  },
};

/**
 * D2 as it holds at every step, in the middle of operations, too: what a unit goes by or may remember under a did is of
 * one table, and the did is somebody's. A domain is known by its table: each has its own.
 */
export function sharedDids(machine: Hypervisor): string[] {
  const { ids } = machine.parts.driver;
  const tables = new Map<string, number>();
  const broken = new Set<string>();
  for (const { unit, did, table } of [...contextEntries(machine), ...rememberedTables(machine)]) {
    const key = `unit ${unit}: did ${did}`;
    if (did < ids[unit]!.size && ids[unit]!.domainOf(did) < 0) broken.add(`${key} is in use, and nobody has it`);
    if (table < 0) continue;
    const known = tables.get(key) ?? table;
    tables.set(key, known);
    if (known !== table) broken.add(`${key} leads to table ${known} and to table ${table}`);
  }
  return [...broken];
}

/** D2. At rest nothing is remembered under a did by which no device goes any more. */
export const didsAreNotShared: Invariant = {
  id: 'D2',
  sentence: 'On a unit, all context entries of a did lead to one table, and nothing else is remembered under it.',
  check(machine) {
    const present = new Set(contextEntries(machine).map(({ unit, did }) => `${unit}/${did}`));
    const stale = rememberedTables(machine).filter(({ unit, did }) => !present.has(`${unit}/${did}`));
    return [
      ...sharedDids(machine),
      ...stale.map(({ unit, did }) => `unit ${unit}: did ${did} is remembered, and no entry has it`),
    ];
  },
};

/** D3. Absent entries are cached under did 0. VT-d 6.2.2.1. */
export const didZeroIsNobodys: Invariant = {
  id: 'D3',
  sentence: 'With caching mode, no context entry has did 0.',
  check(machine) {
    return contextEntries(machine)
      .filter(({ unit, did }) => did === 0 && machine.units[unit]!.capabilities.cachingMode)
      .map(({ unit, source }) => `unit ${unit}: the entry of requester 0x${source.toString(16)} has did 0`);
  },
};

/** Domids by which a requester's entry may go: of who has the device, or one of those behind the same bridge. */
function mayServe(machine: Hypervisor, unit: number, source: number, domain: number): boolean {
  const { functions } = machine.parts;
  return functions.some(({ unit: of, requesters, phantoms }, index) => {
    if (of !== unit || ![...requesters, ...phantoms].some((requester) => requester % 0x10000 === source)) return false;
    const owner = ownerOf(machine, index);
    if (!isQuarantine(domain)) return owner === domain;
    return owner === DOMID_IO && functions[index]!.endpointIndex === quarantineIndex(domain as Domid);
  });
}

/** D4. One quarantine is as good as another at a bridge, so its entries have the did of a device in it. */
export const entriesFollowOwners: Invariant = {
  id: 'D4',
  sentence: 'The did of a context entry is one of its unit, and stands for the owner of the device, or its quarantine.',
  check(machine) {
    const { ids } = machine.parts.driver;
    return contextEntries(machine).flatMap(({ unit, source, did }) => {
      const what = `unit ${unit}: the entry of requester 0x${source.toString(16)} has did ${did}`;
      if (did >= machine.units[unit]!.capabilities.domainIds) return [`${what}, which the unit does not have`];
      const domain = did < ids[unit]!.size ? ids[unit]!.domainOf(did) : -1;
      if (domain < 0) return [`${what}, which is nobody's`];
      return mayServe(machine, unit, source, domain) ? [] : [`${what} of domain ${domain}, which is not its owner`];
    });
  },
};

/** D5. Bridges count where a device with entries was there, too: xen looks for any device (any_pdev_behind_iommu). */
export const unitsFollowDevices: Invariant = {
  id: 'D5',
  sentence: 'A unit counts as serving a domain if and only if a device of the domain is behind it.',
  check(machine) {
    const { tables } = machine.parts.driver;
    return domidsOf(machine).flatMap((domain) =>
      machine.units.flatMap(({ index }) => {
        const serves = (tables.units(domain) & (1 << index)) !== 0;
        const { any, own } = devicesBehind(machine, domain, [index]);
        if (serves ? any : !own) return [];
        const what = serves ? 'serves it and none of its devices' : 'has a device of it and does not serve it';
        return [`domain ${domain}: unit ${index} ${what}`];
      }),
    );
  },
};
