// The grant of an entry to a copy: taken for as long as the copy needs it, by way of another domain's entry if that is
// transitive. xen: common/grant_table.c acquire_grant_for_copy, release_grant_for_copy.

import type { Mfn } from '../../machine/frame-number.ts';
import type { Domid, Vcpu } from '../../machine/ids.ts';
import type { ByteRange } from '../grant-tables.ts';
import { ANY_PIN, GTF, hasWritePins, Pin, pinsAreFull } from '../layouts.ts';
import { badFrameStatus } from '../rules.ts';
import { GrantStatus } from '../status.ts';
import type { GrantContext } from './context.ts';

/** The entry changed between two looks at it: the hypercall is repeated from this element on. */
export const RETRY = 1;

const { type_mask: TYPE, transitive: TRANSITIVE, sub_page: SUB_PAGE } = GTF;

/** What was acquired: a frame with one reference, and the bytes of it that may be used (null: all). */
export interface Acquired {
  frame: Mfn;
  range: ByteRange | null;
}

/**
 * Pins an entry for a copy by `mapper`.
 * @param out filled in on success.
 * @returns a status, or {@link RETRY}.
 */
export function acquire(
  context: GrantContext,
  vcpu: Vcpu,
  granter: Domid,
  ref: number,
  mapper: Domid,
  readOnly: boolean,
  mayFollow: boolean,
  out: Acquired,
): GrantStatus | typeof RETRY {
  const { tables } = context;
  if (ref >= tables.entries(granter)) return GrantStatus.bad_gntref;
  const pins = tables.pins(granter, ref);
  const one = readOnly ? Pin.hostRead.one : Pin.hostWrite.one;
  if (pins !== 0) {
    const counted = context.rules.pinLimit === 'any' ? ANY_PIN : one;
    if (tables.activeMapper(granter, ref) !== mapper || pinsAreFull(pins, counted)) return GrantStatus.general_error;
  }
  const marks = pins === 0 || (!readOnly && !hasWritePins(pins));
  const isTransitive = tables.version(granter) === 2 && (tables.sharedFlags(granter, ref) & TYPE) === TRANSITIVE;
  if (marks && !tables.setStatus(granter, ref, mapper, readOnly, true)) return GrantStatus.general_error;
  const status = isTransitive
    ? follow(context, vcpu, granter, ref, mapper, readOnly, mayFollow, out)
    : marks
      ? lookUp(context, vcpu, granter, ref, mapper, out)
      : takeUsed(context, vcpu, granter, ref, out);
  if (status !== GrantStatus.okay) {
    tables.reduceStatus(granter, ref, readOnly);
    return status;
  }
  tables.activate(granter, ref, tables.pins(granter, ref) + one, mapper, out.frame);
  return GrantStatus.okay;
}

/** A transitive entry: the same right of another entry, which its domain must have granted to the granter. */
function follow(
  context: GrantContext,
  vcpu: Vcpu,
  granter: Domid,
  ref: number,
  mapper: Domid,
  readOnly: boolean,
  mayFollow: boolean,
  out: Acquired,
): GrantStatus | typeof RETRY {
  const { tables } = context;
  if (!mayFollow) return GrantStatus.general_error;
  const next = { domain: (tables.shared(granter, ref, 1) & 0xffff) as Domid, ref: tables.shared(granter, ref, 2) };
  if (next.domain === granter || context.domain(next.domain) === null) return GrantStatus.general_error;
  const status = acquire(context, vcpu, next.domain, next.ref, granter, readOnly, false, out);
  if (status !== GrantStatus.okay) return status;
  if (tables.pins(granter, ref) === 0) {
    tables.activate(granter, ref, 0, mapper, out.frame);
    tables.limit(granter, ref, out.range ?? { offset: 0, length: 4096 }, next);
    return GrantStatus.okay;
  }
  const source = tables.activeSource(granter, ref);
  const isSame =
    source?.domain === next.domain &&
    source.ref === next.ref &&
    tables.activeFrame(granter, ref) === out.frame &&
    isSameRange(tables.activeRange(granter, ref), out.range);
  if (isSame) return GrantStatus.okay;
  releaseEntry(context, next.domain, next.ref, readOnly);
  context.ports.pages.drop(vcpu, out.frame, 1, 0);
  return RETRY;
}

function isSameRange(a: ByteRange | null, b: ByteRange | null): boolean {
  return (a?.offset ?? 0) === (b?.offset ?? 0) && (a?.length ?? 4096) === (b?.length ?? 4096);
}

/** The first use of an entry, or its first writable one: what the entry says counts. */
function lookUp(
  context: GrantContext,
  vcpu: Vcpu,
  granter: Domid,
  ref: number,
  mapper: Domid,
  out: Acquired,
): GrantStatus {
  const { tables } = context;
  const found = context.grantedFrame(granter, tables.sharedGfn(granter, ref), tables.sharedGfnHigh(granter, ref));
  if (found < 0) return badFrameStatus(context.rules);
  const frame = found as Mfn;
  const isPart = tables.version(granter) === 2 && (tables.sharedFlags(granter, ref) & SUB_PAGE) !== 0;
  const bytes = isPart ? tables.shared(granter, ref, 1) : 0;
  const range = isPart ? { offset: bytes & 0xffff, length: bytes >>> 16 } : null;
  if (tables.pins(granter, ref) !== 0) {
    // The entry may have been rewritten since its first use. xen: XSA-500.
    const isOther =
      tables.activeFrame(granter, ref) !== frame ||
      tables.activeSource(granter, ref) !== null ||
      (tables.isPartial(granter, ref) && !(isPart && isSameRange(tables.activeRange(granter, ref), range)));
    if (isOther) return GrantStatus.general_error;
  }
  if (!context.ports.pages.take(vcpu, frame, 1, 0)) return badFrameStatus(context.rules);
  if (tables.pins(granter, ref) === 0) {
    tables.activate(granter, ref, 0, mapper, frame);
    if (range) tables.limit(granter, ref, range, null);
  }
  out.frame = frame;
  out.range = tables.activeRange(granter, ref);
  return GrantStatus.okay;
}

/** An entry that is in use already, in the way that is asked for. */
function takeUsed(context: GrantContext, vcpu: Vcpu, granter: Domid, ref: number, out: Acquired): GrantStatus {
  const { tables } = context;
  const frame = tables.activeFrame(granter, ref);
  if (context.frames.owner(frame) !== granter || context.domain(granter)!.dying) return GrantStatus.bad_domain;
  if (!context.ports.pages.take(vcpu, frame, 1, 0)) return GrantStatus.bad_domain;
  out.frame = frame;
  out.range = tables.activeRange(granter, ref);
  return GrantStatus.okay;
}

/** Ends what {@link acquire} began, but for the reference to the frame. */
export function releaseEntry(context: GrantContext, granter: Domid, ref: number, readOnly: boolean): void {
  const { tables } = context;
  const next = tables.activeSource(granter, ref);
  tables.dropPins(granter, ref, readOnly ? Pin.hostRead.one : Pin.hostWrite.one, readOnly);
  if (next) releaseEntry(context, next.domain, next.ref, readOnly);
}
