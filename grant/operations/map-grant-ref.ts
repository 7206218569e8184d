// GNTTABOP_map_grant_ref, in micro-steps. xen: common/grant_table.c map_grant_ref; the numbers are its order of checks.

import type { Mfn } from '../../machine/frame-number.ts';
import { FrameType } from '../../machine/frame-table.ts';
import { DOMID_FIRST_RESERVED, type Domid, type MaptrackHandle, type Vcpu } from '../../machine/ids.ts';
import { Pending, Step } from '../../machine/pending.ts';
import { GNTMAP, hasWritePins, MapElement, pinIncrement, pinsAreFull } from '../layouts.ts';
import { Reuse } from '../ports.ts';
import { GrantStatus } from '../status.ts';
import type { GrantContext } from './context.ts';
import { completeAll, flushThen } from './flush-steps.ts';

/** Phases of one element, and of the end of the batch. */
const Phase = {
  check: 0,
  pin: 1,
  host: 2,
  hostFlush: 3,
  device: 4,
  deviceFlush: 5,
  finish: 6,
  end: 7,
  endFlush: 8,
} as const;

// Scratch words of the pending record.
const HANDLE = Pending.scratch;
const FRAME = Pending.scratch + 1;
const STATUS = Pending.scratch + 2;

/** What a map with these flags holds of the frame: references, and references to its writable type. */
export function referencesOf(
  flags: number,
  mapperIsGranter: boolean,
  granterIsPv: boolean,
): { pages: number; types: number } {
  const readOnly = (flags & GNTMAP.readonly) !== 0;
  const device = (flags & GNTMAP.device_map) !== 0 ? 1 : 0;
  const host = (flags & GNTMAP.host_map) !== 0 ? 1 : 0;
  // A host mapping of an HVM granter's frame by another domain takes no type: its RAM is always writable.
  const hostType = mapperIsGranter || granterIsPv ? host : 0;
  return { pages: device + host, types: readOnly ? 0 : device + hostType };
}

/** One micro-step of the operation on a virtual CPU: the next phase, or a {@link Step}. */
export function stepMapGrantRef(context: GrantContext, vcpu: Vcpu, phase: number): number {
  const record = context.pending.record(vcpu);
  switch (phase) {
    case Phase.check:
      return check(context, vcpu, record);
    case Phase.pin:
      return pin(context, vcpu, record);
    case Phase.host:
      return host(context, vcpu, record);
    case Phase.hostFlush:
      return flushThen(context.ports.device, vcpu, Phase.hostFlush, Phase.device);
    case Phase.device:
      return device(context, vcpu, record);
    case Phase.deviceFlush:
      return flushThen(context.ports.device, vcpu, Phase.deviceFlush, Phase.finish);
    case Phase.finish:
      return finish(context, vcpu, record);
    case Phase.end:
      context.ports.device.operationEnd(vcpu);
      return Phase.endFlush;
    default:
      return completeAll(context.ports.device, vcpu, Phase.endFlush, Step.done);
  }
}

function refuse(context: GrantContext, record: number, status: GrantStatus): number {
  context.heap.write(record + STATUS, status);
  return Phase.finish;
}

/** 1 to 5: what can be said without the entry, and a handle. */
function check(context: GrantContext, vcpu: Vcpu, record: number): number {
  const { heap, pending, tables } = context;
  const index = heap.words[record + Pending.index]!;
  if (index === heap.words[record + Pending.count]!) {
    return Phase.end;
  }
  const element = pending.argument(vcpu, index);
  const mapper = heap.words[record + Pending.domain]! as Domid;
  const flags = heap.words[element + MapElement.flags]!;
  const granter = (heap.words[element + MapElement.domainAndStatus]! & 0xffff) as Domid;
  heap.write(record + HANDLE, 0);
  if ((flags & (GNTMAP.device_map | GNTMAP.host_map)) === 0) return refuse(context, record, GrantStatus.bad_gntref);
  const hvmForbidden = GNTMAP.device_map | GNTMAP.application_map | GNTMAP.contains_pte;
  if (context.domain(mapper)!.kind === 'hvm' && (flags & hvmForbidden) !== 0) {
    return refuse(context, record, GrantStatus.general_error);
  }
  if (granter >= DOMID_FIRST_RESERVED || !context.domain(granter))
    return refuse(context, record, GrantStatus.bad_domain);
  const handle = tables.maptrack(mapper).take(vcpu);
  if (handle < 0) return refuse(context, record, GrantStatus.no_space);
  heap.write(record + HANDLE, handle + 1);
  return Phase.pin;
}

/** 6 to 10: under the entry's lock, which one micro-step holds from end to end. */
function pin(context: GrantContext, vcpu: Vcpu, record: number): number {
  const { heap, pending, tables, frames } = context;
  const element = pending.argument(vcpu, heap.words[record + Pending.index]!);
  const mapper = heap.words[record + Pending.domain]! as Domid;
  const granter = (heap.words[element + MapElement.domainAndStatus]! & 0xffff) as Domid;
  const ref = heap.words[element + MapElement.ref]!;
  const flags = heap.words[element + MapElement.flags]!;
  const readOnly = (flags & GNTMAP.readonly) !== 0;
  const increment = pinIncrement(flags);

  if (ref >= tables.entries(granter)) return undoHandle(context, record, GrantStatus.bad_gntref);
  const pins = tables.pins(granter, ref);
  if (pins !== 0 && (tables.activeMapper(granter, ref) !== mapper || pinsAreFull(pins, increment))) {
    return undoHandle(context, record, GrantStatus.general_error);
  }
  const marks = pins === 0 || (!readOnly && !hasWritePins(pins));
  if (marks && !tables.setStatus(granter, ref, mapper, readOnly)) {
    return undoHandle(context, record, GrantStatus.general_error);
  }
  let frame = tables.activeFrame(granter, ref);
  if (pins === 0) {
    const found = context.grantedFrame(granter, tables.sharedGfn(granter, ref));
    if (found < 0) {
      tables.reduceStatus(granter, ref, readOnly);
      return undoHandle(context, record, GrantStatus.bad_page);
    }
    frame = found as Mfn;
    tables.activate(granter, ref, mapper, frame);
  }
  tables.addPins(granter, ref, increment);
  const { pages, types } = referencesOf(flags, mapper === granter, context.domain(granter)!.kind === 'pv');
  for (let taken = 0; taken < types; taken += 1) {
    if (frames.getType(frame, FrameType.writable)) continue;
    while (taken-- > 0) frames.putType(frame);
    tables.dropPins(granter, ref, increment, readOnly);
    return undoHandle(context, record, GrantStatus.general_error);
  }
  for (let taken = 0; taken < pages; taken += 1) frames.getPage(frame, granter);
  heap.write(record + FRAME, frame);
  return Phase.host;
}

function undoHandle(context: GrantContext, record: number, status: GrantStatus): number {
  const { heap, tables } = context;
  const mapper = heap.words[record + Pending.domain]! as Domid;
  tables.maptrack(mapper).put((heap.words[record + HANDLE]! - 1) as MaptrackHandle);
  heap.write(record + HANDLE, 0);
  return refuse(context, record, status);
}

/** Undoes what {@link pin} did, after a later step failed. */
function undoPin(context: GrantContext, vcpu: Vcpu, record: number, status: GrantStatus): number {
  const { heap, pending, tables, frames } = context;
  const element = pending.argument(vcpu, heap.words[record + Pending.index]!);
  const mapper = heap.words[record + Pending.domain]! as Domid;
  const granter = (heap.words[element + MapElement.domainAndStatus]! & 0xffff) as Domid;
  const flags = heap.words[element + MapElement.flags]!;
  const frame = heap.words[record + FRAME]! as Mfn;
  const { pages, types } = referencesOf(flags, mapper === granter, context.domain(granter)!.kind === 'pv');
  for (let given = 0; given < types; given += 1) frames.putType(frame);
  for (let given = 0; given < pages; given += 1) frames.putPage(frame);
  tables.dropPins(granter, heap.words[element + MapElement.ref]!, pinIncrement(flags), (flags & GNTMAP.readonly) !== 0);
  return undoHandle(context, record, status);
}

/** 12: the host mapping. For an HVM mapper that is the p2m entry, and with it what its devices reach. */
function host(context: GrantContext, vcpu: Vcpu, record: number): number {
  const { heap, pending } = context;
  const element = pending.argument(vcpu, heap.words[record + Pending.index]!);
  const mapper = heap.words[record + Pending.domain]! as Domid;
  const flags = heap.words[element + MapElement.flags]!;
  if ((flags & GNTMAP.host_map) !== 0) {
    const low = heap.words[element + MapElement.hostLow]!;
    const high = heap.words[element + MapElement.hostHigh]!;
    if (context.domain(mapper)!.kind === 'hvm') {
      const ready = context.ports.device.prepare(vcpu, mapper, (low >>> 12) + high * 0x100000);
      if (ready === Reuse.waiting) return Step.blocked;
      if (ready === Reuse.flushing) return flushThen(context.ports.device, vcpu, Phase.host, Phase.host);
      if (ready === Reuse.refused) return undoPin(context, vcpu, record, GrantStatus.general_error);
    }
    const frame = heap.words[record + FRAME]! as Mfn;
    if (!context.ports.host.create(vcpu, mapper, low, high, frame, flags)) {
      return undoPin(context, vcpu, record, GrantStatus.general_error);
    }
  }
  return Phase.hostFlush;
}

/** 13: a PV mapper's devices follow its live handles: the first maps, the first writable one promotes. */
function device(context: GrantContext, vcpu: Vcpu, record: number): number {
  const { heap, pending, tables } = context;
  const element = pending.argument(vcpu, heap.words[record + Pending.index]!);
  const mapper = heap.words[record + Pending.domain]! as Domid;
  const granter = (heap.words[element + MapElement.domainAndStatus]! & 0xffff) as Domid;
  if (mapper === granter || !context.domain(mapper)!.syncDevices) {
    return Phase.finish;
  }
  const frame = heap.words[record + FRAME]! as Mfn;
  const readOnly = (heap.words[element + MapElement.flags]! & GNTMAP.readonly) !== 0;
  const holder = context.locks.holder(mapper);
  if (holder >= 0 && holder !== vcpu) return Step.blocked;
  const writers = tables.writers(mapper, frame);
  const readers = tables.readers(mapper, frame);
  if (readers === 0 && writers === 0) {
    const ready = context.ports.device.prepare(vcpu, mapper, frame);
    if (ready === Reuse.waiting) return Step.blocked;
    if (ready === Reuse.flushing) return flushThen(context.ports.device, vcpu, Phase.device, Phase.device);
    if (ready === Reuse.refused) return undoHost(context, vcpu, record);
  }
  // The mapper's table stays locked until the flush is over, so that no other CPU decides from counts in change.
  context.locks.take(mapper, vcpu);
  const mustMap = readOnly ? readers === 0 && writers === 0 : writers === 0;
  if (mustMap && context.ports.device.map(vcpu, mapper, frame, readOnly ? 1 : 3) !== 0) {
    context.locks.drop(mapper, vcpu);
    return undoHost(context, vcpu, record);
  }
  tables.countHandle(mapper, frame, readOnly, 1);
  return Phase.deviceFlush;
}

/** Undoes what {@link host} did, and what came before it. */
function undoHost(context: GrantContext, vcpu: Vcpu, record: number): number {
  const { heap, pending } = context;
  const element = pending.argument(vcpu, heap.words[record + Pending.index]!);
  const mapper = heap.words[record + Pending.domain]! as Domid;
  const flags = heap.words[element + MapElement.flags]!;
  if ((flags & GNTMAP.host_map) !== 0) {
    const low = heap.words[element + MapElement.hostLow]!;
    const high = heap.words[element + MapElement.hostHigh]!;
    context.ports.host.destroy(vcpu, mapper, low, high, heap.words[record + FRAME]! as Mfn, flags);
  }
  return undoPin(context, vcpu, record, GrantStatus.general_error);
}

/** The outcome goes to the guest; on success the handle comes to life. */
function finish(context: GrantContext, vcpu: Vcpu, record: number): number {
  const { heap, pending, tables } = context;
  const index = heap.words[record + Pending.index]!;
  const element = pending.argument(vcpu, index);
  const mapper = heap.words[record + Pending.domain]! as Domid;
  if (context.locks.holder(mapper) === vcpu) context.locks.drop(mapper, vcpu);
  const status = heap.words[record + STATUS]!;
  const granter = (heap.words[element + MapElement.domainAndStatus]! & 0xffff) as Domid;
  heap.write(element + MapElement.domainAndStatus, granter | ((status & 0xffff) << 16));
  if (status === GrantStatus.okay) {
    const handle = (heap.words[record + HANDLE]! - 1) as MaptrackHandle;
    const flags =
      heap.words[element + MapElement.flags]! &
      (GNTMAP.device_map | GNTMAP.host_map | GNTMAP.readonly | GNTMAP.contains_pte);
    const frame = heap.words[record + FRAME]!;
    tables.maptrack(mapper).set(handle, granter, heap.words[element + MapElement.ref]!, flags);
    heap.write(element + MapElement.handle, handle);
    heap.write(element + MapElement.busLow, frame << 12);
    heap.write(element + MapElement.busHigh, frame >>> 20);
  }
  context.ports.device.elementEnd(vcpu);
  heap.write(record + STATUS, 0);
  heap.write(record + Pending.index, index + 1);
  return Phase.check;
}
