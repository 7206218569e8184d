// What a draw sees of a machine: who is there, what is granted, where things are mapped.

import { GNTMAP, GTF } from '../../grant/index.ts';
import { type Hypervisor, P2mType, PV_WINDOW_BASE } from '../../hypervisor/index.ts';
import type { Gfn, Mfn } from '../../machine/frame-number.ts';
import { DOMID_FIRST_RESERVED, type Domid, type MaptrackHandle } from '../../machine/ids.ts';
import { wideHigh, wideLow } from '../../machine/wide.ts';

const PAGE = 4096;
/** Refs that draws play with; the first two survive a change of version. */
export const DRAWN_REFS: readonly number[] = [0, 1, 8, 9, 10, 11];

export function isHvm(machine: Hypervisor, domain: number): boolean {
  return machine.control.root.domains[domain]?.kind === 'hvm';
}

export function aliveDomains(machine: Hypervisor, kind?: 'pv' | 'hvm'): number[] {
  return machine.control.root.domains.flatMap((domain) =>
    domain?.state === 'alive' && (kind === undefined || domain.kind === kind) ? [domain.domain] : [],
  );
}

/** A domain's RAM as it names it itself: PV by mfn, HVM by gfn; page tables included. */
export function ramOf(machine: Hypervisor, domain: number): number[] {
  const { frames, p2m } = machine.parts;
  if (isHvm(machine, domain)) {
    const gfns = Array.from({ length: p2m.gfns }, (_, gfn) => gfn as Gfn);
    return gfns.filter((gfn) => p2m.type(domain as Domid, gfn) === P2mType.ram);
  }
  const found: number[] = [];
  for (let frame = 0; frame < frames.ram; frame += 1) {
    const isOwn = frames.isAllocated(frame) && frames.owner(frame as Mfn) === domain;
    if (isOwn && !frames.isXenHeap(frame as Mfn)) found.push(frame);
  }
  return found;
}

/** Of a PV domain's RAM, what is no page table in use. */
export function plainRamOf(machine: Hypervisor, domain: number): number[] {
  const { frames } = machine.parts;
  const isTable = (frame: number) => frames.type(frame as Mfn) <= 4 && frames.typeCount(frame as Mfn) > 0;
  const ram = ramOf(machine, domain);
  return isHvm(machine, domain) ? ram : ram.filter((frame) => !isTable(frame));
}

/** Addresses where a domain can map things for its processor. */
export function placesOf(machine: Hypervisor, domain: number): number[] {
  const { windowPages, gfns } = machine.config;
  const isTranslated = isHvm(machine, domain);
  const pages = Array.from({ length: isTranslated ? gfns : windowPages }, (_, page) => page * PAGE);
  return isTranslated ? pages.filter((address) => address > 0) : pages.map((page) => PV_WINDOW_BASE + page);
}

/** The low word of the PTE at an address of a PV domain; for an HVM one the type of the p2m entry; 0: nothing. */
function heldAt(machine: Hypervisor, domain: number, address: number): number {
  const { p2m, pvTables } = machine.parts;
  if (isHvm(machine, domain)) return p2m.type(domain as Domid, (address / PAGE) as Gfn);
  const found = pvTables.find(domain as Domid, wideLow(address, 'address'), wideHigh(address, 'address'));
  return found ? pvTables.low : 0;
}

/** Places where nothing is yet. */
export function emptyPlaces(machine: Hypervisor, domain: number): number[] {
  return placesOf(machine, domain).filter((address) => heldAt(machine, domain, address) === 0);
}

/** Places where something is that is no grant's mapping. */
export function plainPlaces(machine: Hypervisor, domain: number): number[] {
  const taken = new Set(liveHandles(machine, domain).map(({ address }) => address));
  return placesOf(machine, domain).filter((address) => !taken.has(address));
}

export interface LiveHandle {
  readonly handle: MaptrackHandle;
  readonly flags: number;
  readonly frame: number;
  /** Where its host half is mapped; 0 when that is nowhere to be found. */
  readonly address: number;
}

/** The handles that a domain has, and where their host halves are. */
export function liveHandles(machine: Hypervisor, domain: number): LiveHandle[] {
  const { grants } = machine.parts;
  const maptrack = grants.maptrack(domain as Domid);
  const left = new Set(placesOf(machine, domain));
  return maptrack.live().map((handle) => {
    const flags = maptrack.flags(handle);
    const granter = maptrack.domain(handle);
    // The granter may be gone: then the handle is of nothing, and whoever ends it is crashed.
    const frame = granter < DOMID_FIRST_RESERVED ? grants.activeFrame(granter, maptrack.ref(handle)) : (0 as Mfn);
    const fits = [...left].find(
      (at) => (flags & GNTMAP.host_map) !== 0 && isGrantHere(machine, domain, at, frame, flags),
    );
    if (fits !== undefined) left.delete(fits);
    return { handle, flags, frame, address: fits ?? 0 };
  });
}

function isGrantHere(machine: Hypervisor, domain: number, address: number, frame: Mfn, flags: number): boolean {
  const { p2m, pvTables } = machine.parts;
  const word = heldAt(machine, domain, address);
  if (word === 0) return false;
  if (!isHvm(machine, domain)) return pvTables.holdsGrant(frame, flags);
  const wanted = (flags & GNTMAP.readonly) === 0 ? P2mType.grantWritable : P2mType.grantReadonly;
  return word === wanted && p2m.frame(domain as Domid, (address / PAGE) as Gfn) === frame;
}

export interface Offer {
  readonly granter: number;
  readonly ref: number;
  readonly flags: number;
}

/** Entries of a type (GTF bits 0 and 1) that are for a domain, and may serve it. */
export function offersTo(machine: Hypervisor, domain: number, types: readonly number[]): Offer[] {
  const { grants } = machine.parts;
  return machine.control.root.domains.flatMap((granter) =>
    granter === null || granter.state === 'dying'
      ? []
      : DRAWN_REFS.flatMap((ref) => {
          const word = grants.sharedFlags(granter.domain as Domid, ref);
          const fits = types.includes(word & GTF.type_mask) && word >>> 16 === domain;
          return fits ? [{ granter: granter.domain, ref, flags: word & 0xffff }] : [];
        }),
  );
}

/** Refs of a domain's that are in use. */
export function usedRefs(machine: Hypervisor, domain: number): number[] {
  return DRAWN_REFS.filter((ref) => machine.parts.grants.pins(domain as Domid, ref) !== 0);
}
