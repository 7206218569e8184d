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

const acquired: Acquired = { frame: 0 as Mfn, offset: 0, length: 0 };

/** The ends of an element: where its words are, where its claim is, and the flag that says it is by a ref. */
const ENDS = [
  { words: CopyElement.source, of: SOURCE_CLAIM, byRefFlag: GNTCOPY.source_gref },
  { words: CopyElement.destination, of: DESTINATION_CLAIM, byRefFlag: GNTCOPY.dest_gref },
] as const;

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
  const claims = context.claims.of(vcpu);
  for (const { words, of } of ENDS) {
    if (claims[of + Claim.state] !== 0 && claims[of + Claim.named] === namedBy(record, element + words)) continue;
    releaseBoth(context, vcpu);
    break;
  }
  const refused = checkDomains(context, record, element, flags);
  if (refused !== GrantStatus.okay) return refused;
  for (const { words, of, byRefFlag } of ENDS) {
    const byRef = (flags & byRefFlag) !== 0;
    const named = namedBy(record, element + words);
    const low = record[element + words + CopyEndWords.low]!;
    const high = record[element + words + CopyEndWords.high]!;
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

/** The domid that one end of an element names. */
const namedBy = (record: Uint32Array, end: number): number => record[end + CopyEndWords.domainAndOffset]! & 0xffff;

/** 2 to 4: both domains must be there; frames by number are only the caller's own, which 4.17 looks at later. */
function checkDomains(context: GrantContext, record: Uint32Array, element: number, flags: number): GrantStatus {
  const { copyFrameCheck } = context.rules;
  for (const { words, byRefFlag } of ENDS) {
    const isForeign = (flags & byRefFlag) === 0 && namedBy(record, element + words) !== DOMID_SELF;
    if (isForeign && copyFrameCheck === 'both-first') return GrantStatus.permission_denied;
  }
  for (const { words, byRefFlag } of ENDS) {
    const named = namedBy(record, element + words);
    if (named === DOMID_SELF) continue;
    if ((flags & byRefFlag) === 0 && copyFrameCheck === 'before-lookup') return GrantStatus.permission_denied;
    if (named >= DOMID_FIRST_RESERVED || context.domain(named as Domid) === null) return GrantStatus.bad_domain;
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
    acquired.offset = 0;
    acquired.length = PAGE_SIZE;
  }
  claims[of + Claim.low] = low;
  claims[of + Claim.high] = byRef ? 0 : high;
  claims[of + Claim.frame] = acquired.frame;
  claims[of + Claim.offset] = acquired.offset;
  claims[of + Claim.length] = acquired.length;
  claims[of + Claim.state] = Claimed.frame | (byRef ? Claimed.byRef : 0);
  if (readOnly) return GrantStatus.okay;
  if (!pages.take(vcpu, acquired.frame, 0, 1)) return GrantStatus.general_error;
  claims[of + Claim.state]! |= Claimed.type;
  return GrantStatus.okay;
}

/** Whether bytes of a claimed frame are among those that may be used. */
function isWithin(claims: Uint32Array, of: number, offset: number, length: number): boolean {
  const first = claims[of + Claim.offset]!;
  return offset >= first && offset + length <= first + claims[of + Claim.length]!;
}

/** 8 to 10, and the bytes move. */
function move(context: GrantContext, vcpu: Vcpu, record: Uint32Array): number {
  const element = elementOf(record);
  const length = record[element + CopyElement.lengthAndFlags]! & 0xffff;
  const from = record[element + CopyElement.source + CopyEndWords.domainAndOffset]! >>> 16;
  const to = record[element + CopyElement.destination + CopyEndWords.domainAndOffset]! >>> 16;
  if (leavesPage(record, element)) return finish(context, vcpu, record, GrantStatus.bad_copy_arg);
  const claims = context.claims.of(vcpu);
  if (!isWithin(claims, SOURCE_CLAIM, from, length) || !isWithin(claims, DESTINATION_CLAIM, to, length)) {
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
