// assign_device and deassign_device: the context entry, the unit's did, and what must be invalidated around them.
// xen: vtd/iommu.c domain_context_mapping_one, domain_context_unmap_one, check_cleanup_domid_map.

import { completeAll, flushThen } from '../../grant/index.ts';
import type { Domid, Sbdf, UnitIndex, Vcpu } from '../../machine/ids.ts';
import { Pending, Step } from '../../machine/pending.ts';
import type { OperationContext } from './dma-map.ts';

/** Scratch words: the device, its unit, and whether the domain has no other device behind it (deassign). */
export const AssignScratch = {
  device: Pending.scratch,
  unit: Pending.scratch + 1,
  leaves: Pending.scratch + 2,
} as const;

const Phase = { start: 0, flush: 1, detach: 2, detachFlush: 3, leave: 4, end: 5 } as const;

export function stepAssignDevice(context: OperationContext, vcpu: Vcpu, phase: number): number {
  const { pending, driver } = context.parts;
  if (phase !== Phase.start) return flushThen(context.access, vcpu, Phase.flush, Step.done);
  const record = pending.record(vcpu);
  const domain = record[Pending.domain] as Domid;
  const unit = record[AssignScratch.unit] as UnitIndex;
  const errno = driver.attach(vcpu, domain, unit, record[AssignScratch.device] as Sbdf);
  record[Pending.result] = errno;
  return errno === 0 ? Phase.flush : Step.done;
}

export function stepDeassignDevice(context: OperationContext, vcpu: Vcpu, phase: number): number {
  const { pending, driver } = context.parts;
  const record = pending.record(vcpu);
  const domain = record[Pending.domain] as Domid;
  const unit = record[AssignScratch.unit] as UnitIndex;
  switch (phase) {
    case Phase.start:
      driver.barrier(vcpu, domain);
      return Phase.flush;
    case Phase.flush:
      return flushThen(context.access, vcpu, Phase.flush, Phase.detach);
    case Phase.detach:
      driver.detach(vcpu, unit, record[AssignScratch.device] as Sbdf);
      return Phase.detachFlush;
    case Phase.detachFlush:
      return flushThen(context.access, vcpu, Phase.detachFlush, Phase.leave);
    case Phase.leave:
      if (record[AssignScratch.leaves] !== 0) driver.leave(domain, unit);
      return Phase.end;
    default:
      return completeAll(context.access, vcpu, Phase.end, Step.done);
  }
}

/** The flush timer of a virtual CPU: what the policy asks for, then what that releases. */
export function stepTick(context: OperationContext, vcpu: Vcpu, phase: number): number {
  if (phase !== Phase.start) return completeAll(context.access, vcpu, Phase.flush, Step.done);
  context.parts.driver.flush.tick(vcpu);
  return Phase.flush;
}
