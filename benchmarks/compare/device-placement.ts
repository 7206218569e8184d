// Which unit a device is behind, by the DMAR table of a machine; and which device a trace's address space belongs to.

import { parseSbdf, sbdfText } from '../../machine/ids.ts';
import { type DmarTable, Platform } from '../../passthrough/index.ts';
import type { PlacedDevice, ReplayPlatform } from './replay/index.ts';
import type { ImportedTrace } from './workload/workload.ts';

const NAMED = 'its unit names it as an endpoint';
const OTHERS = 'its unit serves all devices of the segment that no other unit names';
/** Units that the model takes. */
const UNITS_MAX = 16;

export interface DevicePlacement extends PlacedDevice {
  /** Why it is behind that unit. */
  readonly why: string;
  /** Whether the trace names it. */
  readonly named: boolean;
}

export interface TracePlacement extends ReplayPlatform {
  readonly devices: readonly DevicePlacement[];
  /** What had to be assumed, in sentences. */
  readonly assumptions: readonly string[];
}

/**
 * The unit of a device, as Xen finds it. Where only the bus topology tells, which a table does not hold, one is
 * assumed: the one that serves all others of the segment; else the only one that may have it behind a bridge; else the
 * first.
 * @param device `0000:03:00.0`
 */
export function unitOf(table: DmarTable, device: string): { readonly unit: number; readonly why: string } {
  const { unit, why, candidates } = new Platform(table).unitOf(device);
  if (unit !== null) return { unit, why: why === 'explicit' ? NAMED : OTHERS };
  const others = candidates.find((candidate) => table.units[candidate]!.includeAll);
  if (others !== undefined) return { unit: others, why: 'assumed: behind no bridge that another unit names' };
  if (candidates.length === 1) {
    return { unit: candidates[0]!, why: 'assumed: the only unit of the segment with devices behind bridges' };
  }
  const segment = Math.floor(parseSbdf(device) / 0x10000);
  const first = table.units.findIndex((one) => one.segment === segment);
  return { unit: Math.max(first, 0), why: 'assumed: the table does not say; the first unit' };
}

/**
 * Devices for the domains of a trace: those that the trace names, in order, the last domain getting those left over;
 * where it names too few, devices from 0000:01:00.0 on are assumed.
 * @throws RangeError for a platform without units, or with more than the model takes.
 */
export function placeDevices(trace: ImportedTrace, table: DmarTable | null): TracePlacement {
  const units = table ? table.units.length : 1;
  if (units < 1 || units > UNITS_MAX) {
    throw new RangeError(`platform: the table has ${units} units (DRHD), expected 1 to ${UNITS_MAX}`);
  }
  const named = trace.summary.devices.filter(isPciAddress);
  const assumed = assumedDevices(named, trace.domains.length - named.length);
  const devices = [...named, ...assumed].map((device, index): DevicePlacement => {
    const { unit, why } = table ? unitOf(table, device) : { unit: 0, why: 'no platform given: one unit' };
    return { device, unit, why, named: index < named.length, domain: Math.min(index, trace.domains.length - 1) };
  });
  return { units, devices, assumptions: placementAssumptions(trace, named, assumed) };
}

function isPciAddress(device: string): boolean {
  try {
    parseSbdf(device);
    return true;
  } catch {
    return false;
  }
}

function assumedDevices(named: readonly string[], count: number): string[] {
  const taken = new Set(named.map((device) => parseSbdf(device) % 0x10000));
  const devices: string[] = [];
  for (let at = 0x100; devices.length < count; at += 8) if (!taken.has(at)) devices.push(sbdfText(at as never));
  return devices;
}

function placementAssumptions(trace: ImportedTrace, named: readonly string[], assumed: readonly string[]): string[] {
  const spaces = trace.domains.length;
  const assumptions: string[] = [];
  if (assumed.length > 0) {
    const which = named.length === 0 ? 'no device' : `only ${named.length} of ${spaces} devices`;
    assumptions.push(`The trace names ${which}; ${assumed.join(', ')} is assumed.`);
  }
  if (named.length > 1 || (named.length > 0 && spaces > 1)) {
    assumptions.push(
      spaces === 1
        ? `The trace does not say whose a mapping is: ${named.join(', ')} share one domain; the first does the DMA.`
        : 'The trace does not say which device has which address space: they are matched in the order of their names.',
    );
  }
  return assumptions;
}
