// Which unit a device is behind, by the DMAR table of a machine; and which device a trace's address space belongs to.

import { parseSbdf, sbdfText } from '../../machine/ids.ts';
import type { DmarTable } from '../../passthrough/index.ts';
import type { PlacedDevice, ReplayPlatform } from './replay/index.ts';
import type { ImportedTrace } from './workload/workload.ts';

/** Scope types of a DMAR table. VT-d 8.3.1. */
const ENDPOINT = 1;
const BRIDGE = 2;
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
 * The unit of a device: the one that names it as an endpoint; else the one that serves all others of the segment; else
 * the only one that names a bridge there (what is behind a bridge, only the bus topology says, which the table does not
 * hold); else the first.
 * @param device `0000:03:00.0`
 */
export function unitOf(table: DmarTable, device: string): { readonly unit: number; readonly why: string } {
  const sbdf = parseSbdf(device);
  const [segment, bus] = [Math.floor(sbdf / 0x10000), (sbdf >>> 8) & 0xff];
  const [slot, fn] = [(sbdf >>> 3) & 31, sbdf & 7];
  const units = table.units.map((unit, index) => ({ ...unit, index })).filter((unit) => unit.segment === segment);
  const named = units.find(({ scopes }) =>
    scopes.some(
      ({ type, startBus, path }) =>
        type === ENDPOINT && startBus === bus && path.length === 1 && path[0]![0] === slot && path[0]![1] === fn,
    ),
  );
  if (named) return { unit: named.index, why: 'its unit names it as an endpoint' };
  const others = units.find(({ includeAll }) => includeAll);
  if (others) return { unit: others.index, why: 'its unit serves all devices of the segment that no other unit names' };
  const bridges = units.filter(({ scopes }) => scopes.some(({ type }) => type === BRIDGE));
  if (bridges.length === 1) {
    return { unit: bridges[0]!.index, why: 'assumed: the only unit of the segment with devices behind bridges' };
  }
  return { unit: units[0]?.index ?? 0, why: 'assumed: the table does not say; the first unit' };
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
