// Who may reach which frame, kept in a ledger of a few lines from what operations return, beside the engine: what a
// domain's processor has mapped where, and what its devices reach of others' frames.

import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { GNTMAP } from '../../grant/index.ts';
import { type Hypervisor, type Op, type OpResult, P2mType, PV_WINDOW_BASE } from '../../hypervisor/index.ts';
import type { Dfn, Gfn, Mfn } from '../../machine/frame-number.ts';
import type { Domid } from '../../machine/ids.ts';
import {
  type Draw,
  drawArbitrary,
  isConfined,
  MIXED_DOMAINS,
  mixedMachine,
  mixedVariants,
  opOf,
} from '../../verify/index.ts';
import { expectFound } from '../verify/found.ts';
import { doAndTell } from './cut-batches.ts';

const { host_map: HOST, device_map: DEVICE, readonly: READONLY } = GNTMAP;
const PAGE = 4096;

/** Address of the page that an address lies in. */
const pageOf = (address: number) => address - (address % PAGE);

/** A PV handle as its domain knows it: what it mapped, and which halves of that it still has. */
interface Known {
  readonly frame: number;
  readonly granter: number;
  readonly writable: boolean;
  halves: number;
  /** Its granter was destroyed: once that is gone, nothing ends the handle any more, and who tries is crashed. */
  lost: boolean;
}

const text = (frame: number, writable: boolean) => `${frame} ${writable ? 'rw' : 'r'}`;

class ReachLedger {
  /** `domain@address`: frame and rights. */
  readonly mapped = new Map<string, string>();
  readonly #handles = new Map<string, Known>();

  /**
   * Beside its own memory, a domain's devices reach: of an HVM domain what it has mapped, there; of a PV domain each
   * frame of others that it holds a handle on, by the strongest of them.
   */
  devices(domain: number): Map<string, string> {
    if (MIXED_DOMAINS[domain]!.kind === 'hvm')
      return new Map([...this.mapped].filter(([key]) => key.startsWith(`${domain}@`)));
    const reach = new Map<string, string>();
    for (const [key, { frame, granter, writable, halves }] of this.#handles) {
      if (!key.startsWith(`${domain}/`) || halves === 0 || granter === domain) continue;
      const at = `${domain}@${frame * PAGE}`;
      if (writable || !reach.has(at)) reach.set(at, text(frame, writable));
    }
    return reach;
  }

  #put(domain: number, address: number, frame: number | null, writable = false): void {
    const key = `${domain}@${pageOf(address)}`;
    if (frame === null) this.mapped.delete(key);
    else this.mapped.set(key, text(frame, writable));
  }

  note(op: Op, { result, elements = [], frames = [], crashed }: OpResult): void {
    if (op.op === 'map_grant_ref') {
      for (const [at, { status, handle, busAddress }] of elements.entries()) {
        const { flags, domain: granter, hostAddress } = op.elements[at]!;
        if (status !== 0) continue;
        const frame = Number(busAddress) / PAGE;
        const writable = (flags & READONLY) === 0;
        this.#handles.set(`${op.domain}/${handle}`, {
          frame,
          granter,
          writable,
          halves: flags & (HOST | DEVICE),
          lost: false,
        });
        if ((flags & HOST) !== 0) this.#put(op.domain, Number(hostAddress), frame, writable);
      }
    } else if (op.op === 'unmap_grant_ref' || op.op === 'unmap_and_replace')
      this.#unmapped(op, elements, crashed !== undefined);
    else if (op.op === 'decrease_reservation') {
      for (const gfn of op.frames.slice(0, result)) this.#put(op.domain, gfn * PAGE, null);
    } else if (result !== 0) return;
    else if (op.op === 'destroy_domain') this.#destroyed(op.domain);
    else if (op.op === 'add_to_physmap' || op.op === 'remove_from_physmap') this.#put(op.domain, op.gfn * PAGE, null);
    else if (op.op === 'update_va_mapping') {
      const entry = Number(op.entry);
      this.#put(op.domain, Number(op.address), entry === 0 ? null : Math.floor(entry / PAGE), (entry & 2) !== 0);
    } else if (op.op === 'map_foreign') {
      this.#put(op.domain, Number(op.address), op.frame === null ? null : Number(frames[0]), op.writable);
    }
  }

  /** A domain has nothing more; what others have of its memory they keep. */
  #destroyed(domain: number): void {
    for (const key of this.mapped.keys()) if (key.startsWith(`${domain}@`)) this.mapped.delete(key);
    for (const [key, known] of this.#handles) {
      if (key.startsWith(`${domain}/`)) this.#handles.delete(key);
      else if (known.granter === domain) known.lost = true;
    }
  }

  #unmapped(
    op: Extract<Op, { op: 'unmap_grant_ref' | 'unmap_and_replace' }>,
    elements: readonly { readonly status: number }[],
    crashed: boolean,
  ): void {
    for (const [at, element] of op.elements.entries()) {
      const status = elements[at]?.status;
      const known = this.#handles.get(`${op.domain}/${element.handle}`);
      if (crashed && known?.lost) continue;
      const target = 'newAddress' in element ? Number(element.newAddress ?? 0) : 0;
      const from = `${op.domain}@${pageOf(target)}`;
      const takesHost = known !== undefined && (known.halves & HOST) !== 0 && (element.hostAddress ?? 0) !== 0;
      // A replacement that is refused has emptied the new address all the same.
      const moved = this.mapped.get(from);
      if (takesHost && target !== 0 && (status === 0 || status === -1)) this.mapped.delete(from);
      if (status !== 0 || !known) continue;
      if (takesHost) {
        known.halves &= ~HOST;
        this.#put(op.domain, Number(element.hostAddress), null);
        if (target !== 0 && moved) this.mapped.set(`${op.domain}@${pageOf(Number(element.hostAddress))}`, moved);
      }
      if ('busAddress' in element && (element.busAddress ?? 0) !== 0) known.halves &= ~DEVICE;
    }
  }
}

/** What the engine says: window entries of PV domains, and grants' p2m entries. */
function mappedIn(machine: Hypervisor): Map<string, string> {
  const { pvTables, p2m } = machine.parts;
  const mapped = new Map<string, string>();
  for (const { domain, kind } of MIXED_DOMAINS) {
    const id = domain as Domid;
    for (let page = 0; kind === 'pv' && page < machine.config.windowPages; page += 1) {
      const address = PV_WINDOW_BASE + page * PAGE;
      if (!pvTables.find(id, address % 2 ** 32, Math.floor(address / 2 ** 32)) || (pvTables.low & 1) === 0) continue;
      mapped.set(`${id}@${address}`, text(pvTables.low >>> 12, (pvTables.low & 2) !== 0));
    }
    for (let gfn = 0; kind === 'hvm' && gfn < p2m.gfns; gfn += 1) {
      const type = p2m.type(id, gfn as Gfn);
      if (type < P2mType.grantWritable) continue;
      mapped.set(`${id}@${gfn * PAGE}`, text(p2m.frame(id, gfn as Gfn), type === P2mType.grantWritable));
    }
  }
  return mapped;
}

/** What device tables say, but for the domain's own memory where `known` has nothing. */
function devicesOf(machine: Hypervisor, domain: Domid, known: ReadonlyMap<string, string>): Map<string, string> {
  const { driver, frames } = machine.parts;
  const reach = new Map<string, string>();
  for (let dfn = 0; dfn < machine.config.frames; dfn += 1) {
    const { rights, frame } = driver.lookup(domain, dfn as Dfn);
    const isOwn = frames.isAllocated(frame) && frames.owner(frame as Mfn) === domain && rights === 3;
    const key = `${domain}@${dfn * PAGE}`;
    if (rights !== 0 && (!isOwn || known.has(key))) reach.set(key, text(frame, rights === 3));
  }
  return reach;
}

/** Where ledger and engine part; null: nowhere. */
function parting(machine: Hypervisor, sequence: readonly Draw[]): string | null {
  const ledger = new ReachLedger();
  const shown = (map: ReadonlyMap<string, string>) => JSON.stringify([...map].sort());
  for (const draw of sequence) {
    const { op, result } = doAndTell(machine, opOf(machine, draw));
    ledger.note(op, result);
    const [mapped, known] = [shown(mappedIn(machine)), shown(ledger.mapped)];
    if (mapped !== known) return `after ${JSON.stringify(op)}: mapped ${mapped}, ledger ${known}`;
    for (const { domain, iommu } of MIXED_DOMAINS) {
      if (!iommu || !isConfined(machine, domain)) continue;
      const expected = ledger.devices(domain);
      const reach = devicesOf(machine, domain as Domid, expected);
      if (shown(reach) !== shown(expected))
        return `after ${JSON.stringify(op)}: devices ${shown(reach)}, ledger ${shown(expected)}`;
    }
  }
  return null;
}

const draws = fc.array(drawArbitrary(fc), { minLength: 1, maxLength: 50, size: 'max' });
const variants = fc.constantFrom(...mixedVariants);

/** Mistakes in the running machine. */
const mistakes: readonly (readonly [string, (machine: Hypervisor) => void])[] = [
  [
    'a read-only handle counts as writable',
    ({ parts: { grants } }) => {
      const count = grants.countHandle.bind(grants);
      grants.countHandle = (mapper, frame, _readOnly, by) => count(mapper, frame, false, by);
    },
  ],
  [
    'devices of an HVM domain write what is mapped to read',
    ({ access }) => {
      const set = access.setFrame.bind(access);
      access.setFrame = (vcpu, domain, dfn, frame, rights) => set(vcpu, domain, dfn, frame, rights && 3);
    },
  ],
  [
    'a dead domain keeps its device tables',
    ({ parts: { driver } }) => {
      driver.destroyTables = () => {};
    },
  ],
];

describe('a ledger of who may reach which frame', () => {
  test.prop([variants, draws], { numRuns: 60 })(
    'says what page tables, p2m and device tables say',
    (variant, sequence) => {
      expect(parting(mixedMachine('strict-page', { variant }), sequence)).toBeNull();
    },
  );

  it.each(mistakes)('notices that %s', (_, plant) => {
    const property = fc.property(draws, (sequence) => {
      const machine = mixedMachine();
      plant(machine);
      return parting(machine, sequence) === null;
    });
    expectFound(fc.check(property, { numRuns: 200, seed: 5, endOnFailure: true }));
  });
});
