// GNTTABOP_map_grant_ref, in micro-steps. xen: common/grant_table.c map_grant_ref; the numbers are its order of checks.

import type { Mfn } from '../../machine/frame-number.ts';
import { DOMID_FIRST_RESERVED, type Domid, type MaptrackHandle, type Vcpu } from '../../machine/ids.ts';
import { ARGUMENT_WORDS, ARGUMENTS, Pending, Step } from '../../machine/pending.ts';
import {
  ANY_PIN,
  GNTMAP,
  hasWritePins,
  MapElement,
  pageReferences,
  pinIncrement,
  pinsAreFull,
  typeReferences,
} from '../layouts.ts';
import { Reuse } from '../ports.ts';
import { badFrameStatus } from '../rules.ts';
import { GrantStatus } from '../status.ts';
import { endsHere, nextElement } from './batch.ts';
import type { GrantContext } from './context.ts';
import { completeAll, flushThen } from './flush-steps.ts';

/** Phases of one element, and of the end of the batch. */
const Phase = {
  pin: 0,
  host: 1,
  hostFlush: 2,
  device: 3,
  deviceFlush: 4,
  finish: 5,
  elementFlush: 6,
  end: 7,
  endFlush: 8,
  pinFlush: 9,
} as const;

const { index: INDEX, domain: DOMAIN } = Pending;
/** The handle taken, plus 1; 0 when there is none. */
const HANDLE = Pending.scratch;
const FRAME = Pending.scratch + 1;
const STATUS = Pending.scratch + 2;

const { device_map: DEVICE_MAP, host_map: HOST_MAP, readonly: READONLY, contains_pte: CONTAINS_PTE } = GNTMAP;
const HALVES = DEVICE_MAP | HOST_MAP;
const HVM_FORBIDDEN = DEVICE_MAP | GNTMAP.application_map | CONTAINS_PTE;
/** What a handle keeps of the flags of its map. */
const KEPT = HALVES | READONLY | CONTAINS_PTE;

const {
  hostLow: HOST_LOW,
  hostHigh: HOST_HIGH,
  flags: FLAGS,
  ref: REF,
  domainAndStatus: DOMAIN_STATUS,
  handle: HANDLE_OUT,
  busLow: BUS_LOW,
  busHigh: BUS_HIGH,
} = MapElement;

/** One micro-step of the operation on a virtual CPU: the next phase, or a {@link Step}. */
export function stepMapGrantRef(context: GrantContext, vcpu: Vcpu, phase: number): number {
  return PHASES[phase]!(context, vcpu, context.pending.record(vcpu));
}

/** In the order of {@link Phase}. Called by way of a table, so that the engine makes good code of each by itself. */
const PHASES: readonly ((context: GrantContext, vcpu: Vcpu, record: Uint32Array) => number)[] = [
  pin,
  host,
  ({ ports }, vcpu) => flushThen(ports.device, vcpu, Phase.hostFlush, Phase.device),
  device,
  ({ ports }, vcpu) => flushThen(ports.device, vcpu, Phase.deviceFlush, Phase.finish),
  finish,
  ({ ports }, vcpu) => flushThen(ports.device, vcpu, Phase.elementFlush, Phase.pin),
  ({ ports }, vcpu) => {
    ports.device.operationEnd(vcpu);
    return Phase.endFlush;
  },
  ({ ports }, vcpu) => completeAll(ports.device, vcpu, Phase.endFlush, Step.done),
  ({ ports }, vcpu) => flushThen(ports.device, vcpu, Phase.pinFlush, Phase.host),
];

/** Place of the element that the operation is at. */
function elementOf(record: Uint32Array): number {
  return ARGUMENTS + record[INDEX]! * ARGUMENT_WORDS;
}

/** 1 to 5: what can be said without the entry, and a handle. Then {@link pinEntry}. */
function pin(context: GrantContext, vcpu: Vcpu, record: Uint32Array): number {
  if (endsHere(record)) return Phase.end;
  const element = elementOf(record);
  const mapper = record[DOMAIN]! as Domid;
  const flags = record[element + FLAGS]!;
  const granter = (record[element + DOMAIN_STATUS]! & 0xffff) as Domid;
  record[HANDLE] = 0;
  let status: GrantStatus = GrantStatus.okay;
  if ((flags & HALVES) === 0) status = GrantStatus.bad_gntref;
  else if ((flags & HVM_FORBIDDEN) !== 0 && context.domain(mapper)!.kind === 'hvm') status = GrantStatus.general_error;
  else if (granter >= DOMID_FIRST_RESERVED || context.domain(granter) === null) status = GrantStatus.bad_domain;
  else {
    const handle = context.tables.maptrack(mapper).take(vcpu);
    if (handle < 0) status = GrantStatus.no_space;
    else {
      record[HANDLE] = handle + 1;
      status = pinEntry(context, vcpu, record, element, mapper, granter, flags);
    }
  }
  if (status !== GrantStatus.okay) return refuse(context, vcpu, record, status);
  return context.ports.device.isFlushed(vcpu) ? Phase.host : Phase.pinFlush;
}

/** 6 to 10: under the entry's lock, which one micro-step holds from end to end. */
function pinEntry(
  context: GrantContext,
  vcpu: Vcpu,
  record: Uint32Array,
  element: number,
  mapper: Domid,
  granter: Domid,
  flags: number,
): GrantStatus {
  const { tables } = context;
  const ref = record[element + REF]!;
  if (ref >= tables.entries(granter)) return GrantStatus.bad_gntref;
  const readOnly = (flags & READONLY) !== 0;
  const increment = pinIncrement(flags);
  const pins = tables.pins(granter, ref);
  if (pins !== 0) {
    if (tables.activeMapper(granter, ref) !== mapper || tables.isPartial(granter, ref))
      return GrantStatus.general_error;
    const counted = context.rules.pinLimit === 'any' ? ANY_PIN : increment;
    if (pinsAreFull(pins, counted)) return GrantStatus.general_error;
  }
  const marks = pins === 0 || (!readOnly && !hasWritePins(pins));
  if (marks && !tables.setStatus(granter, ref, mapper, readOnly)) return GrantStatus.general_error;
  let frame = tables.activeFrame(granter, ref) as number;
  if (pins === 0) {
    frame = context.grantedFrame(granter, tables.sharedGfn(granter, ref), tables.sharedGfnHigh(granter, ref));
    if (frame < 0) {
      tables.reduceStatus(granter, ref, readOnly);
      return badFrameStatus(context.rules);
    }
  }
  const types = typeReferences(flags, mapper === granter, context.domain(granter)!.kind === 'pv');
  if (!context.ports.pages.take(vcpu, frame as Mfn, pageReferences(flags), types)) {
    if (marks) tables.reduceStatus(granter, ref, readOnly);
    return GrantStatus.general_error;
  }
  tables.activate(granter, ref, pins + increment, mapper, frame as Mfn);
  record[FRAME] = frame;
  return GrantStatus.okay;
}

/** The element failed: the handle goes back, and the guest is told. */
function refuse(context: GrantContext, vcpu: Vcpu, record: Uint32Array, status: GrantStatus): number {
  if (record[HANDLE] !== 0) {
    const handle = (record[HANDLE]! - 1) as MaptrackHandle;
    context.tables.maptrack(record[DOMAIN]! as Domid).giveBack(handle, vcpu);
    record[HANDLE] = 0;
  }
  record[STATUS] = status;
  return Phase.finish;
}

/** Undoes what {@link pinEntry} did, after a later step failed. */
function undoPin(context: GrantContext, vcpu: Vcpu, record: Uint32Array): number {
  const element = elementOf(record);
  const mapper = record[DOMAIN]! as Domid;
  const granter = (record[element + DOMAIN_STATUS]! & 0xffff) as Domid;
  const flags = record[element + FLAGS]!;
  const types = typeReferences(flags, mapper === granter, context.domain(granter)!.kind === 'pv');
  context.ports.pages.drop(vcpu, record[FRAME]! as Mfn, pageReferences(flags), types);
  context.tables.dropPins(granter, record[element + REF]!, pinIncrement(flags), (flags & READONLY) !== 0);
  return refuse(context, vcpu, record, GrantStatus.general_error);
}

/** 12: the host mapping. For an HVM mapper that is the p2m entry, and with it what its devices reach. */
function host(context: GrantContext, vcpu: Vcpu, record: Uint32Array): number {
  const element = elementOf(record);
  const flags = record[element + FLAGS]!;
  if ((flags & HOST_MAP) === 0) return Phase.device;
  const mapper = record[DOMAIN]! as Domid;
  const low = record[element + HOST_LOW]!;
  const high = record[element + HOST_HIGH]!;
  const { ports } = context;
  if (context.domain(mapper)!.kind === 'hvm') {
    const ready = ports.device.prepare(vcpu, mapper, (low >>> 12) + high * 0x100000);
    if (ready === Reuse.waiting) return Step.blocked;
    if (ready === Reuse.asked) return Phase.host;
    if (ready === Reuse.flushing) return flushThen(ports.device, vcpu, Phase.host, Phase.host);
    if (ready === Reuse.refused) return undoPin(context, vcpu, record);
  }
  if (!ports.host.create(vcpu, mapper, low, high, record[FRAME]! as Mfn, flags)) return undoPin(context, vcpu, record);
  return ports.device.isFlushed(vcpu) ? Phase.device : Phase.hostFlush;
}

/** 13: a PV mapper's devices follow its live handles: the first maps, the first writable one promotes. */
function device(context: GrantContext, vcpu: Vcpu, record: Uint32Array): number {
  const element = elementOf(record);
  const mapper = record[DOMAIN]! as Domid;
  const granter = (record[element + DOMAIN_STATUS]! & 0xffff) as Domid;
  if (mapper === granter || !context.domain(mapper)!.syncDevices) return finish(context, vcpu, record);
  const { tables, locks } = context;
  const access = context.ports.device;
  const frame = record[FRAME]! as Mfn;
  const readOnly = (record[element + FLAGS]! & READONLY) !== 0;
  const holder = locks.holder(mapper);
  if (holder >= 0 && holder !== vcpu) return Step.blocked;
  const writers = tables.writers(mapper, frame);
  const readers = tables.readers(mapper, frame);
  if (readers === 0 && writers === 0) {
    const ready = access.prepare(vcpu, mapper, frame);
    if (ready === Reuse.waiting) return Step.blocked;
    if (ready === Reuse.asked) return Phase.device;
    if (ready === Reuse.flushing) return flushThen(access, vcpu, Phase.device, Phase.device);
    if (ready === Reuse.refused) return undoHost(context, vcpu, record);
  }
  // The mapper's table stays locked until the flush is over, so that no other CPU decides from counts in change.
  locks.take(mapper, vcpu);
  const mustMap =
    context.rules.deviceRights === 'live-handles'
      ? writers === 0 && (!readOnly || readers === 0)
      : !readOnly && isFirstWritePin(context, granter, record[element + REF]!, record[element + FLAGS]!);
  if (mustMap && access.map(vcpu, mapper, frame, readOnly ? 1 : 3) !== 0) {
    locks.drop(mapper, vcpu);
    return undoHost(context, vcpu, record);
  }
  tables.countHandle(mapper, frame, readOnly, 1);
  return access.isFlushed(vcpu) ? finish(context, vcpu, record) : Phase.deviceFlush;
}

/** 2008: whether the writable pins of an entry are all of this map. xen: 806da17f3d. */
function isFirstWritePin(context: GrantContext, granter: Domid, ref: number, flags: number): boolean {
  return !hasWritePins(context.tables.pins(granter, ref) - pinIncrement(flags));
}

/** Undoes what {@link host} did, and what came before it. */
function undoHost(context: GrantContext, vcpu: Vcpu, record: Uint32Array): number {
  const element = elementOf(record);
  const flags = record[element + FLAGS]!;
  if ((flags & HOST_MAP) !== 0) {
    const low = record[element + HOST_LOW]!;
    const high = record[element + HOST_HIGH]!;
    context.ports.host.destroy(vcpu, record[DOMAIN]! as Domid, low, high, record[FRAME]! as Mfn, flags);
  }
  return undoPin(context, vcpu, record);
}

/** The outcome goes to the guest; on success the handle comes to life, even if the guest never learns of it. */
function finish(context: GrantContext, vcpu: Vcpu, record: Uint32Array): number {
  const index = record[INDEX]!;
  const element = ARGUMENTS + index * ARGUMENT_WORDS;
  const mapper = record[DOMAIN]! as Domid;
  if (context.locks.holder(mapper) === vcpu) context.locks.drop(mapper, vcpu);
  const status = record[STATUS]!;
  const granter = (record[element + DOMAIN_STATUS]! & 0xffff) as Domid;
  record[element + DOMAIN_STATUS] = granter | (status << 16);
  if (status === GrantStatus.okay) {
    const handle = (record[HANDLE]! - 1) as MaptrackHandle;
    const frame = record[FRAME]!;
    context.tables.maptrack(mapper).set(handle, vcpu, granter, record[element + REF]!, record[element + FLAGS]! & KEPT);
    record[element + HANDLE_OUT] = handle;
    record[element + BUS_LOW] = frame << 12;
    record[element + BUS_HIGH] = frame >>> 20;
  }
  context.ports.device.elementEnd(vcpu);
  record[STATUS] = 0;
  nextElement(record);
  return context.ports.device.isFlushed(vcpu) ? Phase.pin : Phase.elementFlush;
}
