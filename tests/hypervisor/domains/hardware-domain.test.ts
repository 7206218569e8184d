// What the hardware domain's devices reach: section 3.8 of the reference (strict, relaxed, pass-through), section 2.1,
// and section 9 row 19.

import { describe, expect, it } from 'vitest';
import type { MachineOptions } from '../../../hypervisor/index.ts';
import { parseSbdf } from '../../../machine/ids.ts';
import { A, B, type Casting, GuestScene, HOST, HW, page, RO } from '../../grant/guest-scene.ts';

/** A device that stays with the hardware domain. */
const ITS_OWN = '0000:04:00.0';

function scene(
  hardwareDomain: 'strict' | 'relaxed' | 'passthrough',
  options: MachineOptions = {},
  casting: Casting = {},
): GuestScene {
  const devices = [
    { device: '0000:03:00.0', unit: 0 },
    { device: ITS_OWN, unit: 0 },
  ];
  const s = new GuestScene({ devices, iommu: { hardwareDomain }, ...options }, casting);
  s.grant(8, { grantee: HW });
  return s;
}

const dma = (s: GuestScene, dfn: number, access: 'read' | 'write' = 'write') => s.dma(dfn, access, ITS_OWN);
const mapAndUnmap = (s: GuestScene, flags: number = HOST) =>
  s.during(() => {
    expect(s.map(flags, { by: HW })).toEqual({ status: 0, handle: 0, busAddress: s.frame(B) * 4096 });
    expect(s.unmap({ handle: 0, hostAddress: page(0) }, { by: HW })).toBe(0);
  });
/** Bits of the device's context entry: translation type, and the table that it names. */
function contextEntry(s: GuestScene, device = ITS_OWN): { type: number; table: number } {
  const { driver, frames } = s.machine.parts;
  const source = parseSbdf(device) % 0x10000;
  const root = driver.rootTable(0 as never);
  const contexts = frames.readWord(root, (source >>> 8) * 4) >>> 12;
  const low = frames.readWord(contexts, (source & 0xff) * 4);
  expect(low & 1).toBe(1);
  return { type: (low >>> 2) & 3, table: low >>> 12 };
}

describe('3.8 strict', () => {
  it('lets it reach its own frames and what it has mapped, each change flushed', () => {
    const s = scene('strict');
    const m = s.frame(B);
    expect([dma(s, s.frame(HW)), dma(s, m)]).toEqual([s.frame(HW), 'writeNotPermitted']);
    expect(mapAndUnmap(s)).toEqual([`page ${m} of ${HW}`]);
    s.map(HOST | RO, { by: HW });
    expect([dma(s, m, 'read'), dma(s, m)]).toEqual([m, 'writeNotPermitted']);
    expect(contextEntry(s)).toEqual({ type: 0, table: s.machine.parts.driver.tables.root(HW as never) });
  });

  it('is what a translated hardware domain always is', () => {
    const s = scene('relaxed', {}, { [HW]: { kind: 'hvm' } });
    expect([dma(s, 0), dma(s, 20)]).toEqual([s.machineFrame(HW, 0), 'writeNotPermitted']);
  });
});

describe('3.8 relaxed', () => {
  it('has all memory mapped from the start, its own and others’, read and write', () => {
    const s = scene('relaxed');
    for (const frame of [s.frame(HW), s.frame(A), s.frame(B), 0, s.machine.parts.frames.ram - 1]) {
      expect(dma(s, frame)).toBe(frame);
    }
    expect(dma(s, s.machine.parts.frames.frames + 5)).toBe('writeNotPermitted');
    expect(contextEntry(s).type).toBe(0);
  });

  it('has grants touch no device table (19): nothing is counted, changed or flushed', () => {
    const s = scene('relaxed');
    const m = s.frame(B);
    expect(mapAndUnmap(s)).toEqual([]);
    s.map(HOST, { by: HW });
    expect(s.machine.parts.grants.writers(HW as never, m as never)).toBe(0);
    s.unmap({ handle: 1, hostAddress: page(0) }, { by: HW });
    expect(dma(s, m)).toBe(m);
  });

  it('keeps what it gives back within reach', () => {
    const s = scene('relaxed');
    const frame = s.frame(HW);
    expect(s.during(() => s.do({ op: 'decrease_reservation', domain: HW, frames: [frame] }))).toEqual([]);
    expect([s.isAllocated(frame), dma(s, frame)]).toEqual([false, frame]);
  });

  it('still confines guests, whose devices come from it', () => {
    const s = scene('relaxed');
    expect([s.dma(s.frame(A), 'write'), s.dma(s.frame(HW), 'write')]).toEqual([s.frame(A), 'writeNotPermitted']);
  });
});

describe('3.8 pass-through', () => {
  it('has context entries of the type pass-through: DMA is not translated, wherever it goes', () => {
    const s = scene('passthrough');
    expect(contextEntry(s).type).toBe(2);
    for (const frame of [s.frame(HW), s.frame(B), 7, 0xfffff]) expect(dma(s, frame)).toBe(frame);
  });

  it('has grants, and page types, touch no device table', () => {
    const s = scene('passthrough');
    expect(mapAndUnmap(s)).toEqual([]);
    const frame = s.frame(HW);
    expect(s.during(() => s.do({ op: 'pin_table', domain: HW, frame, level: 1 }))).toEqual([]);
    expect([s.rights(HW, frame), dma(s, frame)]).toEqual(['-', frame]);
  });

  it('translates a guest’s device, and flushes the context and the old domain when it moves', () => {
    const s = scene('passthrough');
    expect(contextEntry(s, '0000:03:00.0').type).toBe(0);
    expect(s.dma(s.frame(B), 'write')).toBe('writeNotPermitted');
    const moved = s.during(() => s.do({ op: 'assign_device', device: ITS_OWN, domain: A }));
    expect(moved).toEqual([`context of ${HW}`, `domain of ${HW}`]);
    expect(dma(s, s.frame(B))).toBe('writeNotPermitted');
  });

  it('falls back to relaxed when some unit cannot pass requests through', () => {
    const units = [{}, { capabilities: { passThrough: false } }];
    const s = scene('passthrough', { units });
    expect(contextEntry(s).type).toBe(0);
    expect([dma(s, s.frame(B)), dma(s, 0xfffff)]).toEqual([s.frame(B), 'writeNotPermitted']);
    expect(mapAndUnmap(s)).toEqual([]);
  });

  it('falls back to relaxed when some unit knows tables of 5 levels, which Xen does not', () => {
    const s = scene('passthrough', { units: [{}, { capabilities: { levels: [4, 5] } }] });
    expect(contextEntry(s).type).toBe(0);
  });

  it('is refused to nobody but a hardware domain: a guest’s tables are what they are', () => {
    const s = scene('passthrough');
    expect([s.rights(A, s.frame(A)), s.rights(A, s.frame(B))]).toEqual(['rw', '-']);
  });
});
