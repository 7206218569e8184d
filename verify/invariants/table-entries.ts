// Page tables as they lie in memory: what each entry of a table in use refers to.

import { GNTMAP } from '../../grant/index.ts';
import type { Hypervisor } from '../../hypervisor/index.ts';
import type { Mfn } from '../../machine/frame-number.ts';
import { DOMID_FIRST_RESERVED } from '../../machine/ids.ts';
import { domainsOf, handlesOf } from './invariant.ts';

const PRESENT = 1;
const WRITABLE = 2;
/** Entries of the top table that are the hypervisor's own. */
const XEN_FIRST = 256;
const XEN_LAST = 271;

/** A present entry of a page table that is in use. */
export interface TableEntry {
  /** The domain whose table it is, and the table's level. */
  readonly domain: number;
  readonly level: number;
  readonly frame: number;
  readonly writable: boolean;
}

/** Level of a frame as a page table that something refers to; 0: it is none. */
export function tableLevel(machine: Hypervisor, frame: number): number {
  const { frames } = machine.parts;
  if (!frames.isAllocated(frame) || frames.owner(frame as Mfn) >= DOMID_FIRST_RESERVED) return 0;
  const type = frames.type(frame as Mfn);
  return type <= 4 && frames.typeCount(frame as Mfn) > 0 ? type : 0;
}

/** Every present entry of every page table in use, but those that lead back to their own table: they hold nothing. */
export function tableEntries(machine: Hypervisor): TableEntry[] {
  const { frames } = machine.parts;
  const found: TableEntry[] = [];
  const words = new Uint32Array(1024);
  for (let table = 0; table < frames.frames; table += 1) {
    const level = tableLevel(machine, table);
    if (level === 0) continue;
    const domain = frames.owner(table as Mfn);
    frames.readFrame(table, words);
    for (let entry = 0; entry < 512; entry += 1) {
      const low = words[entry * 2]!;
      if ((low & PRESENT) === 0 || (level === 4 && entry >= XEN_FIRST && entry <= XEN_LAST)) continue;
      const frame = (low >>> 12) + (words[entry * 2 + 1]! & 0xfffff) * 0x100000;
      if (level > 1 && frame === table) continue;
      found.push({ domain, level, frame, writable: (low & WRITABLE) !== 0 });
    }
  }
  return found;
}

/**
 * Mappings of grants that a PV domain wrote over, by itself or by another grant, as `domain/frame`: it has more live
 * host halves on the frame, or more writable ones, than entries that map it so. With the entry went the reference (xen:
 * put_page_from_l1e in release builds); the handle stays, its device rights too, and can hardly be ended before the
 * domain is.
 */
export function overwrittenGrants(machine: Hypervisor): ReadonlySet<string> {
  const halves = new Map<string, number>();
  const count = (domain: number, frame: number, writable: boolean, by: number) => {
    for (const rights of writable ? 'rw' : 'r') {
      const key = `${domain}/${frame}/${rights}`;
      halves.set(key, (halves.get(key) ?? 0) + by);
    }
  };
  for (const domain of domainsOf(machine)) {
    if (machine.control.root.domains[domain]!.kind === 'hvm') continue;
    for (const { flags, frame } of handlesOf(machine, domain)) {
      if ((flags & GNTMAP.host_map) !== 0) count(domain, frame, (flags & GNTMAP.readonly) === 0, 1);
    }
  }
  const entries = halves.size === 0 ? [] : tableEntries(machine);
  for (const { domain, level, frame, writable } of entries) if (level === 1) count(domain, frame, writable, -1);
  const missing = [...halves].filter(([, left]) => left > 0).map(([key]) => key.slice(0, key.lastIndexOf('/')));
  return new Set([...missing, ...outlastingGrants(machine)]);
}

/** The same for handles whose granter is gone, but for which the mapper's devices still reach the frame. */
function outlastingGrants(machine: Hypervisor): string[] {
  const { grants, frames } = machine.parts;
  return domainsOf(machine).flatMap((mapper) => {
    const known = handlesOf(machine, mapper);
    if (known.length === grants.maptrack(mapper).live().length) return [];
    const all = Array.from({ length: frames.frames }, (_, frame) => frame as Mfn);
    const outlasting = all.filter((frame) => {
      const counted = grants.readers(mapper, frame) + grants.writers(mapper, frame);
      return counted > known.filter((handle) => handle.frame === frame && handle.granter !== mapper).length;
    });
    return outlasting.map((frame) => `${mapper}/${frame}`);
  });
}
