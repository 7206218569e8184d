// Memory that domains get and give back, in micro-steps, one page at a time. xen: common/memory.c.

import { completeAll, flushThen } from '../../grant/index.ts';
import { Errno } from '../../machine/errno.ts';
import type { Gfn, Mfn } from '../../machine/frame-number.ts';
import type { Domid, Vcpu } from '../../machine/ids.ts';
import { ARGUMENT_WORDS, ARGUMENTS, Pending, Step } from '../../machine/pending.ts';
import { P2mType } from '../memory/p2m.ts';
import type { OperationContext } from './context.ts';

/**
 * Scratch words: order of the extents, pages done of the one in hand; for the physmap: space, index, gfn, and the frame
 * asked for + 1. The elements hold: gfn, first frame, and the frame asked for + 1.
 */
export const ReservationScratch = {
  order: Pending.scratch,
  page: Pending.scratch + 1,
  space: Pending.scratch,
  frameIndex: Pending.scratch + 1,
  gfn: Pending.scratch + 2,
  asked: Pending.scratch + 3,
} as const;
export const ExtentWords = { number: 0, frame: 1, asked: 2 } as const;

const Phase = { page: 0, pageFlush: 1, end: 2 } as const;
/** In an add_to_physmap, a number of a status frame and not of a shared one. xen: XENMAPIDX_grant_table_status. */
const STATUS_INDEX = 0x80000000;
/** xen: XENMAPSPACE_*. */
export const MapSpace = {
  sharedInfo: 0,
  grantTable: 1,
  gmfn: 2,
  gmfnRange: 3,
  gmfnForeign: 4,
  deviceMemory: 5,
} as const;

function elementOf(record: Uint32Array): number {
  return ARGUMENTS + record[Pending.index]! * ARGUMENT_WORDS;
}

/** Carries flushes on between pages, and lets go of what was held back at the end. */
function after(context: OperationContext, vcpu: Vcpu, phase: number): number {
  if (phase === Phase.pageFlush) return flushThen(context.access, vcpu, Phase.pageFlush, Phase.page);
  return completeAll(context.access, vcpu, Phase.end, Step.done);
}

/** The operation stops; its result says how many extents were done. */
function stop(context: OperationContext, vcpu: Vcpu, record: Uint32Array): number {
  record[Pending.result] = record[Pending.index]!;
  context.access.operationEnd(vcpu);
  return Phase.end;
}

/** decrease_reservation: frames go back, PV by mfn, HVM by gfn; the first that cannot ends it. */
export function stepDecreaseReservation(context: OperationContext, vcpu: Vcpu, phase: number): number {
  if (phase !== Phase.page) return after(context, vcpu, phase);
  const record = context.parts.pending.record(vcpu);
  const domain = record[Pending.domain] as Domid;
  if (record[Pending.index] === record[Pending.count]) return stop(context, vcpu, record);
  const number = record[elementOf(record) + ExtentWords.number]!;
  if (!context.physmap.giveBack(vcpu, domain, number)) return stop(context, vcpu, record);
  context.access.elementEnd(vcpu);
  record[Pending.index]! += 1;
  return Phase.pageFlush;
}

/** increase_reservation: extents of 2^order frames, which the domain's devices reach once it puts them to use. */
export function stepIncreaseReservation(context: OperationContext, vcpu: Vcpu, phase: number): number {
  if (phase !== Phase.page) return after(context, vcpu, phase);
  const record = context.parts.pending.record(vcpu);
  if (record[Pending.index] === record[Pending.count]) return stop(context, vcpu, record);
  if (!allocate(context, record[Pending.domain] as Domid, record, elementOf(record)))
    return stop(context, vcpu, record);
  record[Pending.index]! += 1;
  return Phase.page;
}

/** populate_physmap: extents of 2^order frames, page by page. */
export function stepPopulate(context: OperationContext, vcpu: Vcpu, phase: number): number {
  if (phase !== Phase.page) return after(context, vcpu, phase);
  const record = context.parts.pending.record(vcpu);
  if (record[Pending.index] === record[Pending.count]) return stop(context, vcpu, record);
  const element = elementOf(record);
  const domain = record[Pending.domain] as Domid;
  const page = record[ReservationScratch.page]!;
  if (page === 0 && !allocate(context, domain, record, element)) return stop(context, vcpu, record);
  const frame = (record[element + ExtentWords.frame]! + page) as Mfn;
  context.physmap.populate(vcpu, domain, frame, (record[element + ExtentWords.number]! + page) as Gfn);
  context.access.elementEnd(vcpu);
  if (page + 1 < 1 << record[ReservationScratch.order]!) record[ReservationScratch.page] = page + 1;
  else {
    record[ReservationScratch.page] = 0;
    record[Pending.index]! += 1;
  }
  return Phase.pageFlush;
}

/** Frames for one extent, all or none. */
function allocate(context: OperationContext, domain: Domid, record: Uint32Array, element: number): boolean {
  const { frames } = context.parts;
  const order = record[ReservationScratch.order]!;
  const asked = record[element + ExtentWords.asked]!;
  if (frames.owned(domain) + (1 << order) > context.domain(domain)!.maxPages) return false;
  const frame = frames.allocateBlock(domain, order, asked === 0 ? undefined : asked - 1);
  if (frame < 0) return false;
  record[element + ExtentWords.frame] = frame;
  return true;
}

/** A grant frame, which the table grows for, or what is at another gfn. xen: xenmem_add_to_physmap_one. */
export function stepAddToPhysmap(context: OperationContext, vcpu: Vcpu, phase: number): number {
  if (phase !== Phase.page) return after(context, vcpu, phase);
  const record = context.parts.pending.record(vcpu);
  record[Pending.result] = addToPhysmap(context, vcpu, record);
  return Phase.end;
}

function addToPhysmap(context: OperationContext, vcpu: Vcpu, record: Uint32Array): number {
  const { frames, p2m } = context.parts;
  const domain = record[Pending.domain] as Domid;
  const gfn = record[ReservationScratch.gfn] as Gfn;
  if (context.domain(domain)!.kind === 'pv') return Errno.EACCES;
  if (gfn >= p2m.gfns) return Errno.EINVAL;
  const found = frameToAdd(context, record, domain);
  if (found < 0) return found;
  const frame = found as Mfn;
  // What stays where it is makes no room for itself, but for a page of the hypervisor's.
  const isThere = p2m.type(domain, gfn) !== P2mType.hole;
  const isMoved = frames.isXenHeap(frame) || !isThere || p2m.frame(domain, gfn) !== frame;
  if (isThere && isMoved && !makeRoom(context, vcpu, domain, gfn)) return Errno.ENXIO;
  return context.physmap.add(vcpu, domain, gfn, frame, P2mType.ram) ? 0 : Errno.EPERM;
}

/** The frame that is to be at the gfn; an errno. */
function frameToAdd(context: OperationContext, record: Uint32Array, domain: Domid): number {
  const index = record[ReservationScratch.frameIndex]!;
  switch (record[ReservationScratch.space]) {
    case MapSpace.grantTable:
      return grantFrame(context, record, domain, index);
    case MapSpace.gmfn: {
      const frame = context.physmap.ownFrame(domain, index);
      if (frame < 0) return Errno.EINVAL;
      // Where the domain has mapped a grant of its own the page is not at home.
      return context.parts.p2m.gfnOf(frame as Mfn) === index ? frame : Errno.EXDEV;
    }
    case MapSpace.gmfnForeign:
      return Errno.ENOSYS;
    case MapSpace.deviceMemory:
      return Errno.EACCES;
    default:
      return Errno.EINVAL;
  }
}

/** xen: gnttab_map_frame_begin. */
function grantFrame(context: OperationContext, record: Uint32Array, domain: Domid, index: number): number {
  const { frames, grants } = context.parts;
  let frame: Mfn;
  if ((index & STATUS_INDEX) !== 0) {
    const at = index & ~STATUS_INDEX;
    if (at >= grants.statusFrameCount(domain)) return Errno.EINVAL;
    frame = grants.statusFrame(domain, at);
  } else {
    const asked = record[ReservationScratch.asked]!;
    const allocate = asked === 0 ? [] : [asked - 1];
    const grown = index < grants.frameCount(domain) ? 0 : grants.grow(domain, index + 1, allocate);
    if (grown !== 0) return Errno.EINVAL;
    frame = grants.frame(domain, index);
  }
  // The guest has given it back, and nobody else refers to it.
  return frames.references(frame) === 0 ? Errno.EBUSY : frame;
}

/**
 * What is at a gfn goes: a page of the hypervisor's only from here (and be it the one that comes next), one of the
 * domain's own for good. False when it is neither.
 */
function makeRoom(context: OperationContext, vcpu: Vcpu, domain: Domid, gfn: Gfn): boolean {
  const { frames, p2m } = context.parts;
  if (frames.isXenHeap(p2m.frame(domain, gfn))) return context.physmap.remove(vcpu, domain, gfn);
  return context.physmap.giveBack(vcpu, domain, gfn);
}

/** remove_from_physmap. xen: arch/x86/mm.c, XENMEM_remove_from_physmap. */
export function stepRemoveFromPhysmap(context: OperationContext, vcpu: Vcpu, phase: number): number {
  if (phase !== Phase.page) return after(context, vcpu, phase);
  const record = context.parts.pending.record(vcpu);
  const domain = record[Pending.domain] as Domid;
  const gfn = record[ReservationScratch.gfn] as Gfn;
  if (context.domain(domain)!.kind === 'pv') record[Pending.result] = Errno.EACCES;
  else if (context.physmap.ownFrame(domain, gfn) < 0) record[Pending.result] = Errno.ENOENT;
  else if (!context.physmap.remove(vcpu, domain, gfn)) record[Pending.result] = Errno.ENOMEM;
  return Phase.end;
}
