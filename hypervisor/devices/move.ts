// A device changes hands, and its context entries, reserved regions and dids with it; and what must be invalidated
// around that. xen: passthrough/pci.c assign_device, deassign_device, pci_add_device, pci_remove_device; vtd/iommu.c
// intel_iommu_assign_device, reassign_device_ownership, domain_context_mapping, domain_context_unmap,
// check_cleanup_domid_map, intel_iommu_remove_device.
//
// A move goes through stages. Which, and in which order, depends on what it is for: its way.

import { flushThen } from '../../grant/index.ts';
import { Errno } from '../../machine/errno.ts';
import type { Dfn } from '../../machine/frame-number.ts';
import { DOMID_IO, DOMID_XEN, type Domid, type UnitIndex, type Vcpu } from '../../machine/ids.ts';
import { Pending } from '../../machine/pending.ts';
import { type PciFunction, quarantineDomid } from '../../passthrough/index.ts';
import { crashDomain } from '../control.ts';
import type { OperationContext } from '../operations/context.ts';
import { forgetFaults, hasAnother, isGuest, ownerAfter, setOwner } from './owners.ts';
import { countRegion, mapPage, regionCount, unmapPage } from './regions.ts';

/** Scratch words of a move: the device's place in the control state, owners before and after, its way. */
const Move = {
  device: Pending.scratch,
  from: Pending.scratch + 1,
  to: Pending.scratch + 2,
  way: Pending.scratch + 3,
  /** How far the stage in hand has come: which of several, and which page of it. */
  at: Pending.scratch + 4,
  page: Pending.scratch + 5,
  /** Regions that this move counted for the new owner, from the first on. */
  counted: Pending.scratch + 6,
  relaxed: Pending.scratch + 7,
} as const;

/** In the place of an owner: nobody. */
const NOBODY = 0xffff;

const Stage = {
  quarantine: 0,
  start: 1,
  regions: 2,
  entries: 3,
  owner: 4,
  regionsGone: 5,
  phantoms: 6,
  undo: 7,
  over: 8,
} as const;
type Stage = (typeof Stage)[keyof typeof Stage];

/** What a move is for. Of a device that is given away the phantom functions follow; of others they go first. */
export const Way = { assign: 0, deassign: 1, remove: 2, add: 3, retreat: 4 } as const;
export type Way = (typeof Way)[keyof typeof Way];

const { quarantine, start, regions, entries, owner, regionsGone, phantoms, over } = Stage;
const GIVEN: readonly Stage[] = [quarantine, start, regions, entries, owner, regionsGone, phantoms, over];
const TAKEN: readonly Stage[] = [quarantine, start, phantoms, entries, owner, regionsGone, over];
const WAYS: readonly (readonly Stage[])[] = [GIVEN, TAKEN, TAKEN, GIVEN, TAKEN];

/** What a stage says: it is over, or it goes on when what it asked for is flushed, or an errno. */
const NEXT = 1;
const AGAIN = 2;

/** Each stage acts in one phase and flushes in the next. */
export const MOVE_PHASES = Stage.over * 2;
/** What {@link stepMove} says when the move is over. */
export const MOVED = MOVE_PHASES;

interface Moving {
  readonly context: OperationContext;
  readonly vcpu: Vcpu;
  readonly record: Uint32Array;
  readonly index: number;
  readonly of: PciFunction;
}

/** Writes what a move is about into the record of an operation. It begins in phase 0. */
export function placeMove(
  record: Uint32Array,
  move: {
    readonly device: number;
    readonly from: number | null;
    readonly to: number | null;
    readonly way: Way;
    readonly relaxed?: boolean;
  },
): void {
  record[Move.device] = move.device;
  record[Move.from] = move.from ?? NOBODY;
  record[Move.to] = move.to ?? NOBODY;
  record[Move.way] = move.way;
  record[Move.at] = 0;
  record[Move.page] = 0;
  record[Move.counted] = 0;
  record[Move.relaxed] = Number(move.relaxed ?? false);
}

/**
 * One micro-step of a move, under the device lock; {@link MOVED} when it is over, the errno in the record. Refused for
 * want of a did or of memory, it leaves everything as it was, but for the tables of the device's quarantine.
 */
export function stepMove(context: OperationContext, vcpu: Vcpu, phase: number): number {
  if ((phase & 1) !== 0) return flushThen(context.access, vcpu, phase, phase - 1);
  const record = context.parts.pending.record(vcpu);
  const index = record[Move.device]!;
  const moving = { context, vcpu, record, index, of: context.parts.functions[index]! };
  const stage = (phase >> 1) as Stage;
  const said = ACTS[stage]!(moving);
  if (said === AGAIN) return phase + 1;
  return (said === NEXT ? after(moving, stage) : failed(moving, stage, said)) * 2;
}

function after({ record }: Moving, stage: Stage): Stage {
  record[Move.at] = 0;
  record[Move.page] = 0;
  if (stage === Stage.undo) return over;
  const stages = WAYS[record[Move.way]!]!;
  return stages[stages.indexOf(stage) + 1]!;
}

/**
 * What was mapped for the new owner is unmapped. A device that is half given away is taken back as a whole; if not even
 * that can be, it is broken, and its domain is crashed. xen: XSA-449.
 */
function failed(moving: Moving, stage: Stage, errno: number): Stage {
  const { context, vcpu, record, index } = moving;
  const way = record[Move.way]!;
  record[Move.at] = 0;
  record[Move.page] = 0;
  if (way === Way.retreat) {
    context.control.change(`device ${index} is broken`, (draft) => {
      draft.devices[index]!.broken = true;
    });
    const domain = record[Move.from]!;
    if (isGuest(context.control, domain)) crashDomain(context.control, { vcpu, domain, reason: 'device is broken' });
    return over;
  }
  record[Pending.result] = errno;
  if (stage === quarantine || stage === start) return over;
  if (way === Way.assign && stage === phantoms) {
    const from = record[Move.to]!;
    const to = ownerAfter(context.control, context.config.iommu.quarantine, index, from);
    placeMove(record, { device: index, from, to, way: Way.retreat });
    return quarantine;
  }
  return Stage.undo;
}

const ACTS: readonly ((moving: Moving) => number)[] = [
  makeQuarantine,
  begin,
  mapRegions,
  moveEntries,
  changeOwner,
  unmapRegions,
  movePhantoms,
  undoRegions,
];

/** The domid that a device's entries go by under an owner; -1 when it has none under that owner. */
function entryDomain({ context, of }: Moving, owner: number): Domid | -1 {
  const { tables, quarantine } = context.parts.driver;
  if (owner === DOMID_IO) return quarantine.hasTables(of.endpointIndex) ? quarantineDomid(of.endpointIndex) : -1;
  return isDomain(owner) && tables.exists(owner as Domid) ? (owner as Domid) : -1;
}

/** Whether an owner is a domain, the hardware domain included. */
function isDomain(owner: number): boolean {
  return owner !== NOBODY && owner !== DOMID_IO && owner !== DOMID_XEN;
}

/**
 * The quarantine of a device is made ready when it leaves the hardware domain, and stays so whatever comes of the move.
 * Its reserved regions are entered there page by page.
 */
function makeQuarantine(moving: Moving): number {
  const { context, vcpu, record, of } = moving;
  const { driver } = context.parts;
  const { from, to } = ownersOf(record);
  if (record[Move.at] === 0) {
    const wasMade = driver.quarantine.isMade(of.endpointIndex);
    const errno = tryOut(context, () => prepareQuarantine(moving, from, to));
    if (errno !== 0) return errno;
    if (wasMade || !driver.quarantine.isMade(of.endpointIndex)) return NEXT;
    record[Move.at] = 1;
  }
  const region = of.regions[record[Move.at]! - 1];
  if (region === undefined) return NEXT;
  const { firstFrame, frames } = context.config.reservedRegions[region]!;
  const page = record[Move.page]!;
  if (!driver.quarantineMapped(vcpu, (firstFrame + page) as Dfn)) return NEXT;
  const isLast = page + 1 === frames;
  record[Move.page] = isLast ? 0 : page + 1;
  if (isLast) record[Move.at]! += 1;
  return AGAIN;
}

/** Everything else that can be refused; then what the old owner has pending is flushed, while its did still stands. */
function begin(moving: Moving): number {
  const { context, vcpu, record, of, index } = moving;
  const { driver } = context.parts;
  const { from, to } = ownersOf(record);
  if (record[Move.at] === 1) return NEXT;
  forgetFaults(context.control, index);
  // Tried now, so that it is refused at once; done when it comes to the entries, after the regions.
  const errno = refusal(moving) || tryOut(context, () => prepare(moving, to), true);
  if (errno !== 0) return errno;
  const enters = to === DOMID_IO && from !== DOMID_IO && entryDomain(moving, to) >= 0;
  if (enters) driver.quarantine.wipe(of.endpointIndex);
  if (!isDomain(from) || !driver.hasPending(from as Domid)) return NEXT;
  record[Move.at] = 1;
  driver.barrier(vcpu, from as Domid);
  return AGAIN;
}

function ownersOf(record: Uint32Array): { from: number; to: number } {
  return { from: record[Move.from]!, to: record[Move.to]! };
}

/** Does something that leaves no trace when it fails, or in any case. */
function tryOut({ parts }: OperationContext, attempt: () => number, inAnyCase = false): number {
  const mark = parts.heap.mark();
  const errno = attempt();
  if (errno !== 0 || inAnyCase) parts.heap.rollback(mark);
  parts.heap.release(mark);
  return errno;
}

/**
 * One that needs no tables in quarantine takes a did all the same, and gives it back: so there must be one, even if the
 * target has its own. xen: intel_iommu_quarantine_init, quarantine_teardown.
 */
function prepareQuarantine(moving: Moving, from: number, to: number): number {
  const { context, of } = moving;
  const isLeaving = from === context.control.root.hardwareDomain && moving.record[Move.way] === Way.assign;
  if (context.config.iommu.quarantine === 'none' || of.endpointIndex < 0) return 0;
  if (!isLeaving && to !== DOMID_IO) return 0;
  if (entryDomain(moving, DOMID_IO) >= 0) return prepare(moving, DOMID_IO);
  return isLeaving ? context.parts.driver.ids[of.unit]!.headroom() : 0;
}

function prepare(moving: Moving, owner: number): number {
  const { context, of } = moving;
  const domain = entryDomain(moving, owner);
  if (domain < 0) return 0;
  for (const requester of [...of.requesters, ...of.phantoms]) {
    const errno = context.parts.driver.prepare(domain as Domid, of.unit as UnitIndex, requester % 0x10000);
    if (errno !== 0) return errno;
  }
  return 0;
}

/**
 * A region that is for several devices would connect their domains. And of a device behind a bridge that has a region
 * Xen does not move the entry. (It writes it first, and then rolls back that of another requester: recorded, and not
 * followed here.) xen: intel_iommu_assign_device, domain_context_mapping.
 */
function refusal(moving: Moving): number {
  const { context, record, of } = moving;
  const { from, to } = ownersOf(record);
  const isShared = of.regions.some((region) => context.config.reservedRegions[region]!.devices.length > 1);
  if (isShared && record[Move.way] === Way.assign && record[Move.relaxed] === 0) return Errno.EPERM;
  const isBridged = of.bridge >= 0 && of.regions.length > 0 && from !== to && entryDomain(moving, to) >= 0;
  const isPresent = isBridged && context.parts.driver.contexts.didOf(of.unit, of.sbdf % 0x10000) >= 0;
  return isPresent ? Errno.EOPNOTSUPP : 0;
}

/** The next page of the regions that the device needs is mapped for the new owner. */
function mapRegions(moving: Moving): number {
  const { context, vcpu, record, of } = moving;
  const { to } = ownersOf(record);
  const region = of.regions[record[Move.at]!];
  if (region === undefined || !isDomain(to)) return NEXT;
  const domain = to as Domid;
  const { firstFrame, frames } = context.config.reservedRegions[region]!;
  const page = record[Move.page]!;
  if (page === 0) {
    const known = regionCount(context, domain, region);
    countRegion(context, domain, region, 1);
    if (known > 0) return nextRegion(record);
  }
  const errno = mapPage(context, vcpu, domain, firstFrame + page, record[Move.relaxed] !== 0);
  if (errno !== 0) {
    // Of a region that is mapped in part all is taken back.
    if (page === 0) countRegion(context, domain, region, -1);
    else record[Move.counted]! += 1;
    return errno;
  }
  record[Move.page] = page + 1;
  return page + 1 < frames ? AGAIN : nextRegion(record);
}

function nextRegion(record: Uint32Array): number {
  record[Move.at]! += 1;
  record[Move.page] = 0;
  record[Move.counted]! += 1;
  return AGAIN;
}

/** The regions of a device are for one device fewer of a domain: the next of `count` regions, or page of one. */
function dropRegions(moving: Moving, domain: Domid, count: number): number {
  const { context, vcpu, record, of } = moving;
  const at = record[Move.at]!;
  if (at >= count) return NEXT;
  const region = of.regions[at]!;
  const { firstFrame, frames } = context.config.reservedRegions[region]!;
  const page = record[Move.page]!;
  if (regionCount(context, domain, region) === 1) {
    if (page < frames) {
      if (unmapPage(context, vcpu, domain, firstFrame + page) !== 0) record[Pending.result] = Errno.ENXIO;
      record[Move.page] = page + 1;
      return AGAIN;
    }
    // A policy may wait with its flush; the end of the region does not.
    if (page === frames && context.parts.driver.hasPending(domain)) {
      context.parts.driver.barrier(vcpu, domain);
      record[Move.page] = page + 1;
      return AGAIN;
    }
  }
  if (regionCount(context, domain, region) > 0) countRegion(context, domain, region, -1);
  record[Move.at] = at + 1;
  record[Move.page] = 0;
  return at + 1 < count ? AGAIN : NEXT;
}

/** The old owner's regions; those of the hardware domain stay, for they are the firmware's. */
function unmapRegions(moving: Moving): number {
  const { context, record, of } = moving;
  const { from } = ownersOf(record);
  const stays = from === context.control.root.hardwareDomain && record[Move.way] !== Way.remove;
  return !isDomain(from) || stays ? NEXT : dropRegions(moving, from as Domid, of.regions.length);
}

function undoRegions(moving: Moving): number {
  const { context, vcpu, record } = moving;
  const { to } = ownersOf(record);
  const errno = record[Pending.result]!;
  const said = dropRegions(moving, to as Domid, record[Move.counted]!);
  if (record[Pending.result] !== errno) {
    crashDomain(context.control, { vcpu, domain: to, reason: 'a reserved region cannot be unmapped' });
    record[Pending.result] = errno;
  }
  return said;
}

/**
 * The next of the device's entries, its own first, then those of the bridge above it, as long as that is there. When a
 * hidden device is removed, its entry stays, as recorded.
 */
function moveEntries(moving: Moving): number {
  const { context, record, of } = moving;
  const { devices } = context.control.root;
  if (ownersOf(record).from === DOMID_XEN) return NEXT;
  const isAlone = of.bridge >= 0 && !devices[of.bridge]!.present;
  return moveEntry(moving, isAlone ? of.requesters.slice(0, 1) : of.requesters);
}

function movePhantoms(moving: Moving): number {
  return moveEntry(moving, moving.of.phantoms);
}

function moveEntry(moving: Moving, requesters: PciFunction['requesters']): number {
  const { context, vcpu, record, of } = moving;
  const { driver } = context.parts;
  const at = record[Move.at]!;
  const requester = requesters[at];
  if (requester === undefined) return NEXT;
  const { to } = ownersOf(record);
  const refused = at === 0 ? tryOut(context, () => prepare(moving, to)) : 0;
  if (refused !== 0) return refused;
  record[Move.at] = at + 1;
  const domain = entryDomain(moving, to);
  if (domain < 0) driver.detach(vcpu, of.unit as UnitIndex, requester);
  else {
    const errno = driver.attach(vcpu, domain as Domid, of.unit as UnitIndex, requester);
    if (errno !== 0) return errno;
  }
  return AGAIN;
}

/** The did of an owner goes that has no other device behind the unit; and the device is the new owner's. */
function changeOwner({ context, record, index, of }: Moving): number {
  const { control, parts } = context;
  const { from, to } = ownersOf(record);
  const isLast = isDomain(from) && of.requesters.length > 0 && !hasAnother(control, from, index);
  if (isLast) parts.driver.leave(from as Domid, of.unit as UnitIndex);
  const way = record[Move.way]!;
  if (way === Way.remove) parts.driver.endQuarantine(of.unit as UnitIndex, of.endpointIndex);
  else if (way === Way.add) parts.driver.beginQuarantine(of.endpointIndex);
  setOwner(control, index, to === NOBODY ? null : to, { present: way !== Way.remove, byOrder: way === Way.assign });
  return NEXT;
}
