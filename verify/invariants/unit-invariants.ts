// What units and devices see and keep: writes that have not reached a unit, completions, device TLBs.

import type { Hypervisor } from '../../hypervisor/index.ts';
import type { UnitIndex } from '../../machine/ids.ts';
import { parseSbdf } from '../../machine/ids.ts';
import { AdversaryCaches, entryFrame, isLeaf, QUEUE_ENTRIES } from '../../passthrough/index.ts';
import { contextEntries, contextTables } from './context-entries.ts';
import { dfnsOf, type Invariant } from './invariant.ts';

/** Type of a wait in the queue. */
const WAIT = 5;

/** Frames that a unit walks: its root table, context tables, and all tables that contexts lead to. */
function walkedFrames(machine: Hypervisor, unit: number): ReadonlySet<number> {
  const { frames, driver } = machine.parts;
  const found = new Set<number>([driver.rootTable(unit as UnitIndex)]);
  for (const { table } of contextTables(machine, unit)) found.add(table);
  const visit = (table: number, level: number) => {
    if (!frames.isMemory(table) || found.has(table)) return;
    found.add(table);
    for (let entry = 0; level > 1 && entry < 512; entry += 1) {
      const low = frames.readWord(table, entry * 2);
      if ((low & 3) !== 0 && !isLeaf(level, low))
        visit(entryFrame(low, frames.readWord(table, entry * 2 + 1)), level - 1);
    }
  };
  for (const { unit: of, table, levels, passThrough } of contextEntries(machine))
    if (of === unit && !passThrough) visit(table, levels);
  return found;
}

/**
 * What some unit may walk and does not see as it was written. `cachedOnly`: of that what lies in the processor's cache.
 * At every micro-step there must be none of these, and of the others none at rest.
 */
export function unseenWrites(machine: Hypervisor, cachedOnly = false): string[] {
  const late = machine.parts.lag?.entries() ?? [];
  if (late.length === 0) return [];
  return machine.units.flatMap(({ index, capabilities }) => {
    const mine = late.filter(({ units, isCached }) => {
      const isHere = (units & (1 << index)) !== 0;
      return isHere && (!cachedOnly || (isCached && !capabilities.coherent));
    });
    if (mine.length === 0) return [];
    const walked = walkedFrames(machine, index);
    return mine
      .filter(({ frame }) => walked.has(frame))
      .map(({ frame, word, old, isCached }) => {
        const what = old.length === 0 ? `table ${frame}` : `word ${word} of table ${frame}`;
        return `unit ${index} does not see ${what}, which is in ${isCached ? 'the cache' : 'its write buffer'}`;
      });
  });
}

/** W2. A unit that does not snoop reads memory; one behind a write buffer what has left that. xen: XSA-321. */
export const writesAreSeen: Invariant = {
  id: 'W2',
  sentence: 'What a unit may walk it sees as it was written: written back, and out of its write buffer.',
  check: (machine) => unseenWrites(machine),
};

/** Status words (frame, word) that waits before a unit will write, and it has not come to. */
function waitsBefore(machine: Hypervisor, index: number): { readonly frame: number; readonly word: number }[] {
  const unit = machine.units[index]!;
  const { frames } = machine.parts;
  if (!unit.queueEnabled) return [];
  return Array.from({ length: unit.queued }, (_, at) => (unit.queueTail - 1 - at + QUEUE_ENTRIES) % QUEUE_ENTRIES)
    .map((slot) => [0, 1, 2, 3].map((word) => frames.readWord(unit.queueFrame, slot * 4 + word)))
    .filter((words) => (words[0]! & 0xf) === WAIT)
    .map(([, , low, high]) => ({ frame: entryFrame(low!, high!), word: (low! & 0xffc) >>> 2 }));
}

/**
 * F3 as it holds at every micro-step: the status word of a wait that the unit has not come to does not say that it was
 * carried out, or else whoever looks at the word takes the completion of another request for its own.
 */
export function falseCompletions(machine: Hypervisor): string[] {
  return machine.units.flatMap(({ index }) =>
    waitsBefore(machine, index)
      .filter(({ frame, word }) => machine.parts.frames.readWord(frame, word) !== 0)
      .map(({ word }) => `unit ${index}: status word ${word} says done, and its wait is not`),
  );
}

/** F3. At rest nobody looks at a status word, so nothing may be left that writes one later. xen: XSA-373. */
export const completionsAreTaken: Invariant = {
  id: 'F3',
  sentence: 'A wait is over only when its own status word was written, and none is left that nobody waits for.',
  check(machine) {
    const left = machine.units.flatMap(({ index }) => {
      const { length } = waitsBefore(machine, index);
      return length === 0 ? [] : [`unit ${index} has ${length} waits before it, and nobody waits for them`];
    });
    return [...falseCompletions(machine), ...left];
  },
};

/**
 * F7. As a state: what was taken from a unit was taken from its devices, too, and after it. A command that goes to
 * another unit, covers too little, or comes before the unit's own leaves something behind.
 */
export const deviceTlbsFollowTheirUnit: Invariant = {
  id: 'F7',
  sentence: 'A device TLB holds nothing but what the unit of the device may answer now.',
  check(machine) {
    if (!machine.parts.hasDeviceTlbs) return [];
    const dfns = dfnsOf(machine);
    return machine.control.root.devices.flatMap(({ device, unit }) => {
      const { caches, deviceTlbs } = machine.units[unit]!;
      if (!(caches instanceof AdversaryCaches) || !deviceTlbs?.isEnabled(parseSbdf(device) % 0x10000)) return [];
      return dfns.flatMap((dfn) =>
        machine
          .mayTranslate(device, dfn)
          .filter(({ deviceTlb }) => deviceTlb)
          .map(({ frame }) => `${device} keeps frame ${frame} at dfn ${dfn}, which unit ${unit} does not give`),
      );
    });
  },
};
