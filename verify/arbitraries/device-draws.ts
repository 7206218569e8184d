// Draws of operations on devices: who has them, what they do, and time.

import type { Hypervisor, Op } from '../../hypervisor/index.ts';
import { DOMID_IO } from '../../machine/ids.ts';
import { isConfined } from '../invariants/invariant.ts';
import type { Dice } from './dice.ts';
import { plainRamOf } from './surroundings.ts';

export type DeviceDraw =
  | 'assign'
  | 'deassign'
  | 'remove_device'
  | 'add_device'
  | 'remove_unit'
  | 'dma'
  | 'faults'
  | 'bus_master'
  | 'tick';

const PAGE = 4096;

export const deviceDraws: Readonly<Record<DeviceDraw, (machine: Hypervisor, dice: Dice) => Op>> = {
  assign: (machine, dice) => ({
    op: 'assign_device',
    vcpu: dice.below(2),
    device: device(machine, dice),
    domain: dice.percent(12) ? DOMID_IO : dice.below(4),
    relaxed: dice.percent(50),
  }),
  deassign: (machine, dice) => ({ op: 'deassign_device', vcpu: dice.below(2), device: device(machine, dice) }),
  /** No bridge: while one is gone, its entries stay with whom they were (X2). */
  remove_device(machine, dice) {
    const isBridge = (name: string) =>
      machine.config.devices.some((of) => of.device === name && of.secondary !== undefined);
    const chosen = device(machine, dice);
    const wanted = isBridge(chosen) ? machine.config.devices[0]!.device : chosen;
    return { op: 'remove_device', vcpu: dice.below(2), device: wanted };
  },
  /** One that was removed, for the most part. */
  add_device(machine, dice) {
    const gone = machine.control.root.devices.filter(({ present }) => !present).map((of) => of.device);
    return { op: 'add_device', vcpu: dice.below(2), device: dice.of(gone, device(machine, dice)) };
  },
  /** Not the last one, or nothing is left to try. */
  remove_unit(machine, dice) {
    const present = machine.control.root.units.filter((of) => of.present).map(({ unit }) => unit);
    return { op: 'remove_unit', vcpu: dice.below(2), unit: dice.of(present.slice(1), machine.units.length) };
  },
  /** A device's access, anywhere; but of one that nothing confines only its driver's own memory is written. */
  dma(machine, dice) {
    const name = device(machine, dice);
    const access = dice.one('read', 'write');
    const owner = machine.control.root.devices.find((found) => found.device === name)?.owner ?? -1;
    const isTrusted = access === 'write' && !isConfined(machine, owner);
    const frame = isTrusted ? dice.of(plainRamOf(machine, owner), 0) : dice.below(machine.config.frames);
    return { op: 'dma', device: name, address: frame * PAGE + 2048, access };
  },
  faults: () => ({ op: 'handle_faults' }),
  bus_master: (machine, dice) => ({ op: 'set_bus_master', device: device(machine, dice), on: dice.percent(80) }),
  tick: (machine, dice) => ({ op: 'tick', vcpu: dice.below(2), nowUs: machine.nowUs + dice.below(8000) }),
};

function device(machine: Hypervisor, dice: Dice): string {
  const { devices } = machine.config;
  return dice.percent(98) ? dice.of(devices, devices[0]!).device : '0000:09:00.0';
}
