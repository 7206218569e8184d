// GNTTABOP_unmap_grant_ref and GNTTABOP_unmap_and_replace, in micro-steps.
// xen: common/grant_table.c unmap_common, unmap_common_complete.
//
// Replacing is unmapping without a bus address, with a new address in its place. Two passes over batches of 32: the
// first takes the mappings away and flushes, the second, once that is complete, gives up references, pins and usage
// bits. What a policy has not flushed by then is held back until it is.

import { Errno } from '../../machine/errno.ts';
import type { Mfn } from '../../machine/frame-number.ts';
import type { Domid, MaptrackHandle, Vcpu } from '../../machine/ids.ts';
import { ARGUMENT_WORDS, ARGUMENTS, Pending, Step } from '../../machine/pending.ts';
import { GNTMAP, hasWritePins, pageReferences, pinIncrement, typeReferences, UnmapElement } from '../layouts.ts';
import { GrantStatus } from '../status.ts';
import { Batch, ENDED_USE_WORDS, EndedUse, UNMAP_BATCH } from '../unmap-batch.ts';
import { isPreempted, nextElement } from './batch.ts';
import type { GrantContext } from './context.ts';
import { completeAll, flushThen } from './flush-steps.ts';

const Phase = {
  take: 0,
  hostFlush: 1,
  device: 2,
  deviceFlush: 3,
  finish: 4,
  elementFlush: 5,
  batchEnd: 6,
  batchFlush: 7,
  complete: 8,
  completeFlush: 9,
  end: 10,
} as const;

const { index: INDEX, count: COUNT, domain: DOMAIN } = Pending;
const FRAME = Pending.scratch;
const STATUS = Pending.scratch + 1;
/** Granting domain, ref, flags of the handle, and the halves that go. */
const GRANTER = Pending.scratch + 2;
const REF = Pending.scratch + 3;
const FLAGS = Pending.scratch + 4;
const HALVES = Pending.scratch + 5;
/** Not 0: the operation is unmap_and_replace. Set when it begins. */
export const REPLACES = Pending.scratch + 6;

const { device_map: DEVICE_MAP, host_map: HOST_MAP, readonly: READONLY } = GNTMAP;
const {
  hostLow: HOST_LOW,
  hostHigh: HOST_HIGH,
  busLow: BUS_LOW,
  busHigh: BUS_HIGH,
  handle: HANDLE_IN,
  status: STATUS_OUT,
} = UnmapElement;

const { count: IN_BATCH, completed: COMPLETED } = Batch;
const { halves: ENDED_HALVES, granter: ENDED_GRANTER, ref: ENDED_REF, frame: ENDED_FRAME } = EndedUse;

/** One micro-step of the operation on a virtual CPU: the next phase, or a {@link Step}. */
export function stepUnmapGrantRef(context: GrantContext, vcpu: Vcpu, phase: number): number {
  return PHASES[phase]!(context, vcpu, context.pending.record(vcpu));
}

/** In the order of {@link Phase}. Called by way of a table, so that the engine makes good code of each by itself. */
const PHASES: readonly ((context: GrantContext, vcpu: Vcpu, record: Uint32Array) => number)[] = [
  take,
  ({ ports }, vcpu) => flushThen(ports.device, vcpu, Phase.hostFlush, Phase.device),
  device,
  ({ ports }, vcpu) => flushThen(ports.device, vcpu, Phase.deviceFlush, Phase.finish),
  finish,
  ({ ports }, vcpu) => flushThen(ports.device, vcpu, Phase.elementFlush, Phase.take),
  ({ ports }, vcpu) => {
    ports.device.operationEnd(vcpu);
    return Phase.batchFlush;
  },
  ({ ports }, vcpu) => completeAll(ports.device, vcpu, Phase.batchFlush, Phase.complete),
  complete,
  ({ ports }, vcpu) => flushThen(ports.device, vcpu, Phase.completeFlush, Phase.complete),
  ({ ports }, vcpu) => completeAll(ports.device, vcpu, Phase.end, Step.done),
];

/** 1 to 9 of the first pass: the handle, its addresses, the host mapping. */
function take(context: GrantContext, vcpu: Vcpu, record: Uint32Array): number {
  if (context.batches.of(vcpu)[IN_BATCH] === UNMAP_BATCH || endsUnread(record)) return Phase.batchEnd;
  const element = ARGUMENTS + record[INDEX]! * ARGUMENT_WORDS;
  const mapper = record[DOMAIN]! as Domid;
  const { tables } = context;
  const maptrack = tables.maptrack(mapper);
  const handle = record[element + HANDLE_IN]! as MaptrackHandle;
  const flags = maptrack.flags(handle);
  record[HALVES] = 0;
  if (flags === 0) return end(record, GrantStatus.bad_handle);
  const granter = maptrack.domain(handle);
  if (context.domain(granter) === null) {
    context.crash(vcpu, mapper, `handle ${handle} is of a domain that is gone`);
    return end(record, GrantStatus.okay);
  }
  const ref = maptrack.ref(handle);
  if (ref >= tables.entries(granter)) return end(record, GrantStatus.bad_handle);
  const frame = tables.activeFrame(granter, ref);

  const replaces = record[REPLACES] !== 0;
  const busLow = record[element + BUS_LOW]!;
  const busHigh = record[element + BUS_HIGH]!;
  const takesDevice = !replaces && (busLow | busHigh) !== 0 && (flags & DEVICE_MAP) !== 0;
  if (takesDevice && ((busLow | 0) !== frame << 12 || busHigh !== frame >>> 20)) {
    return end(record, GrantStatus.bad_dev_addr);
  }
  const hostLow = record[element + HOST_LOW]!;
  const hostHigh = record[element + HOST_HIGH]!;
  const takesHost = (hostLow | hostHigh) !== 0 && (flags & HOST_MAP) !== 0;
  const { host } = context.ports;
  if (takesHost) {
    const done =
      replaces && (busLow | busHigh) !== 0
        ? host.replace(vcpu, mapper, hostLow, hostHigh, busLow, busHigh, frame, flags)
        : host.destroy(vcpu, mapper, hostLow, hostHigh, frame, flags);
    if (!done) return end(record, GrantStatus.general_error);
  }
  const halves = (takesHost ? HOST_MAP : 0) | (takesDevice ? DEVICE_MAP : 0);
  record[FRAME] = frame;
  record[GRANTER] = granter;
  record[REF] = ref;
  record[FLAGS] = flags;
  record[HALVES] = halves;
  record[STATUS] = GrantStatus.okay;
  const left = flags & ~halves;
  maptrack.setFlags(handle, (left & (HOST_MAP | DEVICE_MAP)) === 0 ? 0 : left);
  return context.ports.device.isFlushed(vcpu) ? Phase.device : Phase.hostFlush;
}

/** Whether there is no further element, or none that can be read: then the batch ends, and the operation with it. */
function endsUnread(record: Uint32Array): boolean {
  if (record[INDEX] === record[COUNT] || record[Pending.result] !== 0) return true;
  if (record[INDEX]! + 1 !== record[Pending.unreadable]) return false;
  record[Pending.result] = Errno.EFAULT;
  return true;
}

function end(record: Uint32Array, status: GrantStatus): number {
  record[STATUS] = status;
  return Phase.finish;
}

/** The mapper's devices follow its live handles: the last goes, the last writable one demotes. */
function device(context: GrantContext, vcpu: Vcpu, record: Uint32Array): number {
  const halves = record[HALVES]!;
  const flags = record[FLAGS]!;
  const isLast = halves !== 0 && (flags & ~halves & (HOST_MAP | DEVICE_MAP)) === 0;
  if (!isLast) return finish(context, vcpu, record);
  const { tables } = context;
  const mapper = record[DOMAIN]! as Domid;
  const follows = mapper !== record[GRANTER] && context.domain(mapper)!.syncDevices;
  if (follows && !context.locks.take(mapper, vcpu)) return Step.blocked;
  // Not before the host mapping is flushed, which for an HVM mapper is what its devices reach: a freed handle is
  // reused.
  const element = ARGUMENTS + record[INDEX]! * ARGUMENT_WORDS;
  tables.maptrack(mapper).put(record[element + HANDLE_IN]! as MaptrackHandle);
  if (!follows) return finish(context, vcpu, record);
  const frame = record[FRAME]! as Mfn;
  const readOnly = (flags & READONLY) !== 0;
  tables.countHandle(mapper, frame, readOnly, -1);
  const access = context.ports.device;
  let failed = 0;
  if (context.rules.deviceRights === 'writable-pins') {
    if (!readOnly && endsWritePins(context, vcpu, record)) failed = access.unmap(vcpu, mapper, frame);
  } else if (tables.writers(mapper, frame) === 0) {
    if (tables.readers(mapper, frame) === 0) failed = access.unmap(vcpu, mapper, frame);
    else if (!readOnly) failed = access.map(vcpu, mapper, frame, 1);
  }
  // The halves are gone all the same, and completed; the counts stay with what devices reach. xen: unmap_common.
  if (failed !== 0) {
    tables.countHandle(mapper, frame, readOnly, 1);
    record[STATUS] = GrantStatus.general_error;
  }
  return access.isFlushed(vcpu) ? finish(context, vcpu, record) : Phase.deviceFlush;
}

/**
 * 2008: whether no writable pin of the entry is left once this element, and those before it, are completed.
 */
function endsWritePins(context: GrantContext, vcpu: Vcpu, record: Uint32Array): boolean {
  const granter = record[GRANTER]! as Domid;
  const ref = record[REF]!;
  let pins = context.tables.pins(granter, ref) - pinIncrement(record[HALVES]! | (record[FLAGS]! & READONLY));
  const batch = context.batches.of(vcpu);
  for (let at = 0; at < batch[IN_BATCH]!; at += 1) {
    const ended = Batch.records + at * ENDED_USE_WORDS;
    if (batch[ended + ENDED_HALVES] === 0 || batch[ended + ENDED_GRANTER] !== granter) continue;
    if (batch[ended + ENDED_REF] === ref) pins -= pinIncrement(batch[ended + ENDED_HALVES]!);
  }
  return !hasWritePins(pins);
}

/** The first pass over an element ends: the guest is told, and what ended is noted for the second. */
function finish(context: GrantContext, vcpu: Vcpu, record: Uint32Array): number {
  const index = record[INDEX]!;
  const mapper = record[DOMAIN]! as Domid;
  if (context.locks.holder(mapper) === vcpu) context.locks.drop(mapper, vcpu);
  record[ARGUMENTS + index * ARGUMENT_WORDS + STATUS_OUT] = record[STATUS]! & 0xffff;
  context.ports.device.elementEnd(vcpu);
  const batch = context.batches.of(vcpu);
  const inBatch = batch[IN_BATCH]!;
  const halves = record[HALVES]!;
  if (halves !== 0) {
    const ended = Batch.records + inBatch * ENDED_USE_WORDS;
    batch[ended + ENDED_HALVES] = halves | (record[FLAGS]! & READONLY);
    batch[ended + ENDED_GRANTER] = record[GRANTER]!;
    batch[ended + ENDED_REF] = record[REF]!;
    batch[ended + ENDED_FRAME] = record[FRAME]!;
  }
  batch[IN_BATCH] = inBatch + 1;
  nextElement(record);
  return context.ports.device.isFlushed(vcpu) ? Phase.take : Phase.elementFlush;
}

/** The second pass, one element: what is flushed ends now, what is not is held back until it is. */
function complete(context: GrantContext, vcpu: Vcpu, record: Uint32Array): number {
  const batch = context.batches.of(vcpu);
  const at = batch[COMPLETED]!;
  if (at === batch[IN_BATCH]) {
    batch[IN_BATCH] = 0;
    batch[COMPLETED] = 0;
    const isOver = record[INDEX] === record[COUNT] || record[Pending.result] !== 0 || isPreempted(record);
    return isOver ? Phase.end : Phase.take;
  }
  batch[COMPLETED] = at + 1;
  const ended = Batch.records + at * ENDED_USE_WORDS;
  const halves = batch[ended + ENDED_HALVES]!;
  if (halves === 0) return Phase.complete;
  batch[ended + ENDED_HALVES] = 0;
  const mapper = record[DOMAIN]! as Domid;
  const granter = batch[ended + ENDED_GRANTER]! as Domid;
  const ref = batch[ended + ENDED_REF]!;
  const frame = batch[ended + ENDED_FRAME]! as Mfn;
  const access = context.ports.device;
  if (access.holdsBack(vcpu)) access.holdGrant(vcpu, granter, ref, halves, frame, mapper);
  else if (completeGrant(context, vcpu, granter, ref, halves, frame, mapper)) return Phase.completeFlush;
  return Phase.complete;
}

/**
 * The end of a grant's use, once what was removed is flushed: references and pins go, usage bits follow the pins.
 * xen: unmap_common_complete. `halves` holds GNTMAP bits of the halves that go, and `readonly`.
 * @returns whether the frame goes, too, and there may be something to flush.
 */
export function completeGrant(
  context: GrantContext,
  vcpu: Vcpu,
  granter: Domid,
  ref: number,
  halves: number,
  frame: Mfn,
  mapper: Domid,
): boolean {
  const granterIsPv = context.domain(granter)?.kind !== 'hvm';
  const types = typeReferences(halves, mapper === granter, granterIsPv);
  const isGone = context.ports.pages.drop(vcpu, frame, pageReferences(halves), types);
  context.tables.dropPins(granter, ref, pinIncrement(halves), (halves & READONLY) !== 0);
  return isGone;
}
