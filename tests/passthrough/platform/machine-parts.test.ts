// Goal: a firmware table becomes a machine whose devices are behind the right units. Method: a small platform by hand.

import { describe, expect, test } from 'vitest';
import { Hypervisor, type MachineOptions } from '../../../hypervisor/index.ts';
import { machineParts, Platform, type PlatformOptions, parseDmar } from '../../../passthrough/index.ts';
import { atsr, dmarTable, drhd, rmrr, scope } from './dmar-fixtures.ts';

const platform = (structures: readonly number[][], options?: PlatformOptions) =>
  new Platform(parseDmar(dmarTable(structures), 'table.bin'), options);
const structures = [
  drhd(0, 0, 0xfed90000n, ...scope(1, 0, 0, 2, 0)),
  drhd(1, 0, 0xfed91000n),
  rmrr(0, 0x8b800000n, 0x8fffffffn, ...scope(1, 0, 0, 2, 0)),
  rmrr(0, 0n, 0n, ...scope(1, 0, 0, 0x14, 0)),
  atsr(0, 0, ...scope(2, 0, 0, 0x1c, 0)),
];
const functions = [
  { device: '00:02.0' },
  { device: '00:14.0' },
  { device: '00:1c.0', type: 'root-port', secondary: 1, subordinate: 1 },
  { device: '00:1d.0', type: 'root-port', secondary: 2 },
  { device: '01:00.0', ats: true },
  { device: '01:02.0', ats: true, physicalFunction: '01:00.0' },
  { device: '02:00.0', ats: true },
  { device: '0001:00:00.0' },
] as const;

describe('machineParts', () => {
  const parts = machineParts(platform(structures, { functions }), ({ includeAll }) => ({
    capabilities: { deviceTlb: includeAll },
  }));

  test('units, devices and register frames, in the order of the table', () => {
    expect(parts.options).toEqual({
      units: [{ capabilities: { deviceTlb: false } }, { capabilities: { deviceTlb: true } }],
      devices: [
        { device: '00:02.0', unit: 0 },
        { device: '00:14.0', unit: 1 },
        { device: '00:1c.0', type: 'root-port', secondary: 1, subordinate: 1, unit: 1 },
        { device: '00:1d.0', type: 'root-port', secondary: 2, unit: 1 },
        { device: '01:00.0', ats: true, unit: 1 },
        { device: '01:02.0', ats: true, physicalFunction: '01:00.0', unit: 1 },
        { device: '02:00.0', ats: false, unit: 1 },
      ],
      keptIo: [
        [0xfed90, 0xfed90],
        [0xfed91, 0xfed91],
      ],
      reservedRegions: [{ firstFrame: 0x8b800, frames: 0x4800, devices: ['0000:00:02.0'] }],
    });
    expect(parts.withoutUnit).toEqual(['0001:00:00.0']);
  });

  test('a machine is made of it', () => {
    const options: MachineOptions = { ...parts.options, frames: 64, domains: 2 };
    const machine = new Hypervisor(options);
    expect(machine.config.devices.map(({ unit }) => unit)).toEqual([0, 1, 1, 1, 1, 1, 1]);
    expect(machine.parts.functions.map(({ regions }) => regions)).toEqual([[0], [], [], [], [], [], []]);
  });

  test('needs functions, a table that Xen takes, and bridges where paths lead', () => {
    expect(() => machineParts(platform(structures), () => ({}))).toThrow(TypeError);
    const broken = platform([drhd(1, 0, 0n)], { functions });
    expect(() => machineParts(broken, () => ({}))).toThrow(/register base 0x0; Xen turns VT-d off/);
    const through = platform([drhd(0, 0, 0x1000n, ...scope(1, 0, 0, 2, 0, 0, 0))], { functions });
    expect(() => machineParts(through, () => ({}))).toThrow('unit of 01:00.0: may be endpoint 00:02.0/00.0');
  });
});
