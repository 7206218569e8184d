// GNTTABOP_unmap_grant_ref, in micro-steps. xen: common/grant_table.c unmap_common, unmap_common_complete.
//
// Two passes over batches of 32: the first takes the mappings away and flushes, the second, once that is complete,
// gives up references, pins and usage bits. What a policy has not flushed by then is held back until it is.

import type { Mfn } from '../../machine/frame-number.ts';
import type { Domid, MaptrackHandle, Vcpu } from '../../machine/ids.ts';
import { Pending, Step } from '../../machine/pending.ts';
import { GNTMAP, pinIncrement, UnmapElement } from '../layouts.ts';
import { GrantStatus } from '../status.ts';
import { UNMAP_BATCH } from '../unmap-batch.ts';
import type { GrantContext } from './context.ts';
import { completeAll, flushThen } from './flush-steps.ts';
import { referencesOf } from './map-grant-ref.ts';

const Phase = {
  take: 0,
  hostFlush: 1,
  device: 2,
  deviceFlush: 3,
  finish: 4,
  batchEnd: 5,
  batchFlush: 6,
  complete: 7,
  nextBatch: 8,
} as const;

const FRAME = Pending.scratch;
const STATUS = Pending.scratch + 1;
/** Granting domain, ref, flags of the handle, and the halves that go. */
const GRANTER = Pending.scratch + 2;
const REF = Pending.scratch + 3;
const FLAGS = Pending.scratch + 4;
const HALVES = Pending.scratch + 5;
const IN_BATCH = Pending.scratch + 6;
const COMPLETED = Pending.scratch + 7;

/** One micro-step of the operation on a virtual CPU: the next phase, or a {@link Step}. */
export function stepUnmapGrantRef(context: GrantContext, vcpu: Vcpu, phase: number): number {
  const record = context.pending.record(vcpu);
  switch (phase) {
    case Phase.take:
      return take(context, vcpu, record);
    case Phase.hostFlush:
      return flushThen(context.ports.device, vcpu, Phase.hostFlush, Phase.device);
    case Phase.device:
      return device(context, vcpu, record);
    case Phase.deviceFlush:
      return flushThen(context.ports.device, vcpu, Phase.deviceFlush, Phase.finish);
    case Phase.finish:
      return finish(context, vcpu, record);
    case Phase.batchEnd:
      context.ports.device.operationEnd(vcpu);
      return Phase.batchFlush;
    case Phase.batchFlush:
      return completeAll(context.ports.device, vcpu, Phase.batchFlush, Phase.complete);
    case Phase.complete:
      return complete(context, vcpu, record);
    default:
      if (context.heap.words[record + Pending.index] === context.heap.words[record + Pending.count]) return Step.done;
      context.heap.write(record + IN_BATCH, 0);
      context.heap.write(record + COMPLETED, 0);
      return Phase.take;
  }
}

/** 1 to 9 of the first pass: the handle, its addresses, the host mapping. */
function take(context: GrantContext, vcpu: Vcpu, record: number): number {
  const { heap, pending, tables } = context;
  const index = heap.words[record + Pending.index]!;
  if (index === heap.words[record + Pending.count]! || heap.words[record + IN_BATCH]! === UNMAP_BATCH) {
    return Phase.batchEnd;
  }
  const element = pending.argument(vcpu, index);
  const mapper = heap.words[record + Pending.domain]! as Domid;
  const maptrack = tables.maptrack(mapper);
  const handle = heap.words[element + UnmapElement.handle]! as MaptrackHandle;
  const flags = maptrack.flags(handle);
  heap.write(record + HALVES, 0);
  if (flags === 0) return end(context, record, GrantStatus.bad_handle);
  const granter = maptrack.domain(handle);
  const ref = maptrack.ref(handle);
  if (ref >= tables.entries(granter)) return end(context, record, GrantStatus.bad_handle);
  const frame = tables.activeFrame(granter, ref);

  const busLow = heap.words[element + UnmapElement.busLow]!;
  const busHigh = heap.words[element + UnmapElement.busHigh]!;
  const takesDevice = (busLow | busHigh) !== 0 && (flags & GNTMAP.device_map) !== 0;
  if (takesDevice && (busLow !== (frame << 12) >>> 0 || busHigh !== frame >>> 20)) {
    return end(context, record, GrantStatus.bad_dev_addr);
  }
  const hostLow = heap.words[element + UnmapElement.hostLow]!;
  const hostHigh = heap.words[element + UnmapElement.hostHigh]!;
  const takesHost = (hostLow | hostHigh) !== 0 && (flags & GNTMAP.host_map) !== 0;
  if (takesHost && !context.ports.host.destroy(vcpu, mapper, hostLow, hostHigh, frame, flags)) {
    return end(context, record, GrantStatus.general_error);
  }
  const halves = (takesHost ? GNTMAP.host_map : 0) | (takesDevice ? GNTMAP.device_map : 0);
  heap.write(record + FRAME, frame);
  heap.write(record + GRANTER, granter);
  heap.write(record + REF, ref);
  heap.write(record + FLAGS, flags);
  heap.write(record + HALVES, halves);
  const left = flags & ~halves;
  maptrack.setFlags(handle, (left & (GNTMAP.host_map | GNTMAP.device_map)) === 0 ? 0 : left);
  heap.write(record + STATUS, GrantStatus.okay);
  return Phase.hostFlush;
}

function end(context: GrantContext, record: number, status: GrantStatus): number {
  context.heap.write(record + STATUS, status);
  return Phase.finish;
}

/** The mapper's devices follow its live handles: the last goes, the last writable one demotes. */
function device(context: GrantContext, vcpu: Vcpu, record: number): number {
  const { heap, pending, tables } = context;
  const mapper = heap.words[record + Pending.domain]! as Domid;
  const granter = heap.words[record + GRANTER]! as Domid;
  const halves = heap.words[record + HALVES]!;
  const flags = heap.words[record + FLAGS]!;
  const isLast = halves !== 0 && (flags & ~halves & (GNTMAP.host_map | GNTMAP.device_map)) === 0;
  if (isLast && mapper !== granter && context.domain(mapper)!.syncDevices && !context.locks.take(mapper, vcpu)) {
    return Step.blocked;
  }
  // Not before the host mapping is flushed, which for an HVM mapper is what its devices reach: a freed handle is
  // reused.
  if (isLast) {
    const element = pending.argument(vcpu, heap.words[record + Pending.index]!);
    tables.maptrack(mapper).put(heap.words[element + UnmapElement.handle]! as MaptrackHandle);
  }
  if (isLast && mapper !== granter && context.domain(mapper)!.syncDevices) {
    const frame = heap.words[record + FRAME]! as Mfn;
    const readOnly = (flags & GNTMAP.readonly) !== 0;
    tables.countHandle(mapper, frame, readOnly, -1);
    const writers = tables.writers(mapper, frame);
    const readers = tables.readers(mapper, frame);
    if (readers === 0 && writers === 0) context.ports.device.unmap(vcpu, mapper, frame);
    else if (!readOnly && writers === 0) context.ports.device.map(vcpu, mapper, frame, 1);
  }
  return Phase.deviceFlush;
}

/** The second pass, one element: what is flushed ends now, what is not is held back until it is. */
function complete(context: GrantContext, vcpu: Vcpu, record: number): number {
  const { heap, batches, ports } = context;
  const at = heap.words[record + COMPLETED]!;
  if (at === heap.words[record + IN_BATCH]) return Phase.nextBatch;
  heap.write(record + COMPLETED, at + 1);
  const halves = batches.halves(vcpu, at);
  if (halves === 0) return Phase.complete;
  const mapper = heap.words[record + Pending.domain] as Domid;
  const [granter, ref, frame] = [batches.granter(vcpu, at), batches.ref(vcpu, at), batches.frame(vcpu, at)];
  if (ports.device.holdsBack(vcpu)) ports.device.holdGrant(vcpu, granter, ref, halves, frame, mapper);
  else completeGrant(context, granter, ref, halves, frame, mapper);
  batches.clear(vcpu, at);
  return Phase.complete;
}

function finish(context: GrantContext, vcpu: Vcpu, record: number): number {
  const { heap, pending } = context;
  const index = heap.words[record + Pending.index]!;
  const mapper = heap.words[record + Pending.domain]! as Domid;
  if (context.locks.holder(mapper) === vcpu) context.locks.drop(mapper, vcpu);
  heap.write(pending.argument(vcpu, index) + UnmapElement.status, heap.words[record + STATUS]! & 0xffff);
  context.ports.device.elementEnd(vcpu);
  const inBatch = heap.words[record + IN_BATCH]!;
  const halves = heap.words[record + HALVES]!;
  if (halves !== 0) {
    const readOnly = heap.words[record + FLAGS]! & GNTMAP.readonly;
    const granter = heap.words[record + GRANTER] as Domid;
    context.batches.put(
      vcpu,
      inBatch,
      halves | readOnly,
      granter,
      heap.words[record + REF]!,
      heap.words[record + FRAME] as Mfn,
    );
  }
  heap.write(record + IN_BATCH, inBatch + 1);
  heap.write(record + Pending.index, index + 1);
  return Phase.take;
}

/**
 * The end of a grant's use, once what was removed is flushed: references and pins go, usage bits follow the pins.
 * xen: unmap_common_complete. `halves` holds GNTMAP bits of the halves that go, and `readonly`.
 * A frame without references left goes back to the free ones.
 */
export function completeGrant(
  context: GrantContext,
  granter: Domid,
  ref: number,
  halves: number,
  frame: Mfn,
  mapper: Domid,
): void {
  const { frames, tables } = context;
  const granterIsPv = context.domain(granter)?.kind !== 'hvm';
  const { pages, types } = referencesOf(halves, mapper === granter, granterIsPv);
  for (let given = 0; given < types; given += 1) frames.putType(frame);
  let isLast = false;
  for (let given = 0; given < pages; given += 1) isLast = frames.putPage(frame);
  tables.dropPins(granter, ref, pinIncrement(halves), (halves & GNTMAP.readonly) !== 0);
  if (isLast) frames.free(frame);
}
