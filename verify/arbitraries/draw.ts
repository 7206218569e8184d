// Random operations that suit the state they meet: a draw says what is to be tried, and becomes an operation only when
// its turn comes. So a map finds an entry that grants something, and an unmap the address where the grant is mapped.

import type * as FastCheck from 'fast-check';
import type { Hypervisor, Op } from '../../hypervisor/index.ts';
import { type DeviceDraw, deviceDraws } from './device-draws.ts';
import { Dice } from './dice.ts';
import { type GrantDraw, grantDraws } from './grant-draws.ts';
import { type MemoryDraw, memoryDraws } from './memory-draws.ts';
import { type TableDraw, tableDraws } from './table-draws.ts';

export type DrawKind = GrantDraw | TableDraw | MemoryDraw | DeviceDraw;

/** Something to try: what, and a seed that decides the rest. */
export interface Draw {
  readonly kind: DrawKind;
  readonly seed: number;
}

const makers = { ...grantDraws, ...tableDraws, ...memoryDraws, ...deviceDraws };

/** How often each is drawn: what leads on to others more often than what ends it. */
const WEIGHTS: Readonly<Record<DrawKind, number>> = {
  grant: 14,
  rewrite: 4,
  map: 20,
  unmap: 12,
  replace: 4,
  copy: 14,
  transfer: 8,
  swap: 4,
  set_version: 4,
  get_version: 1,
  setup_table: 1,
  query_size: 1,
  get_status_frames: 1,
  cache_flush: 1,
  command: 1,
  own_mapping: 6,
  foreign: 4,
  store: 3,
  pin: 5,
  unpin: 3,
  decrease: 3,
  populate: 4,
  increase: 1,
  add_to_physmap: 3,
  remove_from_physmap: 1,
  destroy: 2,
  assign: 3,
  deassign: 2,
  remove_device: 1,
  add_device: 1,
  remove_unit: 0.2,
  dma: 4,
  faults: 1,
  bus_master: 1,
  tick: 1,
};

/** The operation that a draw becomes on a machine as it is now: plain data, of no further use for the machine. */
export function opOf(machine: Hypervisor, draw: Draw): Op {
  return makers[draw.kind](machine, new Dice(draw.seed));
}

const ABOUT_DEVICES = new Set<string>(['grant', 'rewrite', 'map', 'unmap', 'destroy', ...Object.keys(deviceDraws)]);

/**
 * One draw; `without` leaves kinds out, `about: 'devices'` all but those on devices and grants that their owners map.
 * Made for {@link mixedMachine}.
 */
export function drawArbitrary(
  fc: typeof FastCheck,
  options: { readonly without?: readonly DrawKind[]; readonly about?: 'devices' } = {},
): FastCheck.Arbitrary<Draw> {
  const kinds = (Object.keys(WEIGHTS) as DrawKind[]).filter((kind) => !options.without?.includes(kind));
  const isWanted = (kind: DrawKind) => options.about === undefined || ABOUT_DEVICES.has(kind);
  const weight = (kind: DrawKind) => WEIGHTS[kind] * (options.about && kind in deviceDraws ? 25 : 5);
  return fc.record({
    kind: fc.oneof(...kinds.filter(isWanted).map((kind) => ({ arbitrary: fc.constant(kind), weight: weight(kind) }))),
    seed: fc.nat({ max: 0xffffffff }),
  });
}
