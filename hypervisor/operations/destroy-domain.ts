// destroy_domain, in micro-steps: grants that it has mapped, its devices, their tables, its memory.
// xen: common/domain.c domain_kill, grant_table.c gnttab_release_mappings, arch/x86/domain.c
// domain_relinquish_resources.
//
// Grant mappings end without an invalidation: the devices' tables go as a whole, after the devices.

import { completeAll, flushThen, GNTMAP, pageReferences, pinIncrement, typeReferences } from '../../grant/index.ts';
import type { Mfn } from '../../machine/frame-number.ts';
import { FrameType } from '../../machine/frame-table.ts';
import type { Domid, MaptrackHandle, Vcpu } from '../../machine/ids.ts';
import { Pending, Step } from '../../machine/pending.ts';
import { RELEASE_PHASES, releaseDevices } from '../devices/release.ts';
import type { OperationContext } from './context.ts';

/** Scratch words: how far the walk over handles, then over frames, has come. */
export const DestroyScratch = { at: Pending.scratch + 8 } as const;

/** Phases from `devices` on, as many as that takes, are those of the devices' release. */
const Phase = { grants: 0, tables: 1, pageTables: 2, memory: 3, memoryFlush: 4, end: 5, devices: 6 } as const;
/** Handles, and frames, that one micro-step deals with. xen: preempts every 256 handles. */
const CHUNK = 256;

export function stepDestroyDomain(context: OperationContext, vcpu: Vcpu, phase: number): number {
  const record = context.parts.pending.record(vcpu);
  const domain = record[Pending.domain] as Domid;
  switch (phase) {
    case Phase.grants:
      return releaseGrants(context, vcpu, record, domain);
    case Phase.tables:
      context.parts.driver.destroyTables(domain);
      context.parts.p2m.clear(domain);
      return Phase.pageTables;
    case Phase.pageTables:
      return unpinTables(context, vcpu, record, domain);
    case Phase.memory:
      return relinquish(context, vcpu, record, domain);
    case Phase.memoryFlush:
      return flushThen(context.access, vcpu, Phase.memoryFlush, Phase.memory);
    case Phase.end:
      return completeAll(context.access, vcpu, Phase.end, Step.done);
    default:
      return release(context, vcpu, domain, phase - Phase.devices);
  }
}

function release(context: OperationContext, vcpu: Vcpu, domain: Domid, phase: number): number {
  if (phase >= RELEASE_PHASES) throw new RangeError(`phase ${phase}: expected one of the release of devices`);
  const next = releaseDevices(context, vcpu, domain, phase);
  if (next === Step.blocked) return next;
  if (next !== Step.done) return Phase.devices + next;
  // A device that cannot go keeps everything that it might reach. xen: f591755823.
  return (context.parts.pending.record(vcpu)[Pending.result]! | 0) < 0 ? Phase.end : Phase.tables;
}

/** xen: gnttab_release_mappings. A PV mapper's host halves keep their references until its page tables go. */
function releaseGrants(context: OperationContext, vcpu: Vcpu, record: Uint32Array, domain: Domid): number {
  const { grants } = context.parts;
  const maptrack = grants.maptrack(domain);
  const done = record[DestroyScratch.at]!;
  // Its processors leave the hypervisor first. xen: domain_pause.
  if (done === 0 && isInProgress(context, domain, vcpu)) return Step.blocked;
  const isPv = context.domain(domain)!.kind === 'pv';
  const end = Math.min(maptrack.capacity, done + CHUNK);
  for (let at = done; at < end; at += 1) {
    const handle = (maptrack.capacity - 1 - at) as MaptrackHandle;
    const flags = maptrack.flags(handle);
    if (flags === 0) continue;
    const granter = maptrack.domain(handle);
    const ref = maptrack.ref(handle);
    maptrack.setFlags(handle, 0);
    if (context.domain(granter) === null) continue;
    const frame = grants.activeFrame(granter, ref);
    const readOnly = (flags & GNTMAP.readonly) !== 0;
    const dropped = isPv ? flags & ~GNTMAP.host_map : flags;
    const types = typeReferences(dropped, domain === granter, context.domain(granter)!.kind === 'pv');
    context.pages.drop(vcpu, frame, pageReferences(dropped), types);
    if (context.grants.domain(domain)!.syncDevices && domain !== granter) {
      grants.countHandle(domain, frame, readOnly, -1);
    }
    grants.dropPins(granter, ref, pinIncrement(flags), readOnly);
  }
  if (end < maptrack.capacity) {
    record[DestroyScratch.at] = end;
    return Phase.grants;
  }
  record[DestroyScratch.at] = 0;
  return Phase.devices;
}

/** Pinned tables, one at a time: what they map goes with them. Then the one that is in use. */
function unpinTables(context: OperationContext, vcpu: Vcpu, record: Uint32Array, domain: Domid): number {
  const { frames } = context.parts;
  for (let at = record[DestroyScratch.at]!; ; at += 1) {
    const frame = frames.nextOwned(domain, at, frames.frames);
    if (frame < 0) break;
    at = frame;
    if (!frames.isPinned(frame as Mfn)) continue;
    frames.setPinned(frame as Mfn, false);
    context.pages.putTable(vcpu, frame as Mfn, frames.type(frame as Mfn) - FrameType.l1PageTable + 1);
    record[DestroyScratch.at] = at + 1;
    return Phase.pageTables;
  }
  record[DestroyScratch.at] = 0;
  const root = context.parts.pvTables.root(domain);
  context.parts.pvTables.setRoot(domain, -1);
  if (root >= 0) context.pages.putTable(vcpu, root as Mfn, 4);
  return Phase.memory;
}

/** Every frame that the domain has not given back. Those that others refer to stay until they let go. */
function relinquish(context: OperationContext, vcpu: Vcpu, record: Uint32Array, domain: Domid): number {
  const { frames } = context.parts;
  let at = record[DestroyScratch.at]!;
  for (let done = 0; done < CHUNK; done += 1) {
    const frame = frames.nextOwned(domain, at, frames.frames);
    if (frame < 0) return Phase.end;
    at = frame + 1;
    if (frames.isXenHeap(frame as Mfn) || !frames.isHeld(frame as Mfn)) continue;
    frames.unhold(frame as Mfn);
    context.pages.drop(vcpu, frame as Mfn, 1, 0);
  }
  record[DestroyScratch.at] = at;
  return Phase.memoryFlush;
}

/**
 * Domains that are dying and of which nobody refers to any frame are no more: what is left of their grant tables goes,
 * and their ids are free. xen: domain_destroy, complete_domain_destroy.
 */
export function reapDying(context: OperationContext): void {
  const { control, parts } = context;
  for (const found of control.root.domains) {
    if (found?.state !== 'dying' || parts.frames.owned(found.domain as Domid) > 0) continue;
    if (isInProgress(context, found.domain, -1)) continue;
    const domain = found.domain as Domid;
    const shared = sharedFrames(context, domain);
    if (shared.some((frame) => parts.frames.isReferred(frame))) continue;
    for (const frame of shared) {
      parts.frames.dropReferences(frame, parts.frames.isHeld(frame) ? 1 : 0, 1);
      parts.frames.free(frame);
    }
    parts.grants.destroy(domain);
    control.change(`domain ${domain} is gone`, (draft) => {
      draft.domains[domain] = null;
    });
  }
}

/** Whether a virtual CPU other than `self` is in the middle of an operation of a domain. */
function isInProgress({ parts }: OperationContext, domain: number, self: number): boolean {
  for (let vcpu = 0; vcpu < parts.pending.vcpus; vcpu += 1) {
    if (vcpu !== self && !parts.pending.isIdle(vcpu) && parts.pending.record(vcpu)[Pending.domain] === domain)
      return true;
  }
  return false;
}

/** Pages of the hypervisor's heap that a domain shares. */
function sharedFrames({ parts }: OperationContext, domain: Domid): Mfn[] {
  const { frames } = parts;
  const found: Mfn[] = [];
  for (let at = 0; ; at += 1) {
    at = frames.nextOwned(domain, at, frames.frames);
    if (at < 0) return found;
    if (frames.isXenHeap(at as Mfn)) found.push(at as Mfn);
  }
}
