// Assignment: context entries against owners, tables against context entries, reserved regions against devices.

import type { Hypervisor } from '../../hypervisor/index.ts';
import type { Mfn } from '../../machine/frame-number.ts';
import { DOMID_FIRST_RESERVED, DOMID_IO, DOMID_XEN, type Domid, sbdfText } from '../../machine/ids.ts';
import { entryFrame, isQuarantine, quarantineDomid, quarantineIndex } from '../../passthrough/index.ts';
import { type ContextUse, contextEntries, rememberedTables } from './context-entries.ts';
import { domainsOf, type Invariant, isConfined, isReserved, ownerOf } from './invariant.ts';

/** The domid that entries of a device under an owner go by; -1: they are absent. */
function entryDomain(machine: Hypervisor, index: number, owner: number | null): number {
  const { driver, functions } = machine.parts;
  if (owner === null) return -1;
  if (owner !== DOMID_IO) return driver.tables.exists(owner as Domid) ? owner : -1;
  const { endpointIndex } = functions[index]!;
  return driver.quarantine.hasTables(endpointIndex) ? quarantineDomid(endpointIndex) : -1;
}

/** Where entries that go by a domid lead, on a unit that walks so many levels. */
function tableOf({ parts: { driver, frames } }: Hypervisor, domain: number, levels: number): number {
  let table: number = isQuarantine(domain)
    ? driver.quarantine.root(quarantineIndex(domain as Domid))
    : driver.tables.root(domain as Domid);
  for (let level = driver.tables.levels; level > levels && table >= 0; level -= 1)
    table = entryFrame(frames.readWord(table as Mfn, 0), frames.readWord(table as Mfn, 1));
  return table;
}

type Entries = ReadonlyMap<string, ContextUse>;

function entriesOf(machine: Hypervisor): Entries {
  return new Map(contextEntries(machine).map((entry) => [`${entry.unit}/${entry.source}`, entry]));
}

/** What a requester's entry is that should go by a domid; null: it is as it should be. */
function wrongEntry(
  machine: Hypervisor,
  entries: Entries,
  unit: number,
  source: number,
  domain: number,
): string | null {
  const entry = entries.get(`${unit}/${source}`);
  if (domain < 0 || !entry) return domain < 0 === !entry ? null : entry ? `has did ${entry.did}` : 'is absent';
  const expected = machine.parts.driver.ids[unit]!.didOf(domain as Domid);
  if (entry.did !== expected) return `has did ${entry.did}, not ${expected}`;
  if (machine.parts.driver.tables.isPassThrough(domain as Domid) && !isQuarantine(domain)) return null;
  const table = tableOf(machine, domain, entry.levels);
  return entry.table === table ? null : `leads to table ${entry.table}, not ${table}`;
}

/** A1. Of bridges the last that moved behind them decides: their entries are as those of some device there. */
export const entriesLeadToOwners: Invariant = {
  id: 'A1',
  sentence: "A device is one owner's, and its context entries lead to the table of that owner, or are absent.",
  check(machine) {
    const entries = entriesOf(machine);
    const { functions } = machine.parts;
    const domains = functions.map((_, index) => entryDomain(machine, index, ownerOf(machine, index)));
    const listed = guestLists(machine);
    const broken = functions.flatMap(({ unit, sbdf, requesters }, index) => {
      if (requesters.length === 0) return [];
      const wrong = wrongEntry(machine, entries, unit, sbdf % 0x10000, domains[index]!);
      return wrong ? [`unit ${unit}: the entry of ${sbdfText(sbdf)} ${wrong}`] : [];
    });
    const aliases = functions.flatMap(({ unit, requesters }) => requesters.slice(1).map((id) => [unit, id] as const));
    for (const [unit, alias] of new Map(aliases.map((one) => [`${one}`, one])).values()) {
      const behind = functions.flatMap(({ requesters }, index) => (requesters.includes(alias) ? [index] : []));
      const fits = [-1, ...behind.map((index) => domains[index]!)].some((domain) => {
        return wrongEntry(machine, entries, unit, alias % 0x10000, domain) === null;
      });
      if (!fits) broken.push(`unit ${unit}: the entry of ${sbdfText(alias)} is of no device behind that bridge`);
    }
    return [...listed, ...broken];
  },
};

/** Guests whose devices are not in one order, each at a place of its own. */
function guestLists({ control }: Hypervisor): string[] {
  const { devices, hardwareDomain } = control.root;
  const guests = new Set(devices.map(({ owner }) => owner));
  return [...guests].flatMap((guest) => {
    if (guest === null || guest >= DOMID_FIRST_RESERVED || guest === hardwareDomain) return [];
    const places = devices.flatMap(({ owner, place }) => (owner === guest ? [place] : [])).sort((a, b) => a - b);
    return places.some((place, at) => place !== at) ? [`domain ${guest}: its devices have places ${places}`] : [];
  });
}

/**
 * X2. No invariant of Xen's: a report of what it lets happen. While a bridge is gone, devices behind it move without
 * the bridge's entries, which stay with whom they were, under a did that may be given away: A1, A6, D2 and D4 do not
 * hold then, nor when it is back, until the entries are written again: one whose did has come to the new owner in the
 * meantime is taken for its own, and left.
 */
export const bridgesTakeEntriesAlong: Invariant = {
  id: 'X2',
  sentence: 'A bridge that was removed has no entries of the devices behind it left.',
  check(machine) {
    const entries = entriesOf(machine);
    const { functions } = machine.parts;
    const stranded = functions.flatMap(({ bridge, unit, requesters }) => {
      if (bridge < 0 || machine.control.root.devices[bridge]!.present) return [];
      return requesters.slice(1).filter((id) => entries.has(`${unit}/${id % 0x10000}`));
    });
    return [...new Set(stranded)].map((id) => `the entry of ${sbdfText(id)} is as its bridge left it`);
  },
};

/** A2. Stronger than memory of the hardware domain: nobody's memory, but a page of its own. */
export const quarantineReachesNothing: Invariant = {
  id: 'A2',
  sentence: "A device in quarantine reaches a page of its own and its reserved regions, and nobody's memory.",
  check(machine, reach) {
    const { frames } = machine.parts;
    return reach().flatMap(({ index, device, owner, dfn, frame }) => {
      if (owner !== DOMID_IO || (dfn === frame && isReserved(machine, index, owner, frame))) return [];
      if (frames.isAllocated(frame) && frames.owner(frame as Mfn) === DOMID_IO) return [];
      return [`${device} in quarantine may reach frame ${frame} at dfn ${dfn}`];
    });
  },
};

/** A3. */
export const quarantinesAreApart: Invariant = {
  id: 'A3',
  sentence: 'Devices in quarantine share no page but those of reserved regions, no table and no did.',
  check(machine, reach) {
    const { driver, functions } = machine.parts;
    const users = new Map<string, number>();
    const broken: string[] = [];
    const use = (what: string, index: number) => {
      const other = users.get(what) ?? index;
      users.set(what, other);
      if (other !== index) broken.push(`devices ${other} and ${index} in quarantine share ${what}`);
    };
    for (const [index, { endpointIndex, unit }] of functions.entries()) {
      if (ownerOf(machine, index) !== DOMID_IO || !driver.quarantine.hasTables(endpointIndex)) continue;
      use(`table ${driver.quarantine.root(endpointIndex)}`, index);
      use(`did ${driver.ids[unit]!.didOf(quarantineDomid(endpointIndex))} of unit ${unit}`, index);
    }
    for (const { index, owner, dfn, frame } of reach()) {
      const isOwn = owner === DOMID_IO && !(dfn === frame && isReserved(machine, index, owner, frame));
      if (isOwn) use(`frame ${frame}`, index);
    }
    return [...new Set(broken)];
  },
};

/** A4. */
export const phantomsFollow: Invariant = {
  id: 'A4',
  sentence: 'All requester ids of a device have the same owner, or the device is broken.',
  check(machine) {
    const entries = entriesOf(machine);
    return machine.parts.functions.flatMap(({ unit, phantoms }, index) => {
      if (machine.control.root.devices[index]!.broken) return [];
      const domain = entryDomain(machine, index, ownerOf(machine, index));
      return phantoms.flatMap((phantom) => {
        const wrong = wrongEntry(machine, entries, unit, phantom % 0x10000, domain);
        return wrong ? [`unit ${unit}: the entry of phantom ${sbdfText(phantom)} ${wrong}`] : [];
      });
    });
  },
};

/**
 * A5, at every step. A device that is nobody's, or of a translated domain that had other memory there (relaxed), has no
 * claim; nor has one whose entry is that of a quarantine behind the same bridge.
 */
export function missedRegions(machine: Hypervisor): string[] {
  const { functions } = machine.parts;
  const { devices, domains } = machine.control.root;
  return functions.flatMap(({ regions, requesters }, index) => {
    const owner = ownerOf(machine, index);
    const isOwned = owner === DOMID_IO ? machine.config.iommu.quarantine !== 'none' : owner !== null;
    const isPv = owner === DOMID_IO || (owner !== null && domains[owner]?.kind === 'pv');
    if (!isOwned || !isPv || requesters.length === 0) return [];
    const { device } = devices[index]!;
    return regions.flatMap((region) => {
      const { firstFrame } = machine.config.reservedRegions[region]!;
      // What its unit cannot see, no table gives it.
      if (firstFrame >= machine.parts.driver.reachOf(functions[index]!.unit)) return [];
      const answers = machine.mayTranslate(device, firstFrame);
      const misses = answers.some(({ frame, rights }) => frame !== firstFrame || rights !== 3);
      return misses ? [`${device} may miss its reserved region at frame ${firstFrame}`] : [];
    });
  });
}

/** A5. */
export const regionsAreThere: Invariant = {
  id: 'A5',
  sentence: 'A device that is assigned or in quarantine always reaches its reserved regions.',
  check: missedRegions,
};

/** A6, at every step: what units walk, or may go on walking, is a table. */
export function freedTables(machine: Hypervisor): string[] {
  const { frames } = machine.parts;
  const broken = new Set<string>();
  const walked = [
    ...contextEntries(machine).filter(({ passThrough }) => !passThrough),
    ...rememberedTables(machine).filter(({ table }) => table >= 0),
  ];
  for (const { unit, did, table } of walked) {
    const isTable = frames.isAllocated(table) && frames.owner(table as Mfn) === DOMID_XEN;
    if (!isTable) broken.add(`unit ${unit}: did ${did} leads to frame ${table}, which is no table`);
  }
  return [...broken];
}

/** A6. */
export const tablesOutliveEntries: Invariant = {
  id: 'A6',
  sentence: 'What a context entry leads to, as it is or as a unit may remember it, is a table and has not been freed.',
  check: freedTables,
};

/** W3. */
export const entriesFitUnits: Invariant = {
  id: 'W3',
  sentence: "The levels of a context entry are those that its unit walks, and its table is the domain's of that level.",
  check(machine) {
    const { driver } = machine.parts;
    return contextEntries(machine).flatMap(({ unit, source, did, levels, table, passThrough }) => {
      const what = `unit ${unit}: the entry of requester 0x${source.toString(16)}`;
      if (!machine.units[unit]!.capabilities.levels.includes(levels)) return [`${what} says ${levels} levels`];
      const domain = did < driver.ids[unit]!.size ? driver.ids[unit]!.domainOf(did) : -1;
      if (domain < 0 || passThrough) return [];
      const expected = tableOf(machine, domain, levels);
      return table === expected ? [] : [`${what} leads to table ${table}, not ${expected} of level ${levels}`];
    });
  },
};

/** M5. The hardware domain keeps the regions of devices that it gave away. */
export const regionsFollowDevices: Invariant = {
  id: 'M5',
  sentence: "A domain's regions are those of its devices, counted by device, and mapped one to one.",
  check(machine) {
    const { config, control, parts } = machine;
    const { hardwareDomain } = control.root;
    return domainsOf(machine).flatMap((domain) => {
      const { regions, iommu, kind, state } = control.root.domains[domain]!;
      if (!iommu || state === 'dying' || !isConfined(machine, domain)) return [];
      return config.reservedRegions.flatMap(({ firstFrame, frames }, region) => {
        const count = regions.find((one) => one.region === region)?.count ?? 0;
        const devices = parts.functions.filter((of, index) => {
          return of.regions.includes(region) && ownerOf(machine, index) === domain;
        }).length;
        const what = `domain ${domain}: region ${region}`;
        if (domain === hardwareDomain ? count < devices : count !== devices)
          return [`${what} counts ${count} devices, of ${devices}`];
        // A translated domain may have kept its own memory there (relaxed).
        if (kind === 'hvm') return [];
        const pages = Array.from({ length: frames }, (_, page) => firstFrame + page);
        const wrong = pages.filter((page) => {
          const { rights, frame } = parts.driver.lookup(domain, page as never);
          return count > 0 ? rights !== 3 || frame !== page : rights !== 0;
        });
        return wrong.map((page) => `${what} is ${count > 0 ? 'not ' : ''}mapped at frame ${page}`);
      });
    });
  },
};
