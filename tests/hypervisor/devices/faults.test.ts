// Goal: a device that faults too often is disabled, as recorded of Xen 4.17 (an e1000e made to fault at will).
// Method: the recorded patterns of faults and pauses. xen: passthrough/pci.c pci_check_disable_device.

import { describe, expect, it } from 'vitest';
import { AssignmentMachine, type AssignmentOptions, QUARANTINE } from '../assignment-machine.ts';

const DEVICE = '0000:01:00.0';
/** Nobody's memory. */
const NOWHERE = 0x7fff0000;

function scene(options: AssignmentOptions = {}) {
  const of = new AssignmentMachine(options);
  const { machine } = of;
  let nowUs = 100_000;
  const isOn = () => machine.control.root.devices.find(({ device }) => device === DEVICE)!.busMaster;
  /** Faults, a pause before each; how many of them until the device is disabled, 0 if it is not. */
  const fault = (count: number, pauseUs = 1, device = DEVICE): number => {
    for (let at = 1; at <= count; at += 1) {
      nowUs += pauseUs;
      machine.step({ op: 'tick', nowUs });
      machine.step({ op: 'dma', device, address: NOWHERE, access: 'read' });
      machine.step({ op: 'handle_faults' });
      if (!isOn()) return at;
    }
    return 0;
  };
  return { of, machine, fault, isOn };
}

describe('a device that faults', () => {
  it('is disabled at the tenth fault, and does nothing any more', () => {
    const { fault, machine } = scene();
    expect(fault(20)).toBe(10);
    const access = { op: 'dma', device: DEVICE, address: NOWHERE, access: 'read' } as const;
    expect(machine.step(access)).toEqual({ result: 0, dma: { disabled: true } });
    expect(machine.step({ op: 'handle_faults' }).result).toBe(0);
  });

  it.each([
    [15_000, 40, 0],
    [10_001, 40, 0],
    [10_000, 40, 10],
    [3_000, 40, 10],
  ])('with pauses of %i us between %i faults is disabled at fault %i', (pauseUs, count, at) => {
    expect(scene().fault(count, pauseUs)).toBe(at);
  });

  it('halves its count in a pause: 8 faults, a pause, and the sixth from there', () => {
    const { fault } = scene();
    fault(8);
    expect(fault(1, 15_000)).toBe(0);
    expect(fault(10)).toBe(5);
  });

  it('begins anew with another owner, and stays disabled', () => {
    const { of, fault, isOn } = scene();
    fault(9);
    of.assign('01:00.0', 1);
    expect(fault(9)).toBe(0);
    of.deassign('01:00.0');
    expect([fault(9), fault(1)]).toEqual([0, 1]);
    of.assign('01:00.0', 2);
    expect(isOn()).toBe(false);
  });

  it('is enabled by its owner; what it did before still counts', () => {
    const { machine, fault } = scene();
    fault(10);
    expect(machine.step({ op: 'set_bus_master', device: DEVICE, on: true }).result).toBe(0);
    expect(fault(5)).toBe(1);
    machine.step({ op: 'set_bus_master', device: DEVICE, on: true });
    expect(fault(1, 30_000)).toBe(0);
    expect(fault(9)).toBe(4);
    expect(machine.step({ op: 'set_bus_master', device: '0000:0f:00.0', on: true }).result).toBe(-19);
  });

  it('begins anew when it was removed and added', () => {
    const { machine, fault } = scene();
    fault(9);
    machine.step({ op: 'remove_device', device: DEVICE });
    expect(fault(20), 'nobody knows it').toBe(0);
    machine.step({ op: 'add_device', device: DEVICE });
    expect(fault(20)).toBe(10);
  });

  it('counts in quarantine, where a scratch page spares it', () => {
    const basic = scene();
    basic.of.assign('01:00.0', QUARANTINE);
    expect(basic.fault(20)).toBe(10);
    const scratch = scene({ iommu: { quarantine: 'scratch' }, machine: { caches: { kind: 'lru' } } });
    scratch.of.assign('01:00.0', QUARANTINE);
    expect(scratch.fault(20)).toBe(0);
  });

  it('counts for its phantom functions, and not for the ids of a bridge', () => {
    const devices = [{ device: DEVICE, unit: 0, phantomStride: 4 }];
    expect(scene({ machine: { devices } }).fault(20, 1, '0000:01:00.4')).toBe(10);
  });

  it('shares its unit with others, whose faults are their own', () => {
    const { fault, machine } = scene();
    fault(9);
    expect(fault(9, 1, '0000:05:00.0')).toBe(0);
    machine.step({ op: 'dma', device: DEVICE, address: NOWHERE, access: 'write' });
    machine.step({ op: 'dma', device: '0000:05:00.0', address: NOWHERE, access: 'write' });
    expect(machine.step({ op: 'handle_faults' }).result).toBe(2);
    const off = machine.control.root.devices.filter(({ busMaster }) => !busMaster).map(({ device }) => device);
    expect(off).toEqual([DEVICE, '0000:05:00.0']);
  });
});
