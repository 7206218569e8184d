// Draws of operations on memory, page tables and domains.

import { type Hypervisor, type Op, P2mType } from '../../hypervisor/index.ts';
import type { Gfn, Mfn } from '../../machine/frame-number.ts';
import { DOMID_SELF, type Domid } from '../../machine/ids.ts';
import type { Dice } from './dice.ts';
import { MIXED_DOMAINS } from './mixed-machine.ts';
import { aliveDomains, emptyPlaces, isHvm, placesOf, plainPlaces, plainRamOf, ramOf } from './surroundings.ts';

export type MemoryDraw =
  | 'own_mapping'
  | 'foreign'
  | 'store'
  | 'pin'
  | 'unpin'
  | 'decrease'
  | 'populate'
  | 'increase'
  | 'add_to_physmap'
  | 'remove_from_physmap'
  | 'destroy';

const PAGE = 4096;
const PRESENT = 1;
const WRITABLE = 2;
const STATUS_INDEX = 0x80000000;
/** Domains grow no further than this, so that all find memory. */
const RAM_MAX = 8;

export const memoryDraws: Readonly<Record<MemoryDraw, (machine: Hypervisor, dice: Dice) => Op>> = {
  /** A PV domain maps a page of its own, or drops what is there. */
  own_mapping(machine, dice) {
    const domain = pv(machine, dice);
    const frame = dice.percent(85) ? dice.of(plainRamOf(machine, domain), 0) : dice.below(100);
    const entry = dice.percent(30) ? 0 : frame * PAGE + PRESENT + (dice.percent(60) ? WRITABLE : 0);
    return { op: 'update_va_mapping', vcpu: dice.below(2), domain, address: place(machine, dice, domain), entry };
  },
  foreign(machine, dice) {
    const domain = dice.percent(95) ? 0 : dice.below(4);
    const owner = dice.of(aliveDomains(machine), 0);
    return {
      op: 'map_foreign',
      vcpu: dice.below(2),
      domain,
      address: place(machine, dice, domain),
      owner: owner === domain && dice.percent(80) ? DOMID_SELF : owner,
      frame: dice.percent(30) ? null : dice.of(ramOf(machine, owner), 0),
      writable: dice.percent(60),
    };
  },
  /** A guest writes a page-table entry into a page of its own, which it may pin as a table later. */
  store(machine, dice) {
    const domain = dice.of(aliveDomains(machine, 'pv'), 0);
    const ram = plainRamOf(machine, domain);
    const entry = dice.of(dice.percent(80) ? ram : ramOf(machine, domain), 0) * PAGE + dice.one(1, 3, 3, 0);
    const bytes = [0, 8, 16, 24, 32, 40, 48, 56].map((shift) => byteAt(entry, shift)).join('');
    return { op: 'store', frame: dice.of(ram, 0), offset: dice.below(4) * 8, bytes };
  },
  pin(machine, dice) {
    const domain = pv(machine, dice);
    const frame = dice.of(dice.percent(85) ? plainRamOf(machine, domain) : ramOf(machine, domain), 0);
    return { op: 'pin_table', vcpu: dice.below(2), domain, frame, level: dice.one(1, 1, 1, 2, 3, 4) };
  },
  unpin(machine, dice) {
    const domain = pv(machine, dice);
    const pinned = ramOf(machine, domain).filter((frame) => machine.parts.frames.isPinned(frame as Mfn));
    return { op: 'unpin_table', vcpu: dice.below(2), domain, frame: dice.of(pinned, 0) };
  },
  decrease(machine, dice) {
    const domain = dice.of(aliveDomains(machine), 0);
    const frames = dice.some(2, () =>
      dice.percent(93) ? dice.of(plainRamOf(machine, domain), 0) : dice.of(ramOf(machine, domain), 0),
    );
    return { op: 'decrease_reservation', vcpu: dice.below(2), domain, frames };
  },
  populate: (machine, dice) => grow(machine, dice, 'populate_physmap'),
  increase: (machine, dice) => grow(machine, dice, 'increase_reservation'),
  add_to_physmap(machine, dice) {
    const domain = dice.percent(90) ? dice.of(aliveDomains(machine, 'hvm'), 0) : dice.below(4);
    const placed = { op: 'add_to_physmap', vcpu: dice.below(2), domain, gfn: gfn(machine, dice, domain) } as const;
    if (dice.percent(40)) return { ...placed, space: 2, index: dice.of(ramOf(machine, domain), 0) };
    const index = dice.percent(70) ? dice.below(3) : STATUS_INDEX + dice.below(2);
    return { ...placed, space: 1, index };
  },
  remove_from_physmap(machine, dice) {
    const domain = dice.percent(90) ? dice.of(aliveDomains(machine, 'hvm'), 0) : dice.below(4);
    return { op: 'remove_from_physmap', vcpu: dice.below(2), domain, gfn: dice.of(ramOf(machine, domain), 0) };
  },
  /** A domain dies; or one that is gone comes back, an HVM one with tables of its own or shared. */
  destroy(machine, dice) {
    const gone = MIXED_DOMAINS.filter(({ domain }) => !machine.control.root.domains[domain]);
    const back = dice.of(gone, null);
    if (back) return back.kind === 'hvm' ? { ...back, sharedTables: dice.percent(50) } : back;
    return { op: 'destroy_domain', vcpu: dice.below(2), domain: dice.below(5) };
  },
};

/** Two hex digits of a value's byte. */
function byteAt(value: number, shift: number): string {
  return (Math.floor(value / 2 ** shift) & 0xff).toString(16).padStart(2, '0');
}

function pv(machine: Hypervisor, dice: Dice): number {
  return dice.percent(97) ? dice.of(aliveDomains(machine, 'pv'), 0) : dice.below(4);
}

/** Where a PV domain maps: seldom over a grant's mapping, which leaves its handle behind. */
function place(machine: Hypervisor, dice: Dice, domain: number): number {
  return dice.of(dice.percent(97) ? plainPlaces(machine, domain) : placesOf(machine, domain), 0);
}

function gfn(machine: Hypervisor, dice: Dice, domain: number): number {
  if (!isHvm(machine, domain)) return dice.below(20);
  const { p2m } = machine.parts;
  const grants = (at: number) => p2m.type(domain as Domid, at as Gfn) > P2mType.ram;
  const all = Array.from({ length: p2m.gfns + 1 }, (_, at) => at);
  const free = emptyPlaces(machine, domain).map((address) => address / PAGE);
  return dice.percent(85) ? dice.of(free, 1) : dice.of(dice.percent(90) ? all.filter((at) => !grants(at)) : all, 1);
}

function grow(machine: Hypervisor, dice: Dice, op: 'populate_physmap' | 'increase_reservation'): Op {
  const domain = dice.of(aliveDomains(machine), 0);
  const isFull = ramOf(machine, domain).length >= RAM_MAX;
  const order = dice.percent(10) ? 1 : 0;
  const last = isHvm(machine, domain) ? machine.parts.p2m.gfns - (1 << order) : Number.POSITIVE_INFINITY;
  const gfns = isFull ? [] : dice.some(2, () => gfn(machine, dice, domain)).filter((at) => at <= last);
  return { op, vcpu: dice.below(2), domain, gfns, order };
}
