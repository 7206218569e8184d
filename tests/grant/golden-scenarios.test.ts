// Grant map and unmap as Xen does them, one documented scenario after another: statuses, handles, pins, usage bits, the
// mapper's device rights, and the invalidations that reach the unit. One PV guest with a device (0), two granters (1,
// 2).

import { beforeEach, describe, expect, it } from 'vitest';
import { GNTMAP, GrantStatus, GTF } from '../../grant/index.ts';
import {
  Hypervisor,
  type MachineOptions,
  type MapElementInput,
  PV_WINDOW_BASE,
  type UnmapElementInput,
} from '../../hypervisor/index.ts';
import type { Dfn } from '../../machine/frame-number.ts';
import { type Domid, parseSbdf } from '../../machine/ids.ts';
import { translate } from '../../passthrough/index.ts';

const { host_map: HOST, device_map: DEVICE, readonly: RO } = GNTMAP;
const DEV = '0000:03:00.0';
const page = (index: number) => PV_WINDOW_BASE + index * 4096;

class Scene {
  readonly machine: Hypervisor;
  readonly frame: number;

  constructor(options: MachineOptions = {}) {
    this.machine = new Hypervisor({
      domains: 5,
      frames: 256,
      gfns: 16,
      windowPages: 256,
      devices: [{ device: DEV, unit: 0 }],
      ...options,
    });
    const made = [
      this.machine.step({ op: 'create_domain', domain: 0, kind: 'pv', frames: 8, iommu: true }),
      this.machine.step({ op: 'create_domain', domain: 1, kind: 'pv', frames: 8 }),
      this.machine.step({ op: 'create_domain', domain: 2, kind: 'pv', frames: 8 }),
      this.machine.step({ op: 'create_domain', domain: 3, kind: 'hvm', frames: 4, iommu: true }),
      this.machine.step({ op: 'assign_device', device: DEV, domain: 0 }),
    ];
    expect(made.map(({ result }) => result)).toEqual([0, 0, 0, 0, 0]);
    this.frame = this.machine.control.root.domains[1]!.ram.first;
    this.grant(8);
  }

  /** Domain 1 grants its first frame (or another) to domain 0. */
  grant(ref: number, options: { flags?: number; grantee?: number; frame?: number; domain?: number } = {}): void {
    const { flags = GTF.permit_access, grantee = 0, frame = this.frame, domain = 1 } = options;
    this.machine.step({ op: 'grant_write', domain, ref, flags, grantee, frame });
  }

  map(flags: number, options: Partial<MapElementInput> & { by?: number } = {}) {
    const { by = 0, ...element } = options;
    const input = { flags, ref: 8, domain: 1, hostAddress: page(0), ...element };
    return this.machine.step({ op: 'map_grant_ref', domain: by, elements: [input] }).elements![0]!;
  }

  unmap(input: UnmapElementInput, by = 0): number {
    return this.machine.step({ op: 'unmap_grant_ref', domain: by, elements: [input] }).elements![0]!.status;
  }

  pins(ref = 8) {
    const pins = this.machine.parts.grants.pins(1 as Domid, ref);
    return { hstw: pins & 0xff, hstr: (pins >>> 8) & 0xff, devw: (pins >>> 16) & 0xff, devr: pins >>> 24 };
  }

  usage(ref = 8): string {
    const flags = this.machine.parts.grants.sharedFlags(1 as Domid, ref);
    return `${flags & GTF.reading ? 'r' : '-'}${flags & GTF.writing ? 'w' : '-'}`;
  }

  rights(frame = this.frame): number {
    return this.machine.parts.driver.lookup(0 as Domid, frame as Dfn).rights;
  }

  get invalidations(): number {
    return this.machine.units[0]!.counter('pageInvalidations') + this.machine.units[0]!.counter('domainInvalidations');
  }

  /** Invalidations that reach the unit while something is done. */
  during(act: () => unknown): number {
    const before = this.invalidations;
    act();
    return this.invalidations - before;
  }
}

let s: Scene;
beforeEach(() => {
  s = new Scene();
});

describe('the device follows the live handles of the mapper', () => {
  it('maps fresh without a command, keeps RW while any RW handle lives, demotes, then unmaps', () => {
    expect(s.during(() => expect(s.map(HOST)).toEqual({ status: 0, handle: 0, busAddress: s.frame * 4096 }))).toBe(0);
    expect([s.rights(), s.usage(), s.pins().hstw]).toEqual([3, 'rw', 1]);
    expect(s.during(() => expect(s.map(HOST | RO, { hostAddress: page(1) }).handle).toBe(1))).toBe(0);
    expect([s.rights(), s.pins().hstw, s.pins().hstr]).toEqual([3, 1, 1]);
    expect(s.during(() => expect(s.unmap({ handle: 0, hostAddress: page(0) })).toBe(0))).toBe(1);
    expect([s.rights(), s.usage(), s.pins()]).toEqual([1, 'r-', { hstw: 0, hstr: 1, devw: 0, devr: 0 }]);
    expect(s.during(() => expect(s.unmap({ handle: 1, hostAddress: page(1) })).toBe(0))).toBe(1);
    expect([s.rights(), s.usage(), s.pins().hstr]).toEqual([0, '--', 0]);
  });

  it('promotes a read-only entry with one invalidation', () => {
    expect(s.during(() => s.map(HOST | RO))).toBe(0);
    expect([s.rights(), s.usage()]).toEqual([1, 'r-']);
    expect(s.during(() => s.map(HOST, { hostAddress: page(1) }))).toBe(1);
    expect([s.rights(), s.usage()]).toEqual([3, 'rw']);
  });

  it('invalidates a fresh entry under caching mode', () => {
    s = new Scene({ units: [{ capabilities: { cachingMode: true } }] });
    expect(s.during(() => s.map(HOST))).toBe(1);
  });

  it('counts a handle once, whichever of its halves is left', () => {
    const { handle } = s.map(HOST | DEVICE);
    expect(s.pins()).toEqual({ hstw: 1, hstr: 0, devw: 1, devr: 0 });
    expect(s.during(() => expect(s.unmap({ handle: handle!, hostAddress: page(0) })).toBe(0))).toBe(0);
    expect([s.rights(), s.pins().hstw, s.pins().devw]).toEqual([3, 0, 1]);
    expect(s.during(() => expect(s.unmap({ handle: handle!, busAddress: s.frame * 4096 })).toBe(0))).toBe(1);
    expect([s.rights(), s.usage()]).toEqual([0, '--']);
  });

  it('counts per frame, not per entry: two refs of one frame', () => {
    s.grant(9);
    expect(s.during(() => [s.map(HOST), s.map(HOST, { ref: 9, hostAddress: page(1) })])).toBe(0);
    expect(s.during(() => expect(s.unmap({ handle: 0, hostAddress: page(0) })).toBe(0))).toBe(0);
    expect([s.rights(), s.usage(8), s.usage(9)]).toEqual([3, '--', 'rw']);
    expect(s.during(() => expect(s.unmap({ handle: 1, hostAddress: page(1) })).toBe(0))).toBe(1);
    expect(s.rights()).toBe(0);
  });

  it('leaves a domain that maps its own grant alone', () => {
    const own = s.machine.control.root.domains[0]!.ram.first;
    s.grant(8, { domain: 0, grantee: 0, frame: own });
    expect(s.rights(own)).toBe(3);
    expect(s.during(() => expect(s.map(HOST, { domain: 0 }).status).toBe(0))).toBe(0);
    expect(s.during(() => expect(s.unmap({ handle: 0, hostAddress: page(0) })).toBe(0))).toBe(0);
    expect(s.rights(own)).toBe(3);
  });

  it('sends nothing for a mapper without a device, and nothing at all for one without IOMMU', () => {
    s.grant(9, { grantee: 2 });
    expect(s.during(() => expect(s.map(HOST, { by: 2, ref: 9 }).status).toBe(0))).toBe(0);
    expect(s.machine.parts.driver.tables.exists(2 as Domid)).toBe(false);
    expect(s.during(() => expect(s.unmap({ handle: 0, hostAddress: page(0) }, 2)).toBe(0))).toBe(0);
    const idle = new Scene();
    idle.machine.step({ op: 'deassign_device', device: DEV });
    expect(idle.during(() => idle.map(HOST))).toBe(0);
    expect(idle.rights()).toBe(3);
    expect(idle.during(() => idle.unmap({ handle: 0, hostAddress: page(0) }))).toBe(0);
    expect(idle.rights()).toBe(0);
  });
});

describe('what the device gets', () => {
  it('reaches the frame while it is mapped, by the rights of the grant, and faults afterwards', () => {
    const unit = s.machine.units[0]!;
    const address = s.frame * 4096 + 0x123;
    s.map(HOST | RO);
    expect(translate(unit, parseSbdf(DEV), address, 'read')).toEqual({ frame: s.frame });
    expect(translate(unit, parseSbdf(DEV), address, 'write')).toEqual({
      fault: { reason: 5, name: 'writeNotPermitted' },
    });
    s.map(HOST, { hostAddress: page(1) });
    expect(s.machine.step({ op: 'dma', device: DEV, address, access: 'write', value: 42 }).dma).toEqual({
      frame: s.frame,
    });
    expect(s.machine.step({ op: 'dma', device: DEV, address, access: 'read' }).dma).toEqual({
      frame: s.frame,
      value: 42,
    });
    s.unmap({ handle: 0, hostAddress: page(0) });
    s.unmap({ handle: 1, hostAddress: page(1) });
    const { dma } = s.machine.step({ op: 'dma', device: DEV, address, access: 'read' });
    expect(dma).toEqual({ fault: { reason: 6, name: 'readNotPermitted' } });
    expect(unit.faults.take()).toEqual([
      { sourceId: 0x300, dfn: s.frame, access: 'read', reason: 6, reasonName: 'readNotPermitted' },
    ]);
    expect(() => translate(unit, parseSbdf(DEV), '0x1_000', 'read')).toThrow(TypeError);
  });
});

describe('a guest without IOMMU costs passthrough nothing', () => {
  it('maps and unmaps without a write to any table, queue or cache of devices, and without a command', () => {
    s.grant(9, { grantee: 2 });
    const { heap } = s.machine.parts;
    const mark = heap.mark();
    const flushed = s.during(() => {
      expect(s.map(HOST, { by: 2, ref: 9 }).status).toBe(0);
      expect(s.unmap({ handle: 0, hostAddress: page(0) }, 2)).toBe(0);
    });
    const written = [...heap.segmentsSince(mark)].sort();
    heap.release(mark);
    expect(flushed).toBe(0);
    expect(written).toEqual([
      'contents',
      'domain 1 active grants',
      'domain 2 maptrack',
      'domain 2 maptrack: free lists',
      'frames',
    ]);
  });
});

describe('an HVM mapper chooses the device frame: dfn is the gfn of the host address', () => {
  const gfn = (at: number) => at * 4096;
  const rightsAt = (at: number) => s.machine.parts.driver.lookup(3 as Domid, at as Dfn).rights;

  it('maps at the gfn, and unmaps it', () => {
    s.grant(9, { grantee: 3 });
    expect(s.map(HOST | RO, { by: 3, ref: 9, hostAddress: gfn(10) }).status).toBe(0);
    expect(rightsAt(10)).toBe(1);
    expect(s.map(HOST, { by: 3, ref: 9, hostAddress: gfn(11) }).status).toBe(0);
    expect([rightsAt(10), rightsAt(11)]).toEqual([1, 3]);
    expect(s.unmap({ handle: 0, hostAddress: gfn(10) }, 3)).toBe(0);
    expect([rightsAt(10), rightsAt(11)]).toEqual([0, 3]);
  });

  it('refuses device maps, and is crashed for mapping over a grant', () => {
    s.grant(9, { grantee: 3 });
    expect(s.map(DEVICE, { by: 3, ref: 9 }).status).toBe(GrantStatus.general_error);
    s.map(HOST, { by: 3, ref: 9, hostAddress: gfn(10) });
    const again = s.machine.step({
      op: 'map_grant_ref',
      domain: 3,
      elements: [{ flags: HOST, ref: 9, domain: 1, hostAddress: gfn(10) }],
    });
    expect(again.elements![0]!.status).toBe(GrantStatus.general_error);
    expect(again.crashed).toEqual([{ domain: 3, reason: 'mapped over the grant at gfn 10' }]);
    expect(s.machine.control.root.domains[3]!.state).toBe('crashed');
  });
});

describe('statuses of map', () => {
  it.each([
    ['neither half asked for, before the domain is looked at', 0, { domain: 999 }, GrantStatus.bad_gntref],
    ['no such domain', HOST, { domain: 4 }, GrantStatus.bad_domain],
    ['a reserved domain id', HOST, { domain: 0x7ff0 }, GrantStatus.bad_domain],
    ['a ref beyond the table', HOST, { ref: 512 }, GrantStatus.bad_gntref],
    ['an entry that grants nothing', HOST, { ref: 100 }, GrantStatus.general_error],
    ['a host address without page table', HOST, { hostAddress: 0x1000 }, GrantStatus.general_error],
  ])('%s', (_, flags, element, status) => {
    expect(s.map(flags, element)).toEqual({ status });
    expect(s.usage()).toBe('--');
  });

  it('refuses the wrong grantee, RW on a read-only entry, and a frame that is not the granter’s', () => {
    expect(s.map(HOST, { by: 2 }).status).toBe(GrantStatus.general_error);
    s.grant(9, { flags: GTF.permit_access | GTF.readonly });
    expect(s.map(HOST, { ref: 9 }).status).toBe(GrantStatus.general_error);
    expect(s.map(HOST | RO, { ref: 9 }).status).toBe(0);
    s.grant(10, { frame: s.machine.control.root.domains[2]!.ram.first });
    expect(s.map(HOST, { ref: 10 }).status).toBe(GrantStatus.bad_page);
    s.grant(11, { flags: GTF.permit_access | GTF.sub_page });
    expect(s.map(HOST, { ref: 11 }).status).toBe(GrantStatus.general_error);
    s.grant(12, { flags: GTF.transitive });
    expect(s.map(HOST, { ref: 12 }).status).toBe(GrantStatus.general_error);
  });

  it('takes 128 pins of one kind, not 129, whatever the others hold', () => {
    const statuses = Array.from({ length: 129 }, (_, i) => s.map(HOST, { hostAddress: page(i) }).status);
    expect(statuses.slice(0, 128).every((status) => status === 0)).toBe(true);
    expect(statuses[128]).toBe(GrantStatus.general_error);
    expect(s.map(HOST | RO, { hostAddress: page(200) }).status).toBe(0);
  });

  it('looks at a pinned entry no more: frame, grantee and type may be rewritten, only GTF_readonly counts for the first RW', () => {
    s.map(HOST | RO);
    s.grant(8, { flags: GTF.invalid, grantee: 2, frame: s.frame + 1 });
    expect(s.map(HOST | RO, { hostAddress: page(1) })).toEqual({ status: 0, handle: 1, busAddress: s.frame * 4096 });
    s.grant(8, { flags: GTF.permit_access | GTF.readonly });
    expect(s.map(HOST, { hostAddress: page(2) }).status).toBe(GrantStatus.general_error);
    expect(s.map(HOST, { by: 2 }).status).toBe(GrantStatus.general_error);
  });

  it('runs out of handles at 256 per frame less one, and says so before it looks at the ref', () => {
    const statuses = Array.from(
      { length: 255 },
      (_, i) => s.map(i < 128 ? HOST : HOST | RO, { hostAddress: page(i) }).status,
    );
    expect(statuses.every((status) => status === 0)).toBe(true);
    expect(s.map(HOST, { ref: 9999, hostAddress: page(255) }).status).toBe(GrantStatus.no_space);
    expect(s.map(HOST, { domain: 4, hostAddress: page(255) }).status).toBe(GrantStatus.bad_domain);
  });

  it('hands out handles first in, first out; a failed map uses one up', () => {
    expect(s.map(HOST).handle).toBe(0);
    expect(s.map(HOST, { ref: 100 }).status).toBe(GrantStatus.general_error);
    expect(s.map(HOST, { hostAddress: page(1) }).handle).toBe(2);
    s.unmap({ handle: 0, hostAddress: page(0) });
    expect(s.map(HOST, { hostAddress: page(2) }).handle).toBe(3);
  });

  it('with handles lowest first, takes up a freed handle at once', () => {
    s = new Scene({ maptrackOrder: 'lowest-free' });
    expect([s.map(HOST).handle, s.map(HOST, { hostAddress: page(1) }).handle]).toEqual([0, 1]);
    s.unmap({ handle: 0, hostAddress: page(0) });
    expect(s.map(HOST, { hostAddress: page(2) }).handle).toBe(0);
  });
});

describe('statuses of unmap', () => {
  it('knows no handle that is not live', () => {
    expect(s.unmap({ handle: 0, hostAddress: page(0) })).toBe(GrantStatus.bad_handle);
    s.map(HOST);
    expect(s.unmap({ handle: 0, hostAddress: page(0) })).toBe(0);
    expect(s.unmap({ handle: 0, hostAddress: page(0) })).toBe(GrantStatus.bad_handle);
    expect(s.unmap({ handle: 0xffffffff })).toBe(GrantStatus.bad_handle);
  });

  it('does nothing, successfully, when both addresses are 0', () => {
    s.map(HOST);
    expect(s.unmap({ handle: 0 })).toBe(0);
    expect([s.pins().hstw, s.rights()]).toEqual([1, 3]);
  });

  it('checks a device address exactly, before the host half, and only if there is a device half', () => {
    s.map(HOST | DEVICE);
    expect(s.unmap({ handle: 0, hostAddress: page(0), busAddress: s.frame * 4096 + 1 })).toBe(GrantStatus.bad_dev_addr);
    expect(s.pins()).toEqual({ hstw: 1, hstr: 0, devw: 1, devr: 0 });
    s.map(HOST, { hostAddress: page(1) });
    expect(s.unmap({ handle: 1, hostAddress: page(1), busAddress: 0x1234 })).toBe(0);
  });

  it('wants the PTE that the grant made: same frame, same rights', () => {
    s.map(HOST);
    s.map(HOST | RO, { hostAddress: page(1) });
    expect(s.unmap({ handle: 0, hostAddress: page(1) })).toBe(GrantStatus.general_error);
    expect(s.unmap({ handle: 0, hostAddress: page(2) })).toBe(GrantStatus.general_error);
    expect(s.unmap({ handle: 0, hostAddress: page(0) + 5 })).toBe(0);
  });

  it('finishes elements before and after one that fails', () => {
    s.map(HOST);
    s.map(HOST, { hostAddress: page(1) });
    const elements = [{ handle: 0, hostAddress: page(0) }, { handle: 77 }, { handle: 1, hostAddress: page(1) }];
    const { elements: done } = s.machine.step({ op: 'unmap_grant_ref', domain: 0, elements });
    expect(done!.map(({ status }) => status)).toEqual([0, GrantStatus.bad_handle, 0]);
    expect([s.rights(), s.usage()]).toEqual([0, '--']);
  });

  it('unmaps batches of more than 32, each element flushed on its own', () => {
    const handles = Array.from({ length: 100 }, (_, i) => s.map(HOST, { hostAddress: page(i) }).handle!);
    const elements = handles.map((handle, i) => ({ handle, hostAddress: page(i) }));
    const flushed = s.during(() => s.machine.step({ op: 'unmap_grant_ref', domain: 0, elements }));
    expect([flushed, s.rights(), s.usage(), s.pins().hstw]).toEqual([1, 0, '--', 0]);
  });
});

describe('bad calls', () => {
  it('gives an errno for a domain that is not there, and throws for what is no operation', () => {
    expect(s.machine.step({ op: 'map_grant_ref', domain: 4, elements: [] }).result).toBe(-3);
    expect(() => s.machine.step({ op: 'nonsense' } as never)).toThrow(TypeError);
    expect(() => s.map(HOST, { hostAddress: -1 })).toThrow(TypeError);
    expect(() => s.map(HOST, { hostAddress: '0xzz' })).toThrow(TypeError);
    expect(() => s.machine.step({ op: 'map_grant_ref', vcpu: 9, domain: 0, elements: [] })).toThrow(RangeError);
    expect(() => s.grant(512)).toThrow(RangeError);
  });

  it('maps and unmaps nothing in an empty batch', () => {
    expect(s.machine.step({ op: 'map_grant_ref', domain: 0, elements: [] })).toEqual({ result: 0, elements: [] });
    expect(s.machine.step({ op: 'unmap_grant_ref', domain: 0, elements: [] })).toEqual({ result: 0, elements: [] });
  });
});
