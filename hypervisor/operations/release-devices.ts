// The devices of a domain that dies go, the last to come first. xen: passthrough/pci.c pci_release_devices.

import type { Domid, UnitIndex, Vcpu } from '../../machine/ids.ts';
import { Pending, Step } from '../../machine/pending.ts';
import { lastDevice, ownerAfter } from '../device-owners.ts';
import { MovePhase, PCI_DEVICES, placeMove, stepMove } from './assign-device.ts';
import type { OperationContext } from './context.ts';

/** Phases, to be offset by an operation that has others: they are 0 to one less than this. */
export const RELEASE_PHASES = MovePhase.moved + 3;
const START = 0;
const NEXT = 1;
const MOVE = 2;

/**
 * One micro-step of taking every device from `domain`, as part of the operation on a virtual CPU; uses that one's
 * scratch words as `MoveScratch` has them, and its result for the errno of a device that cannot go (none is tried after
 * it). Begin with phase 0. Blocked while another CPU moves devices.
 * @returns the next phase, or `Step.done` when all are gone, or one could not go.
 */
export function releaseDevices(context: OperationContext, vcpu: Vcpu, domain: Domid, phase: number): number {
  const { parts, control, config } = context;
  if (phase === START) return parts.deviceLock.take(PCI_DEVICES, vcpu) ? NEXT : Step.blocked;
  const record = parts.pending.record(vcpu);
  if (phase === NEXT) {
    const index = (record[Pending.result]! | 0) < 0 ? -1 : lastDevice(control, domain);
    if (index < 0) return endRelease(context, vcpu, domain);
    placeMove(record, index, domain, ownerAfter(control, config.iommu.quarantine, domain));
    return MOVE;
  }
  const next = stepMove(context, vcpu, phase - MOVE);
  if (next === Step.blocked) return next;
  return next === MovePhase.moved ? NEXT : next + MOVE;
}

/** Bridges have no entries, so a unit may still count as the domain's that only served one. xen: iommu_teardown. */
function endRelease(context: OperationContext, vcpu: Vcpu, domain: Domid): number {
  const { parts, control } = context;
  parts.deviceLock.drop(PCI_DEVICES, vcpu);
  if (lastDevice(control, domain) >= 0) return Step.done;
  for (const { index } of parts.units) {
    if ((parts.driver.tables.units(domain) & (1 << index)) !== 0) parts.driver.leave(domain, index as UnitIndex);
  }
  return Step.done;
}
