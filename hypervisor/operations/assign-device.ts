// assign_device and deassign_device: the context entry, the unit's did, and what must be invalidated around them.
// xen: vtd/iommu.c domain_context_mapping_one, domain_context_unmap_one, check_cleanup_domid_map.

import type { Domid, Sbdf, UnitIndex, Vcpu } from '../../machine/ids.ts';
import { Pending, Progress } from '../../machine/pending.ts';
import type { OperationContext } from './dma-map.ts';

/** Scratch words: the device, its unit, and whether the domain has no other device behind it (deassign). */
export const AssignScratch = {
  device: Pending.scratch,
  unit: Pending.scratch + 1,
  leaves: Pending.scratch + 2,
} as const;

const Phase = { start: 0, flush: 1, detach: 2, detachFlush: 3 } as const;

export function stepAssignDevice(context: OperationContext, vcpu: Vcpu): Progress {
  const { heap, pending, driver } = context.parts;
  const record = pending.record(vcpu);
  const domain = heap.read(record + Pending.domain) as Domid;
  const unit = heap.read(record + AssignScratch.unit) as UnitIndex;
  if (heap.read(record + Pending.phase) !== Phase.start) return context.access.flush(vcpu);
  const errno = driver.attach(vcpu, domain, unit, heap.read(record + AssignScratch.device) as Sbdf);
  heap.write(record + Pending.result, errno);
  heap.write(record + Pending.phase, Phase.flush);
  return errno === 0 ? Progress.more : Progress.done;
}

export function stepDeassignDevice(context: OperationContext, vcpu: Vcpu): Progress {
  const { heap, pending, driver } = context.parts;
  const record = pending.record(vcpu);
  const domain = heap.read(record + Pending.domain) as Domid;
  const unit = heap.read(record + AssignScratch.unit) as UnitIndex;
  const phase = heap.read(record + Pending.phase);
  if (phase === Phase.start) {
    driver.barrier(vcpu, domain);
    heap.write(record + Pending.phase, Phase.flush);
    return Progress.more;
  }
  if (phase === Phase.detach) {
    driver.detach(vcpu, unit, heap.read(record + AssignScratch.device) as Sbdf);
    heap.write(record + Pending.phase, Phase.detachFlush);
    return Progress.more;
  }
  const progress = context.access.flush(vcpu);
  if (progress !== Progress.done) return progress;
  if (phase === Phase.flush) {
    heap.write(record + Pending.phase, Phase.detach);
    return Progress.more;
  }
  if (context.access.completeOne(vcpu) === Progress.more) return Progress.more;
  if (heap.read(record + AssignScratch.leaves) !== 0) driver.leave(domain, unit);
  return Progress.done;
}

/** The flush timer of a virtual CPU: what the policy asks for, then what that releases. */
export function stepTick(context: OperationContext, vcpu: Vcpu): Progress {
  const { heap, pending, driver } = context.parts;
  const record = pending.record(vcpu);
  if (heap.read(record + Pending.phase) === Phase.start) {
    driver.flush.tick(vcpu);
    heap.write(record + Pending.phase, Phase.flush);
    return Progress.more;
  }
  const progress = context.access.flush(vcpu);
  return progress === Progress.done ? context.access.completeOne(vcpu) : progress;
}
