// Devices that go one after the other: those of a domain that dies, those behind a unit that is removed.
// xen: passthrough/pci.c pci_release_devices.

import { completeAll } from '../../grant/index.ts';
import type { Domid, UnitIndex, Vcpu } from '../../machine/ids.ts';
import { Pending, Step } from '../../machine/pending.ts';
import type { OperationContext } from '../operations/context.ts';
import { PCI_DEVICES } from './assignment.ts';
import { MOVE_PHASES, MOVED, placeMove, stepMove, Way } from './move.ts';
import { lastDevice, ownerAfter } from './owners.ts';

const START = 0;
const NEXT = 1;
const MOVE = 2;
/** Phases, to be offset by an operation that has others: they are 0 to one less than this. */
export const RELEASE_PHASES = MOVE + MOVE_PHASES;

/** The next device to go, as its move; null: there is none. */
type Choice = (context: OperationContext) => Parameters<typeof placeMove>[1] | null;

/**
 * One micro-step of taking devices away, as part of the operation on a virtual CPU; uses that one's scratch words as a
 * move has them, and its result for the errno of a device that cannot go (none is tried after it). Begin with phase 0.
 * Blocked while another CPU moves devices.
 * @returns the next phase, or `Step.done` when all are gone, or one could not go.
 */
function stepRelease(context: OperationContext, vcpu: Vcpu, phase: number, choose: Choice): number {
  const { parts } = context;
  if (phase === START) return parts.deviceLock.take(PCI_DEVICES, vcpu) ? NEXT : Step.blocked;
  const record = parts.pending.record(vcpu);
  if (phase === NEXT) {
    const move = (record[Pending.result]! | 0) < 0 ? null : choose(context);
    if (!move) {
      parts.deviceLock.drop(PCI_DEVICES, vcpu);
      return Step.done;
    }
    placeMove(record, move);
    return MOVE;
  }
  const next = stepMove(context, vcpu, phase - MOVE);
  if (next === Step.blocked) return next;
  return next === MOVED ? NEXT : next + MOVE;
}

/** The devices of a domain, the last to come first. As {@link stepRelease}. */
export function releaseDevices(context: OperationContext, vcpu: Vcpu, domain: Domid, phase: number): number {
  const { control, config, parts } = context;
  const next = stepRelease(context, vcpu, phase, () => {
    const device = lastDevice(control, domain);
    if (device < 0) return null;
    const to = ownerAfter(control, config.iommu.quarantine, device, domain);
    return { device, from: domain, to, way: Way.deassign };
  });
  if (next !== Step.done || lastDevice(control, domain) >= 0) return next;
  // Bridges have no entries, so a unit may still count as the domain's that only served one. xen: iommu_teardown.
  for (const { index } of parts.units) leaveIfServed(context, domain, index as UnitIndex);
  return next;
}

function leaveIfServed({ parts: { driver } }: OperationContext, domain: Domid, unit: UnitIndex): void {
  if ((driver.tables.units(domain) & (1 << unit)) !== 0) driver.leave(domain, unit);
}

/** Scratch word of remove_unit: which one. */
export const UnitScratch = { unit: Pending.scratch + 8 } as const;

const STOP = RELEASE_PHASES;
const END = STOP + 1;

/**
 * One micro-step of remove_unit: every device behind it is removed, whoever has it; then it stops. Domains with devices
 * behind other units go on with these.
 */
export function stepRemoveUnit(context: OperationContext, vcpu: Vcpu, phase: number): number {
  const { control, parts } = context;
  const record = parts.pending.record(vcpu);
  const unit = record[UnitScratch.unit]! as UnitIndex;
  if (phase === END) return completeAll(context.access, vcpu, END, Step.done);
  if (phase === STOP) {
    if ((record[Pending.result]! | 0) < 0) return END;
    parts.driver.stop(unit);
    // For the sake of a bridge, or of a hidden device, it may have served a domain still.
    for (const { domain } of control.root.domains.filter((of) => of !== null))
      leaveIfServed(context, domain as Domid, unit);
    control.change(`unit ${unit} is gone`, (draft) => {
      draft.units[unit]!.present = false;
    });
    return END;
  }
  const next = stepRelease(context, vcpu, phase, () => {
    const device = control.root.devices.findIndex((one) => one.present && one.unit === unit);
    return device < 0 ? null : { device, from: control.root.devices[device]!.owner, to: null, way: Way.remove };
  });
  return next === Step.done ? STOP : next;
}
