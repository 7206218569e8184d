// Goal: a device that uses ids of other functions of its slot has entries for all of them, in the order of Xen, and is
// not left half way. Method: recorded runs of Xen 4.17 with pci-phantom=, written out here; failures in the middle.

import { describe, expect, it } from 'vitest';
import type { Hypervisor } from '../../../hypervisor/index.ts';
import type { UnitIndex } from '../../../machine/ids.ts';
import { violations } from '../../../verify/index.ts';
import { AssignmentMachine, type AssignmentOptions, QUARANTINE } from '../assignment-machine.ts';

const pair = (did: number, device: string) => `CC ${did} ${device}, DSI ${did}`;
const pairs = (did: number, functions: readonly number[]) => functions.map((at) => pair(did, `01:00.${at}`)).join(', ');
const DEVICE = { device: '0000:01:00.0', unit: 0, phantomStride: 2 } as const;
const OTHER = { device: '0000:02:00.0', unit: 0 } as const;
/** The hardware domain has no other device behind this one's unit, which hands out dids. */
const ALONE = { units: [{ capabilities: { domainIds: 16 } }], devices: [DEVICE] } as const;

function scene(options: AssignmentOptions = {}, stride: 1 | 2 | 4 = 2, others: readonly (typeof OTHER)[] = [OTHER]) {
  const devices = [{ ...DEVICE, phantomStride: stride }, ...others];
  return new AssignmentMachine({ ...options, machine: { devices, ...options.machine } });
}

const phantomsOf = (machine: Hypervisor) => machine.parts.functions[0]!.phantoms.map((sbdf) => sbdf % 8);

describe('phantom functions', () => {
  it.each([
    [1, [1, 2, 3, 4, 5, 6, 7]],
    [2, [2, 4, 6]],
    [4, [4]],
  ] as const)('are a stride of %i apart', (stride, functions) => {
    expect(phantomsOf(scene({}, stride).machine)).toEqual(functions);
  });

  it('are farther apart where a real function is in the way, and conventional PCI has none', () => {
    expect(phantomsOf(scene({}, 2, [{ device: '0000:01:00.2', unit: 0 } as never]).machine)).toEqual([4]);
    const devices = [{ ...DEVICE, type: 'pci-endpoint' as const }];
    expect(phantomsOf(new AssignmentMachine({ machine: { devices } }).machine)).toEqual([]);
  });

  it('follow a device that is given, and go before one that is taken', () => {
    const of = scene();
    expect(of.assign('01:00.0', 1)).toEqual([0, pairs(0, [0, 2, 4, 6])]);
    expect(of.deassign('01:00.0')).toEqual([0, pairs(1, [2, 4, 6, 0])]);
    expect(of.assign('01:00.0', 1)).toEqual([0, '']);
    expect(of.do({ op: 'remove_device', device: DEVICE.device })).toEqual([0, pairs(1, [2, 4, 6, 0])]);
    expect(of.do({ op: 'add_device', device: DEVICE.device })).toEqual([0, '']);
    expect(of.assign('01:00.0', QUARANTINE)).toEqual([0, pairs(0, [0, 2, 4, 6])]);
    expect(violations(of.machine)).toEqual([]);
  });

  it('go by the one did of their device in quarantine', () => {
    const of = scene({ iommu: { quarantine: 'scratch' } });
    of.assign('01:00.0', 1);
    of.deassign('01:00.0');
    expect(of.assign('01:00.0', 2)).toEqual([0, pairs(0x8000, [0, 2, 4, 6])]);
    expect(violations(of.machine)).toEqual([]);
  });

  it('with caching mode are flushed under did 0 where they had none', () => {
    const of = scene({ unit: { cachingMode: true } });
    of.assign('01:00.0', 1);
    of.deassign('01:00.0');
    expect(of.assign('01:00.0', 2)).toEqual([0, pairs(0, [0, 2, 4, 6])]);
  });

  it('reach what their device reaches, and are no devices themselves', () => {
    const of = scene();
    const { machine } = of;
    of.assign('01:00.0', 1);
    const address = machine.control.root.domains[1]!.ram.first * 4096;
    const dma = (device: string) => machine.step({ op: 'dma', device, address, access: 'read' });
    expect(dma('0000:01:00.4')).toEqual(dma('0000:01:00.0'));
    expect(dma('0000:01:00.5')).toEqual({ result: -19 });
    expect([of.assign('01:00.4', 2)[0], of.deassign('01:00.4')[0]]).toEqual([-19, -19]);
    of.deassign('01:00.0');
    expect(dma('0000:01:00.4').dma).toEqual({ fault: { reason: 2, name: 'contextNotPresent' } });
  });
});

describe('a phantom function that cannot follow', () => {
  // The did of the hardware domain goes with the device itself, its last one there; the phantom's entry still has it.
  it('sends the device where a deassignment would', () => {
    const of = new AssignmentMachine({ machine: ALONE });
    expect(of.assign('01:00.0', 1)).toEqual([
      -3,
      [pair(0, '01:00.0'), pairs(0, [2, 4, 6]), pair(1, '01:00.0')].join(', '),
    ]);
    expect(of.owner('01:00.0')).toBe(QUARANTINE);
    expect(of.machine.control.root.devices[0]!.broken).toBe(false);
    expect(of.machine.control.root.domains[1]!.state).toBe('alive');
    expect(violations(of.machine)).toEqual([]);
  });

  it('and a device that cannot go there either is broken, and its domain crashed; only quarantine takes it', () => {
    const of = new AssignmentMachine({ iommu: { quarantine: 'none' }, machine: ALONE });
    const { driver } = of.machine.parts;
    const prepare = driver.prepare.bind(driver);
    // Not to the hardware domain: as if another domain had taken the last did meanwhile.
    driver.prepare = (domain, unit, source) => (domain === 0 ? -16 : prepare(domain, unit, source));
    const { result, crashed } = of.machine.step({ op: 'assign_device', device: DEVICE.device, domain: 1 });
    expect([result, crashed]).toEqual([-3, [{ domain: 1, reason: 'device is broken' }]]);
    expect(of.machine.control.root.devices[0]).toMatchObject({ owner: 1, broken: true });
    expect(driver.contexts.didOf(0 as UnitIndex, 0x102), 'the phantom is where it was').toBe(0);
    driver.prepare = prepare;
    of.machine.step({ op: 'destroy_domain', domain: 1 });
    expect(of.owner('01:00.0')).toBe(0);
    expect(of.assign('01:00.0', 2)).toEqual([-9, '']);
    expect(of.assign('01:00.0', QUARANTINE)[0]).toBe(0);
  });
});
