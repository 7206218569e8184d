// Random operations that suit the state they meet: a draw says what is to be tried, and becomes an operation only when
// its turn comes. So a map finds an entry that grants something, and an unmap the address where the grant is mapped.

import type * as FastCheck from 'fast-check';
import type { Hypervisor, Op } from '../../hypervisor/index.ts';
import { Dice } from './dice.ts';
import { type GrantDraw, grantDraws } from './grant-draws.ts';
import { type MemoryDraw, memoryDraws } from './memory-draws.ts';
import { type TableDraw, tableDraws } from './table-draws.ts';

export type DrawKind = GrantDraw | TableDraw | MemoryDraw;

/** Something to try: what, and a seed that decides the rest. */
export interface Draw {
  readonly kind: DrawKind;
  readonly seed: number;
}

const makers = { ...grantDraws, ...tableDraws, ...memoryDraws };

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
  assign: 2,
  deassign: 2,
  dma: 4,
  tick: 1,
  destroy: 2,
};

/** The operation that a draw becomes on a machine as it is now: plain data, of no further use for the machine. */
export function opOf(machine: Hypervisor, draw: Draw): Op {
  return makers[draw.kind](machine, new Dice(draw.seed));
}

/** One draw; `without` leaves kinds out. Made for {@link mixedMachine}. */
export function drawArbitrary(
  fc: typeof FastCheck,
  options: { readonly without?: readonly DrawKind[] } = {},
): FastCheck.Arbitrary<Draw> {
  const kinds = (Object.keys(WEIGHTS) as DrawKind[]).filter((kind) => !options.without?.includes(kind));
  return fc.record({
    kind: fc.oneof(...kinds.map((kind) => ({ arbitrary: fc.constant(kind), weight: WEIGHTS[kind] }))),
    seed: fc.nat({ max: 0xffffffff }),
  });
}
