// Operations on PV page tables, in micro-steps. xen: arch/x86/mm.c do_update_va_mapping, do_mmuext_op.

import { completeAll, flushThen, settleThen } from '../../grant/index.ts';
import { Errno } from '../../machine/errno.ts';
import type { Gfn, Mfn } from '../../machine/frame-number.ts';
import { FrameType } from '../../machine/frame-table.ts';
import type { Domid, Vcpu } from '../../machine/ids.ts';
import { Pending, Step } from '../../machine/pending.ts';
import { isGrantType } from '../memory/p2m.ts';
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
  const refused = context.pages.getEntry(vcpu, domain, pvTables.frame, low, high, 1);
  if (refused !== 0) return end(record, refused);
  replaceEntry(context, vcpu, low, high);
  return Phase.end;
}

/** The L1 entry found is another, and what it held is dropped. */
function replaceEntry(context: OperationContext, vcpu: Vcpu, low: number, high: number): void {
  const { pvTables } = context.parts;
  const { frame: table, low: oldLow, high: oldHigh } = pvTables;
  pvTables.write(low, high);
  context.pages.putEntry(vcpu, table, oldLow, oldHigh, 1);
}

/**
 * map_foreign: a privileged domain maps a page of another's. In `entryLow` its number, in `entryHigh` the flags of the
 * entry; 0: only what is there is dropped.
 */
export function stepMapForeign(context: OperationContext, vcpu: Vcpu, phase: number): number {
  if (phase !== Phase.act) return completeAll(context.access, vcpu, Phase.end, Step.done);
  const record = context.parts.pending.record(vcpu);
  if (!find(context, record)) return end(record, Errno.EINVAL);
  const flags = record[TableScratch.entryHigh]!;
  if (flags === 0) {
    replaceEntry(context, vcpu, 0, 0);
    return Phase.end;
  }
  const owner = record[TableScratch.owner] as Domid;
  const frame = foreignFrame(context, owner, record[TableScratch.entryLow]!);
  if (frame < 0) return end(record, Errno.EINVAL);
  const low = ((frame << 12) | flags) >>> 0;
  const refused = context.pages.getMapping(vcpu, record[Pending.domain] as Domid, owner, low, frame >>> 20);
  if (refused !== 0) return end(record, refused);
  record[TableScratch.frame] = frame;
  replaceEntry(context, vcpu, low, frame >>> 20);
  return Phase.end;
}

/** The machine frame that a domain's number of one stands for; -1 for none. xen: mod_l1_entry. */
function foreignFrame(context: OperationContext, owner: Domid, number: number): number {
  if (context.domain(owner)?.kind !== 'hvm') return number;
  const { p2m } = context.parts;
  if (isGrantType(p2m.type(owner, number as Gfn)) && context.config.rules.memory.foreignMapOfGrant === 'refused')
    return -1;
  return context.physmap.ownFrame(owner, number);
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
