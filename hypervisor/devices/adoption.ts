// The hardware domain gets every device that is nobody's, and the entries of those that are hidden.
// xen: vtd/iommu.c setup_hwdom_device, setup_hwdom_rmrr, at boot; passthrough/pci.c _setup_hwdom_pci_devices.

import { DOMID_XEN, type Domid, type UnitIndex, type Vcpu } from '../../machine/ids.ts';
import { Progress } from '../../machine/pending.ts';
import type { OperationContext } from '../operations/context.ts';
import { countRegion, mapPage, regionCount } from './regions.ts';

/** The processor that boots. */
const CPU = 0 as Vcpu;

/**
 * Makes a domain the hardware domain and gives it every ownerless device: if the domain has device tables, the context
 * entries of all of them, and then their reserved regions. The units are let run until nothing that they may have
 * cached is left. To be called when no operation is in progress.
 * @returns 0; or -EBUSY, -ENOMEM, -EFAULT, and then what was done is the caller's to undo, with the domain.
 */
export function adoptDevices(machine: OperationContext, domain: Domid): number {
  const { control, parts } = machine;
  const before = control.root;
  const served = before.devices.flatMap(({ owner }, index) => (owner === null || owner === DOMID_XEN ? [index] : []));
  let errno = 0;
  if (parts.driver.tables.exists(domain)) {
    for (const index of served) errno ||= serve(machine, domain, index);
    for (let region = machine.config.reservedRegions.length - 1; region >= 0; region -= 1) {
      errno ||= serveRegion(machine, domain, region, served);
    }
  }
  if (errno !== 0) return errno;
  control.change(`domain ${domain} is the hardware domain`, (draft) => {
    draft.hardwareDomain = domain;
    for (const [index, { owner }] of before.devices.entries()) {
      const isThere = !machine.parts.functions[index]!.isUnknown;
      if (owner === null && isThere) draft.devices[index]!.owner = domain;
    }
  });
  return 0;
}

/** The entries of a device, its phantom functions' included. */
function serve(machine: OperationContext, domain: Domid, index: number): number {
  const { parts } = machine;
  const { unit, requesters, phantoms } = parts.functions[index]!;
  for (const requester of [...requesters, ...phantoms]) {
    const errno = parts.driver.attach(CPU, domain, unit as UnitIndex, requester);
    if (errno !== 0) return errno;
    settle(machine);
  }
  return 0;
}

/** A region, for each of the devices that need it; the last one comes first, as in Xen's list. */
function serveRegion(machine: OperationContext, domain: Domid, region: number, served: readonly number[]): number {
  const { firstFrame, frames } = machine.config.reservedRegions[region]!;
  for (const index of served) {
    if (!machine.parts.functions[index]!.regions.includes(region)) continue;
    const known = regionCount(machine, domain, region);
    countRegion(machine, domain, region, 1);
    for (let page = 0; known === 0 && page < frames; page += 1) {
      const errno = mapPage(machine, CPU, domain, firstFrame + page, true);
      if (errno !== 0) return errno;
      settle(machine);
    }
  }
  return 0;
}

/** Carries out what was asked for, the units running whenever it cannot go on. */
function settle({ parts }: OperationContext): void {
  const { flush } = parts.driver;
  for (let progress = flush.step(CPU); progress !== Progress.done; progress = flush.step(CPU)) {
    if (progress !== Progress.blocked) continue;
    let moved = false;
    for (const unit of parts.units) while (unit.step()) moved = true;
    if (!moved) throw new TypeError('devices cannot be adopted while accesses are in flight');
  }
}
