// Operations on PV page tables, in micro-steps. xen: arch/x86/mm.c do_update_va_mapping, do_mmuext_op.

import { completeAll, flushThen, settleThen } from '../../grant/index.ts';
import { Errno } from '../../machine/errno.ts';
import type { Gfn, Mfn } from '../../machine/frame-number.ts';
import { FrameType } from '../../machine/frame-table.ts';
import type { Domid, Vcpu } from '../../machine/ids.ts';
import { Pending, Step } from '../../machine/pending.ts';
import { isGrantType, P2mType } from '../memory/p2m.ts';
import { Pte } from '../memory/pv-tables.ts';
import type { OperationContext } from './context.ts';

/** Scratch words: the address, the new entry (or frame and owner), a table's frame and level. */
export const TableScratch = {
  addressLow: Pending.scratch,
  addressHigh: Pending.scratch + 1,
  entryLow: Pending.scratch + 2,
  entryHigh: Pending.scratch + 3,
  owner: Pending.scratch + 4,
  frame: Pending.scratch + 5,
  level: Pending.scratch + 6,
} as const;

const Phase = { act: 0, flush: 1, validate: 2, end: 3, below: 4, belowFlush: 5 } as const;

function end(record: Uint32Array, result: number): number {
  record[Pending.result] = result;
  return Phase.end;
}

/** Finds the L1 entry that the record's address names. */
function find(context: OperationContext, record: Uint32Array): boolean {
  const { pvTables } = context.parts;
  const domain = record[Pending.domain] as Domid;
  return pvTables.find(domain, record[TableScratch.addressLow]!, record[TableScratch.addressHigh]!);
}

/** update_va_mapping: the new entry's references first, then the old one's go. */
export function stepUpdateVaMapping(context: OperationContext, vcpu: Vcpu, phase: number): number {
  if (phase !== Phase.act) return completeAll(context.access, vcpu, Phase.end, Step.done);
  const record = context.parts.pending.record(vcpu);
  const { pvTables } = context.parts;
  if (!find(context, record)) return end(record, Errno.EINVAL);
  const low = record[TableScratch.entryLow]!;
  const high = record[TableScratch.entryHigh]!;
  const domain = record[Pending.domain] as Domid;
  const refused = context.pages.getEntry(vcpu, domain, low, high, 1);
  if (refused !== 0) return end(record, refused);
  const oldLow = pvTables.low;
  const oldHigh = pvTables.high;
  pvTables.write(low, high);
  context.pages.putEntry(vcpu, oldLow, oldHigh, 1);
  return Phase.end;
}

/**
 * map_foreign: a privileged domain maps a page of another's. In `entryLow` its number + 1 (0: only drop what is there),
 * in `entryHigh` whether to write it.
 */
export function stepMapForeign(context: OperationContext, vcpu: Vcpu, phase: number): number {
  if (phase !== Phase.act) return completeAll(context.access, vcpu, Phase.end, Step.done);
  const record = context.parts.pending.record(vcpu);
  const { pvTables, frames } = context.parts;
  if (!find(context, record)) return end(record, Errno.EINVAL);
  const isWritable = record[TableScratch.entryHigh] !== 0;
  let low = 0;
  let high = 0;
  if (record[TableScratch.entryLow] !== 0) {
    const found = foreignFrame(context, record[TableScratch.owner] as Domid, record[TableScratch.entryLow]! - 1);
    if (found < 0) return end(record, Errno.EINVAL);
    const frame = found as Mfn;
    const types = isWritable && context.domain(record[TableScratch.owner] as Domid)?.kind === 'pv' ? 1 : 0;
    if (frames.isMemory(frame) && !context.pages.take(vcpu, frame, 1, types)) return end(record, Errno.EINVAL);
    record[TableScratch.frame] = frame;
    low = ((frame << 12) | Pte.present | Pte.user | Pte.accessedDirty | (isWritable ? Pte.writable : 0)) >>> 0;
    high = frame >>> 20;
  }
  const oldLow = pvTables.low;
  const oldHigh = pvTables.high;
  pvTables.write(low, high);
  context.pages.putEntry(vcpu, oldLow, oldHigh, 1);
  return Phase.end;
}

/** The machine frame that a number of a domain's names: of its own memory, or no memory at all (I/O); -1. */
export function foreignFrame(context: OperationContext, owner: Domid, number: number): Mfn | -1 {
  const { frames, p2m } = context.parts;
  let frame = number as Mfn;
  if (context.domain(owner)?.kind === 'hvm') {
    const type = p2m.type(owner, number as Gfn);
    const isRefused = isGrantType(type) && context.config.rules.memory.foreignMapOfGrant === 'refused';
    if (type === P2mType.hole || isRefused) return -1;
    frame = p2m.frame(owner, number as Gfn);
  }
  if (!frames.isMemory(frame)) return frame;
  return frames.isAllocated(frame) && frames.owner(frame) === owner ? frame : -1;
}

/**
 * pin_table: the frame leaves the devices' reach, that is flushed, and only then it is validated as a table; likewise
 * each of the tables below it.
 */
export function stepPinTable(context: OperationContext, vcpu: Vcpu, phase: number): number {
  const record = context.parts.pending.record(vcpu);
  const { frames } = context.parts;
  const domain = record[Pending.domain] as Domid;
  const frame = record[TableScratch.frame] as Mfn;
  const level = record[TableScratch.level]!;
  switch (phase) {
    case Phase.act:
      return context.pages.beginTable(vcpu, domain, frame, level) ? Phase.flush : end(record, Errno.EINVAL);
    case Phase.flush:
      return flushThen(context.access, vcpu, Phase.flush, Phase.validate);
    case Phase.validate: {
      const settled = settleThen(context.access, vcpu, domain, frame, Phase.validate, Phase.end);
      if (settled !== Phase.end) return settled;
      const refused = frames.isPinned(frame) ? Errno.EINVAL : context.pages.getTable(vcpu, domain, frame, level);
      if (refused === Errno.EAGAIN) return Phase.flush;
      if (refused !== 0) return end(record, refused);
      frames.setPinned(frame, true);
      return level > 1 ? Phase.belowFlush : Phase.end;
    }
    // Tables below it left the devices' reach with it.
    case Phase.belowFlush:
      return flushThen(context.access, vcpu, Phase.belowFlush, Phase.below);
    case Phase.below:
      context.access.settleDomain(vcpu, domain);
      return Phase.end;
    default:
      return completeAll(context.access, vcpu, Phase.end, Step.done);
  }
}

export function stepUnpinTable(context: OperationContext, vcpu: Vcpu, phase: number): number {
  if (phase !== Phase.act) return completeAll(context.access, vcpu, Phase.end, Step.done);
  const record = context.parts.pending.record(vcpu);
  const { frames } = context.parts;
  const frame = record[TableScratch.frame] as Mfn;
  const isOwn = frames.isAllocated(frame) && frames.owner(frame) === (record[Pending.domain] as Domid);
  if (!isOwn || !frames.isPinned(frame)) return end(record, Errno.EINVAL);
  frames.setPinned(frame, false);
  context.pages.putTable(vcpu, frame, frames.type(frame) - FrameType.l1PageTable + 1);
  return Phase.end;
}
