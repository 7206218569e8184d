// Who has each device: a domain, the quarantine (DOMID_IO), or nobody. And where it goes that leaves its owner.

import { DOMID_IO } from '../machine/ids.ts';
import type { ControlState, DeviceControl } from './control.ts';
import type { IommuOptions } from './options.ts';

/** A device of the control state and its place there; null when there is none of that name. */
export function findDevice(
  control: ControlState,
  name: string,
): { readonly index: number; readonly device: DeviceControl } | null {
  const index = control.root.devices.findIndex((device) => device.device === name);
  return index < 0 ? null : { index, device: control.root.devices[index]! };
}

/** Whether an owner is a guest: neither the hardware domain nor the quarantine. */
export function isGuest(control: ControlState, owner: number | null): owner is number {
  return owner !== null && owner !== DOMID_IO && owner !== control.root.hardwareDomain;
}

/**
 * Where a device goes that is taken from an owner: from a guest into quarantine, if there is one, from there to the
 * hardware domain. On a machine without a hardware domain it is nobody's. xen: passthrough/pci.c deassign_device.
 */
export function ownerAfter(control: ControlState, quarantine: IommuOptions['quarantine'], owner: number) {
  const { hardwareDomain } = control.root;
  if (hardwareDomain === null || owner === DOMID_IO || quarantine === 'none') return hardwareDomain;
  return DOMID_IO;
}

/** Whether an owner has another device behind the same unit. xen: any_pdev_behind_iommu. */
export function hasAnother(control: ControlState, owner: number, index: number): boolean {
  const { devices } = control.root;
  const { unit } = devices[index]!;
  return devices.some((other, at) => at !== index && other.owner === owner && other.unit === unit);
}

function whatBecame(device: string, owner: number | null): string {
  if (owner === null) return `${device} is blocked`;
  return owner === DOMID_IO ? `${device} in quarantine` : `${device} to domain ${owner}`;
}

/**
 * A device changes hands. A guest's devices are in the order in which they came, the last one first: so they go when it
 * dies (xen: list_move to pdev_list).
 */
export function setOwner(control: ControlState, index: number, owner: number | null): void {
  const before = control.root.devices[index]!;
  const leavesGuest = isGuest(control, before.owner);
  const joinsGuest = isGuest(control, owner);
  control.change(whatBecame(before.device, owner), (draft) => {
    // Looked for in the tree as it is: a draft costs much for each part of it that is looked at.
    for (const [at, other] of control.root.devices.entries()) {
      if (leavesGuest && other.owner === before.owner && other.place > before.place) draft.devices[at]!.place -= 1;
      if (joinsGuest && other.owner === owner) draft.devices[at]!.place += 1;
    }
    draft.devices[index]!.owner = owner;
    draft.devices[index]!.place = 0;
  });
}

/** The device of a guest that came last; -1 when it has none. */
export function lastDevice(control: ControlState, domain: number): number {
  return control.root.devices.findIndex(({ owner, place }) => owner === domain && place === 0);
}
