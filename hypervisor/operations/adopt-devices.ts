// The hardware domain gets every device that is nobody's. xen: vtd/iommu.c setup_hwdom_device, at boot.

import type { Domid, UnitIndex, Vcpu } from '../../machine/ids.ts';
import { Progress } from '../../machine/pending.ts';
import type { ControlState } from '../control.ts';
import type { Parts } from '../parts.ts';

/**
 * Makes a domain the hardware domain and gives it every ownerless device, each with its context entries if the domain
 * has device tables. The units are let run until nothing that they may have cached is left. To be called when no
 * operation is in progress.
 * @returns 0; or -EBUSY, -ENOMEM, and then nothing is changed.
 */
export function adoptDevices(
  machine: { readonly control: ControlState; readonly parts: Parts },
  domain: Domid,
): number {
  const { control, parts } = machine;
  const { heap, driver, functions } = parts;
  const adopted = control.root.devices.flatMap(({ owner }, index) => (owner === null ? [index] : []));
  const mark = heap.mark();
  let errno = 0;
  if (driver.tables.exists(domain)) {
    for (const index of adopted) {
      const { unit, requesters } = functions[index]!;
      for (const requester of requesters) errno ||= driver.attach(CPU, domain, unit as UnitIndex, requester);
      settle(parts);
    }
  }
  if (errno !== 0) heap.rollback(mark);
  heap.release(mark);
  if (errno !== 0) return errno;
  control.change(`domain ${domain} is the hardware domain`, (draft) => {
    draft.hardwareDomain = domain;
    for (const index of adopted) draft.devices[index]!.owner = domain;
  });
  return 0;
}

/** The processor that boots. */
const CPU = 0 as Vcpu;

/** Carries out what was asked for, the units running whenever it cannot go on. */
function settle(parts: Parts): void {
  const { flush } = parts.driver;
  for (let progress = flush.step(CPU); progress !== Progress.done; progress = flush.step(CPU)) {
    if (progress !== Progress.blocked) continue;
    let moved = false;
    for (const unit of parts.units) while (unit.step()) moved = true;
    if (!moved) throw new TypeError('devices cannot be adopted while accesses are in flight');
  }
}
