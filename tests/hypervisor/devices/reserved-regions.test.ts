// Goal: a device's reserved regions are mapped one to one for whoever has it, for as long as somebody of the domain
// needs them, and the device never misses them. Method: regions behind the recorded devices; what the unit is sent, what
// the device reads, what the domain counts. xen: x86/iommu.c iommu_identity_mapping, vtd/iommu.c intel_iommu_assign.

import { describe, expect, it } from 'vitest';
import { fingerprint, type MachineOptions, Progress } from '../../../hypervisor/index.ts';
import type { Mfn } from '../../../machine/frame-number.ts';
import { DOMID_IO, DOMID_XEN, type Domid } from '../../../machine/ids.ts';
import { violations } from '../../../verify/index.ts';
import { AssignmentMachine, type AssignmentOptions, type CPU, QUARANTINE } from '../assignment-machine.ts';

const pair = (did: number, device: string) => `CC ${did} ${device}, DSI ${did}`;
/** Beyond the machine's 256 frames. */
const FIRST = 0x400;
const DEVICE = '0000:00:06.0';
const ALONE = { firstFrame: FIRST, frames: 2, devices: [DEVICE] } as const;
const SHARED = { firstFrame: FIRST, frames: 2, devices: [DEVICE, '0000:00:06.1'] } as const;

function scene(options: AssignmentOptions = {}, regions: MachineOptions['reservedRegions'] = [ALONE]) {
  const of = new AssignmentMachine({ ...options, machine: { ...options.machine, reservedRegions: regions } });
  const { machine } = of;
  return {
    of,
    machine,
    reads: (frame: number, device: string = DEVICE) => {
      const { dma } = machine.step({ op: 'dma', device, address: frame * 4096, access: 'read' });
      return dma!.frame ?? dma!.fault!.name;
    },
    counts: (domain: number) => machine.control.root.domains[domain]!.regions,
    assign: (device: string, domain: number, relaxed = false) =>
      of.do({ op: 'assign_device', device: `0000:${device}`, domain, relaxed }),
  };
}

describe('a region of one device', () => {
  it('goes with the device, page by page, before and after its context entry', () => {
    const s = scene({ unit: { cachingMode: true } });
    expect(s.reads(FIRST + 1)).toBe(FIRST + 1);
    // Nothing of domain 1 is behind the unit yet, so that nothing of it can be cached.
    expect(s.assign('00:06.0', 1)).toEqual([0, pair(65535, '00:06.0')]);
    expect(s.counts(1)).toEqual([{ region: 0, count: 1 }]);
    expect([s.reads(FIRST), s.reads(FIRST + 1), s.reads(FIRST + 2)]).toEqual([FIRST, FIRST + 1, 'readNotPermitted']);
    expect(s.of.deassign('00:06.0')).toEqual([0, pair(65534, '00:06.0')]);
    expect(s.counts(1)).toEqual([]);
    expect(s.machine.parts.driver.lookup(1 as Domid, FIRST as never).rights).toBe(0);
    expect(violations(s.machine)).toEqual([]);
  });

  it('is flushed where other devices of the domain may have it cached', () => {
    const s = scene({ unit: { cachingMode: true } });
    s.assign('00:05.0', 1);
    const pages = `PSI 65534 0x${(FIRST * 4096).toString(16)}, PSI 65534 0x${((FIRST + 1) * 4096).toString(16)}`;
    expect(s.assign('00:06.0', 1)).toEqual([0, `${pages}, ${pair(65535, '00:06.0')}`]);
    const [result, sent] = s.of.deassign('00:06.0');
    expect([result, sent]).toEqual([0, `${pair(65534, '00:06.0')}, ${pages}`]);
  });

  it('is announced when it is in new tables of a quarantine, once some were behind the unit', () => {
    const other = { firstFrame: FIRST + 2, frames: 1, devices: ['0000:00:05.0'] };
    const page = (frame: number) => `PSI 32782 0x${(frame * 4096).toString(16)}`;
    for (const cachingMode of [true, false]) {
      const s = scene({ unit: { cachingMode } }, [other, ALONE]);
      const did = cachingMode ? 65535 : 0;
      expect(s.assign('00:05.0', QUARANTINE)).toEqual([0, pair(did, '00:05.0')]);
      // Refused or not: the tables are there.
      const [, sent] = s.assign('00:06.0', 1);
      expect(sent).toBe([...(cachingMode ? [page(FIRST), page(FIRST + 1)] : []), pair(did, '00:06.0')].join(', '));
      s.of.deassign('00:06.0');
      s.of.deassign('00:06.0', QUARANTINE);
      expect(s.assign('00:06.0', 1)[1]).toBe(pair(did, '00:06.0'));
    }
    const handedOut = scene({ unit: { cachingMode: true, domainIds: 256 } }, [other, ALONE]);
    handedOut.assign('00:05.0', QUARANTINE);
    expect(handedOut.assign('00:06.0', 1)[1]).not.toContain('PSI');
  });

  it('stays with the hardware domain, whoever has the device', () => {
    const s = scene();
    expect(s.counts(0)).toEqual([{ region: 0, count: 1 }]);
    s.assign('00:06.0', 1);
    expect(s.counts(0)).toEqual([{ region: 0, count: 1 }]);
    expect(s.reads(FIRST, '0000:00:05.0')).toBe(FIRST);
  });

  it.each([
    ['for want of memory in the middle', -12, { superpages: false }],
    ['beyond what the unit sees', -14, { beyondReach: 'refused' }],
  ] as const)('is refused %s, and no did is taken', (_, errno, iommu) => {
    const firstFrame = errno === -14 ? 2 ** 27 - 1 : FIRST;
    const s = scene({ unit: { domainIds: 16, levels: [3], addressBits: 39 }, iommu, hardware: false }, [
      { firstFrame, frames: 1026, devices: [DEVICE] },
    ]);
    const { frames, driver } = s.machine.parts;
    if (errno === -12) {
      const taken: Mfn[] = [];
      for (let at = frames.allocate(DOMID_XEN); at >= 0; at = frames.allocate(DOMID_XEN)) taken.push(at as Mfn);
      for (const frame of taken.slice(-2)) if (frames.dropReferences(frame, 1, 0)) frames.free(frame);
    }
    expect(s.assign('00:06.0', 1)).toEqual([errno, '']);
    expect([s.counts(1), driver.ids[0]!.didOf(1 as Domid), s.of.owner('00:06.0')]).toEqual([[], -1, null]);
    expect(violations(s.machine)).toEqual([]);
  });

  it.each(['basic', 'scratch'] as const)('is all that the device finds in quarantine (%s)', (quarantine) => {
    const s = scene({ iommu: { quarantine }, machine: { caches: { kind: 'lru' } } });
    s.assign('00:06.0', 1);
    s.of.deassign('00:06.0');
    expect(s.of.owner('00:06.0')).toBe(QUARANTINE);
    expect([s.reads(FIRST), s.reads(FIRST + 1)]).toEqual([FIRST, FIRST + 1]);
    const beside = s.reads(FIRST + 2);
    if (quarantine === 'basic') expect(beside).toBe('readNotPermitted');
    else expect(s.machine.parts.frames.owner(beside as Mfn)).toBe(DOMID_IO);
    // From there it goes by the did of its quarantine, and back to the hardware domain as well.
    expect(s.assign('00:06.0', 2)).toEqual([0, pair(0x8001, '00:06.0')]);
    s.of.deassign('00:06.0');
    expect(s.of.deassign('00:06.0')).toEqual([0, pair(0x8001, '00:06.0')]);
    expect([s.of.owner('00:06.0'), s.reads(FIRST)]).toEqual([0, FIRST]);
  });

  it('is blocked in quarantine for other devices', () => {
    const s = scene();
    s.assign('00:05.0', 1);
    s.of.deassign('00:05.0');
    expect(s.reads(FIRST, '0000:00:05.0')).toBe('contextNotPresent');
  });

  it.each([
    {},
    { cachingMode: true, writeBufferFlush: true },
    { cachingMode: true, coherent: false },
    { levels: [3], addressBits: 39 },
  ])('is never missed by the device, at no step of any move (A5): %j', (unit) => {
    const s = scene({ unit, iommu: { quarantine: 'scratch' } });
    // What was absent at boot.
    s.machine.step({ op: 'remove_device', device: DEVICE });
    s.machine.step({ op: 'add_device', device: DEVICE });
    const everySight = () =>
      new Set(s.machine.mayTranslate(DEVICE, FIRST).map(({ frame, rights }) => `${frame} ${rights}`));
    for (const op of [
      { op: 'assign_device', device: DEVICE, domain: 1 },
      { op: 'deassign_device', device: DEVICE },
      { op: 'assign_device', device: DEVICE, domain: 2 },
      { op: 'deassign_device', device: DEVICE },
      { op: 'deassign_device', device: DEVICE },
    ] as const) {
      const vcpu = s.machine.begin(op) as typeof CPU;
      for (let progress = s.machine.microStep(vcpu); progress !== Progress.done; ) {
        expect(everySight()).toEqual(new Set([`${FIRST} 3`]));
        if (progress === Progress.blocked) for (const unit of s.machine.units) while (unit.step());
        progress = s.machine.microStep(vcpu);
      }
      expect(s.machine.finish(vcpu).result).toBe(0);
    }
  });

  it('goes with a domain that dies, before its tables', () => {
    const s = scene();
    s.assign('00:06.0', 1);
    expect(s.machine.step({ op: 'destroy_domain', domain: 1 }).result).toBe(0);
    expect([s.of.owner('00:06.0'), s.reads(FIRST)]).toEqual([QUARANTINE, FIRST]);
    expect(s.machine.control.root.domains[1]).toBeNull();
  });

  it('is nobody else’s memory where it lies in RAM', () => {
    const region = { firstFrame: 100, frames: 2, devices: [DEVICE] };
    const s = scene({}, [region]);
    expect(s.machine.parts.frames.owner(100 as Mfn)).toBe(DOMID_IO);
    s.assign('00:06.0', 1);
    expect([s.reads(100), s.reads(101), s.reads(102)]).toEqual([100, 101, 'readNotPermitted']);
    expect(violations(s.machine)).toEqual([]);
  });
});

describe('a region of several devices', () => {
  it('is refused with -EPERM, unless relaxed', () => {
    const s = scene({}, [SHARED]);
    const before = fingerprint(s.machine);
    expect(scene({ iommu: { quarantine: 'none' } }, [SHARED]).assign('00:06.0', 1)).toEqual([-1, '']);
    expect(s.assign('00:06.0', 1)).toEqual([-1, '']);
    expect(s.of.owner('00:06.0')).toBe(0);
    // But for the quarantine, which is ready.
    expect(fingerprint(s.machine)).not.toBe(before);
    expect(s.assign('00:06.0', 1, true)).toEqual([0, pair(0, '00:06.0')]);
  });

  it('is counted: with the last device it goes, and not before', () => {
    const s = scene({}, [SHARED]);
    s.assign('00:06.0', 1, true);
    s.assign('00:06.1', 1, true);
    expect(s.counts(1)).toEqual([{ region: 0, count: 2 }]);
    expect(s.of.deassign('00:06.0')).toEqual([0, pair(1, '00:06.0')]);
    expect([s.counts(1), s.reads(FIRST, '0000:00:06.1')]).toEqual([[{ region: 0, count: 1 }], FIRST]);
    s.of.deassign('00:06.1');
    expect(s.counts(1)).toEqual([]);
  });

  it('connects two domains, if both are relaxed', () => {
    const s = scene({}, [SHARED]);
    s.assign('00:06.0', 1, true);
    s.assign('00:06.1', 2, true);
    expect([s.reads(FIRST), s.reads(FIRST, '0000:00:06.1')]).toEqual([FIRST, FIRST]);
  });
});

describe('a translated domain', () => {
  const hvm = (at: number, options: AssignmentOptions = {}) => {
    const s = scene({ ...options, machine: { gfns: 128, domains: 6 } }, [
      { firstFrame: at, frames: 2, devices: [DEVICE] },
    ]);
    s.machine.step({ op: 'create_domain', domain: 5, kind: 'hvm', frames: 8, iommu: true });
    return s;
  };

  it('has it at gfns of its own', () => {
    const s = hvm(100);
    expect(s.assign('00:06.0', 5)[0]).toBe(0);
    expect([s.reads(100), s.reads(101), s.reads(102)]).toEqual([100, 101, 'readNotPermitted']);
    expect(violations(s.machine)).toEqual([]);
    expect(s.machine.step({ op: 'decrease_reservation', domain: 5, frames: [100] }).result).toBe(0);
    s.of.deassign('00:06.0');
    expect(s.machine.step({ op: 'populate_physmap', domain: 5, gfns: [100] })).toMatchObject({ result: 1 });
  });

  it('is crashed when it puts something else there', () => {
    const s = hvm(100);
    s.assign('00:06.0', 5);
    const { crashed } = s.machine.step({ op: 'populate_physmap', domain: 5, gfns: [100] });
    expect(crashed).toEqual([{ domain: 5, reason: 'mapped over the reserved region at gfn 100' }]);
  });

  it('beyond the gfns that are kept', () => {
    const s = hvm(FIRST);
    expect(s.assign('00:06.0', 5)[0]).toBe(0);
    expect(s.reads(FIRST)).toBe(FIRST);
    s.of.deassign('00:06.0');
    expect(s.machine.parts.driver.lookup(5 as Domid, FIRST as never).rights).toBe(0);
  });

  it('is refused with -EBUSY where it has RAM, and what was mapped is taken back; relaxed it keeps its RAM', () => {
    const s = hvm(126, { unit: { domainIds: 16 } });
    s.machine.step({ op: 'populate_physmap', domain: 5, gfns: [127] });
    const device = s.machine.parts.driver.lookup(5 as Domid, 127 as never);
    const before = fingerprint(s.machine);
    expect(s.assign('00:06.0', 5)).toEqual([-16, '']);
    expect(s.counts(5)).toEqual([]);
    expect(violations(s.machine)).toEqual([]);
    expect(s.machine.parts.driver.ids[0]!.didOf(5 as Domid)).toBe(-1);
    // But for the quarantine of the device, everything is as it was: once more, and nothing differs.
    const again = fingerprint(s.machine);
    expect([again === before, s.assign('00:06.0', 5)[0], fingerprint(s.machine)]).toEqual([false, -16, again]);
    expect(s.machine.parts.driver.lookup(5 as Domid, 126 as never).rights).toBe(0);
    expect(s.assign('00:06.0', 5, true)[0]).toBe(0);
    expect([s.reads(126), s.reads(127)]).toEqual([126, device.frame]);
    s.of.deassign('00:06.0');
    expect(s.machine.parts.driver.lookup(5 as Domid, 127 as never)).toEqual(device);
    expect(violations(s.machine)).toEqual([]);
  });
});

describe('a device behind a PCIe-to-PCI bridge', () => {
  const region = { firstFrame: FIRST, frames: 1, devices: ['0000:04:01.0'] } as const;

  it('with a region is not moved while it has an entry, relaxed or not', () => {
    const s = scene({}, [region]);
    expect([s.assign('04:01.0', 1), s.assign('04:01.0', 1, true), s.assign('04:01.0', QUARANTINE)]).toEqual([
      [-95, ''],
      [-95, ''],
      [-95, ''],
    ]);
    expect(s.of.owner('04:01.0')).toBe(0);
    const bare = scene({ iommu: { quarantine: 'none' } }, [region]);
    expect(bare.assign('04:01.0', QUARANTINE)[0]).toBe(0);
    expect(bare.assign('04:01.0', 1)[0], 'from where it has none').toBe(0);
  });
});

describe('the option reservedRegions', () => {
  it.each([
    [[ALONE, { ...ALONE, firstFrame: FIRST + 1 }], 'reservedRegions[1]: expected no frame of reservedRegions[0]'],
    [[{ ...ALONE, frames: 0 }], 'frames 0'],
    [[{ ...ALONE, devices: ['nothing'] }], 'nothing'],
  ])('%j is refused', (regions, message) => {
    expect(() => scene({}, regions)).toThrow(message);
  });
});
