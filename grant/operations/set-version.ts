// GNTTABOP_set_version, in micro-steps. xen: common/grant_table.c gnttab_set_version; the numbers are its order of
// checks.
//
// Status frames go with version 2. An HVM domain may have them at gfns, within reach of its devices: they are taken
// from there, one by one, and that is flushed, before any of them is free for somebody else.

import { Errno } from '../../machine/errno.ts';
import type { Domid, Vcpu } from '../../machine/ids.ts';
import { ARGUMENTS, Pending, Step } from '../../machine/pending.ts';
import { GTF, RESERVED_ENTRIES } from '../layouts.ts';
import type { GrantContext } from './context.ts';
import { completeAll, flushThen } from './flush-steps.ts';

const Phase = { change: 0, flush: 1, end: 2 } as const;

/** Words of the record: the version wanted, and how many frames to take for status frames; their numbers follow it. */
export const SetVersionScratch = { version: Pending.scratch, asked: Pending.scratch + 1 } as const;

const { permit_access: PERMIT_ACCESS, transitive: TRANSITIVE, type_mask: TYPE } = GTF;
const USAGE = GTF.reading | GTF.writing;

/** One micro-step of the operation on a virtual CPU: the next phase, or a {@link Step}. */
export function stepSetVersion(context: GrantContext, vcpu: Vcpu, phase: number): number {
  if (phase === Phase.flush) return flushThen(context.ports.device, vcpu, Phase.flush, Phase.change);
  if (phase !== Phase.change) return completeAll(context.ports.device, vcpu, Phase.end, Step.done);
  const record = context.pending.record(vcpu);
  const domain = record[Pending.domain] as Domid;
  const version = record[SetVersionScratch.version]!;
  const { tables } = context;
  const refused = refusal(context, domain, version);
  if (refused === 0 && version !== tables.version(domain)) {
    if (version === 1 && withdrawStatusFrame(context, vcpu, domain)) return Phase.flush;
    const asked = Array.from({ length: record[SetVersionScratch.asked]! }, (_, at) => record[ARGUMENTS + at]!);
    record[Pending.result] = version === 1 ? goBack(context, vcpu, domain) : goOn(context, domain, asked);
  } else record[Pending.result] = refused;
  context.ports.device.operationEnd(vcpu);
  return Phase.end;
}

/** 2 to 8. */
function refusal({ tables }: GrantContext, domain: Domid, version: number): number {
  if (version !== 1 && version !== 2) return Errno.EINVAL;
  if (version === 2 && tables.versionMax(domain) < 2) return Errno.ENOSYS;
  if (version === tables.version(domain)) return 0;
  for (let ref = RESERVED_ENTRIES; ref < tables.entries(domain); ref += 1) {
    if (tables.pins(domain, ref) !== 0) return Errno.EBUSY;
  }
  if (version === 2) return 0;
  if (tables.hasV2Uses(domain)) return Errno.EAGAIN;
  for (let ref = 0; ref < RESERVED_ENTRIES; ref += 1) {
    const type = tables.sharedFlags(domain, ref) & TYPE;
    if (type === TRANSITIVE) return Errno.ERANGE;
    if (type === PERMIT_ACCESS && tables.shared(domain, ref, 3) !== 0) return Errno.ERANGE;
  }
  return 0;
}

/** Takes a status frame from its gfn, if some is at one. xen: gnttab_unpopulate_status_frames. */
function withdrawStatusFrame(context: GrantContext, vcpu: Vcpu, domain: Domid): boolean {
  const { tables, ports } = context;
  for (let index = 0; index < tables.statusFrameCount(domain); index += 1) {
    if (ports.moves.withdraw(vcpu, domain, tables.statusFrame(domain, index))) return true;
  }
  return false;
}

/** 9, then version 1 takes force: entries go, but for the reserved ones, and so do the status frames. */
function goBack(context: GrantContext, vcpu: Vcpu, domain: Domid): number {
  const { tables, ports } = context;
  for (let index = 0; index < tables.statusFrameCount(domain); index += 1) {
    if (!context.frames.isReferred(tables.statusFrame(domain, index))) continue;
    if (context.domain(domain)!.kind === 'hvm') context.crash(vcpu, domain, `status frame ${index} is in use`);
    return Errno.EBUSY;
  }
  const kept = reservedEntries(context, domain);
  clearEntries(context, domain);
  for (const frame of tables.takeStatusFrames(domain)) ports.pages.freeShared(vcpu, frame);
  tables.setVersion(domain, 1);
  for (const [ref, entry] of kept.entries()) {
    // An entry that grants nothing does not go back.
    if ((entry.word & TYPE) !== PERMIT_ACCESS) continue;
    tables.writeShared(domain, ref, 0, (entry.word | entry.usage) >>> 0);
    tables.writeShared(domain, ref, 1, entry.frame);
  }
  return 0;
}

/** 6, then version 2 takes force: entries go, but for the reserved ones, whose usage bits move to the status words. */
function goOn(context: GrantContext, domain: Domid, asked: readonly number[]): number {
  const { tables } = context;
  const grown = tables.addStatusFrames(domain, asked);
  if (grown !== 0) return grown;
  const kept = reservedEntries(context, domain);
  clearEntries(context, domain);
  tables.setVersion(domain, 2);
  for (const [ref, entry] of kept.entries()) {
    tables.writeShared(domain, ref, 0, (entry.word & ~USAGE) >>> 0);
    tables.writeShared(domain, ref, 2, entry.frame);
    tables.markUsage(domain, ref, entry.word & USAGE);
  }
  return 0;
}

interface ReservedEntry {
  readonly word: number;
  readonly frame: number;
  readonly usage: number;
}

function reservedEntries({ tables }: GrantContext, domain: Domid): ReservedEntry[] {
  return Array.from({ length: RESERVED_ENTRIES }, (_, ref) => ({
    word: tables.sharedFlags(domain, ref),
    frame: tables.sharedGfn(domain, ref),
    usage: tables.usage(domain, ref),
  }));
}

function clearEntries({ tables, frames }: GrantContext, domain: Domid): void {
  for (let index = 0; index < tables.frameCount(domain); index += 1) frames.clearContents(tables.frame(domain, index));
}
