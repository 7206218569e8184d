// Context entries as they lie in memory, and what units may remember of them.

import type { Hypervisor } from '../../hypervisor/index.ts';
import type { Mfn } from '../../machine/frame-number.ts';
import type { UnitIndex } from '../../machine/ids.ts';
import { ROOT_SEEN } from '../../passthrough/hardware/caches/adversary.ts';
import { contextEntry, decode } from '../../passthrough/hardware/layouts.ts';
import { entryFrame, TranslationType } from '../../passthrough/index.ts';

/** A present context entry of a unit. */
export interface ContextUse {
  readonly unit: number;
  readonly source: number;
  readonly did: number;
  /** Root of the tables that it leads to, unless it passes requests through; and the levels of these. */
  readonly table: number;
  readonly levels: number;
  readonly passThrough: boolean;
}

/** Tables that a unit may go by under a did, though no entry says so any more; -1: leaves or parts of some. */
export interface RememberedTable {
  readonly unit: number;
  readonly did: number;
  readonly table: number;
}

function useOf(unit: number, source: number, words: readonly number[]): ContextUse {
  const { domainId, secondLevelTable, addressWidth, translationType } = decode(contextEntry, words);
  const passThrough = translationType === TranslationType.passThrough;
  return { unit, source, did: domainId, table: secondLevelTable, levels: addressWidth + 2, passThrough };
}

/** The context tables that a unit's root table leads to, by bus. */
export function contextTables(machine: Hypervisor, unit: number): { readonly bus: number; readonly table: Mfn }[] {
  const { frames, driver } = machine.parts;
  const root = driver.rootTable(unit as UnitIndex);
  return Array.from({ length: 256 }, (_, bus) => bus).flatMap((bus) => {
    const low = frames.readWord(root, bus * 4);
    const table = entryFrame(low, frames.readWord(root, bus * 4 + 1)) as Mfn;
    return (low & 1) === 0 ? [] : [{ bus, table }];
  });
}

/** Every present context entry, found from the root tables, whoever it is for. */
export function contextEntries(machine: Hypervisor): ContextUse[] {
  const { frames, units } = machine.parts;
  const found: ContextUse[] = [];
  for (const { index, translating } of units) {
    if (!translating) continue;
    for (const { bus, table } of contextTables(machine, index)) {
      for (let at = 0; at < 256; at += 1) {
        if ((frames.readWord(table, at * 4) & 1) === 0) continue;
        const words = [0, 1, 2, 3].map((word) => frames.readWord(table, at * 4 + word));
        found.push(useOf(index, bus * 256 + at, words));
      }
    }
  }
  return found;
}

/** Requesters of which a unit may remember another entry than the present one, absent ones included. */
export function rememberedContexts(machine: Hypervisor): { readonly unit: number; readonly source: number }[] {
  const { adversary, units } = machine.parts;
  const found: { unit: number; source: number }[] = [];
  for (const { index, translating } of adversary ? units : []) {
    if (!translating) continue;
    adversary!.retained.eachContext(index, (source) => found.push({ unit: index, source }));
  }
  return found;
}

/** What units may remember under each did. Nothing where the cache profile is not `adversary`. */
export function rememberedTables(machine: Hypervisor): RememberedTable[] {
  const { adversary, units } = machine.parts;
  if (!adversary) return [];
  const { retained } = adversary;
  const found: RememberedTable[] = [];
  for (const { index, translating } of units) {
    if (!translating) continue;
    retained.eachContext(index, (source, ...words) => {
      if ((words[0] & 1) !== 0) found.push(useOf(index, source, [...words, 0]));
    });
    retained.eachDid(index, (did) => {
      retained.eachRecord(index, did, (level, low, high) => {
        found.push({ unit: index, did, table: level === ROOT_SEEN ? entryFrame(low, high) : -1 });
      });
    });
  }
  return found;
}
