// X1, what Xen lets a PV domain do: it writes over its mapping of a grant, and its devices keep a frame to which it
// holds no reference. The invariants pass over it; the report does not.

import { describe, expect, it } from 'vitest';
import { GNTMAP, GTF } from '../../../grant/index.ts';
import { type Op, PV_WINDOW_BASE } from '../../../hypervisor/index.ts';
import { exemptions, mixedMachine, violations } from '../../../verify/index.ts';

const DEVICE = '0000:02:00.0';

/** Domain 1, which has a device, has mapped domain 3's first frame to write, and taken the entry away. */
function overwritten() {
  const machine = mixedMachine();
  const { first } = machine.control.root.domains[3]!.ram;
  const done = (op: Op) => expect(machine.step(op).result, op.op).toBeGreaterThanOrEqual(0);
  const reports = () => violations(machine, exemptions).map(({ invariant, message }) => `${invariant} ${message}`);
  const map = { ref: 8, domain: 3, hostAddress: PV_WINDOW_BASE, flags: GNTMAP.host_map };
  done({ op: 'grant_write', domain: 3, ref: 8, flags: GTF.permit_access, grantee: 1, frame: first });
  done({ op: 'map_grant_ref', domain: 1, elements: [map] });
  expect(reports()).toEqual([]);
  done({ op: 'update_va_mapping', domain: 1, address: PV_WINDOW_BASE, entry: 0 });
  return { machine, first, done, reports };
}

const fates: readonly (readonly [string, (frame: number) => Op | null, string])[] = [
  ['stays where it is', () => null, 'memory of domain 3'],
  ['is given back', (frame) => ({ op: 'decrease_reservation', domain: 3, frames: [frame] }), 'free'],
  ['becomes a page table', (frame) => ({ op: 'pin_table', domain: 3, frame, level: 1 }), 'a page table of domain 3'],
  ['loses its domain', () => ({ op: 'destroy_domain', domain: 3 }), 'free'],
];

describe('X1: the mapping of a grant written over', () => {
  it.each(fates)('is reported when the frame %s', (_, next, fate) => {
    const { machine, first, done, reports } = overwritten();
    const op = next(first);
    if (op) done(op);
    const said = `X1 domain 1 wrote over a mapping of frame ${first}: its devices may write it, and it is ${fate}`;
    expect(reports()).toEqual([said]);
    expect(violations(machine)).toEqual([]);
    const { dma } = machine.step({ op: 'dma', device: DEVICE, address: first * 4096, access: 'write' });
    expect(dma?.frame).toBe(first);
  });

  it('ends with the domain that did it', () => {
    const { done, reports } = overwritten();
    done({ op: 'destroy_domain', domain: 1 });
    expect(reports()).toEqual([]);
  });
});
