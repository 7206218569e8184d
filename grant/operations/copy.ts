// GNTTABOP_copy, in micro-steps. xen: common/grant_table.c gnttab_copy_one; the numbers are its order of checks.

import { Errno } from '../../machine/errno.ts';
import { type Mfn, PAGE_SIZE } from '../../machine/frame-number.ts';
import type { FrameTable } from '../../machine/frame-table.ts';
import { DOMID_FIRST_RESERVED, DOMID_SELF, type Domid, type Vcpu } from '../../machine/ids.ts';
import { ARGUMENT_WORDS, ARGUMENTS, Pending, Step } from '../../machine/pending.ts';
import { CLAIM_WORDS, Claim, Claimed, DESTINATION_CLAIM, SOURCE_CLAIM } from '../copy-claims.ts';
import { CopyElement, CopyEndWords, GNTCOPY } from '../layouts.ts';
import { badFrameStatus } from '../rules.ts';
import { GrantStatus } from '../status.ts';
import { type Acquired, acquire, RETRY, releaseEntry } from './acquire.ts';
import { endsHere, nextElement } from './batch.ts';
import type { GrantContext } from './context.ts';
import { completeAll, flushThen } from './flush-steps.ts';

const Phase = { claim: 0, claimFlush: 1, move: 2, releaseFlush: 3, end: 4 } as const;

const { index: INDEX, domain: DOMAIN, result: RESULT } = Pending;

const acquired: Acquired = { frame: 0 as Mfn, range: null };

/** One micro-step of the operation on a virtual CPU: the next phase, or a {@link Step}. */
export function stepCopy(context: GrantContext, vcpu: Vcpu, phase: number): number {
  const record = context.pending.record(vcpu);
  switch (phase) {
    case Phase.claim:
      return claim(context, vcpu, record);
    case Phase.claimFlush:
      return flushThen(context.ports.device, vcpu, Phase.claimFlush, Phase.move);
    case Phase.move:
      return move(context, vcpu, record);
    case Phase.releaseFlush:
      return flushThen(context.ports.device, vcpu, Phase.releaseFlush, Phase.claim);
    default:
      return completeAll(context.ports.device, vcpu, Phase.end, Step.done);
  }
}

function elementOf(record: Uint32Array): number {
  return ARGUMENTS + record[INDEX]! * ARGUMENT_WORDS;
}

/** 1 to 7: both ends are claimed, unless the element before it left them so. */
function claim(context: GrantContext, vcpu: Vcpu, record: Uint32Array): number {
  if (endsHere(record)) {
    releaseBoth(context, vcpu);
    context.ports.device.operationEnd(vcpu);
    return Phase.end;
  }
  const element = elementOf(record);
  const length = record[element + CopyElement.lengthAndFlags]! & 0xffff;
  if (length === 0 && context.rules.copyZeroLength === 'done') return finish(context, vcpu, record, GrantStatus.okay);
  if (context.rules.copyPageBorder === 'first' && leavesPage(record, element)) {
    return finish(context, vcpu, record, GrantStatus.bad_copy_arg);
  }
  const status = claimBoth(context, vcpu, record, element);
  if (status === RETRY) {
    record[RESULT] = Errno.ERESTART;
    return Phase.claim;
  }
  if (status !== GrantStatus.okay) return finish(context, vcpu, record, status);
  return context.ports.device.isFlushed(vcpu) ? Phase.move : Phase.claimFlush;
}

function leavesPage(record: Uint32Array, element: number): boolean {
  const length = record[element + CopyElement.lengthAndFlags]! & 0xffff;
  const from = record[element + CopyElement.source + CopyEndWords.domainAndOffset]! >>> 16;
  const to = record[element + CopyElement.destination + CopyEndWords.domainAndOffset]! >>> 16;
  return from + length > PAGE_SIZE || to + length > PAGE_SIZE;
}

function claimBoth(
  context: GrantContext,
  vcpu: Vcpu,
  record: Uint32Array,
  element: number,
): GrantStatus | typeof RETRY {
  const flags = record[element + CopyElement.lengthAndFlags]! >>> 16;
  const caller = record[DOMAIN]! as Domid;
  const ends = [
    { at: element + CopyElement.source, of: SOURCE_CLAIM, byRef: (flags & GNTCOPY.source_gref) !== 0 },
    { at: element + CopyElement.destination, of: DESTINATION_CLAIM, byRef: (flags & GNTCOPY.dest_gref) !== 0 },
  ];
  const claims = context.claims.of(vcpu);
  const domid = (at: number) => record[at + CopyEndWords.domainAndOffset]! & 0xffff;
  const isChanged = ends.some(({ at, of }) => claims[of + Claim.state] === 0 || claims[of + Claim.named] !== domid(at));
  if (isChanged) releaseBoth(context, vcpu);
  const refused = checkDomains(
    context,
    ends.map(({ at, byRef }) => ({ domid: domid(at), byRef })),
  );
  if (refused !== GrantStatus.okay) return refused;
  for (const { at, of, byRef } of ends) {
    const named = domid(at);
    const low = record[at + CopyEndWords.low]!;
    const high = record[at + CopyEndWords.high]!;
    if (isClaimed(claims, of, byRef, low, high)) continue;
    release(context, vcpu, of);
    if (!byRef && named !== DOMID_SELF) return GrantStatus.permission_denied;
    const domain = (named === DOMID_SELF ? caller : named) as Domid;
    claims[of + Claim.named] = named;
    claims[of + Claim.domain] = domain;
    const status = claimEnd(context, vcpu, caller, of, byRef, low, high);
    if (status !== GrantStatus.okay) return status;
  }
  return GrantStatus.okay;
}

/** 2 to 4: both domains must be there; frames by number are only the caller's own, which 4.17 looks at later. */
function checkDomains(
  context: GrantContext,
  ends: readonly { readonly domid: number; readonly byRef: boolean }[],
): GrantStatus {
  const isForeign = ({ domid, byRef }: { readonly domid: number; readonly byRef: boolean }) =>
    !byRef && domid !== DOMID_SELF;
  if (context.rules.copyFrameCheck === 'both-first' && ends.some(isForeign)) return GrantStatus.permission_denied;
  for (const { domid, byRef } of ends) {
    if (domid === DOMID_SELF) continue;
    if (!byRef && context.rules.copyFrameCheck === 'before-lookup') return GrantStatus.permission_denied;
    if (domid >= DOMID_FIRST_RESERVED || context.domain(domid as Domid) === null) return GrantStatus.bad_domain;
  }
  return GrantStatus.okay;
}

function isClaimed(claims: Uint32Array, of: number, byRef: boolean, low: number, high: number): boolean {
  const state = claims[of + Claim.state]!;
  if (state === 0 || ((state & Claimed.byRef) !== 0) !== byRef) return false;
  return claims[of + Claim.low] === low && (byRef || claims[of + Claim.high] === high);
}

/** 6, 7: a frame with a reference, by way of a grant or as the caller's own; the destination's to be written. */
function claimEnd(
  context: GrantContext,
  vcpu: Vcpu,
  caller: Domid,
  of: number,
  byRef: boolean,
  low: number,
  high: number,
): GrantStatus | typeof RETRY {
  const claims = context.claims.of(vcpu);
  const domain = claims[of + Claim.domain]! as Domid;
  const readOnly = of === SOURCE_CLAIM;
  const { pages } = context.ports;
  if (byRef) {
    const status = acquire(context, vcpu, domain, low, caller, readOnly, context.options.transitive, acquired);
    if (status !== GrantStatus.okay) return status;
  } else {
    const frame = context.grantedFrame(domain, low, high);
    if (frame < 0 || !pages.take(vcpu, frame as Mfn, 1, 0)) return badFrameStatus(context.rules);
    acquired.frame = frame as Mfn;
    acquired.range = null;
  }
  claims[of + Claim.low] = low;
  claims[of + Claim.high] = byRef ? 0 : high;
  claims[of + Claim.frame] = acquired.frame;
  claims[of + Claim.offset] = acquired.range?.offset ?? 0;
  claims[of + Claim.length] = acquired.range?.length ?? PAGE_SIZE;
  claims[of + Claim.state] = Claimed.frame | (byRef ? Claimed.byRef : 0);
  if (readOnly) return GrantStatus.okay;
  if (!pages.take(vcpu, acquired.frame, 0, 1)) return GrantStatus.general_error;
  claims[of + Claim.state]! |= Claimed.type;
  return GrantStatus.okay;
}

/** 8 to 10, and the bytes move. */
function move(context: GrantContext, vcpu: Vcpu, record: Uint32Array): number {
  const element = elementOf(record);
  const length = record[element + CopyElement.lengthAndFlags]! & 0xffff;
  const from = record[element + CopyElement.source + CopyEndWords.domainAndOffset]! >>> 16;
  const to = record[element + CopyElement.destination + CopyEndWords.domainAndOffset]! >>> 16;
  if (leavesPage(record, element)) return finish(context, vcpu, record, GrantStatus.bad_copy_arg);
  const claims = context.claims.of(vcpu);
  const isWithin = (of: number, offset: number) =>
    offset >= claims[of + Claim.offset]! && offset + length <= claims[of + Claim.offset]! + claims[of + Claim.length]!;
  if (!isWithin(SOURCE_CLAIM, from) || !isWithin(DESTINATION_CLAIM, to)) {
    return finish(context, vcpu, record, GrantStatus.general_error);
  }
  const source = claims[SOURCE_CLAIM + Claim.frame]! as Mfn;
  copyBytes(context.frames, claims[DESTINATION_CLAIM + Claim.frame]! as Mfn, to, source, from, length);
  return finish(context, vcpu, record, GrantStatus.okay);
}

function finish(context: GrantContext, vcpu: Vcpu, record: Uint32Array, status: GrantStatus): number {
  if (status !== GrantStatus.okay) releaseBoth(context, vcpu);
  record[elementOf(record) + CopyElement.status] = status & 0xffff;
  context.ports.device.elementEnd(vcpu);
  nextElement(record);
  return context.ports.device.isFlushed(vcpu) ? Phase.claim : Phase.releaseFlush;
}

function releaseBoth(context: GrantContext, vcpu: Vcpu): void {
  release(context, vcpu, SOURCE_CLAIM);
  release(context, vcpu, DESTINATION_CLAIM);
}

/** xen: gnttab_copy_release_buf. */
function release(context: GrantContext, vcpu: Vcpu, of: number): void {
  const claims = context.claims.of(vcpu);
  const state = claims[of + Claim.state]!;
  if (state !== 0) {
    const frame = claims[of + Claim.frame]! as Mfn;
    if ((state & Claimed.byRef) !== 0) {
      releaseEntry(context, claims[of + Claim.domain]! as Domid, claims[of + Claim.low]!, of === SOURCE_CLAIM);
    }
    context.ports.pages.drop(vcpu, frame, 1, (state & Claimed.type) !== 0 ? 1 : 0);
  }
  claims.fill(0, of, of + CLAIM_WORDS);
}

const bytes = new Uint8Array(PAGE_SIZE);
const words = new Uint32Array(bytes.buffer);
const sourceBytes = new Uint8Array(PAGE_SIZE);
const sourceWords = new Uint32Array(sourceBytes.buffer);

/**
 * Moves bytes from frame to frame. Within one frame that is done forward, 8 at a time and the rest one by one, as shows
 * where source and destination overlap.
 */
export function copyBytes(
  frames: FrameTable,
  destination: Mfn,
  to: number,
  source: Mfn,
  from: number,
  length: number,
): void {
  frames.readFrame(destination, words);
  if (source === destination) moveForward(to, from, length);
  else {
    frames.readFrame(source, sourceWords);
    bytes.set(sourceBytes.subarray(from, from + length), to);
  }
  const first = to >>> 2;
  frames.writeWords(destination, first, words, first, ((to + length + 3) >>> 2) - first);
}

function moveForward(to: number, from: number, length: number): void {
  const whole = length - (length % 8);
  for (let at = 0; at < whole; at += 8) bytes.copyWithin(to + at, from + at, from + at + 8);
  for (let at = whole; at < length; at += 1) bytes[to + at] = bytes[from + at]!;
}
