// Goal: one table serves units of different widths: each begins where it can walk, and what one cannot see is either
// unseen there or refused. Method: units of 3, 4 and 5 levels behind one domain; single mappings at the edges.

import { describe, expect, it } from 'vitest';
import { GNTMAP, GTF, Hypervisor, type MachineOptions } from '../../../hypervisor/index.ts';
import type { Mfn } from '../../../machine/frame-number.ts';
import type { Domid, UnitIndex } from '../../../machine/ids.ts';
import { type Capabilities, entryFrame } from '../../../passthrough/index.ts';
import { violations } from '../../../verify/index.ts';

const NARROW: Partial<Capabilities> = { levels: [3], addressBits: 39 };
const WIDE: Partial<Capabilities> = { levels: [3, 4], addressBits: 48 };
const WIDEST: Partial<Capabilities> = { levels: [5], addressBits: 57 };
/** First device frame that 3 levels, and 4, do not reach. */
const BEYOND_NARROW = 2 ** 27;
const BEYOND_WIDE = 2 ** 36;
const NEAR = '0000:01:00.0';
const FAR = '0000:02:00.0';
const FAULT = { fault: { reason: 4, name: 'addressBeyondWidth' } };

const refusing: MachineOptions = { iommu: { beyondReach: 'refused' } };

/** Domain 1 chooses its own device frames; NEAR is behind the first unit, FAR behind the second. */
function scene(units: readonly Partial<Capabilities>[], options: MachineOptions = {}) {
  const machine = new Hypervisor({
    domains: 3,
    frames: 256,
    gfns: 16,
    windowPages: 4,
    units: units.map((capabilities) => ({ capabilities })),
    devices: [NEAR, FAR].map((device, at) => ({ device, unit: Math.min(at, units.length - 1) })),
    ...options,
  });
  machine.step({ op: 'create_domain', domain: 1, kind: 'pv', frames: 4, iommu: true, deviceTables: 'empty' });
  const { first } = machine.control.root.domains[1]!.ram;
  return {
    machine,
    first,
    assign: (device: string) => machine.step({ op: 'assign_device', device, domain: 1 }).result,
    map: (dfn: number, frame = first) =>
      machine.step({ op: 'dma_map', domain: 1, dfn, frame, pages: 1, access: 'rw' }).result,
    unmap: (dfn: number) => machine.step({ op: 'dma_unmap', domain: 1, dfn, pages: 1 }).result,
    read: (device: string, dfn: number) => {
      const address = `0x${(BigInt(dfn) * 4096n).toString(16)}` as const;
      return machine.step({ op: 'dma', device, address, access: 'read', length: 1 }).dma;
    },
  };
}

/** Words of a requester's context entry. */
function contextOf(machine: Hypervisor, unit: number, source: number): { table: number; width: number } {
  const { frames, driver } = machine.parts;
  const root = driver.rootTable(unit as UnitIndex);
  const table = entryFrame(
    frames.readWord(root, (source >>> 8) * 4),
    frames.readWord(root, (source >>> 8) * 4 + 1),
  ) as Mfn;
  const word = (at: number) => frames.readWord(table, (source & 0xff) * 4 + at);
  return { table: entryFrame(word(0), word(1)), width: word(2) & 7 };
}

describe('units of different widths behind one domain', () => {
  it.each([
    [3, 4, [NARROW, WIDE]],
    [3, 5, [NARROW, WIDEST]],
    [4, 5, [WIDE, WIDEST]],
  ])('a unit of %i levels begins that far above the leaves, one of %i at the top', (few, many, units) => {
    const { machine, assign } = scene(units);
    expect([assign(NEAR), assign(FAR)]).toEqual([0, 0]);
    const [near, far] = [contextOf(machine, 0, 0x100), contextOf(machine, 1, 0x200)];
    expect([near.width, far.width]).toEqual([few - 2, many - 2]);
    const { frames, driver } = machine.parts;
    expect(far.table).toBe(driver.tables.root(1 as Domid));
    let table = far.table;
    for (let level = many; level > few; level -= 1)
      table = entryFrame(frames.readWord(table as Mfn, 0), frames.readWord(table as Mfn, 1));
    expect(near.table).toBe(table);
  });

  it('both see what lies within both widths, and what is mapped later', () => {
    const s = scene([NARROW, WIDE]);
    s.map(7);
    expect([s.assign(NEAR), s.assign(FAR)]).toEqual([0, 0]);
    s.map(BEYOND_NARROW - 1, s.first + 1);
    for (const device of [NEAR, FAR]) {
      expect(s.read(device, 7)).toMatchObject({ frame: s.first });
      expect(s.read(device, BEYOND_NARROW - 1)).toMatchObject({ frame: s.first + 1 });
    }
  });

  it('lose the last page in a table on the way, and the narrow one still finds its root', () => {
    const s = scene([NARROW, WIDE]);
    s.assign(NEAR);
    s.map(7);
    s.unmap(7);
    expect(s.read(NEAR, 7)).toMatchObject({ fault: { reason: 6 } });
    s.map(7, s.first + 2);
    expect(s.read(NEAR, 7)).toMatchObject({ frame: s.first + 2 });
    expect(violations(s.machine)).toEqual([]);
  });

  it('a scratch page is found from wherever a unit begins', () => {
    const s = scene([NARROW, WIDE], { iommu: { quarantine: 'scratch' }, caches: { kind: 'lru' } });
    s.machine.step({ op: 'create_domain', domain: 0, kind: 'pv', frames: 2, iommu: true, hardware: true });
    for (const device of [NEAR, FAR]) {
      s.assign(device);
      s.machine.step({ op: 'deassign_device', device });
      expect(s.read(device, 0x12345)).not.toHaveProperty('fault');
      expect(s.read(device, BEYOND_NARROW)).toEqual(device === NEAR ? FAULT : expect.objectContaining({ bytes: '00' }));
    }
  });

  it('a unit that accepts fewer bits than its tables reach faults beyond them', () => {
    const s = scene([{ ...WIDE, addressBits: 36 }]);
    s.assign(NEAR);
    s.map(2 ** 24);
    expect(s.read(NEAR, 2 ** 24)).toEqual(FAULT);
  });
});

describe('what a unit cannot see', () => {
  it('is mapped, and unseen behind it, as in Xen', () => {
    const s = scene([NARROW, WIDE]);
    expect([s.assign(NEAR), s.assign(FAR), s.map(BEYOND_NARROW)]).toEqual([0, 0, 0]);
    expect(s.read(NEAR, BEYOND_NARROW)).toEqual(FAULT);
    expect(s.read(FAR, BEYOND_NARROW)).toMatchObject({ frame: s.first });
  });

  it('is refused while the unit serves the domain, and only then', () => {
    const s = scene([NARROW, WIDE], refusing);
    expect(s.map(BEYOND_NARROW), 'no unit serves it').toBe(0);
    s.unmap(BEYOND_NARROW);
    expect([s.assign(FAR), s.map(BEYOND_NARROW)]).toEqual([0, 0]);
    expect(s.assign(NEAR), 'a unit that does not see what is mapped').toBe(-14);
    expect(s.machine.control.root.devices[0]!.owner).toBeNull();
    s.unmap(BEYOND_NARROW);
    expect(s.map(BEYOND_NARROW - 1, s.first + 1)).toBe(0);
    expect([s.assign(NEAR), s.map(BEYOND_NARROW), s.map(BEYOND_NARROW - 2)]).toEqual([0, -14, 0]);
    expect(s.machine.step({ op: 'deassign_device', device: NEAR }).result).toBe(0);
    expect(s.map(BEYOND_NARROW)).toBe(0);
  });

  it('counts the bits that the unit accepts, if those are fewer', () => {
    const s = scene([{ ...WIDE, addressBits: 36 }], refusing);
    s.assign(NEAR);
    expect([s.map(2 ** 24 - 1), s.map(2 ** 24)]).toEqual([0, -14]);
  });

  it('counts the end of a large leaf', () => {
    const s = scene([NARROW, WIDEST], refusing);
    const { driver } = s.machine.parts;
    expect(driver.map(0 as never, 1 as Domid, (BEYOND_NARROW - 512) as never, 0 as Mfn, 3, 9)).toBe(0);
    expect(driver.tables.last(1 as Domid)).toBe(BEYOND_NARROW - 1);
    expect(s.assign(NEAR)).toBe(0);
    expect(driver.map(0 as never, 1 as Domid, BEYOND_NARROW as never, 0 as Mfn, 3, 9)).toBe(-14);
  });

  it('beyond the table itself is refused whatever the rule', () => {
    const s = scene([NARROW, WIDE]);
    expect(s.map(BEYOND_WIDE)).toBe(-34);
    const last = scene([NARROW, WIDEST]);
    expect(last.map(BEYOND_WIDE)).toBe(0);
  });

  it('crashes a domain that maps a grant of it', () => {
    const far = 0x80010;
    const grant = (options: MachineOptions) => {
      const s = scene([{ ...WIDE, addressBits: 31 }], { ...options, frames: far + 16 });
      const { machine } = s;
      machine.step({ op: 'create_domain', domain: 2, kind: 'pv', memory: { ram: [[far, far]] } });
      machine.step({ op: 'create_domain', domain: 0, kind: 'pv', frames: 1, iommu: true });
      machine.step({ op: 'setup_table', domain: 2, target: 0x7ff0, frames: 1 });
      machine.step({ op: 'grant_write', domain: 2, ref: 8, flags: GTF.permit_access, grantee: 0, frame: far });
      expect(machine.step({ op: 'assign_device', device: NEAR, domain: 0 }).result).toBe(0);
      const elements = [{ flags: GNTMAP.device_map, ref: 8, domain: 2 }];
      const { elements: told, crashed } = machine.step({ op: 'map_grant_ref', domain: 0, elements });
      return [told![0]!.status, crashed];
    };
    expect(grant({})).toEqual([0, undefined]);
    expect(grant(refusing)).toEqual([-1, [{ domain: 0, reason: 'device tables: EFAULT at dfn 524304' }]]);
  });
});
