// The grant of an entry to a copy: taken for as long as the copy needs it, by way of another domain's entry if that is
// transitive. xen: common/grant_table.c acquire_grant_for_copy, release_grant_for_copy.

import type { Mfn } from '../../machine/frame-number.ts';
import type { Domid, Vcpu } from '../../machine/ids.ts';
import { ANY_PIN, GTF, hasWritePins, Pin, pinsAreFull } from '../layouts.ts';
import { badFrameStatus } from '../rules.ts';
import { GrantStatus } from '../status.ts';
import type { GrantContext } from './context.ts';

/** The entry changed between two looks at it: the hypercall is repeated from this element on. */
export const RETRY = 1;

const { type_mask: TYPE, transitive: TRANSITIVE, sub_page: SUB_PAGE } = GTF;

/** What was acquired: a frame with one reference, and the bytes of it that may be used. */
export interface Acquired {
  frame: Mfn;
  offset: number;
  length: number;
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
  const next = (tables.shared(granter, ref, 1) & 0xffff) as Domid;
  const nextRef = tables.shared(granter, ref, 2);
  if (next === granter || context.domain(next) === null) return GrantStatus.general_error;
  const status = acquire(context, vcpu, next, nextRef, granter, readOnly, false, out);
  if (status !== GrantStatus.okay) return status;
  if (tables.pins(granter, ref) === 0) {
    tables.activate(granter, ref, 0, mapper, out.frame);
    tables.limitTo(granter, ref, out.offset, out.length, next, nextRef);
    return GrantStatus.okay;
  }
  const isSame =
    tables.sourceDomain(granter, ref) === next &&
    tables.sourceRef(granter, ref) === nextRef &&
    tables.activeFrame(granter, ref) === out.frame &&
    tables.activeOffset(granter, ref) === out.offset &&
    tables.activeLength(granter, ref) === out.length;
  if (isSame) return GrantStatus.okay;
  releaseEntry(context, next, nextRef, readOnly);
  context.ports.pages.drop(vcpu, out.frame, 1, 0);
  return RETRY;
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
  const offset = bytes & 0xffff;
  const length = bytes >>> 16;
  if (tables.pins(granter, ref) !== 0) {
    // The entry may have been rewritten since its first use. xen: XSA-500.
    const isOther =
      tables.activeFrame(granter, ref) !== frame ||
      tables.sourceDomain(granter, ref) >= 0 ||
      (tables.isPartial(granter, ref) &&
        !(isPart && tables.activeOffset(granter, ref) === offset && tables.activeLength(granter, ref) === length));
    if (isOther) return GrantStatus.general_error;
  }
  if (!context.ports.pages.take(vcpu, frame, 1, 0)) return badFrameStatus(context.rules);
  if (tables.pins(granter, ref) === 0) {
    tables.activate(granter, ref, 0, mapper, frame);
    if (isPart) tables.limit(granter, ref, offset, length);
  }
  tell(context, granter, ref, out);
  return GrantStatus.okay;
}

/** An entry that is in use already, in the way that is asked for. */
function takeUsed(context: GrantContext, vcpu: Vcpu, granter: Domid, ref: number, out: Acquired): GrantStatus {
  const { tables } = context;
  const frame = tables.activeFrame(granter, ref);
  if (context.frames.owner(frame) !== granter || context.domain(granter)!.dying) return GrantStatus.bad_domain;
  if (!context.ports.pages.take(vcpu, frame, 1, 0)) return GrantStatus.bad_domain;
  tell(context, granter, ref, out);
  return GrantStatus.okay;
}

function tell({ tables }: GrantContext, granter: Domid, ref: number, out: Acquired): void {
  out.frame = tables.activeFrame(granter, ref);
  out.offset = tables.activeOffset(granter, ref);
  out.length = tables.activeLength(granter, ref);
}

/** Ends what {@link acquire} began, but for the reference to the frame. */
export function releaseEntry(context: GrantContext, granter: Domid, ref: number, readOnly: boolean): void {
  const { tables } = context;
  const next = tables.sourceDomain(granter, ref);
  const nextRef = tables.sourceRef(granter, ref);
  tables.dropPins(granter, ref, readOnly ? Pin.hostRead.one : Pin.hostWrite.one, readOnly);
  if (next >= 0) releaseEntry(context, next as Domid, nextRef, readOnly);
}
