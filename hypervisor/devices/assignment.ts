// assign_device, deassign_device, remove_device, add_device: what each is refused for, and then a move.
// xen: passthrough/pci.c iommu_do_pci_domctl, device_assigned; common/physdev.c PHYSDEVOP_pci_device_add, _remove.

import { completeAll } from '../../grant/index.ts';
import { Errno } from '../../machine/errno.ts';
import { DOMID_IO, DOMID_XEN, parseSbdf, type Vcpu } from '../../machine/ids.ts';
import { Step } from '../../machine/pending.ts';
import type { Op, OpResult } from '../door/op.ts';
import type { OperationContext } from '../operations/context.ts';
import { MOVED, placeMove, stepMove, Way } from './move.ts';
import { findDevice, isGuest, ownerAfter } from './owners.ts';

type Named<Name extends Op['op']> = Extract<Op, { op: Name }>;
type MoveOp = Named<'assign_device' | 'deassign_device' | 'remove_device' | 'add_device'>;
type Destination = Omit<Parameters<typeof placeMove>[1], 'device'>;

/** The lock that a device changes hands under. xen: pcidevs_lock. */
export const PCI_DEVICES = 0;

/** Begins a move of a device under the device lock. @returns the virtual CPU; or the result, where nothing is to do. */
export function placeDeviceMove(
  context: OperationContext,
  vcpu: Vcpu,
  op: MoveOp,
  open: (domain: number) => Uint32Array,
): Vcpu | OpResult {
  const move = DESTINATIONS[op.op](context, op as never);
  if (typeof move === 'number') return { result: move };
  if (!context.parts.deviceLock.take(PCI_DEVICES, vcpu)) return { result: Errno.EBUSY };
  const device = context.control.root.devices.findIndex((one) => one.device === op.device);
  placeMove(open(move.to ?? move.from ?? 0), { ...move, device });
  return vcpu;
}

/** One micro-step of such an operation. */
export function stepMoveDevice(context: OperationContext, vcpu: Vcpu, phase: number): number {
  if (phase > MOVED) return completeAll(context.access, vcpu, phase, Step.done);
  if (phase < MOVED) return stepMove(context, vcpu, phase);
  context.parts.deviceLock.drop(PCI_DEVICES, vcpu);
  return MOVED + 1;
}

/** Per operation: its move; or what it says at once. */
const DESTINATIONS: {
  readonly [Name in MoveOp['op']]: (context: OperationContext, op: Named<Name>) => Destination | number;
} = {
  assign_device: assign,
  deassign_device: deassign,
  /** Whoever has it: its entries go, and nothing is asked. */
  remove_device: (context, op) => {
    const found = findDevice(context.control, op.device);
    if (!found) return Errno.ENODEV;
    if (context.parts.functions[found.index]!.isUnknown) return tellOf(context, found.index, false);
    if (breakVirtualFunctions(context, found.index)) return Errno.EBUSY;
    return { from: found.device.owner, to: null, way: Way.remove };
  },
  /** It is the hardware domain's. One that is there already is left as it is. */
  add_device: (context, op) => {
    const { control, parts } = context;
    const index = control.root.devices.findIndex(({ device }) => device === op.device);
    const known = control.root.devices[index];
    if (!known || !control.root.units[known.unit]!.present) return Errno.EINVAL;
    if (parts.functions[index]!.isUnknown) return tellOf(context, index, true);
    if (lacksPhysicalFunction(context, index)) return Errno.ENODEV;
    return known.present ? 0 : { from: null, to: control.root.hardwareDomain, way: Way.add };
  },
};

/**
 * Where no function is, none can be added; but the hypervisor has an entry of it from then on, nobody's, and no owner
 * can be found for it until that is removed, which is refused, too. xen: alloc_pdev, DEV_TYPE_PCI_UNKNOWN.
 */
function tellOf({ control }: OperationContext, index: number, present: boolean): number {
  if (control.root.devices[index]!.present !== present) {
    control.change(`an entry of ${control.root.devices[index]!.device}: ${present}`, (draft) => {
      draft.devices[index]!.present = present;
    });
  }
  return Errno.EINVAL;
}

/** Whether a device is somebody's from whom it is not to be taken. xen: device_assigned. */
function isTaken({ control, parts }: OperationContext, index: number): boolean {
  const { owner } = control.root.devices[index]!;
  return isGuest(control, owner) || owner === DOMID_XEN || parts.functions[index]!.isUnknown;
}

function assign(context: OperationContext, op: Named<'assign_device'>): Destination | number {
  const { control, parts } = context;
  const { hardwareDomain, domains } = control.root;
  if (op.domain !== DOMID_IO) {
    const target = domains[op.domain];
    if (!target || target.state === 'crashed') return Errno.ESRCH;
    if (!target.iommu) return Errno.EOPNOTSUPP;
    if (op.domain === hardwareDomain || target.state !== 'alive') return Errno.EINVAL;
  }
  if (op.flags) return Errno.EINVAL;
  const found = findDevice(control, op.device);
  if (!found) return Errno.ENODEV;
  const { owner, broken } = found.device;
  if (isTaken(context, found.index)) return Errno.EBUSY;
  if (broken && op.domain !== DOMID_IO) return Errno.EBADF;
  // Without a table in quarantine nothing is asked of the bridge there.
  const needsEntry = op.domain !== DOMID_IO || context.config.iommu.quarantine === 'scratch';
  if (parts.functions[found.index]!.isHostBridge && needsEntry) return Errno.EPERM;
  return { from: owner, to: op.domain, way: Way.assign, relaxed: op.relaxed ?? false };
}

/** Without a domain named, the owner is meant. */
function deassign(context: OperationContext, op: Named<'deassign_device'>): Destination | number {
  const { control } = context;
  const { domains, hardwareDomain } = control.root;
  if (op.domain !== undefined && op.domain !== DOMID_IO) {
    const named = domains[op.domain];
    if (!named) return Errno.ESRCH;
    if (!named.iommu) return Errno.EOPNOTSUPP;
  }
  if (op.domain !== undefined && op.domain === hardwareDomain) return Errno.EINVAL;
  if (op.flags) return Errno.EINVAL;
  const found = findDevice(control, op.device);
  if (!found) return Errno.ENODEV;
  const { owner } = found.device;
  if (op.domain !== undefined && op.domain !== owner) return Errno.ENODEV;
  if (owner === DOMID_XEN) return Errno.ENODEV;
  if (owner === null || owner === hardwareDomain) return Errno.EINVAL;
  const to = ownerAfter(control, context.config.iommu.quarantine, found.index, owner);
  return { from: owner, to, way: Way.deassign };
}

/**
 * A physical function cannot go before its virtual ones: whoever tries has done it outside of the hypervisor's sight
 * already, so that none of them is to be trusted. xen: pci_remove_device.
 */
function breakVirtualFunctions({ control, config }: OperationContext, index: number): boolean {
  const sbdf = parseSbdf(config.devices[index]!.device);
  const virtual = config.devices.flatMap(({ physicalFunction }, at) => {
    const isOf = physicalFunction !== undefined && parseSbdf(physicalFunction) === sbdf;
    return isOf && control.root.devices[at]!.present ? [at] : [];
  });
  if (virtual.length === 0) return false;
  control.change('a physical function is gone before its virtual ones', (draft) => {
    for (const at of [index, ...virtual]) draft.devices[at]!.broken = true;
  });
  return true;
}

/** Whether a device is a virtual function whose physical one is not there. xen: pci_add_device. */
function lacksPhysicalFunction({ control, config }: OperationContext, index: number): boolean {
  const { physicalFunction } = config.devices[index]!;
  if (physicalFunction === undefined) return false;
  const of = config.devices.findIndex(({ device }) => parseSbdf(device) === parseSbdf(physicalFunction));
  return !control.root.devices[of]?.present;
}

/** Whether a device could be assigned, for one who asks before. xen: XEN_DOMCTL_test_assign_device. */
export function testAssign(context: OperationContext, op: Named<'test_assign_device'>): number {
  const { control } = context;
  if (op.domain !== undefined) {
    const target = control.root.domains[op.domain];
    if (!target) return Errno.ESRCH;
    if (!target.iommu) return Errno.EOPNOTSUPP;
    if (op.domain === control.root.hardwareDomain) return Errno.EINVAL;
  }
  if (op.flags) return Errno.EINVAL;
  const found = findDevice(control, op.device);
  return !found || isTaken(context, found.index) ? Errno.EINVAL : 0;
}
