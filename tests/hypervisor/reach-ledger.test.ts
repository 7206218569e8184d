// Who may reach which frame, kept in a ledger of a few lines from what operations return, beside the engine: what a
// domain's processor has mapped where, and what its devices reach of others' frames.

import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { GNTMAP } from '../../grant/index.ts';
import { type Hypervisor, type Op, type OpResult, P2mType, PV_WINDOW_BASE } from '../../hypervisor/index.ts';
import type { Dfn, Gfn, Mfn } from '../../machine/frame-number.ts';
import type { Domid } from '../../machine/ids.ts';
import { type Draw, drawArbitrary, mixedMachine, opOf } from '../../verify/index.ts';

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
}

class ReachLedger {
  /** `domain@address`: frame and rights. */
  readonly mapped = new Map<string, string>();
  readonly #handles = new Map<string, Known>();

  /** Frames of others that a domain's devices reach: whatever it holds a handle on, by the strongest of them. */
  devices(domain: number): Map<number, number> {
    const reach = new Map<number, number>();
    for (const [key, { frame, granter, writable, halves }] of this.#handles) {
      if (!key.startsWith(`${domain}/`) || halves === 0 || granter === domain) continue;
      reach.set(frame, (reach.get(frame) ?? 0) | (writable ? 3 : 1));
    }
    return reach;
  }

  #put(domain: number, address: number, frame: number | null, writable = false): void {
    const key = `${domain}@${pageOf(address)}`;
    if (frame === null) this.mapped.delete(key);
    else this.mapped.set(key, `${frame} ${writable ? 'rw' : 'r'}`);
  }

  note(op: Op, { result, elements = [], frames = [] }: OpResult): void {
    if (op.op === 'map_grant_ref') {
      for (const [at, { status, handle, busAddress }] of elements.entries()) {
        const { flags, domain: granter, hostAddress } = op.elements[at]!;
        if (status !== 0) continue;
        const frame = Number(busAddress) / PAGE;
        const writable = (flags & READONLY) === 0;
        this.#handles.set(`${op.domain}/${handle}`, { frame, granter, writable, halves: flags & (HOST | DEVICE) });
        if ((flags & HOST) !== 0) this.#put(op.domain, Number(hostAddress), frame, writable);
      }
    } else if (op.op === 'unmap_grant_ref' || op.op === 'unmap_and_replace') this.#unmapped(op, elements);
    else if (result !== 0) return;
    else if (op.op === 'update_va_mapping') {
      const entry = Number(op.entry);
      this.#put(op.domain, Number(op.address), entry === 0 ? null : Math.floor(entry / PAGE), (entry & 2) !== 0);
    } else if (op.op === 'map_foreign') {
      this.#put(op.domain, Number(op.address), op.frame === null ? null : Number(frames[0]), op.writable);
    }
  }

  #unmapped(
    op: Extract<Op, { op: 'unmap_grant_ref' | 'unmap_and_replace' }>,
    elements: readonly { readonly status: number }[],
  ): void {
    for (const [at, element] of op.elements.entries()) {
      const status = elements[at]?.status;
      const known = this.#handles.get(`${op.domain}/${element.handle}`);
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

/** What the engine says: window entries of PV domains, grants' p2m entries, and device tables beside own frames. */
function engineSays(machine: Hypervisor) {
  const { pvTables, p2m, driver, frames } = machine.parts;
  const mapped = new Map<string, string>();
  const devices = new Map<number, Map<number, number>>();
  for (const domain of machine.control.root.domains) {
    if (!domain) continue;
    const id = domain.domain as Domid;
    for (let page = 0; domain.kind === 'pv' && page < machine.config.windowPages; page += 1) {
      const address = PV_WINDOW_BASE + page * PAGE;
      if (!pvTables.find(id, address % 2 ** 32, Math.floor(address / 2 ** 32)) || (pvTables.low & 1) === 0) continue;
      mapped.set(`${id}@${address}`, `${pvTables.low >>> 12} ${(pvTables.low & 2) !== 0 ? 'rw' : 'r'}`);
    }
    for (let gfn = 0; domain.kind === 'hvm' && gfn < p2m.gfns; gfn += 1) {
      const type = p2m.type(id, gfn as Gfn);
      if (type < P2mType.grantWritable) continue;
      const rights = type === P2mType.grantWritable ? 'rw' : 'r';
      mapped.set(`${id}@${gfn * PAGE}`, `${p2m.frame(id, gfn as Gfn)} ${rights}`);
    }
    const reach = new Map<number, number>();
    for (let dfn = 0; domain.kind === 'pv' && dfn < machine.config.frames; dfn += 1) {
      const isOwn = frames.isAllocated(dfn) && frames.owner(dfn as Mfn) === id;
      const { rights, frame } = driver.lookup(id, dfn as Dfn);
      if (rights !== 0 && !isOwn) reach.set(frame, rights);
    }
    devices.set(id, reach);
  }
  return { mapped, devices };
}

/** Where ledger and engine part; null: nowhere. Domains do not die here: that takes more of a ledger. */
function parting(machine: Hypervisor, sequence: readonly Draw[]): string | null {
  const ledger = new ReachLedger();
  for (const draw of sequence) {
    const op = opOf(machine, draw);
    // What the guest does not learn, it cannot keep.
    if ('unwritableFrom' in op && op.unwritableFrom !== undefined) continue;
    const result = machine.step(op);
    ledger.note(op, result);
    const { mapped, devices } = engineSays(machine);
    const text = (map: ReadonlyMap<unknown, unknown>) => JSON.stringify([...map].sort());
    const at = `after ${JSON.stringify(op)}: `;
    if (text(mapped) !== text(ledger.mapped)) return `${at}mapped ${text(mapped)}, ledger ${text(ledger.mapped)}`;
    for (const [domain, reach] of devices) {
      const { iommu, kind } = machine.control.root.domains[domain]!;
      if (!iommu || kind !== 'pv') continue;
      const known = ledger.devices(domain);
      if (text(reach) !== text(known)) return `${at}devices of ${domain} ${text(reach)}, ledger ${text(known)}`;
    }
  }
  return null;
}

const draws = fc.array(drawArbitrary(fc, { without: ['destroy'] }), { minLength: 1, maxLength: 50, size: 'max' });

describe('a ledger of who may reach which frame', () => {
  test.prop([draws], { numRuns: 60 })('says what page tables, p2m and device tables say', (sequence) => {
    expect(parting(mixedMachine(), sequence)).toBeNull();
  });

  it('notices a handle that is not counted', () => {
    const mistaken = () => {
      const machine = mixedMachine();
      const { grants } = machine.parts;
      const count = grants.countHandle.bind(grants);
      // A read-only handle counts as writable.
      grants.countHandle = (mapper, frame, _readOnly, by) => count(mapper, frame, false, by);
      return machine;
    };
    const property = fc.property(draws, (sequence) => parting(mistaken(), sequence) === null);
    expect(fc.check(property, { numRuns: 200, seed: 5, endOnFailure: true }).failed).toBe(true);
  });
});
