// GNTTABOP_transfer, in micro-steps. xen: common/grant_table.c gnttab_transfer; the numbers are its order of checks.
//
// What goes wrong after the frame was taken from its owner costs the owner the frame. Between 8 and 9 no lock is held:
// the target may change its table, or die. Row 6, a frame too high for the target, cannot be: a PV target's version 1
// entries hold frame numbers of 32 bits, and no machine here has that many frames; a narrower limit Xen has for 32-bit
// PV domains only (domain_clamp_alloc_bitsize), which are not modelled.

import type { Mfn } from '../../machine/frame-number.ts';
import { DOMID_FIRST_RESERVED, type Domid, type Vcpu } from '../../machine/ids.ts';
import { ARGUMENT_WORDS, ARGUMENTS, Pending, Step } from '../../machine/pending.ts';
import { GTF, TransferElement } from '../layouts.ts';
import { GrantStatus } from '../status.ts';
import { endsHere, nextElement } from './batch.ts';
import type { GrantContext } from './context.ts';
import { completeAll, flushThen, settleThen } from './flush-steps.ts';

const Phase = { steal: 0, stealFlush: 1, give: 2, giveFlush: 3, end: 4, complete: 5 } as const;

const { index: INDEX, domain: DOMAIN, scratch: VERSION } = Pending;
/** Nothing stands in the way of going on within the phase. */
const NEXT = Phase.complete + 1;

/** One micro-step of the operation on a virtual CPU: the next phase, or a {@link Step}. */
export function stepTransfer(context: GrantContext, vcpu: Vcpu, phase: number): number {
  const record = context.pending.record(vcpu);
  switch (phase) {
    case Phase.steal:
      return steal(context, vcpu, record);
    case Phase.stealFlush:
      return flushThen(context.ports.device, vcpu, Phase.stealFlush, Phase.give);
    case Phase.give:
      return give(context, vcpu, record);
    case Phase.complete:
      return complete(context, vcpu, record);
    case Phase.giveFlush:
      return flushThen(context.ports.device, vcpu, Phase.giveFlush, Phase.steal);
    default:
      return completeAll(context.ports.device, vcpu, Phase.end, Step.done);
  }
}

/** 1, 2: the frame leaves its owner, and what the owner's devices reach of it. */
function steal(context: GrantContext, vcpu: Vcpu, record: Uint32Array): number {
  if (endsHere(record)) {
    context.ports.device.operationEnd(vcpu);
    return Phase.end;
  }
  const element = ARGUMENTS + record[INDEX]! * ARGUMENT_WORDS;
  const low = record[element + TransferElement.frameLow]!;
  const high = record[element + TransferElement.frameHigh]!;
  const status = context.ports.moves.steal(vcpu, record[DOMAIN]! as Domid, low, high);
  if (status !== GrantStatus.okay) return finish(context, vcpu, record, status);
  return context.ports.device.isFlushed(vcpu) ? Phase.give : Phase.stealFlush;
}

/** 4 to 8: the target takes it by an entry that says it will, and owns it from then on. */
function give(context: GrantContext, vcpu: Vcpu, record: Uint32Array): number {
  const element = ARGUMENTS + record[INDEX]! * ARGUMENT_WORDS;
  const frame = record[element + TransferElement.frameLow]! as Mfn;
  const settled = settleThen(context.ports.device, vcpu, record[DOMAIN]! as Domid, frame, Phase.give, NEXT);
  if (settled !== NEXT) return settled;
  const target = (record[element + TransferElement.domain]! & 0xffff) as Domid;
  const ref = record[element + TransferElement.ref]!;
  const status = accept(context, record[DOMAIN]! as Domid, target, ref);
  if (status !== GrantStatus.okay) {
    context.ports.moves.discard(vcpu, frame);
    return finish(context, vcpu, record, status);
  }
  context.ports.moves.assign(target, frame);
  record[VERSION] = context.tables.version(target);
  return Phase.complete;
}

/** 9: the target sees the frame, and its entry says so, if it is still the entry that accepted. */
function complete(context: GrantContext, vcpu: Vcpu, record: Uint32Array): number {
  const element = ARGUMENTS + record[INDEX]! * ARGUMENT_WORDS;
  const frame = record[element + TransferElement.frameLow]! as Mfn;
  const target = (record[element + TransferElement.domain]! & 0xffff) as Domid;
  const ref = record[element + TransferElement.ref]!;
  const { tables } = context;
  const view = context.domain(target);
  const version = record[VERSION]!;
  record[VERSION] = 0;
  if (view === null || view.dying || tables.version(target) !== version) {
    return finish(context, vcpu, record, GrantStatus.general_error);
  }
  const gfnHigh = tables.sharedGfnHigh(target, ref);
  const isThere = context.ports.moves.place(vcpu, target, frame, tables.sharedGfn(target, ref), gfnHigh);
  if (view.kind === 'pv') {
    if (version === 2) {
      tables.writeShared(target, ref, 2, frame);
      tables.writeShared(target, ref, 3, 0);
    } else tables.writeShared(target, ref, 1, frame);
  }
  tables.writeShared(target, ref, 0, (tables.sharedFlags(target, ref) | GTF.transfer_completed) >>> 0);
  // The frame is the target's either way, and its entry says so. xen: guest_physmap_add_page in gnttab_transfer.
  return finish(context, vcpu, record, isThere ? GrantStatus.okay : GrantStatus.general_error);
}

/** Whether the target is there, has room, and its entry accepts; the entry is committed then. */
function accept(context: GrantContext, giver: Domid, target: Domid, ref: number): GrantStatus {
  const view = target >= DOMID_FIRST_RESERVED ? null : context.domain(target);
  if (view === null) return GrantStatus.bad_domain;
  if (view.dying || !context.ports.moves.hasRoom(target)) return GrantStatus.general_error;
  const { tables } = context;
  if (ref >= tables.entries(target)) return GrantStatus.general_error;
  const word = tables.sharedFlags(target, ref);
  if ((word & 0xffff) !== GTF.accept_transfer || word >>> 16 !== giver) return GrantStatus.general_error;
  tables.writeShared(target, ref, 0, (word | GTF.transfer_committed) >>> 0);
  return GrantStatus.okay;
}

function finish(context: GrantContext, vcpu: Vcpu, record: Uint32Array, status: GrantStatus): number {
  record[ARGUMENTS + record[INDEX]! * ARGUMENT_WORDS + TransferElement.status] = status & 0xffff;
  context.ports.device.elementEnd(vcpu);
  nextElement(record);
  return context.ports.device.isFlushed(vcpu) ? Phase.steal : Phase.giveFlush;
}
