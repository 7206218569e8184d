// Devices whose own TLBs do not answer: how one comes to that, what the rules make of it, and who waits for it in vain.

import { Errno } from '../../machine/errno.ts';
import { type Domid, parseSbdf, type Vcpu } from '../../machine/ids.ts';
import type { ControlState } from '../control.ts';
import { crashDomain } from '../control.ts';
import type { Op, OpResult } from '../door/op.ts';
import type { Parts } from '../parts.ts';
import { deviceWithId, findDevice } from './owners.ts';

/** A device begins, or ceases, to answer. -EOPNOTSUPP where its unit knows no device TLBs. */
export function setAnswers(
  control: ControlState,
  parts: Parts,
  op: Extract<Op, { readonly op: 'device_tlb' }>,
): OpResult {
  const found = findDevice(control, op.device);
  if (!found) return { result: Errno.ENODEV };
  const { deviceTlbs } = parts.units[found.device.unit]!;
  if (deviceTlbs === null) return { result: Errno.EOPNOTSUPP };
  deviceTlbs.setSilent(parseSbdf(op.device) % 0x10000, !op.answers);
  return { result: 0 };
}

/**
 * A device TLB was given up that did not answer: the device is broken, and its domain crashed unless that is the
 * hardware domain; neither, if it went to another owner meanwhile. xen: pci.c iommu_dev_iotlb_flush_timeout.
 */
export function giveUpDevice(
  control: ControlState,
  parts: Parts,
  at: { readonly vcpu: Vcpu; readonly unit: number; readonly source: number; readonly domain: Domid | -1 },
): void {
  const { devices, hardwareDomain } = control.root;
  const index = deviceWithId(parts.functions, at.unit, at.source);
  const found = devices[index];
  if (!found || found.owner !== at.domain) return;
  control.change(`${found.device} is broken`, (draft) => {
    draft.devices[index]!.broken = true;
  });
  if (at.domain === hardwareDomain) return;
  crashDomain(control, {
    vcpu: at.vcpu,
    domain: at.domain,
    reason: `the device TLB of ${found.device} did not answer`,
  });
}

/** Whether an operation might wait for ever: a device does not answer, or a queue stands still over one. */
export function mayStall(parts: Parts): boolean {
  return parts.hasDeviceTlbs && parts.units.some((unit) => unit.deviceTlbs?.anySilent || unit.faults.queueStopped);
}

/** For whom something waits in vain: `: unit 0 waits for the device TLB of 0000:05:00.0`; empty: for nobody. */
export function whoIsSilent(control: ControlState, parts: Parts): string {
  for (const { index, unanswered } of parts.units) {
    if (unanswered < 0) continue;
    const of = control.root.devices[deviceWithId(parts.functions, index, unanswered)];
    const name = of?.device ?? `requester 0x${unanswered.toString(16)}`;
    return `: unit ${index} waits for the device TLB of ${name}, which does not answer`;
  }
  return '';
}
