// assign_device and deassign_device: a device moves from one owner to another, its context entries with it, and what
// must be invalidated around them. xen: passthrough/pci.c assign_device, deassign_device; vtd/iommu.c
// reassign_device_ownership, domain_context_mapping, domain_context_unmap, check_cleanup_domid_map.

import { completeAll, flushThen } from '../../grant/index.ts';
import { Errno } from '../../machine/errno.ts';
import { DOMID_IO, type Domid, type UnitIndex, type Vcpu } from '../../machine/ids.ts';
import { Pending, Step } from '../../machine/pending.ts';
import { type IommuDriver, type PciFunction, quarantineDomid } from '../../passthrough/index.ts';
import { findDevice, hasAnother, isGuest, ownerAfter, setOwner } from '../device-owners.ts';
import type { Op } from '../door/op.ts';
import type { OperationContext } from './context.ts';

/** Scratch words of a move: the device's place in the control state, owners before and after, the next requester. */
export const MoveScratch = {
  device: Pending.scratch,
  from: Pending.scratch + 1,
  to: Pending.scratch + 2,
  requester: Pending.scratch + 3,
} as const;

/** In the place of an owner: nobody. */
const NOBODY = 0xffff;

/** Phases of a move. `moved` comes after the last of them. */
export const MovePhase = { start: 0, flush: 1, entry: 2, entryFlush: 3, moved: 4 } as const;
const END = MovePhase.moved + 1;

/** The lock that a device changes hands under. xen: pcidevs_lock. */
export const PCI_DEVICES = 0;

/** The errno that assign_device is refused with at once; 0 when it is not. xen: iommu_do_domctl, device_assigned. */
function refusalOfAssign(context: OperationContext, op: Extract<Op, { op: 'assign_device' }>): number {
  const { control, parts } = context;
  const target = control.root.domains[op.domain];
  if (!target || target.state === 'crashed') return Errno.ESRCH;
  if (!target.iommu) return Errno.EOPNOTSUPP;
  if (op.domain === control.root.hardwareDomain || target.state !== 'alive') return Errno.EINVAL;
  const found = findDevice(control, op.device);
  if (!found) return Errno.ENODEV;
  if (isGuest(control, found.device.owner)) return Errno.EBUSY;
  return parts.functions[found.index]!.isHostBridge ? Errno.EPERM : 0;
}

/** As for deassign_device. xen: iommu_do_domctl, deassign_device. Without a domain named, the owner is meant. */
function refusalOfDeassign(context: OperationContext, op: Extract<Op, { op: 'deassign_device' }>): number {
  const { control } = context;
  const { domains, hardwareDomain } = control.root;
  if (op.domain !== undefined && op.domain !== DOMID_IO) {
    const named = domains[op.domain];
    if (!named) return Errno.ESRCH;
    if (!named.iommu) return Errno.EOPNOTSUPP;
  }
  if (op.domain !== undefined && op.domain === hardwareDomain) return Errno.EINVAL;
  const found = findDevice(control, op.device);
  if (!found) return Errno.ENODEV;
  const { owner } = found.device;
  if (op.domain !== undefined && op.domain !== owner) return Errno.ENODEV;
  return owner === null || owner === hardwareDomain ? Errno.EINVAL : 0;
}

/** Refuses assign_device, or begins it under the device lock. @returns 0, or the errno. */
export function placeAssign(
  context: OperationContext,
  vcpu: Vcpu,
  op: Extract<Op, { op: 'assign_device' }>,
  open: (domain: number) => Uint32Array,
): number {
  const refusal = refusalOfAssign(context, op);
  if (refusal !== 0) return refusal;
  if (!context.parts.deviceLock.take(PCI_DEVICES, vcpu)) return Errno.EBUSY;
  const { index, device } = findDevice(context.control, op.device)!;
  placeMove(open(op.domain), index, device.owner, op.domain);
  return 0;
}

/** Refuses deassign_device, or begins it under the device lock. @returns 0, or the errno. */
export function placeDeassign(
  context: OperationContext,
  vcpu: Vcpu,
  op: Extract<Op, { op: 'deassign_device' }>,
  open: (domain: number) => Uint32Array,
): number {
  const refusal = refusalOfDeassign(context, op);
  if (refusal !== 0) return refusal;
  if (!context.parts.deviceLock.take(PCI_DEVICES, vcpu)) return Errno.EBUSY;
  const { index, device } = findDevice(context.control, op.device)!;
  const owner = device.owner!;
  placeMove(open(owner), index, owner, ownerAfter(context.control, context.config.iommu.quarantine, owner));
  return 0;
}

/** Writes what a move is about into the record of an operation. */
export function placeMove(record: Uint32Array, device: number, from: number | null, to: number | null): void {
  record[MoveScratch.device] = device;
  record[MoveScratch.from] = from ?? NOBODY;
  record[MoveScratch.to] = to ?? NOBODY;
  record[MoveScratch.requester] = 0;
}

/** One micro-step of assign_device or deassign_device. */
export function stepMoveDevice(context: OperationContext, vcpu: Vcpu, phase: number): number {
  if (phase === END) return completeAll(context.access, vcpu, END, Step.done);
  if (phase === MovePhase.moved) {
    context.parts.deviceLock.drop(PCI_DEVICES, vcpu);
    return END;
  }
  return stepMove(context, vcpu, phase);
}

/**
 * One micro-step of a move, under the device lock; {@link MovePhase}`.moved` when it is over, the errno in the record.
 * Refused for want of a did or of memory, it leaves everything as it was.
 */
export function stepMove(context: OperationContext, vcpu: Vcpu, phase: number): number {
  switch (phase) {
    case MovePhase.start:
      return startMove(context, vcpu);
    case MovePhase.flush:
      return flushThen(context.access, vcpu, MovePhase.flush, MovePhase.entry);
    case MovePhase.entry:
      return moveEntry(context, vcpu);
    default:
      return flushThen(context.access, vcpu, MovePhase.entryFlush, MovePhase.entry);
  }
}

/** The domid that a device's entries go by under an owner; -1 when it has none under that owner. */
function entryDomain(context: OperationContext, of: PciFunction, owner: number): Domid | -1 {
  if (owner === NOBODY) return -1;
  if (owner !== DOMID_IO) return owner as Domid;
  return context.config.iommu.quarantine === 'scratch' && of.endpointIndex >= 0
    ? quarantineDomid(of.endpointIndex)
    : -1;
}

/** Everything that can be refused; then what the old owner has pending is flushed, while its did still stands. */
function startMove(context: OperationContext, vcpu: Vcpu): number {
  const { pending, driver, heap, functions } = context.parts;
  const record = pending.record(vcpu);
  const from = record[MoveScratch.from]!;
  const to = record[MoveScratch.to]!;
  const of = functions[record[MoveScratch.device]!]!;
  const mark = heap.mark();
  const errno = prepareMove(context, of, from, to);
  if (errno !== 0) heap.rollback(mark);
  heap.release(mark);
  record[Pending.result] = errno;
  if (errno !== 0) return MovePhase.moved;
  if (to === DOMID_IO && entryDomain(context, of, to) >= 0) driver.quarantine.wipe(of.endpointIndex);
  if (from === NOBODY || from === DOMID_IO || !driver.hasPending(from as Domid)) return MovePhase.entry;
  driver.barrier(vcpu, from as Domid);
  return MovePhase.flush;
}

/**
 * A device that leaves the hardware domain has its quarantine made ready first. One that needs no tables there takes a
 * did all the same, and gives it back: so there must be one, even if the target has its own. xen:
 * intel_iommu_quarantine_init, quarantine_teardown.
 */
function prepareMove(context: OperationContext, of: PciFunction, from: number, to: number): number {
  const { driver } = context.parts;
  const unit = of.unit as UnitIndex;
  const isFirst = from === context.control.root.hardwareDomain;
  if (isFirst && context.config.iommu.quarantine === 'basic' && of.endpointIndex >= 0) {
    const errno = driver.ids[unit]!.headroom();
    if (errno !== 0) return errno;
  }
  const domains = isFirst ? [DOMID_IO, to] : [to];
  for (const owner of domains) {
    const domain = entryDomain(context, of, owner);
    for (const requester of domain < 0 ? [] : of.requesters) {
      const errno = driver.prepare(domain as Domid, unit, requester % 0x10000);
      if (errno !== 0) return errno;
    }
  }
  return 0;
}

/** The next of the device's entries; after the last one it is the new owner's. */
function moveEntry(context: OperationContext, vcpu: Vcpu): number {
  const { pending, driver, functions } = context.parts;
  const record = pending.record(vcpu);
  const index = record[MoveScratch.device]!;
  const of = functions[index]!;
  const unit = of.unit as UnitIndex;
  const next = record[MoveScratch.requester]!;
  const requester = of.requesters[next];
  if (requester === undefined) return endMove(context, record, index, of);
  const domain = entryDomain(context, of, record[MoveScratch.to]!);
  if (domain < 0) driver.detach(vcpu, unit, requester);
  else driver.attach(vcpu, domain as Domid, unit, requester);
  record[MoveScratch.requester] = next + 1;
  return MovePhase.entryFlush;
}

function endMove(context: OperationContext, record: Uint32Array, index: number, of: PciFunction): number {
  const { control, parts } = context;
  const from = record[MoveScratch.from]!;
  const to = record[MoveScratch.to]!;
  const isDomain = from !== NOBODY && from !== DOMID_IO;
  if (isDomain && of.requesters.length > 0 && !hasAnother(control, from, index)) leave(parts.driver, from, of.unit);
  setOwner(control, index, to === NOBODY ? null : to);
  return MovePhase.moved;
}

function leave(driver: IommuDriver, domain: number, unit: number): void {
  driver.leave(domain as Domid, unit as UnitIndex);
}
