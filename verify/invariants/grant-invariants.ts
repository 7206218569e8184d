// Grant tables: pins, usage bits and handles against one another, and against what the mappers' devices reach.

import { GNTMAP, GTF, hasWritePins, Pin, RESERVED_ENTRIES } from '../../grant/index.ts';
import type { Dfn, Mfn } from '../../machine/frame-number.ts';
import { domainsOf, handlesOf, holdsBack, type Invariant, isRegionOf } from './invariant.ts';
import { overwrittenGrants } from './table-entries.ts';

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
    const overwritten = overwrittenGrants(machine);
    for (const mapper of domainsOf(machine)) {
      const control = machine.control.root.domains[mapper]!;
      if (!control.grantView.syncDevices) continue;
      const handles = handlesOf(machine, mapper).filter(({ granter }) => granter !== mapper);
      for (let at = 0; at < machine.config.frames; at += 1) {
        const frame = at as Mfn;
        if (overwritten.has(`${mapper}/${at}`) || isRegionOf(machine, mapper, at)) continue;
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
 * G5. Of a version 2 table, whose usage bits no guest writes by accident: reading is set while anything is pinned,
 * writing while anything is pinned for writing. The reserved refs may have brought other bits along from version 1.
 */
export const usageFollowsPins: Invariant = {
  id: 'G5',
  sentence: 'Status words of a version 2 table say reading while an entry is pinned, and writing while it is to write.',
  check(machine) {
    const { grants } = machine.parts;
    return domainsOf(machine).flatMap((granter) => {
      if (grants.version(granter) !== 2) return [];
      const broken: string[] = [];
      for (let ref = RESERVED_ENTRIES; ref < grants.entries(granter); ref += 1) {
        const pins = grants.pins(granter, ref);
        const wanted = (pins === 0 ? 0 : GTF.reading) | (hasWritePins(pins) ? GTF.writing : 0);
        const usage = grants.usage(granter, ref);
        if (usage !== wanted) broken.push(`domain ${granter} ref ${ref}: usage bits ${usage}, pins give ${wanted}`);
      }
      return broken;
    });
  },
};

/** G7. What is pinned is there, and still its granter's; mappings that were overwritten hold nothing any more. */
export const pinnedFramesAreOwned: Invariant = {
  id: 'G7',
  sentence: 'A frame that an entry has pinned is allocated, referenced, and owned by the granter.',
  check(machine) {
    const { grants, frames } = machine.parts;
    const overwritten = overwrittenGrants(machine);
    return domainsOf(machine).flatMap((granter) => {
      const broken: string[] = [];
      for (let ref = 0; ref < grants.entries(granter); ref += 1) {
        if (grants.pins(granter, ref) === 0) continue;
        const frame = grants.activeFrame(granter, ref);
        if (overwritten.has(`${grants.activeMapper(granter, ref)}/${frame}`)) continue;
        const isThere = frames.isAllocated(frame) && frames.references(frame) > 0;
        if (!isThere || frames.owner(frame) !== granter)
          broken.push(`domain ${granter} ref ${ref}: frame ${frame} is pinned, but not the granter's`);
      }
      return broken;
    });
  },
};

/** G8. Every handle is live or on one free list, once. A domain that is dying has no use for either. */
export const handlesAreLiveOrFree: Invariant = {
  id: 'G8',
  sentence: 'A handle is either live or on exactly one free list.',
  check(machine) {
    return domainsOf(machine).flatMap((domain) => {
      if (machine.control.root.domains[domain]!.state === 'dying') return [];
      const maptrack = machine.parts.grants.maptrack(domain);
      const all = [...maptrack.live(), ...maptrack.idle()].sort((a, b) => a - b);
      const isWhole = all.length === maptrack.made && all.every((handle, at) => handle === at);
      return isWhole ? [] : [`domain ${domain}: ${maptrack.made} handles, but live or free are ${all.length}`];
    });
  },
};

/** G9. The 129th pin of a kind is refused. */
export const pinsAreLimited: Invariant = {
  id: 'G9',
  sentence: 'No pin counter is above 128.',
  check(machine) {
    const { grants } = machine.parts;
    return domainsOf(machine).flatMap((granter) => {
      const broken: string[] = [];
      for (let ref = 0; ref < grants.entries(granter); ref += 1) {
        const pins = grants.pins(granter, ref);
        const isOver = Object.values(Pin).some(({ shift }) => ((pins >>> shift) & 0xff) > 128);
        if (isOver) broken.push(`domain ${granter} ref ${ref}: pins 0x${pins.toString(16)}`);
      }
      return broken;
    });
  },
};
