// The edges of the door: what is refused, what crashes a domain, what two virtual CPUs want at once, and what is seen
// of it after a rollback or in a fork.

import { describe, expect, it } from 'vitest';
import { GNTMAP, GTF } from '../../grant/index.ts';
import { Errno, fork, Hypervisor, Progress, PV_WINDOW_BASE, rollback, snapshot } from '../../hypervisor/index.ts';
import type { Vcpu } from '../../machine/ids.ts';
import { violations } from '../../verify/index.ts';

const DEVICE = '0000:03:00.0';
const V0 = 0 as Vcpu;
const V1 = 1 as Vcpu;

function machineWith(options: ConstructorParameters<typeof Hypervisor>[0] = {}): Hypervisor {
  const machine = new Hypervisor({
    domains: 4,
    frames: 96,
    gfns: 16,
    vcpus: 2,
    windowPages: 4,
    grants: { maptrackFrames: 2 },
    devices: [{ device: DEVICE, unit: 0 }],
    ...options,
  });
  machine.step({ op: 'create_domain', domain: 0, kind: 'hvm', frames: 2, iommu: true });
  machine.step({ op: 'create_domain', domain: 1, kind: 'pv', frames: 2 });
  machine.step({ op: 'create_domain', domain: 2, kind: 'pv', frames: 2, iommu: true });
  machine.step({ op: 'create_domain', domain: 3, kind: 'hvm', frames: 4, iommu: true, deviceTables: 'empty' });
  const { first } = machine.control.root.domains[1]!.ram;
  for (const [ref, grantee] of [
    [8, 0],
    [9, 2],
  ] as const) {
    machine.step({ op: 'grant_write', domain: 1, ref, flags: GTF.permit_access, grantee, frame: first });
  }
  return machine;
}

const mapAt = (gfn: number) => ({ flags: GNTMAP.host_map, ref: 8, domain: 1, hostAddress: gfn * 4096 });

describe('RAM of a domain', () => {
  it('lies in one piece, tables elsewhere', () => {
    const { domains } = machineWith().control.root;
    const { parts } = machineWith();
    for (const domain of [0, 3]) {
      const { first, frames } = domains[domain]!.ram;
      for (let page = 0; page < frames; page += 1)
        expect(parts.p2m.frame(domain as never, page as never)).toBe(first + page);
    }
  });
});

describe('a crash', () => {
  it('is undone by a rollback, and told by the result of the operation that did it, in a fork too', () => {
    const machine = machineWith();
    machine.step({ op: 'map_grant_ref', domain: 0, elements: [mapAt(8)] });
    const taken = snapshot(machine);
    machine.begin({ op: 'map_grant_ref', domain: 0, elements: [mapAt(8)] });
    while (machine.control.root.domains[0]!.state === 'alive') machine.microStep(V0);
    const twin = fork(machine);
    const crashed = [{ domain: 0, reason: 'mapped over the grant at gfn 8' }];
    for (const each of [machine, twin]) {
      while (each.microStep(V0) !== Progress.done);
      expect(each.finish(V0).crashed).toEqual(crashed);
    }
    expect(machine.step({ op: 'map_grant_ref', domain: 0, elements: [] }).result).toBe(Errno.ESRCH);
    rollback(machine, taken);
    expect(machine.control.root.domains[0]!.state).toBe('alive');
    expect(machine.step({ op: 'tick', nowUs: 5 }).crashed).toBeUndefined();
  });
});

describe('device frames that nobody may choose', () => {
  it('are refused: those of domains whose tables follow RAM and grants, and those beyond the tables', () => {
    const machine = machineWith();
    const { first } = machine.control.root.domains[2]!.ram;
    const map = { op: 'dma_map', dfn: 0, frame: first, pages: 1, access: 'rw' } as const;
    expect(machine.step({ ...map, domain: 2 }).result).toBe(Errno.EOPNOTSUPP);
    expect(machine.step({ op: 'dma_unmap', domain: 2, dfn: first, pages: 1 }).result).toBe(Errno.EOPNOTSUPP);
    const own = machine.control.root.domains[3]!.ram.first;
    expect(machine.step({ ...map, domain: 3, frame: own, dfn: 5 }).result).toBe(0);
    for (const dfn of [2 ** 36 + 5, 2 ** 40 + 5, 2 ** 36 - 1]) {
      expect(machine.step({ op: 'dma_unmap', domain: 3, dfn, pages: 2 }).result).toBe(Errno.ERANGE);
      expect(machine.step({ ...map, domain: 3, frame: own, dfn, pages: 2 }).result).toBe(Errno.ERANGE);
    }
    expect(machine.step({ op: 'dma_unmap', domain: 3, dfn: 0, pages: 2 ** 31 }).result).toBe(1);
  });

  it('are refused when the frame is not the domain’s, or the device frame is taken', () => {
    const machine = machineWith();
    const own = machine.control.root.domains[3]!.ram.first;
    const map = { op: 'dma_map', domain: 3, dfn: 5, frame: own, pages: 1, access: 'r' } as const;
    expect(machine.step({ ...map, frame: machine.control.root.domains[1]!.ram.first }).result).toBe(Errno.EPERM);
    expect(machine.step({ ...map, pages: 0 }).result).toBe(Errno.EINVAL);
    expect(machine.step(map).result).toBe(0);
    expect(machine.step(map).result).toBe(Errno.EEXIST);
    expect(machine.step({ ...map, dfn: 4, pages: 2 }).result).toBe(Errno.EEXIST);
    expect(machine.step({ op: 'dma_unmap', domain: 3, dfn: 4, pages: 2 }).result).toBe(1);
  });
});

describe('a device', () => {
  it('is assigned once, by one virtual CPU at a time', () => {
    const machine = machineWith();
    machine.begin({ op: 'assign_device', vcpu: 0, device: DEVICE, domain: 0 });
    expect(machine.step({ op: 'assign_device', vcpu: 1, device: DEVICE, domain: 2 }).result).toBe(Errno.EBUSY);
    while (machine.microStep(V0) !== Progress.done);
    expect(machine.finish(V0).result).toBe(0);
    expect(machine.step({ op: 'assign_device', vcpu: 1, device: DEVICE, domain: 2 }).result).toBe(Errno.EBUSY);
    machine.begin({ op: 'deassign_device', vcpu: 1, device: DEVICE });
    expect(machine.step({ op: 'deassign_device', vcpu: 0, device: DEVICE }).result).toBe(Errno.EBUSY);
    for (let progress = machine.microStep(V1); progress !== Progress.done; progress = machine.microStep(V1)) {
      machine.units[0]!.step();
    }
    expect(machine.finish(V1).result).toBe(0);
    expect(machine.step({ op: 'deassign_device', device: DEVICE }).result).toBe(Errno.EINVAL);
    expect(machine.step({ op: 'assign_device', device: '0000:09:00.0', domain: 0 }).result).toBe(Errno.ENODEV);
    expect(machine.step({ op: 'assign_device', device: DEVICE, domain: 1 }).result).toBe(Errno.EOPNOTSUPP);
  });
});

describe('a unit that does not drain', () => {
  it('lets a translated access outlive the unmap, and M1 says so', () => {
    const machine = machineWith({ units: [{ capabilities: { drainReads: false, drainWrites: false } }] });
    machine.step({ op: 'assign_device', device: DEVICE, domain: 2 });
    const element = { flags: GNTMAP.host_map, ref: 9, domain: 1, hostAddress: PV_WINDOW_BASE };
    const [mapped] = machine.step({ op: 'map_grant_ref', domain: 2, elements: [element] }).elements!;
    machine.step({ op: 'dma_translate', device: DEVICE, address: mapped!.busAddress!, access: 'write' });
    expect(violations(machine)).toEqual([]);
    machine.step({
      op: 'unmap_grant_ref',
      domain: 2,
      elements: [{ handle: mapped!.handle!, hostAddress: PV_WINDOW_BASE }],
    });
    expect(violations(machine).map(({ invariant }) => invariant)).toEqual(['F1', 'M1']);
  });
});

describe('an HVM mapper', () => {
  it('keeps the handle from being reused until the device can reach the frame no more', () => {
    const machine = machineWith();
    machine.step({ op: 'assign_device', device: DEVICE, domain: 0 });
    machine.step({ op: 'map_grant_ref', domain: 0, elements: [mapAt(8)] });
    const handle = machine.parts.grants.maptrack(0 as never).live()[0]!;
    machine.begin({ op: 'unmap_grant_ref', domain: 0, elements: [{ handle, hostAddress: 8 * 4096 }] });
    machine.microStep(V0);
    // The entry is gone and may be cached: the handle is not live, but not free either.
    expect(machine.parts.grants.maptrack(0 as never).flags(handle)).toBe(0);
    expect(machine.mayTranslate(DEVICE, 8).some(({ frame }) => frame >= 0)).toBe(true);
    expect(machine.parts.pending.record(0)[0]).not.toBe(0);
    const taken: number[] = [];
    for (let at = 9; at < 12; at += 1) {
      const { elements } = machine.step({ op: 'map_grant_ref', vcpu: 1, domain: 0, elements: [mapAt(at)] });
      taken.push(elements![0]!.handle!);
    }
    expect(taken).not.toContain(handle);
  });

  it('is refused, not half mapped, when there is no memory for its device tables', () => {
    const machine = machineWith({ gfns: 1024 });
    while (machine.parts.frames.allocate(1 as never) >= 0);
    const [mapped] = machine.step({ op: 'map_grant_ref', domain: 0, elements: [mapAt(600)] }).elements!;
    expect(mapped).toEqual({ status: -1 });
    expect(violations(machine)).toEqual([]);
  });
});

describe('what is no operation', () => {
  it.each([
    [
      'an element for a domain that no 16 bits hold',
      { op: 'map_grant_ref', domain: 0, elements: [{ ...mapAt(8), domain: 65537 }] },
    ],
    ['a batch without elements', { op: 'map_grant_ref', domain: 0 }],
    ['a domain of no kind', { op: 'create_domain', domain: 3, kind: 'foo', frames: 1 }],
    ['an access of no kind', { op: 'dma', device: DEVICE, address: 0, access: 'rw' }],
    ['a handle that is no number', { op: 'unmap_grant_ref', domain: 0, elements: [{ handle: Number.NaN }] }],
  ])('%s', (_, op) => {
    const machine = machineWith();
    expect(() => machine.step(op as never)).toThrow(TypeError);
    expect(machine.isBusy(V0)).toBe(false);
  });

  it.each([
    ['caches', { caches: { kind: 'recorded' } }],
    ['an order of handles', { maptrackOrder: 'lifo' }],
    ['no unit', { units: [] }],
    ['a release that the policy cannot do', { policy: 'never', release: 'afterFlush' }],
    ['a flush queue of no power of two', { flushQueue: 100 }],
    ['an unknown policy', { policy: 'xyz' }],
  ])('a machine with %s', (_, options) => {
    expect(() => new Hypervisor(options as never)).toThrow(RangeError);
  });
});

describe('a policy that flushes at the end of each element', () => {
  it('has each flush carried out before the next element, whatever the element is', () => {
    const machine = machineWith({
      policy: {
        name: 'element-end',
        summary: 'a global flush after each element',
        releases: ['afterFlush'],
        onReuse: 'flush',
        promise: () => ({ kind: 'strict' }),
        change() {},
        elementEnd(flush) {
          flush.global();
          flush.wait();
        },
      },
    });
    machine.step({ op: 'assign_device', device: DEVICE, domain: 2 });
    const { first } = machine.control.root.domains[2]!.ram;
    machine.step({ op: 'grant_write', domain: 2, ref: 8, flags: GTF.permit_access, grantee: 2, frame: first });
    const before = machine.units[0]!.counter('waits');
    const elements = Array.from({ length: 70 }, () => ({ flags: GNTMAP.device_map, ref: 8, domain: 2 }));
    const { elements: results } = machine.step({ op: 'map_grant_ref', domain: 2, elements });
    expect(results!.every(({ status }) => status === 0)).toBe(true);
    expect(machine.units[0]!.counter('waits') - before).toBe(70);
    // Elements that are refused end, too.
    machine.step({ op: 'map_grant_ref', domain: 2, elements: elements.map((one) => ({ ...one, ref: 9999 })) });
    machine.step({ op: 'unmap_grant_ref', domain: 2, elements: elements.map(() => ({ handle: 9999 })) });
    expect(machine.units[0]!.counter('waits') - before).toBe(210);
  });
});

describe('an operation in pieces', () => {
  const op = { op: 'map_grant_ref', domain: 0, elements: [mapAt(8)] } as const;

  it('is finished only when it is done, and stepped no further then', () => {
    const machine = machineWith();
    expect(() => machine.finish(V0)).toThrow(TypeError);
    machine.begin(op);
    expect(() => machine.finish(V0)).toThrow(/no operation that is done/);
    while (machine.microStep(V0) !== Progress.done);
    expect(() => machine.microStep(V0)).toThrow(/is done: finish it/);
    expect(machine.finish(V0)).toMatchObject({ result: 0, elements: [{ status: 0 }] });
  });

  it.each([null, undefined, 7, 'x'])('is refused with the place when an element is %s', (element) => {
    const machine = machineWith();
    for (const name of ['map_grant_ref', 'unmap_grant_ref'] as const) {
      const elements = [mapAt(8), element] as never;
      const refuse = () =>
        machine.step({ op: name, domain: 0, elements: name === 'map_grant_ref' ? elements : ([element] as never) });
      expect(refuse).toThrow(name === 'map_grant_ref' ? /map_grant_ref: element 1/ : /unmap_grant_ref: element 0/);
      expect(machine.isBusy(V0)).toBe(false);
    }
  });

  it('takes no address that only looks like one', () => {
    const elements = [{ ...mapAt(8), hostAddress: ['0x1000'] }] as never;
    expect(() => machineWith().step({ op: 'map_grant_ref', domain: 0, elements })).toThrow(TypeError);
  });
});

describe('an HVM domain', () => {
  it('has neither transfers nor replacements nor lists of status frames', () => {
    const machine = machineWith();
    const elements = [{ hostAddress: 0, newAddress: 0, handle: 0 }];
    const calls = [
      { op: 'unmap_and_replace', domain: 0, elements },
      { op: 'transfer', domain: 0, elements: [{ frame: 0, domain: 1, ref: 8 }] },
      { op: 'get_status_frames', domain: 0, target: 0, frames: 0, list: 'mapped' },
      { op: 'cache_flush', domain: 0, elements: [] },
      ...[3, 4, 7, 9, 12, 13].map((command) => ({ op: 'grant_table_op', domain: 0, command, count: 0 }) as const),
    ] as const;
    for (const call of calls) expect(machine.step(call).result).toBe(Errno.ENOSYS);
    expect(machine.step({ op: 'grant_table_op', domain: 0, command: 0, count: 0 }).result).toBe(0);
    expect(machine.step({ op: 'grant_table_op', domain: 1, command: 7, count: 0 }).result).toBe(0);
  });
});
