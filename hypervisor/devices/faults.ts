// DMA faults, as the hypervisor deals with them: it reads the units' fault records, and a device that faults too often
// may access memory no more. xen: vtd/iommu.c iommu_page_fault; passthrough/pci.c pci_check_disable_device.

import type { OperationContext } from '../operations/context.ts';
import { deviceWithId } from './owners.ts';

/** Faults within a short time that are too many. xen: PT_FAULT_THRESHOLD. */
const THRESHOLD = 10;
/** After a time without one as long as this, what was before counts half. xen: MILLISECS(10). */
const QUIET_US = 10_000;

/** Takes the fault records of every unit, and holds them against their devices. @returns how many there were. */
export function handleFaults(context: OperationContext): number {
  const { units, functions, clock } = context.parts;
  let handled = 0;
  for (const unit of units) {
    for (const { sourceId } of unit.faults.take()) {
      handled += 1;
      const index = deviceWithId(functions, unit.index, sourceId);
      if (context.control.root.devices[index]?.present) noteFault(context, index, clock.nowUs);
    }
  }
  return handled;
}

function noteFault({ control }: OperationContext, index: number, nowUs: number): void {
  control.change('a DMA fault', (draft) => {
    const { faults } = draft.devices[index]!;
    if (nowUs - faults.atUs > QUIET_US) faults.count >>= 1;
    faults.atUs = nowUs;
    faults.count += 1;
    if (faults.count >= THRESHOLD) draft.devices[index]!.busMaster = false;
  });
}
