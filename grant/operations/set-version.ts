// GNTTABOP_set_version, in micro-steps: the change under the table's lock, then what it took from an HVM domain's gfn
// map is flushed. xen: common/grant_table.c gnttab_set_version; the numbers are its order of checks.

import { Errno } from '../../machine/errno.ts';
import type { Domid, Vcpu } from '../../machine/ids.ts';
import { ARGUMENTS, Pending, Step } from '../../machine/pending.ts';
import { GTF, RESERVED_ENTRIES } from '../layouts.ts';
import type { GrantContext } from './context.ts';
import { completeAll } from './flush-steps.ts';

const { permit_access: PERMIT_ACCESS, transitive: TRANSITIVE, type_mask: TYPE } = GTF;
const USAGE = GTF.reading | GTF.writing;

const Phase = { act: 0, end: 1 } as const;

/** Scratch words: the version; frames that are to be status frames, their numbers where the elements begin. */
export const VersionScratch = { version: Pending.scratch, allocate: Pending.scratch + 1 } as const;

/** One micro-step of the operation on a virtual CPU: the next phase, or a {@link Step}. */
export function stepSetVersion(context: GrantContext, vcpu: Vcpu, phase: number): number {
  if (phase !== Phase.act) return completeAll(context.ports.device, vcpu, Phase.end, Step.done);
  const record = context.pending.record(vcpu);
  const allocate = record.subarray(ARGUMENTS, ARGUMENTS + record[VersionScratch.allocate]!);
  const domain = record[Pending.domain]! as Domid;
  record[Pending.result] = setVersion(context, vcpu, domain, record[VersionScratch.version]!, Array.from(allocate));
  context.ports.device.operationEnd(vcpu);
  return Phase.end;
}

/**
 * Changes the version of a domain's own table: entries go, but for the reserved ones, which change their layout.
 * @returns 0 or a negative errno.
 */
function setVersion(
  context: GrantContext,
  vcpu: Vcpu,
  domain: Domid,
  version: number,
  allocate: readonly number[],
): number {
  const { tables } = context;
  if (version !== 1 && version !== 2) return Errno.EINVAL;
  if (version === 2 && tables.versionMax(domain) < 2) return Errno.ENOSYS;
  if (version === tables.version(domain)) return 0;
  // 5
  for (let ref = RESERVED_ENTRIES; ref < tables.entries(domain); ref += 1) {
    if (tables.pins(domain, ref) !== 0) return Errno.EBUSY;
  }
  let refused = version === 1 ? cannotGoBack(context, domain) : 0;
  const kept = Array.from({ length: RESERVED_ENTRIES }, (_, ref) => reservedEntry(context, domain, ref));
  if (version === 1 && refused === 0) refused = dropStatusFrames(context, vcpu, domain);
  if (refused !== 0) return refused;
  const frameCount = tables.frameCount(domain);
  for (let index = 0; index < frameCount; index += 1) context.frames.clearContents(tables.frame(domain, index));
  const grown = tables.setVersion(domain, version, allocate);
  for (const [ref, entry] of kept.entries()) writeReserved(context, domain, ref, version, entry);
  return grown;
}

/** 7, 8: entries that keep version 2 in force. */
function cannotGoBack(context: GrantContext, domain: Domid): number {
  const { tables } = context;
  if (tables.hasV2Uses(domain)) return Errno.EAGAIN;
  for (let ref = 0; ref < RESERVED_ENTRIES; ref += 1) {
    const type = tables.sharedFlags(domain, ref) & TYPE;
    if (type === TRANSITIVE) return Errno.ERANGE;
    if (type === PERMIT_ACCESS && tables.shared(domain, ref, 3) !== 0) return Errno.ERANGE;
  }
  return 0;
}

/**
 * Status frames go, an HVM domain's from its gfn map first. One that somebody refers to keeps version 2 in force; an
 * HVM domain is crashed then. xen: gnttab_unpopulate_status_frames.
 */
function dropStatusFrames(context: GrantContext, vcpu: Vcpu, domain: Domid): number {
  const { tables, ports } = context;
  const isHvm = context.domain(domain)!.kind === 'hvm';
  for (let index = 0; index < tables.statusFrameCount(domain); index += 1) {
    const frame = tables.statusFrame(domain, index);
    const isUnhooked = !isHvm || ports.moves.unhook(vcpu, domain, frame);
    if (isUnhooked && !context.frames.isReferred(frame)) continue;
    if (isHvm) context.crash(domain, `status frame ${index} is in use`);
    return isUnhooked ? Errno.EBUSY : Errno.ENOMEM;
  }
  for (const frame of tables.takeStatusFrames(domain)) ports.pages.freeShared(vcpu, frame);
  return 0;
}

interface ReservedEntry {
  readonly word: number;
  readonly frame: number;
  readonly usage: number;
}

function reservedEntry({ tables }: GrantContext, domain: Domid, ref: number): ReservedEntry {
  return {
    word: tables.sharedFlags(domain, ref),
    frame: tables.sharedGfn(domain, ref),
    usage: tables.usage(domain, ref),
  };
}

/** The usage bits move between flags and status word. An entry that grants nothing does not go back to version 1. */
function writeReserved(context: GrantContext, domain: Domid, ref: number, version: number, entry: ReservedEntry): void {
  const { tables } = context;
  if (version === 2) {
    tables.writeShared(domain, ref, 0, (entry.word & ~USAGE) >>> 0);
    tables.writeShared(domain, ref, 2, entry.frame);
    tables.markUsage(domain, ref, entry.word & USAGE);
    return;
  }
  if ((entry.word & TYPE) !== PERMIT_ACCESS) return;
  tables.writeShared(domain, ref, 0, (entry.word | entry.usage) >>> 0);
  tables.writeShared(domain, ref, 1, entry.frame);
}
