// Goal: devices change hands as recorded runs of Xen show it: return values, and each invalidation in its order.
// Method: excerpts of the recordings, written out here, on a machine with the recorded devices. CC and DSI: context
// cache of a device, IOTLB of a did. A wait follows each, told where it matters.

import { describe, expect, test } from 'vitest';
import { fingerprint } from '../../hypervisor/index.ts';
import type { Mfn } from '../../machine/frame-number.ts';
import { DOMID_XEN, type Domid } from '../../machine/ids.ts';
import { AssignmentMachine, type AssignmentOptions, QUARANTINE } from './assignment-machine.ts';

const pair = (did: number, device: string) => `CC ${did} ${device}, DSI ${did}`;
const behindBridge = (device: string, own: number, bridge: number) =>
  [pair(own, device), pair(bridge, '03:00.0'), pair(bridge, '04:00.0')].join(', ');

describe('assign_device', () => {
  test('invalidates what the old owner left, each piece with a wait of its own', () => {
    const of = new AssignmentMachine();
    expect(of.do({ op: 'assign_device', device: '0000:00:06.0', domain: 1 }, true)).toEqual([
      0,
      'CC 0 00:06.0, W, DSI 0, W',
    ]);
    expect(of.owner('00:06.0')).toBe(1);
  });

  test('is refused in the order of the checks, and nothing is sent', () => {
    const of = new AssignmentMachine();
    of.assign('00:06.0', 1);
    const before = fingerprint(of.machine);
    expect(of.assign('00:06.0', 1)).toEqual([-16, '']);
    expect(of.assign('00:06.0', 2)).toEqual([-16, '']);
    expect(of.assign('00:06.1', 3)).toEqual([-95, '']);
    expect(of.assign('00:1e.0', 1)).toEqual([-19, '']);
    expect(of.assign('00:06.1', 99)).toEqual([-3, '']);
    expect(of.assign('00:1e.0', 99)).toEqual([-3, '']);
    expect(of.assign('00:06.1', 0)).toEqual([-22, '']);
    expect(of.assign('00:1e.0', 0)).toEqual([-22, '']);
    expect(of.assign('00:00.0', 1)).toEqual([-1, '']);
    expect(fingerprint(of.machine)).toBe(before);
  });

  test('of a root port changes its owner and nothing else', () => {
    const of = new AssignmentMachine();
    expect(of.assign('00:08.0', 1)).toEqual([0, '']);
    expect(of.owner('00:08.0')).toBe(1);
    expect(of.assign('00:08.0', 2)).toEqual([-16, '']);
  });

  test('is refused with -EBUSY where no did is left, and everything is as it was', () => {
    const of = new AssignmentMachine({ unit: { domainIds: 16 }, machine: { domains: 20 } });
    const [ids] = of.machine.parts.driver.ids;
    for (let domain = 4; domain < 19; domain += 1) ids!.obtain(domain as Domid);
    const before = fingerprint(of.machine);
    expect(of.assign('04:01.0', 1)).toEqual([-16, '']);
    expect(fingerprint(of.machine)).toBe(before);
  });
});

describe('domain ids', () => {
  const units = [{ capabilities: { domainIds: 16 } }, { capabilities: { domainIds: 16 } }] as const;
  const devices = [
    { device: '0000:00:06.0', unit: 0 },
    { device: '0000:00:06.1', unit: 0 },
    { device: '0000:05:00.0', unit: 1 },
  ] as const;
  const platform = (machine: AssignmentOptions['machine'] = {}) =>
    new AssignmentMachine({ machine: { domains: 20, units, devices, ...machine } });
  /** Of a domain, on each unit. */
  const didsOf = (of: AssignmentMachine, domain: number) =>
    of.machine.parts.driver.ids.map((ids) => ids.didOf(domain as Domid));
  /** All of a unit's but what domains 0 to 3 have. */
  const fill = (of: AssignmentMachine) => {
    for (let domain = 4; domain < 20; domain += 1) of.machine.parts.driver.ids[0]!.obtain(domain as Domid);
  };

  test('go with the last device behind the unit, and not before', () => {
    const of = platform();
    for (const device of ['00:06.0', '00:06.1', '05:00.0']) of.assign(device, 1);
    expect(didsOf(of, 1)).toEqual([1, 1]);
    of.deassign('00:06.0');
    expect(didsOf(of, 1)).toEqual([1, 1]);
    of.deassign('00:06.1');
    expect(didsOf(of, 1)).toEqual([-1, 1]);
    of.deassign('05:00.0');
    expect(didsOf(of, 1)).toEqual([-1, -1]);
  });

  test('that all units share go with the last device of the domain', () => {
    const of = platform({ iommu: { domainIds: 'shared' } });
    for (const device of ['00:06.0', '05:00.0']) of.assign(device, 1);
    expect(didsOf(of, 1)).toEqual([1, 1]);
    expect(of.deassign('00:06.0')).toEqual([0, pair(1, '00:06.0')]);
    expect(didsOf(of, 1)).toEqual([1, 1]);
    expect(of.deassign('05:00.0')).toEqual([0, pair(1, '05:00.0')]);
    expect(didsOf(of, 1)).toEqual([-1, -1]);
  });

  test('that all units share are used up for all of them', () => {
    const refused = (spaces: 'per-unit' | 'shared') => {
      const of = platform({ iommu: { domainIds: spaces } });
      fill(of);
      return of.assign('05:00.0', 1)[0];
    };
    expect([refused('per-unit'), refused('shared')]).toEqual([0, -16]);
  });

  test('must have one to spare when the hardware domain gives a device away, for its quarantine', () => {
    const of = platform();
    of.assign('00:06.0', 1);
    fill(of);
    const before = fingerprint(of.machine);
    expect(of.assign('00:06.1', 1)).toEqual([-16, '']);
    expect(fingerprint(of.machine)).toBe(before);
    of.deassign('00:06.0', 1);
    // From quarantine none is needed but its own.
    expect(of.assign('00:06.0', 1)[0]).toBe(0);
  });

  test('need none to spare without quarantine', () => {
    const of = platform({ iommu: { quarantine: 'none' } });
    of.assign('00:06.0', 1);
    fill(of);
    expect(of.assign('00:06.1', 1)[0]).toBe(0);
  });

  test('that have run out are told by -EFAULT by the rules of 2008, and nothing is changed either', () => {
    const of = platform({ rules: 'xen2008', iommu: { quarantine: 'none' } });
    fill(of);
    const before = fingerprint(of.machine);
    expect(of.assign('00:06.0', 1)).toEqual([-14, '']);
    expect(fingerprint(of.machine)).toBe(before);
  });
});

describe('a refusal in the middle of the preparations', () => {
  const bare = () => new AssignmentMachine({ hardware: false, unit: { domainIds: 16 }, machine: { domains: 20 } });

  test('for want of a did takes the context table back', () => {
    const of = bare();
    for (let domain = 4; domain < 20; domain += 1) of.machine.parts.driver.ids[0]!.obtain(domain as Domid);
    const before = fingerprint(of.machine);
    expect(of.assign('04:01.0', 1)).toEqual([-16, '']);
    expect(fingerprint(of.machine)).toBe(before);
  });

  test('for want of memory takes the did and the first context table back', () => {
    const of = bare();
    const { frames } = of.machine.parts;
    let last = -1;
    for (let frame = frames.allocate(DOMID_XEN); frame >= 0; frame = frames.allocate(DOMID_XEN)) last = frame;
    frames.dropReferences(last as Mfn, 1, 0);
    frames.free(last as Mfn);
    const before = fingerprint(of.machine);
    expect(of.assign('04:01.0', 1)).toEqual([-12, '']);
    expect(fingerprint(of.machine)).toBe(before);
    expect(of.assign('01:00.0', 1)).toEqual([0, '']);
  });
});

describe('deassign_device', () => {
  test('is refused for one that is not the owner', () => {
    const of = new AssignmentMachine();
    of.assign('00:06.0', 1);
    expect(of.deassign('00:06.0', 2)).toEqual([-19, '']);
    expect(of.deassign('00:06.1', 1)).toEqual([-19, '']);
    expect(of.deassign('00:06.0', QUARANTINE)).toEqual([-19, '']);
    expect(of.deassign('00:06.0', 3)).toEqual([-95, '']);
    expect(of.deassign('00:06.0', 99)).toEqual([-3, '']);
    expect(of.deassign('00:06.1', 0)).toEqual([-22, '']);
    expect(of.deassign('00:06.1')).toEqual([-22, '']);
  });

  test('puts a device into quarantine, and from there to the hardware domain', () => {
    const of = new AssignmentMachine();
    of.assign('00:06.0', 1);
    expect(of.deassign('00:06.0', 1)).toEqual([0, pair(1, '00:06.0')]);
    expect(of.owner('00:06.0')).toBe(QUARANTINE);
    expect(of.assign('00:06.0', 2)).toEqual([0, '']);
    expect(of.deassign('00:06.0', 2)).toEqual([0, pair(2, '00:06.0')]);
    expect(of.deassign('00:06.0', QUARANTINE)).toEqual([0, '']);
    expect(of.owner('00:06.0')).toBe(0);
    expect(of.assign('00:06.0', 1)).toEqual([0, pair(0, '00:06.0')]);
  });

  test('blocks its DMA in quarantine', () => {
    const of = new AssignmentMachine();
    const dma = () => of.machine.step({ op: 'dma', device: '0000:00:06.0', address: 0, access: 'read' }).dma;
    of.assign('00:06.0', 1);
    of.deassign('00:06.0', 1);
    expect(dma()).toEqual({ fault: { reason: 2, name: 'contextNotPresent' } });
  });
});

describe('devices behind one PCIe-to-PCI bridge', () => {
  test('may go to different domains: the entries of the bridge follow the last that moved', () => {
    const of = new AssignmentMachine();
    expect(of.assign('04:01.0', 1)).toEqual([0, behindBridge('04:01.0', 0, 0)]);
    expect(of.assign('04:02.0', 2)).toEqual([0, behindBridge('04:02.0', 0, 1)]);
    expect(of.deassign('04:01.0', 1)).toEqual([0, behindBridge('04:01.0', 1, 2)]);
    expect(of.deassign('04:02.0', 2)).toEqual([0, pair(2, '04:02.0')]);
  });

  test('leave the bridge alone where it is their domain’s already', () => {
    const of = new AssignmentMachine();
    of.assign('04:01.0', 1);
    expect(of.assign('04:02.0', 1)).toEqual([0, pair(0, '04:02.0')]);
  });

  test('share one quarantine at the bridge, under the id of the first', () => {
    const of = new AssignmentMachine({ iommu: { quarantine: 'scratch' } });
    of.assign('04:01.0', 1);
    of.assign('04:02.0', 2);
    expect(of.deassign('04:01.0', 1)).toEqual([0, behindBridge('04:01.0', 1, 2)]);
    expect(of.deassign('04:02.0', 2)).toEqual([0, pair(2, '04:02.0')]);
    expect(of.assign('04:02.0', 1)).toEqual([0, behindBridge('04:02.0', 0x8005, 0x8004)]);
  });
});

describe('the variants of the recordings', () => {
  test.each<[string, AssignmentOptions, readonly string[]]>([
    [
      'caching mode: complements as dids, absent entries under 0',
      { unit: { cachingMode: true } },
      [pair(65535, '00:06.0'), pair(65534, '00:06.0'), pair(0, '00:06.0'), pair(65533, '00:06.0'), pair(0, '00:06.0')],
    ],
    [
      'no quarantine: back to the hardware domain at once',
      { iommu: { quarantine: 'none' } },
      [pair(0, '00:06.0'), pair(1, '00:06.0'), pair(0, '00:06.0'), pair(2, '00:06.0'), 'refused -19'],
    ],
    [
      'scratch page: a did for each device in quarantine',
      { iommu: { quarantine: 'scratch' } },
      [pair(0, '00:06.0'), pair(1, '00:06.0'), pair(0x8001, '00:06.0'), pair(2, '00:06.0'), pair(0x8001, '00:06.0')],
    ],
    [
      'scratch page with caching mode: their complements',
      { unit: { cachingMode: true }, iommu: { quarantine: 'scratch' } },
      [
        pair(65535, '00:06.0'),
        pair(65534, '00:06.0'),
        pair(0x7ffe, '00:06.0'),
        pair(65533, '00:06.0'),
        pair(0x7ffe, '00:06.0'),
      ],
    ],
    [
      'three levels',
      { unit: { levels: [3], addressBits: 39 } },
      [pair(0, '00:06.0'), pair(1, '00:06.0'), '', pair(2, '00:06.0'), ''],
    ],
    [
      'dids handed out: the lowest that is free',
      { unit: { domainIds: 256 } },
      [pair(0, '00:06.0'), pair(1, '00:06.0'), '', pair(1, '00:06.0'), ''],
    ],
  ])('%s', (_, options, sent) => {
    const of = new AssignmentMachine(options);
    const told = ([result, text]: [number, string]) => (result === 0 ? text : `refused ${result}`);
    expect([
      told(of.assign('00:06.0', 1)),
      told(of.deassign('00:06.0', 1)),
      told(of.assign('00:06.0', 2)),
      told(of.deassign('00:06.0', 2)),
      told(of.deassign('00:06.0', QUARANTINE)),
    ]).toEqual(sent);
  });

  test('by register: the same invalidations, and no waits', () => {
    const of = new AssignmentMachine({ iommu: { queuedInvalidation: false } });
    const sent = of.do({ op: 'assign_device', device: '0000:00:06.0', domain: 1 }, true);
    expect(sent).toEqual([0, 'reg CC 0 00:06.0, reg DSI 0']);
  });

  test('ATS: after each IOTLB invalidation the device TLBs of that did', () => {
    const of = new AssignmentMachine({ unit: { deviceTlb: true }, iommu: { ats: true } });
    const assign = { op: 'assign_device', device: '0000:00:06.0', domain: 1 } as const;
    expect(of.do(assign, true)).toEqual([0, 'CC 0 00:06.0, W, DSI 0, W, DEV 0x500 all, W']);
    // The entry of the device itself has another did by then.
    expect(of.assign('05:00.0', 1)).toEqual([0, pair(0, '05:00.0')]);
    expect(of.assign('00:06.1', 1)).toEqual([0, pair(0, '00:06.1')]);
    expect(of.deassign('00:06.1', 1)).toEqual([0, `${pair(1, '00:06.1')}, DEV 0x500 all`]);
  });

  test.each([
    ['not wished for', { unit: { deviceTlb: true } }],
    ['not known to the unit', { iommu: { ats: true } }],
    ['impossible without the queue', { unit: { deviceTlb: true }, iommu: { ats: true, queuedInvalidation: false } }],
  ])('ATS %s: no device TLB is told', (_, options) => {
    expect(new AssignmentMachine(options).assign('00:06.0', 1)[1]).not.toContain('DEV');
  });
});

describe('a scratch page', () => {
  const device = '0000:00:06.0';
  const quarantined = () => {
    const of = new AssignmentMachine({ iommu: { quarantine: 'scratch' }, machine: { caches: { kind: 'lru' } } });
    of.assign('00:06.0', 1);
    of.deassign('00:06.0', 1);
    return of;
  };

  test('answers every address, takes writes, and harms nobody', () => {
    const { machine } = quarantined();
    const at = (address: number) => machine.step({ op: 'dma', device, address, access: 'read' }).dma!;
    const page = at(0).frame!;
    expect([0x1000, 0x40000000, 2 ** 47].map((address) => at(address).frame)).toEqual([page, page, page]);
    machine.step({ op: 'dma', device, address: 0x5004, access: 'write', value: 7 });
    expect(at(0x9004).value).toBe(7);
  });

  test('is empty again for the next quarantine, and there is one for each device', () => {
    const of = quarantined();
    const read = (name: string) => of.machine.step({ op: 'dma', device: name, address: 4, access: 'read' }).dma!;
    of.machine.step({ op: 'dma', device, address: 4, access: 'write', value: 7 });
    of.assign('00:06.0', 1);
    of.deassign('00:06.0', 1);
    of.assign('00:06.1', 1);
    of.deassign('00:06.1', 1);
    expect(read(device).value).toBe(0);
    expect(read('0000:00:06.1').frame).not.toBe(read(device).frame);
  });
});

describe('a machine without a hardware domain', () => {
  test('takes devices from nobody and gives them back to nobody', () => {
    const of = new AssignmentMachine({ hardware: false });
    expect(of.assign('04:01.0', 1)).toEqual([0, '']);
    expect(of.assign('00:00.0', 1)).toEqual([-1, '']);
    expect(of.deassign('04:01.0')).toEqual([0, behindBridge('04:01.0', 1, 1)]);
    expect(of.owner('04:01.0')).toBe(null);
    expect(of.deassign('04:01.0')).toEqual([-22, '']);
  });
});

describe('the devices of a domain that dies', () => {
  test('go one by one, the last to come first', () => {
    const of = new AssignmentMachine({ unit: { deviceTlb: true }, iommu: { ats: true } });
    for (const device of ['05:00.0', '00:08.0', '00:06.0']) of.assign(device, 1);
    expect(of.release(1)).toEqual([0, `${pair(1, '00:06.0')}, DEV 0x500 all, ${pair(1, '05:00.0')}`]);
    expect(['05:00.0', '00:08.0', '00:06.0'].map((device) => of.owner(device))).toEqual(new Array(3).fill(QUARANTINE));
    expect(of.machine.parts.driver.tables.units(1 as Domid)).toBe(0);
    expect(of.release(1)).toEqual([0, '']);
  });

  test('keep that order when one in between has left', () => {
    const of = new AssignmentMachine();
    for (const device of ['00:05.0', '00:06.0', '00:06.1']) of.assign(device, 1);
    of.deassign('00:06.0', 1);
    of.assign('01:00.0', 2);
    of.assign('00:06.0', 1);
    expect(of.release(1)[1]).toBe([pair(1, '00:06.0'), pair(1, '00:06.1'), pair(1, '00:05.0')].join(', '));
    expect(of.owner('01:00.0')).toBe(2);
  });
});
