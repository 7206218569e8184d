// Draws of grant operations on batches, and of the entries that they need.

import { GNTMAP, GTF } from '../../grant/index.ts';
import type { CopyElementInput, GrantOp, Hypervisor, MapElementInput } from '../../hypervisor/index.ts';
import { DOMID_SELF, type Domid } from '../../machine/ids.ts';
import type { Dice } from './dice.ts';
import {
  aliveDomains,
  DRAWN_REFS,
  emptyPlaces,
  isHvm,
  liveHandles,
  offersTo,
  placesOf,
  plainRamOf,
  usedRefs,
} from './surroundings.ts';

export type GrantDraw = 'grant' | 'rewrite' | 'map' | 'unmap' | 'replace' | 'copy' | 'transfer';

const { host_map: HOST, device_map: DEVICE, readonly: READONLY } = GNTMAP;
const PAGE = 4096;
/** A domain that there is not. */
const NOBODY = 0x7ff4;
const RAM_MAX = 16;

export const grantDraws: Readonly<Record<GrantDraw, (machine: Hypervisor, dice: Dice) => GrantOp>> = {
  grant: (machine, dice) => write(machine, dice, dice.of(aliveDomains(machine), 0), dice.of(DRAWN_REFS, 8)),
  /** Hostile: an entry in use is written over. */
  rewrite(machine, dice) {
    const used = aliveDomains(machine).flatMap((domain) => usedRefs(machine, domain).map((ref) => ({ domain, ref })));
    const { domain, ref } = dice.of(used, { domain: dice.below(4), ref: 8 });
    return write(machine, dice, domain, ref);
  },
  map(machine, dice) {
    const domain = mapper(machine, dice, [GTF.permit_access]);
    const batch = { elements: dice.some(3, () => mapElement(machine, dice, domain)), ...trouble(dice) };
    return { op: 'map_grant_ref', vcpu: dice.below(2), domain, ...batch };
  },
  unmap(machine, dice) {
    const domain = holder(machine, dice);
    const elements = dice.some(3, () => {
      const { handle, address, frame, flags } = handleOf(machine, dice, domain);
      const whole = dice.percent(60);
      const takesHost = whole || dice.percent(50);
      const bus = (frame + (dice.percent(8) ? 1 : 0)) * PAGE;
      return {
        handle: dice.percent(4) ? dice.below(300) : handle,
        ...(takesHost ? { hostAddress: dice.percent(10) ? dice.of(placesOf(machine, domain), 0) : address } : {}),
        ...((flags & DEVICE) !== 0 && (whole || !takesHost) ? { busAddress: bus } : {}),
      };
    });
    return { op: 'unmap_grant_ref', vcpu: dice.below(2), domain, elements, ...trouble(dice) };
  },
  replace(machine, dice) {
    const domain = holder(machine, dice, dice.percent(90) ? 'pv' : undefined);
    const elements = dice.some(2, () => {
      const { handle, address } = handleOf(machine, dice, domain);
      const target = dice.percent(20) ? 0 : dice.of(placesOf(machine, domain), 0);
      const host = dice.percent(65) ? address : dice.of(placesOf(machine, domain), 0);
      return { handle, hostAddress: host, newAddress: target === address ? 0 : target };
    });
    return { op: 'unmap_and_replace', vcpu: dice.below(2), domain, elements, ...trouble(dice) };
  },
  copy(machine, dice) {
    const domain = mapper(machine, dice, [GTF.permit_access, GTF.transitive]);
    const elements = dice.some(3, () => copyElement(machine, dice, domain));
    return { op: 'copy', vcpu: dice.below(2), domain, elements, ...trouble(dice) };
  },
  transfer(machine, dice) {
    const domain = dice.percent(92) ? mapper(machine, dice, [GTF.accept_transfer]) : dice.below(4);
    const elements = dice.some(2, () => {
      const offer = dice.of(offersTo(machine, domain, [GTF.accept_transfer]), null);
      return {
        frame: dice.percent(95) ? dice.of(plainRamOf(machine, domain), 0) : dice.below(100),
        domain: offer && dice.percent(92) ? offer.granter : dice.below(5),
        ref: offer && dice.percent(96) ? offer.ref : 8,
      };
    });
    return { op: 'transfer', vcpu: dice.below(2), domain, elements, ...trouble(dice) };
  },
};

/** What goes wrong around a batch, now and then. */
function trouble(dice: Dice): Pick<Extract<GrantOp, { op: 'copy' }>, 'argument' | 'unreadableFrom' | 'preemptAfter'> {
  if (dice.percent(90)) return {};
  const at = dice.below(3);
  return dice.one<object>(
    { argument: 'unmapped' },
    { argument: 'forbidden' },
    { unreadableFrom: at },
    { unwritableFrom: at },
    { preemptAfter: 1 + at },
  );
}

/** A domain that something is granted to. */
function mapper(machine: Hypervisor, dice: Dice, types: readonly number[]): number {
  const alive = aliveDomains(machine);
  return dice.of(
    alive.filter((domain) => offersTo(machine, domain, types).length > 0),
    dice.of(alive, 0),
  );
}

/** A domain that has mapped something. */
function holder(machine: Hypervisor, dice: Dice, kind?: 'pv'): number {
  const alive = aliveDomains(machine, kind);
  return dice.of(
    alive.filter((domain) => liveHandles(machine, domain).length > 0),
    dice.of(alive, 0),
  );
}

function handleOf(machine: Hypervisor, dice: Dice, domain: number) {
  return dice.of(liveHandles(machine, domain), { handle: dice.below(4), flags: 0, frame: 0, address: PAGE });
}

/** A guest writes an entry: mostly one that grants something, in the layout in force. */
function write(machine: Hypervisor, dice: Dice, domain: number, ref: number): GrantOp {
  const version = machine.parts.grants.version(domain as Domid);
  const layout = (dice.percent(96) && version === 2) || dice.percent(2) ? 2 : 1;
  const others = aliveDomains(machine).filter((other) => other !== domain);
  const grantee = dice.percent(92) ? dice.of(others, 0) : dice.one(domain, NOBODY);
  const entry = { op: 'grant_write' as const, domain, ref, layout, grantee } as const;
  const readonly = dice.percent(20) ? GTF.readonly : 0;
  // Few frames, so that entries meet on them.
  const ram = plainRamOf(machine, domain).slice(0, dice.percent(60) ? 1 : RAM_MAX);
  const frame = dice.percent(96) ? dice.of(ram, 0) : dice.below(100);
  const kind = dice.below(layout === 2 ? 20 : 10);
  if (kind === 0) return { ...entry, flags: dice.one(GTF.invalid, GTF.transitive, 0xffff), frame };
  if (kind <= 2) {
    const slot = isHvm(machine, domain) ? dice.of(emptyPlaces(machine, domain), 0) / PAGE : frame;
    return { ...entry, flags: GTF.accept_transfer, frame: slot };
  }
  // Usage bits are the hypervisor's to write, but nothing keeps a guest from doing so.
  const preset = dice.percent(6) ? GTF.reading | GTF.writing : 0;
  if (kind <= 9) return { ...entry, flags: GTF.permit_access | readonly | preset, frame };
  if (kind <= 12) {
    // The guest may write anything; both fields have 16 bits.
    const isOdd = dice.percent(15);
    const subPage = {
      offset: isOdd ? dice.one(0x7fff, 0x8000, 0x8040, 0xffff) : dice.below(32) * 64,
      length: isOdd ? dice.one(0, 4096, 4097, 0x8000, 0xffff) : 64 << dice.below(6),
    };
    return { ...entry, flags: GTF.permit_access | GTF.sub_page | readonly, frame, subPage };
  }
  const next = dice.of(offersTo(machine, domain, [GTF.permit_access]), { granter: 0, ref: 8, flags: 0 });
  const transitive = { domain: next.granter, ref: next.ref };
  return { ...entry, flags: GTF.transitive | readonly, transitive };
}

function mapElement(machine: Hypervisor, dice: Dice, domain: number): MapElementInput {
  const offers = offersTo(machine, domain, [GTF.permit_access]);
  const offer = dice.of(offers, { granter: dice.below(4), ref: 8, flags: 0 });
  const readOnly = (offer.flags & READONLY) !== 0 ? dice.percent(90) : dice.percent(40);
  const isHost = isHvm(machine, domain) || dice.percent(75);
  const halves = isHost ? HOST | (dice.percent(isHvm(machine, domain) ? 2 : 35) ? DEVICE : 0) : DEVICE;
  const free = emptyPlaces(machine, domain);
  const place = dice.percent(94) ? dice.of(free, 0) : dice.of(placesOf(machine, domain), 0);
  return {
    hostAddress: dice.percent(98) ? place : dice.one<number>(0, 0x5000000000, 7),
    flags: (dice.percent(97) ? halves : dice.below(32)) | (readOnly ? READONLY : 0),
    ref: dice.percent(97) ? offer.ref : dice.one(2, 3000),
    domain: dice.percent(97) ? offer.granter : dice.one(4, NOBODY, domain),
  };
}

function copyElement(machine: Hypervisor, dice: Dice, domain: number): CopyElementInput {
  const { grants } = machine.parts;
  const offers = offersTo(machine, domain, [GTF.permit_access, GTF.transitive]);
  const end = (isWritten: boolean) => {
    const fitting = isWritten ? offers.filter(({ flags }) => (flags & GTF.readonly) === 0) : offers;
    const offer = dice.of(fitting, null);
    const offset = dice.one(0, 0, 64, 128, 512, 4000);
    if (offer && dice.percent(70)) {
      const isPart = grants.version(offer.granter as Domid) === 2 && (offer.flags & GTF.sub_page) !== 0;
      const first = isPart ? grants.shared(offer.granter as Domid, offer.ref, 1) & 0xffff : 0;
      const granter = dice.percent(97) ? offer.granter : 4;
      return { ref: offer.ref, domain: granter, offset: isPart && dice.percent(80) ? first : offset };
    }
    const frame = dice.percent(95) ? dice.of(plainRamOf(machine, domain), 0) : dice.below(100);
    return { frame, domain: dice.percent(95) ? DOMID_SELF : dice.below(5), offset };
  };
  const source = end(false);
  const destination = end(true);
  const flags = ('ref' in source ? 1 : 0) | ('ref' in destination ? 2 : 0);
  return { source, destination, length: dice.one(8, 16, 64, 200, 0), flags };
}
