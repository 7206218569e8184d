// From a platform to what a machine is made of: units, devices behind them, register frames, reserved regions.

import type { DmarUnit } from '../dmar-table.ts';
import type { ReservedRegion } from '../pci-functions.ts';
import { mappedFrames } from './mapped-frames.ts';
import type { PciTopologyFunction } from './pci-topology.ts';
import type { Platform } from './platform.ts';

/** A function of the machine, behind a unit. */
export interface PlacedFunction extends Omit<PciTopologyFunction, 'extended'> {
  readonly unit: number;
}

export interface MachineParts<Unit> {
  /** As `new Hypervisor` takes them, in the order of the table. */
  readonly options: {
    readonly units: readonly Unit[];
    readonly devices: readonly PlacedFunction[];
    /** Frames of the units' registers, first and last. */
    readonly keptIo: readonly (readonly [first: number, last: number])[];
    /** Those that map anything for any of the functions. */
    readonly reservedRegions: readonly ReservedRegion[];
  };
  /** Functions that no unit serves, which Xen does not assign (-ENODEV); they are not among the devices. */
  readonly withoutUnit: readonly string[];
}

/**
 * The machine that a platform is, for `new Hypervisor({ ...options, frames, ... })`.
 * @param unit what a unit can do: the table does not say, its registers do
 * @throws TypeError without the machine's functions; RangeError for a table with which Xen turns VT-d off, and for a
 *   function of which not even the topology tells the unit
 */
export function machineParts<Unit>(
  platform: Platform,
  unit: (of: DmarUnit, index: number) => Unit,
): MachineParts<Unit> {
  const { topology, disabledBy, table } = platform;
  if (!topology) throw new TypeError('machineParts: expected a platform with the functions of the machine');
  if (disabledBy) throw new RangeError(`platform: ${disabledBy.message}; Xen turns VT-d off (${disabledBy.source})`);
  const devices: PlacedFunction[] = [];
  const withoutUnit: string[] = [];
  for (const { extended: _, ats, ...of } of topology.functions) {
    const answer = platform.unitOf(of.device);
    if (answer.why === 'unknown') throw new RangeError(`platform: unit of ${of.device}: ${answer.reason}`);
    if (answer.unit === null) withoutUnit.push(of.device);
    else devices.push({ ...of, unit: answer.unit, ...(ats && { ats: platform.atsOf(of.device).allowed === true }) });
  }
  return {
    options: {
      units: table.units.map(unit),
      devices,
      keptIo: platform.units.map(registerFrames),
      reservedRegions: platform.regions
        .map((region): ReservedRegion => {
          const { first: firstFrame, count: frames } = mappedFrames(table.reservedRegions[region]!);
          return { firstFrame, frames, devices: platform.devicesOfRegion(region) };
        })
        .filter(({ frames, devices: of }) => frames > 0 && of.length > 0),
    },
    withoutUnit,
  };
}

function registerFrames({ registerBase, registerPages }: Platform['units'][number]): readonly [number, number] {
  const first = Number(BigInt(registerBase) >> 12n);
  return [first, first + registerPages - 1];
}
