// Who has each device: a domain, the quarantine (DOMID_IO), the hypervisor (DOMID_XEN), or nobody. And where it goes
// that leaves its owner.

import { Errno } from '../../machine/errno.ts';
import { DOMID_IO, DOMID_XEN } from '../../machine/ids.ts';
import type { PciFunction } from '../../passthrough/index.ts';
import type { ControlState, DeviceControl } from '../control.ts';
import type { IommuOptions } from '../options.ts';

/** A device of the control state and its place there; null when there is none of that name, or it was removed. */
export function findDevice(
  control: ControlState,
  name: string,
): { readonly index: number; readonly device: DeviceControl } | null {
  const index = control.root.devices.findIndex(({ device, present }) => present && device === name);
  return index < 0 ? null : { index, device: control.root.devices[index]! };
}

/** Place of the device that has an id behind a unit, as its own or a phantom function's; -1: none has. */
export function deviceWithId(functions: readonly PciFunction[], unit: number, sourceId: number): number {
  return functions.findIndex(({ sbdf, phantoms, unit: of }) => {
    return of === unit && [sbdf, ...phantoms].some((id) => id % 0x10000 === sourceId);
  });
}

/** Whether an owner is a guest: neither the hardware domain nor the quarantine nor the hypervisor. */
export function isGuest(control: ControlState, owner: number | null): owner is number {
  return owner !== null && owner !== DOMID_IO && owner !== DOMID_XEN && owner !== control.root.hardwareDomain;
}

/**
 * Where a device goes that is taken from an owner: from a guest into quarantine, if there is one for it, from there to
 * the hardware domain. On a machine without a hardware domain it is nobody's. xen: passthrough/pci.c deassign_device.
 */
export function ownerAfter(
  control: ControlState,
  quarantine: IommuOptions['quarantine'],
  index: number,
  owner: number,
): number | null {
  const { hardwareDomain, devices } = control.root;
  const isQuarantined = quarantine !== 'none' || devices[index]!.quarantine;
  return hardwareDomain === null || owner === DOMID_IO || !isQuarantined ? hardwareDomain : DOMID_IO;
}

/**
 * Whether an owner has another device behind the same unit; those that are hidden go by the entries of the hardware
 * domain. xen: any_pdev_behind_iommu.
 */
export function hasAnother(control: ControlState, owner: number, index: number): boolean {
  const { devices, hardwareDomain } = control.root;
  const { unit } = devices[index]!;
  const isOf = (other: number | null) => other === owner || (owner === hardwareDomain && other === DOMID_XEN);
  return devices.some((other, at) => at !== index && other.present && other.unit === unit && isOf(other.owner));
}

function whatBecame(device: string, owner: number | null): string {
  if (owner === null) return `${device} is blocked`;
  return owner === DOMID_IO ? `${device} in quarantine` : `${device} to domain ${owner}`;
}

/**
 * A device changes hands. A guest's devices are in the order in which they came, the last one first: so they go when it
 * dies (xen: list_move to pdev_list). One that is put into quarantine by order is to go back there from guests.
 */
export function setOwner(
  control: ControlState,
  index: number,
  owner: number | null,
  { present, byOrder }: { readonly present: boolean; readonly byOrder: boolean },
): void {
  const before = control.root.devices[index]!;
  const leavesGuest = isGuest(control, before.owner);
  const joinsGuest = isGuest(control, owner);
  control.change(present ? whatBecame(before.device, owner) : `${before.device} is gone`, (draft) => {
    // Looked for in the tree as it is: a draft costs much for each part of it that is looked at.
    for (const [at, other] of control.root.devices.entries()) {
      if (leavesGuest && other.owner === before.owner && other.place > before.place) draft.devices[at]!.place -= 1;
      if (joinsGuest && other.owner === owner) draft.devices[at]!.place += 1;
    }
    const device = draft.devices[index]!;
    // Of a hidden device that was removed the hardware domain's entry stays.
    device.owner = present || before.owner !== DOMID_XEN ? owner : DOMID_XEN;
    device.place = 0;
    device.present = present;
    if (!present) Object.assign(device, { quarantine: false, broken: false, faults: { count: 0, atUs: 0 } });
    if (byOrder && owner === DOMID_IO) device.quarantine = true;
    else if (owner === control.root.hardwareDomain) device.quarantine = false;
  });
}

/** A new owner is not to blame for what the device did before. */
export function forgetFaults(control: ControlState, index: number): void {
  const { device, faults } = control.root.devices[index]!;
  if (faults.count === 0) return;
  control.change(`faults of ${device} forgotten`, (draft) => {
    draft.devices[index]!.faults.count = 0;
  });
}

/** What its owner writes into a device's command register. 0, -ENODEV. */
export function setBusMaster(control: ControlState, name: string, on: boolean): number {
  const found = findDevice(control, name);
  if (!found) return Errno.ENODEV;
  control.change(`${name} is ${on ? 'a' : 'no'} bus master`, (draft) => {
    draft.devices[found.index]!.busMaster = on;
  });
  return 0;
}

/** The device of a guest that came last; -1 when it has none. */
export function lastDevice(control: ControlState, domain: number): number {
  return control.root.devices.findIndex(({ owner, place }) => owner === domain && place === 0);
}
