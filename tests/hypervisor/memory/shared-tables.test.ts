// HVM guests whose devices walk the processor's own tables (shared EPT): the p2m write is the device entry, and all
// that is left to do is a flush. Section 2.1 (who needs it) and 2.3 (xen: ept_set_entry) of the reference.

import { beforeEach, describe, expect, it } from 'vitest';
import { GTF } from '../../../grant/index.ts';
import type { MachineOptions } from '../../../hypervisor/index.ts';
import { violations } from '../../../verify/index.ts';
import { A, B, DEV, GuestScene, H, HOST, RO } from '../../grant/guest-scene.ts';

const at = (gfn: number) => gfn * 4096;

/** Domain 3 shares its tables and has the device; domain 2 grants it two frames. */
function scene(options: MachineOptions = {}, sharedTables = true): GuestScene {
  const made = new GuestScene(options, { [A]: { iommu: false }, [H]: { sharedTables } });
  made.assign(H);
  made.grant(8, { grantee: H });
  made.grant(9, { grantee: H, index: 1 });
  return made;
}

const mapAt = (s: GuestScene, gfn: number, flags: number = HOST, ref = 8) =>
  s.map(flags, { by: H, ref, hostAddress: at(gfn) });

let s: GuestScene;
beforeEach(() => {
  s = scene();
});

describe('2.1 shared EPT: the p2m entry is the device entry', () => {
  it('has RAM reachable from the start, at its gfn', () => {
    for (let gfn = 0; gfn < 8; gfn += 1) expect(s.dma(gfn, 'write')).toBe(s.machineFrame(H, gfn));
    expect(s.dma(8)).toBe('readNotPermitted');
  });

  it('gives devices what the type of the entry says: a grant read-write, or read-only', () => {
    expect(mapAt(s, 10).status).toBe(0);
    expect(mapAt(s, 11, HOST | RO).status).toBe(0);
    expect([s.dma(10, 'write'), s.dma(11, 'read'), s.dma(11, 'write')]).toEqual([
      s.frame(B),
      s.frame(B),
      'writeNotPermitted',
    ]);
  });

  it('is for HVM guests with an IOMMU only', () => {
    const create = { op: 'create_domain', domain: 4, frames: 1, sharedTables: true } as const;
    expect(() => s.step({ ...create, kind: 'pv', iommu: true })).toThrow(/sharedTables/);
    expect(() => s.step({ ...create, kind: 'hvm' })).toThrow(/sharedTables/);
  });
});

describe('2.3 ept_set_entry: a flush for every change of frame or rights', () => {
  it('of a hole that is filled: nothing, for nothing absent is cached', () => {
    expect(s.during(() => mapAt(s, 10))).toEqual([]);
  });

  it('of a hole that is filled under caching mode: the page', () => {
    s = scene({ units: [{ capabilities: { cachingMode: true } }] });
    expect(s.during(() => mapAt(s, 10))).toEqual([`page 10 of ${H}`]);
  });

  it.each([true, false])('of an entry that goes or changes: the page (caching mode %s)', (cachingMode) => {
    s = scene({ units: [{ capabilities: { cachingMode } }] });
    mapAt(s, 10);
    expect(s.during(() => s.unmap({ handle: 0, hostAddress: at(10) }, { by: H }))).toEqual([`page 10 of ${H}`]);
    // Over RAM: the frame behind a present entry changes.
    expect(s.during(() => mapAt(s, 3))).toEqual([`page 3 of ${H}`]);
    expect(s.during(() => s.do({ op: 'decrease_reservation', domain: H, frames: [4] }))).toEqual([`page 4 of ${H}`]);
  });

  it('counts no handles: one frame at two gfns is two entries, without promotion or demotion', () => {
    expect(s.during(() => [mapAt(s, 10, HOST | RO), mapAt(s, 11)])).toEqual([]);
    expect(s.during(() => s.unmap({ handle: 1, hostAddress: at(11) }, { by: H }))).toEqual([`page 11 of ${H}`]);
    expect([s.rights(H, 10), s.rights(H, 11)]).toEqual(['r', '-']);
  });

  it('says nothing while no device walks the tables', () => {
    s.do({ op: 'deassign_device', device: DEV });
    expect(s.during(() => [mapAt(s, 10), s.unmap({ handle: 0, hostAddress: at(10) }, { by: H })])).toEqual([]);
    expect(s.rights(H, 10)).toBe('-');
  });
});

describe('2.3 shared tables are not restructured for the sake of devices', () => {
  /** 512 gfns of one 2 MiB block, each mapped apart. */
  function filled(sharedTables: boolean): GuestScene {
    const options = { frames: 1536, gfns: 1024, batchMax: 512 };
    const made = new GuestScene(options, { [A]: { iommu: false }, [H]: { sharedTables, frames: 0 } });
    made.assign(H);
    const gfns = Array.from({ length: 511 }, (_, gfn) => gfn);
    made.do({ op: 'populate_physmap', domain: H, gfns, allocate: gfns.map((gfn) => 512 + gfn) });
    return made;
  }
  const last = { op: 'populate_physmap', domain: H, gfns: [511], allocate: [1023] } as const;

  it('forms no large leaf, where separate tables do and flush the domain', () => {
    const [shared, separate] = [filled(true), filled(false)];
    expect(shared.during(() => shared.do(last))).toEqual([]);
    expect(separate.during(() => separate.do(last))).toEqual([`domain of ${H}`]);
    expect([shared.dma(511), separate.dma(511)]).toEqual([1023, 1023]);
  });

  it('unhooks no empty table, where separate tables do and flush the domain', () => {
    const [shared, separate] = [scene(), scene({}, false)].map((made) => {
      made.do({ op: 'decrease_reservation', domain: H, frames: [0, 1, 2, 3, 4, 5, 6] });
      return made.during(() => made.do({ op: 'decrease_reservation', domain: H, frames: [7] }));
    });
    expect(shared).toEqual([`page 7 of ${H}`]);
    expect(separate).toEqual([`domain of ${H}`]);
  });
});

describe('2.2 the order of an unmap by an HVM mapper: entry cleared and flushed, then handle, pins and usage bits', () => {
  it('keeps the grant in use until the invalidation is complete', () => {
    mapAt(s, 10);
    const seen: string[] = [];
    const unit = s.machine.units[0]!;
    const before = unit.counter('waits');
    s.inPieces({ op: 'unmap_grant_ref', domain: H, elements: [{ handle: 0, hostAddress: at(10) }] }, () => {
      const state = `${s.rights(H, 10)} ${unit.counter('waits') - before} ${s.usage(8)} ${s.pins(8)}`;
      if (seen.at(-1) !== state) seen.push(state);
    });
    expect(seen).toEqual(['- 0 rw 1/0/0/0', '- 1 rw 1/0/0/0', '- 1 -- 0/0/0/0']);
    expect(violations(s.machine)).toEqual([]);
  });

  it('leaves the flags of the entry to the guest again', () => {
    mapAt(s, 10);
    s.unmap({ handle: 0, hostAddress: at(10) }, { by: H });
    expect(s.entry(8)[0]! & (GTF.reading | GTF.writing)).toBe(0);
  });
});
