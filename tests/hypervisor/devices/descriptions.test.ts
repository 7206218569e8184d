// Goal: devices that cannot be beside one another are refused, by name; and a hardware domain that cannot have its
// devices is not made. Method: one mistake in the options of a machine at a time.

import { describe, expect, it } from 'vitest';
import { fingerprint, Hypervisor, type MachineOptions } from '../../../hypervisor/index.ts';

const ENDPOINT = { device: '0000:04:00.0', unit: 0 } as const;
const BRIDGE = { device: '0000:03:00.0', unit: 0, type: 'pcie-to-pci-bridge', secondary: 4, subordinate: 4 } as const;

describe('the option devices', () => {
  it.each<[string, NonNullable<MachineOptions['devices']>, string]>([
    ['twice', [ENDPOINT, ENDPOINT], 'devices[1].device 0000:04:00.0: expected each device once'],
    [
      'one id twice behind a unit',
      [ENDPOINT, { ...ENDPOINT, device: '0001:04:00.0' }],
      'devices[1].device 0001:04:00.0',
    ],
    ['a bus behind its own bus', [{ ...BRIDGE, secondary: 3 }], 'devices[0].secondary 3: expected 4 to 255'],
    ['buses the wrong way round', [{ ...BRIDGE, subordinate: 3 }], 'devices[0].subordinate 3: expected 4 to 255'],
    ['no first bus', [{ device: '0000:03:00.0', unit: 0, subordinate: 4 }], 'devices[0].secondary: expected one'],
    ['a bus behind two bridges', [BRIDGE, { ...BRIDGE, device: '0000:02:00.0' }], 'devices[1].secondary 4'],
    ['its own physical function', [{ ...ENDPOINT, physicalFunction: ENDPOINT.device }], 'devices[0].physicalFunction'],
    ['one that is not there', [{ ...ENDPOINT, physicalFunction: '0000:05:00.0' }], 'devices[0].physicalFunction'],
  ])('%s is refused', (_, devices, message) => {
    expect(() => new Hypervisor({ devices })).toThrow(message);
  });

  it('as many device TLBs as there are devices', () => {
    const slots = Array.from({ length: 300 }, (_, at) => at);
    const hex = (value: number) => value.toString(16).padStart(2, '0');
    const name = (at: number) => `0000:${hex(1 + (at >> 8))}:${hex((at >> 3) & 31)}.${at & 7}`;
    const machine = new Hypervisor({
      units: [{ capabilities: { deviceTlb: true } }],
      devices: slots.map((at) => ({ device: name(at), unit: 0, ats: true })),
      iommu: { ats: true },
    });
    const create = { op: 'create_domain', domain: 0, kind: 'pv', frames: 2, iommu: true, hardware: true } as const;
    expect(machine.step(create).result).toBe(0);
    expect(machine.units[0]!.deviceTlbs!.enabled()).toHaveLength(300);
  });

  it('a phantom stride counts only for functions before it', () => {
    const phantoms = (device: string) =>
      new Hypervisor({ devices: [{ device, unit: 0, phantomStride: 2 }] }).parts.functions[0]!.phantoms.length;
    expect([phantoms('0000:04:00.0'), phantoms('0000:04:00.1'), phantoms('0000:04:00.2')]).toEqual([3, 3, 0]);
  });
});

describe('a hardware domain', () => {
  it('that cannot have its devices is not made, and nothing is left of it', () => {
    const machine = new Hypervisor({
      frames: 0x80010,
      units: [{ capabilities: { addressBits: 31 } }],
      devices: [ENDPOINT],
      iommu: { beyondReach: 'refused' },
    });
    const before = fingerprint(machine);
    const far = { ram: [[0x80008, 0x80009]] } as const;
    const create = { op: 'create_domain', domain: 0, kind: 'pv', iommu: true, hardware: true } as const;
    expect(machine.step({ ...create, memory: far }).result).toBe(-14);
    expect(machine.control.root.domains[0]).toBeNull();
    expect(fingerprint(machine)).toBe(before);
    expect(machine.step({ ...create, frames: 2 }).result).toBe(0);
    expect(machine.control.root.hardwareDomain).toBe(0);
  });

  it('that is relaxed sees all memory, however its own was given to it', () => {
    const rights = (memory: object) => {
      const machine = new Hypervisor({ frames: 64, devices: [ENDPOINT], iommu: { hardwareDomain: 'relaxed' } });
      machine.step({ op: 'create_domain', domain: 0, kind: 'pv', iommu: true, hardware: true, ...memory });
      return [3, 52, 60].map((dfn) => machine.parts.driver.lookup(0 as never, dfn as never).rights);
    };
    expect(rights({ frames: 4 })).toEqual([3, 3, 3]);
    expect(rights({ memory: { ram: [[50, 53]] } })).toEqual([3, 3, 3]);
    // Told what it sees, it sees that.
    expect(rights({ memory: { ram: [[50, 53]], identity: [[50, 53, 'rw']] } })).toEqual([0, 3, 0]);
  });
});
