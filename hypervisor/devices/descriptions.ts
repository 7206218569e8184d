// What devices and reserved regions of a machine may be, one beside the other.

import { parseSbdf } from '../../machine/ids.ts';
import type { ReservedRegion } from '../../passthrough/index.ts';
import { between } from '../door/field-checks.ts';

interface Described {
  readonly device: string;
  readonly unit: number;
  readonly secondary?: number;
  readonly subordinate?: number;
  readonly physicalFunction?: string;
}

const segmentOf = (sbdf: number) => Math.floor(sbdf / 0x10000);
const busOf = (sbdf: number) => Math.floor(sbdf / 0x100) % 0x100;

/**
 * Each device is there once, behind a unit that there is, and known to it by an id of its own; buses lie below their
 * bridges, behind one of them each; a virtual function belongs to another device.
 * @throws RangeError naming the device.
 */
export function checkDevices(devices: readonly Described[], units: number): void {
  const known = new Set(devices.map(({ device }) => parseSbdf(device)));
  const [found, ids, buses] = [new Set<number>(), new Set<string>(), new Set<number>()];
  for (const [at, { device, unit, secondary, subordinate, physicalFunction }] of devices.entries()) {
    const name = `devices[${at}]`;
    between(0, units - 1)(unit, `${name}.unit`);
    const sbdf = parseSbdf(device);
    if (found.has(sbdf)) throw new RangeError(`${name}.device ${device}: expected each device once`);
    found.add(sbdf);
    const id = `${unit}/${sbdf % 0x10000}`;
    if (ids.has(id)) throw new RangeError(`${name}.device ${device}: expected no other segment behind unit ${unit}`);
    ids.add(id);
    if (physicalFunction !== undefined)
      checkPhysicalFunction(`${name}.physicalFunction`, physicalFunction, sbdf, known);
    if (secondary === undefined && subordinate !== undefined) throw new RangeError(`${name}.secondary: expected one`);
    if (secondary === undefined) continue;
    between(busOf(sbdf) + 1, 255)(secondary, `${name}.secondary`);
    between(secondary, 255)(subordinate ?? secondary, `${name}.subordinate`);
    const bus = segmentOf(sbdf) * 0x100 + secondary;
    if (buses.has(bus)) throw new RangeError(`${name}.secondary ${secondary}: expected each bus behind one bridge`);
    buses.add(bus);
  }
}

function checkPhysicalFunction(name: string, of: string, own: number, known: ReadonlySet<number>): void {
  const sbdf = parseSbdf(of);
  if (sbdf === own || !known.has(sbdf)) throw new RangeError(`${name} ${of}: expected another of the devices`);
}

/**
 * No two share a frame. xen: register_one_rmrr, "already declared".
 * @throws RangeError naming the two.
 */
export function checkRegions(regions: readonly ReservedRegion[]): void {
  for (const [at, { firstFrame, frames }] of regions.entries()) {
    const other = regions.findIndex((one) => {
      return firstFrame < one.firstFrame + one.frames && one.firstFrame < firstFrame + frames;
    });
    if (other < at) throw new RangeError(`reservedRegions[${at}]: expected no frame of reservedRegions[${other}]`);
  }
}
