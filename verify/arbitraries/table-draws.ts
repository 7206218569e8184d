// Draws of operations on grant tables as a whole, and of hypercalls that nobody looks into.

import type { ArgumentPlace, GrantOp, Hypervisor } from '../../hypervisor/index.ts';
import { DOMID_SELF, type Domid } from '../../machine/ids.ts';
import type { Dice } from './dice.ts';
import { aliveDomains, DRAWN_REFS, plainRamOf } from './surroundings.ts';

export type TableDraw =
  | 'swap'
  | 'set_version'
  | 'get_version'
  | 'setup_table'
  | 'query_size'
  | 'get_status_frames'
  | 'cache_flush'
  | 'command';

function caller(machine: Hypervisor, dice: Dice): { readonly domain: number; readonly argument?: ArgumentPlace } {
  const domain = dice.of(aliveDomains(machine), 0);
  return dice.percent(95) ? { domain } : { domain, argument: dice.one('unmapped', 'forbidden') };
}

function seesStatusFrames({ parts }: Hypervisor, domain: number): boolean {
  const { grants, p2m } = parts;
  const count = grants.statusFrameCount(domain as Domid);
  return Array.from({ length: count }, (_, at) => grants.statusFrame(domain as Domid, at)).some(
    (frame) => p2m.gfnOf(frame) >= 0,
  );
}

function target(dice: Dice): number {
  return dice.one<number>(DOMID_SELF, DOMID_SELF, 0, 1, 2, 9);
}

export const tableDraws: Readonly<Record<TableDraw, (machine: Hypervisor, dice: Dice) => GrantOp>> = {
  swap: (machine, dice) => ({
    op: 'swap_grant_ref',
    ...caller(machine, dice),
    elements: dice.some(2, () => ({ a: dice.of(DRAWN_REFS, 8), b: dice.percent(95) ? dice.of(DRAWN_REFS, 9) : 5000 })),
  }),
  set_version(machine, dice) {
    const from = caller(machine, dice);
    const other = 3 - machine.parts.grants.version(from.domain as Domid);
    // A status frame that an HVM domain sees would be freed under it: Xen takes it from there first, the model not yet.
    if (seesStatusFrames(machine, from.domain)) return { op: 'set_version', ...from, version: 2 };
    return { op: 'set_version', ...from, version: dice.percent(90) ? other : dice.below(4) };
  },
  get_version: (machine, dice) => ({ op: 'get_version', ...caller(machine, dice), target: target(dice) }),
  setup_table: (machine, dice) => ({
    op: 'setup_table',
    ...caller(machine, dice),
    target: target(dice),
    frames: dice.below(4),
    ...(dice.percent(20) ? { list: 'unmapped' } : {}),
  }),
  query_size: (machine, dice) => ({ op: 'query_size', ...caller(machine, dice), target: target(dice) }),
  get_status_frames: (machine, dice) => ({
    op: 'get_status_frames',
    ...caller(machine, dice),
    target: target(dice),
    frames: dice.below(3),
  }),
  cache_flush(machine, dice) {
    const from = caller(machine, dice);
    const frame = dice.of(plainRamOf(machine, from.domain), 0);
    return {
      op: 'cache_flush',
      ...from,
      elements: [{ address: frame * 4096, offset: 0, length: 64, operation: dice.below(4) }],
    };
  },
  command: (machine, dice) => ({
    op: 'grant_table_op',
    domain: dice.of(aliveDomains(machine), 0),
    argument: dice.one('unmapped', 'forbidden'),
    command: dice.one(dice.below(16), 0x1000, 0xffffffff),
    count: dice.one(0, 1, 2, 0x80000000),
  }),
};
