// A request of a device, answered in words.

import type { Mfn, Wide } from '../../machine/frame-number.ts';
import type { Sbdf } from '../../machine/ids.ts';
import { wideHigh, wideLow } from '../../machine/wide.ts';
import { Access, FaultReason, faultReasonName } from './registers.ts';
import type { VtdUnit } from './unit.ts';
import { TranslationType } from './walk.ts';

/** The machine frame that a request reaches, or why it reaches none. */
export type Translation =
  | { readonly frame: Mfn }
  | { readonly fault: { readonly reason: FaultReason; readonly name: string } };

/** Device frame number of a 64-bit address. */
export function addressFrame(address: Wide): number {
  return (wideLow(address, 'address') >>> 12) + wideHigh(address, 'address') * 0x100000;
}

/**
 * What a unit makes of a request: through its caches in the profile `lru`, by the tables as they are in `adversary`
 * (see `mayTranslate` for everything else that it may do). Leaves nothing in the fault log. VT-d 3.4 to 3.7.
 * @throws TypeError for an address that is no 64-bit value.
 */
export function translate(unit: VtdUnit, device: Sbdf, address: Wide, access: 'read' | 'write'): Translation {
  const found = unit.translate(device % 0x10000, addressFrame(address), Access[access]);
  if (found >= 0) return { frame: found as Mfn };
  return { fault: { reason: -found as FaultReason, name: faultReasonName(-found) } };
}

/**
 * A device asks for a translation to keep (ATS): the frame, or minus the reason. Blocked, and that is recorded, unless
 * the context entry lets the device keep translations. VT-d 4.1.1, 9.3.
 */
export function requestTranslation(unit: VtdUnit, sourceId: number, dfn: number, access: Access): number {
  const type = unit.caches.contextType(sourceId);
  if (type < 0 || type === TranslationType.tablesAndDeviceTlb) return unit.translate(sourceId, dfn, access);
  unit.faults.record(FaultReason.requestBlocked, sourceId, dfn, access);
  return -FaultReason.requestBlocked;
}
