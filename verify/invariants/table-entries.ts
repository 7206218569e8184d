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
 * Frames of which a PV domain has more live host halves than entries that map them: it wrote over a grant's mapping, by
 * itself or by another grant, and with the entry went the reference (xen: put_page_from_l1e in release builds). The
 * handle stays, its device rights too, and can hardly be ended before the domain is.
 */
export function overwrittenGrants(machine: Hypervisor): ReadonlySet<number> {
  const balance = new Map<string, number>();
  const count = (domain: number, frame: number, by: number) => {
    const key = `${domain}/${frame}`;
    balance.set(key, (balance.get(key) ?? 0) + by);
  };
  for (const domain of domainsOf(machine)) {
    if (machine.control.root.domains[domain]!.kind === 'hvm') continue;
    for (const { flags, frame } of handlesOf(machine, domain)) {
      if ((flags & GNTMAP.host_map) !== 0) count(domain, frame, 1);
    }
  }
  const entries = balance.size === 0 ? [] : tableEntries(machine);
  for (const { domain, level, frame } of entries) if (level === 1) count(domain, frame, -1);
  const missing = [...balance].filter(([, left]) => left > 0).map(([key]) => Number(key.split('/')[1]));
  return new Set([...missing, ...outlastingGrants(machine)]);
}

/** Frames that a mapper's devices still reach by handles whose granter is gone. */
function outlastingGrants(machine: Hypervisor): number[] {
  const { grants, frames } = machine.parts;
  return domainsOf(machine).flatMap((mapper) => {
    const known = handlesOf(machine, mapper);
    if (known.length === grants.maptrack(mapper).live().length) return [];
    const all = Array.from({ length: frames.frames }, (_, frame) => frame as Mfn);
    return all.filter((frame) => {
      const counted = grants.readers(mapper, frame) + grants.writers(mapper, frame);
      return counted > known.filter((handle) => handle.frame === frame && handle.granter !== mapper).length;
    });
  });
}
