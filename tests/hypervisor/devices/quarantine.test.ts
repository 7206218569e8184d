// Goal: devices that are put into quarantine by order, hidden, removed and added again, as recorded runs of Xen 4.17
// show it: return values, owners, and what the unit is sent. Method: excerpts of those recordings, on the recorded
// devices. CC and DSI: context cache of a device, IOTLB of a did.

import { describe, expect, it } from 'vitest';
import { GNTMAP, GTF } from '../../../hypervisor/index.ts';
import type { Domid } from '../../../machine/ids.ts';
import { exemptions, violations } from '../../../verify/index.ts';
import { AssignmentMachine, type AssignmentOptions, DEVICES, QUARANTINE } from '../assignment-machine.ts';

const pair = (did: number, device: string) => `CC ${did} ${device}, DSI ${did}`;
const remove = (of: AssignmentMachine, device: string) => of.do({ op: 'remove_device', device: `0000:${device}` });
const add = (of: AssignmentMachine, device: string) => of.do({ op: 'add_device', device: `0000:${device}` });
const test = (of: AssignmentMachine, device: string, domain?: number) =>
  of.do({ op: 'test_assign_device', device: `0000:${device}`, ...(domain === undefined ? {} : { domain }) })[0];
const read = (of: AssignmentMachine, device: string) =>
  of.machine.step({ op: 'dma', device: `0000:${device}`, address: 0, access: 'read' }).dma;

const VARIANTS: readonly (readonly [string, AssignmentOptions, readonly string[]])[] = [
  ['basic', {}, [pair(0, '00:06.0'), '', '', pair(1, '00:06.0'), '', pair(0, '00:06.0'), pair(1, '00:06.0')]],
  [
    'basic, caching mode',
    { unit: { cachingMode: true } },
    [
      pair(65535, '00:06.0'),
      '',
      pair(0, '00:06.0'),
      pair(65534, '00:06.0'),
      pair(0, '00:06.0'),
      pair(65535, '00:06.0'),
      pair(65534, '00:06.0'),
    ],
  ],
  [
    'none',
    { iommu: { quarantine: 'none' } },
    [pair(0, '00:06.0'), '', '', pair(1, '00:06.0'), '', pair(0, '00:06.0'), pair(1, '00:06.0')],
  ],
  [
    'scratch',
    { iommu: { quarantine: 'scratch' } },
    [
      pair(0, '00:06.0'),
      '',
      pair(0x8001, '00:06.0'),
      pair(1, '00:06.0'),
      pair(0x8001, '00:06.0'),
      pair(0, '00:06.0'),
      pair(1, '00:06.0'),
    ],
  ],
];

describe('a device put into quarantine by order', () => {
  it.each(VARIANTS)(
    'goes back there from guests, until it was the hardware domain’s again: %s',
    (name, options, sent) => {
      const of = new AssignmentMachine(options);
      const moves: (readonly [[number, string], number | null])[] = [];
      const note = (told: [number, string]) => moves.push([told, of.owner('00:06.0')]);
      note(of.assign('00:06.0', QUARANTINE));
      note(of.assign('00:06.0', QUARANTINE));
      note(of.assign('00:06.0', 1));
      note(of.deassign('00:06.0', 1));
      note(of.deassign('00:06.0', QUARANTINE));
      note(of.assign('00:06.0', 1));
      note(of.deassign('00:06.0', 1));
      const last = name === 'none' ? 0 : QUARANTINE;
      const owners = [QUARANTINE, QUARANTINE, 1, QUARANTINE, 0, 1, last];
      expect(moves).toEqual(sent.map((text, at) => [[0, text], owners[at]]));
      expect(violations(of.machine)).toEqual([]);
    },
  );

  it('is refused in that order of checks', () => {
    const of = new AssignmentMachine();
    of.assign('00:06.0', 1);
    expect(of.assign('00:06.0', QUARANTINE)).toEqual([-16, '']);
    expect(of.deassign('00:06.0', QUARANTINE)).toEqual([-19, '']);
    expect(of.assign('00:1e.0', QUARANTINE)).toEqual([-19, '']);
    expect([0x7ff0, 0x7ff2, 0x7ff4].map((domain) => of.assign('00:06.1', domain)[0])).toEqual([-3, -3, -3]);
    expect(of.assign('00:00.0', QUARANTINE)).toEqual([0, '']);
    expect(new AssignmentMachine({ iommu: { quarantine: 'scratch' } }).assign('00:00.0', QUARANTINE)).toEqual([-1, '']);
  });

  it('finds a clean page when it comes from elsewhere, and the same one when it was there', () => {
    const of = new AssignmentMachine({ iommu: { quarantine: 'scratch' } });
    const device = '0000:00:06.0';
    of.assign('00:06.0', QUARANTINE);
    of.machine.step({ op: 'dma', device, address: 0x5008, access: 'write', value: 7 });
    const value = () => of.machine.step({ op: 'dma', device, address: 0x8, access: 'read' }).dma!.value;
    expect(value()).toBe(7);
    of.assign('00:06.0', QUARANTINE);
    expect(value()).toBe(7);
    of.deassign('00:06.0');
    of.assign('00:06.0', QUARANTINE);
    expect(value()).toBe(0);
  });
});

describe('a hidden device', () => {
  const hiding = (options: AssignmentOptions = {}) => {
    const devices = DEVICES.map((one) => (one.device === '0000:00:05.0' ? { ...one, hidden: true } : one));
    return new AssignmentMachine({ ...options, machine: { devices, ...options.machine } });
  };

  it('goes by the entries of the hardware domain, and is given to nobody', () => {
    const of = hiding();
    expect(of.owner('00:05.0')).toBe(0x7ff2);
    const { frame } = of.machine.parts.driver.lookup(
      0 as Domid,
      of.machine.control.root.domains[0]!.ram.first as never,
    );
    const address = frame * 4096;
    expect(of.machine.step({ op: 'dma', device: '0000:00:05.0', address, access: 'read' }).dma!.frame).toBe(frame);
    expect([of.assign('00:05.0', 1), of.assign('00:05.0', QUARANTINE)]).toEqual([
      [-16, ''],
      [-16, ''],
    ]);
    expect([test(of, '00:05.0'), of.deassign('00:05.0')[0], of.deassign('00:05.0', 1)[0]]).toEqual([-22, -19, -19]);
    expect(add(of, '00:05.0')).toEqual([0, '']);
    expect(violations(of.machine)).toEqual([]);
  });

  it('keeps the unit for the hardware domain when that has no other device there', () => {
    const serves = (of: AssignmentMachine) => {
      for (const { device, type } of DEVICES) {
        if (type === 'host-bridge') remove(of, device.slice(5));
        else of.do({ op: 'assign_device', device, domain: 1 });
      }
      return of.machine.parts.driver.tables.units(0 as Domid);
    };
    expect([serves(hiding()), serves(new AssignmentMachine())]).toEqual([1, 0]);
  });

  it('leaves its entry when it is removed, and is the hardware domain’s when it is added again', () => {
    const of = hiding();
    expect(remove(of, '00:05.0')).toEqual([0, '']);
    expect(read(of, '00:05.0')).not.toMatchObject({ fault: { name: 'contextNotPresent' } });
    expect(add(of, '00:05.0')).toEqual([0, '']);
    expect(of.owner('00:05.0')).toBe(0);
    expect(of.assign('00:05.0', 1)).toEqual([0, pair(0, '00:05.0')]);
    expect(violations(of.machine)).toEqual([]);
  });
});

describe('a device that is removed', () => {
  it('is asked of nobody: its entries go, and its owner goes on without', () => {
    const of = new AssignmentMachine();
    of.assign('00:06.0', 1);
    expect(remove(of, '00:06.0')).toEqual([0, pair(1, '00:06.0')]);
    expect(read(of, '00:06.0')).toEqual({ fault: { reason: 2, name: 'contextNotPresent' } });
    expect([remove(of, '00:06.0'), of.assign('00:06.0', 1), of.deassign('00:06.0'), test(of, '00:06.0')]).toEqual([
      [-19, ''],
      [-19, ''],
      [-19, ''],
      -22,
    ]);
    expect(of.machine.parts.driver.tables.units(1 as Domid)).toBe(0);
    expect(of.do({ op: 'destroy_domain', domain: 1 })).toEqual([0, '']);
    expect(violations(of.machine)).toEqual([]);
  });

  it.each([
    ['without caching mode', false, ''],
    ['with it', true, pair(0, '00:06.0')],
  ])('is the hardware domain’s when it is added again, %s', (_, cachingMode, sent) => {
    const of = new AssignmentMachine({ unit: { cachingMode } });
    of.assign('00:06.0', 1);
    remove(of, '00:06.0');
    expect(add(of, '00:06.0')).toEqual([0, sent]);
    expect(of.owner('00:06.0')).toBe(0);
    expect(add(of, '00:06.0')).toEqual([0, '']);
    expect(add(of, '00:1e.0')[0]).toBe(-22);
    expect(violations(of.machine)).toEqual([]);
  });

  it('from quarantine takes its tables and its did along', () => {
    const of = new AssignmentMachine({ iommu: { quarantine: 'scratch' } });
    of.assign('00:06.0', QUARANTINE);
    const { frames, driver } = of.machine.parts;
    const root = driver.quarantine.root(1);
    expect(frames.isAllocated(root)).toBe(true);
    expect(remove(of, '00:06.0')).toEqual([0, pair(0x8001, '00:06.0')]);
    expect(frames.isAllocated(root)).toBe(false);
    expect(remove(of, '01:00.0')).toEqual([0, pair(0, '01:00.0')]);
    const basic = new AssignmentMachine();
    basic.assign('00:06.0', QUARANTINE);
    expect(remove(basic, '00:06.0')).toEqual([0, '']);
  });

  it('has the next pseudo domid when it is there again, as recorded', () => {
    const of = new AssignmentMachine({ iommu: { quarantine: 'scratch' } });
    for (const did of [0x8001, 0x8007, 0x8008]) {
      of.assign('00:06.0', QUARANTINE);
      expect(remove(of, '00:06.0')).toEqual([0, pair(did, '00:06.0')]);
      expect(add(of, '00:06.0')[0]).toBe(0);
      expect(violations(of.machine)).toEqual([]);
    }
  });

  it('takes the entries of the bridge along, whoever has them', () => {
    const of = new AssignmentMachine();
    of.assign('04:01.0', 1);
    expect(remove(of, '04:02.0')).toEqual([0, [pair(0, '04:02.0'), pair(1, '03:00.0'), pair(1, '04:00.0')].join(', ')]);
    add(of, '04:02.0');
    expect(violations(of.machine)).toEqual([]);
  });

  it('a bridge goes without a word; the devices behind it have their own entries only, until it is back', () => {
    const of = new AssignmentMachine();
    expect(remove(of, '03:00.0')).toEqual([0, '']);
    expect(of.assign('04:01.0', 1)).toEqual([0, pair(0, '04:01.0')]);
    expect(add(of, '03:00.0')).toEqual([0, '']);
    expect(of.deassign('04:01.0')[1]).toContain('03:00.0');
  });

  it('a bridge that goes leaves its entries to whom they were, and X2 says so', () => {
    const of = new AssignmentMachine();
    of.assign('04:01.0', 1);
    remove(of, '03:00.0');
    expect(violations(of.machine)).toEqual([]);
    of.deassign('04:01.0');
    const stranded = ['03:00.0', '04:00.0'].map((id) => `the entry of 0000:${id} is as its bridge left it`);
    expect(violations(of.machine, exemptions).map(({ message }) => message)).toEqual(stranded);
    expect(violations(of.machine).map(({ invariant }) => invariant)).toContain('A1');
  });

  it('a physical function does not go before its virtual ones, which nobody gets any more', () => {
    const devices = [
      { device: '0000:01:00.0', unit: 0 },
      { device: '0000:01:00.1', unit: 0, physicalFunction: '0000:01:00.0' },
    ];
    const of = new AssignmentMachine({ machine: { devices } });
    expect(remove(of, '01:00.0')).toEqual([-16, '']);
    expect([of.assign('01:00.0', 1)[0], of.assign('01:00.1', 1)[0]]).toEqual([-9, -9]);
    expect(of.assign('01:00.1', QUARANTINE)[0]).toBe(0);
    expect([remove(of, '01:00.1')[0], remove(of, '01:00.0')[0]]).toEqual([0, 0]);
    expect([add(of, '01:00.1')[0], add(of, '01:00.0')[0], add(of, '01:00.1')[0]]).toEqual([-19, 0, 0]);
    expect(of.assign('01:00.1', 1)[0]).toBe(0);
  });
});

describe('test_assign_device', () => {
  it('says what an assignment would find', () => {
    const of = new AssignmentMachine();
    of.assign('00:06.0', 1);
    of.assign('00:06.1', QUARANTINE);
    const answers = ['00:05.0', '00:06.1', '00:00.0', '00:08.0', '04:01.0', '00:06.0', '00:1e.0'];
    expect(answers.map((device) => test(of, device))).toEqual([0, 0, 0, 0, 0, -22, -22]);
    expect([0, 1, 3, 99, QUARANTINE].map((domain) => test(of, '00:05.0', domain))).toEqual([-22, 0, -95, -3, -3]);
  });
});

describe('a function that is not there', () => {
  it('is nobody’s once it was added, until it is removed; both are refused', () => {
    const unknown = { device: '0000:00:1e.0', unit: 0, type: 'unknown' } as const;
    const of = new AssignmentMachine({ machine: { devices: [...DEVICES, unknown] } });
    const asked = () => [test(of, '00:1e.0'), of.assign('00:1e.0', 1)[0], of.assign('00:1e.0', QUARANTINE)[0]];
    expect(asked()).toEqual([-22, -19, -19]);
    expect([add(of, '00:1e.0'), add(of, '00:1e.0')]).toEqual([
      [-22, ''],
      [-22, ''],
    ]);
    expect(asked()).toEqual([-22, -16, -16]);
    expect(of.deassign('00:1e.0', 1)[0]).toBe(-19);
    expect(of.owner('00:1e.0')).toBe(null);
    expect(violations(of.machine)).toEqual([]);
    expect([remove(of, '00:1e.0'), remove(of, '00:1e.0')]).toEqual([
      [-22, ''],
      [-19, ''],
    ]);
    expect(asked()).toEqual([-22, -19, -19]);
  });
});

describe('flags', () => {
  it('that there are not are refused: before the device is looked at, after the domain', () => {
    const of = new AssignmentMachine();
    of.assign('00:06.0', 1);
    const ask = (op: 'assign_device' | 'test_assign_device' | 'deassign_device', domain: number, device: string) =>
      of.do({ op, domain, device: `0000:${device}`, flags: 2 });
    for (const op of ['assign_device', 'test_assign_device', 'deassign_device'] as const) {
      expect(['00:06.0', '00:1e.0'].map((device) => ask(op, 1, device))).toEqual([
        [-22, ''],
        [-22, ''],
      ]);
      expect([99, 3].map((domain) => ask(op, domain, '00:05.0')[0])).toEqual([-3, -95]);
    }
    expect(ask('assign_device', QUARANTINE, '00:05.0')).toEqual([-22, '']);
  });
});

describe('an access from behind a bridge', () => {
  it('goes by the id of the bridge’s alias where it says so, whoever has that', () => {
    const of = new AssignmentMachine();
    const device = '0000:04:01.0';
    const dma = (requester?: string) =>
      of.machine.step({ op: 'dma', device, address: 0, access: 'read', ...(requester ? { requester } : {}) }).dma;
    of.assign('04:01.0', QUARANTINE);
    expect([dma(), dma(device), dma('0000:04:00.0')].map((one) => one!.fault!.reason)).toEqual([2, 2, 2]);
    of.assign('04:02.0', 1);
    expect([dma(), dma('0000:04:00.0')].map((one) => one!.fault!.reason)).toEqual([2, 6]);
    expect(() => dma('0000:04:02.0')).toThrow(/requester 0000:04:02.0: expected 0000:04:01.0 or 0000:03:00.0 or/);
  });
});

describe('a unit that is removed', () => {
  const twoUnits = (iommu: AssignmentOptions['iommu'] = {}) =>
    new AssignmentMachine({
      iommu,
      machine: {
        units: [{ capabilities: { domainIds: 16 } }, { capabilities: { domainIds: 16 } }],
        devices: [
          { device: '0000:00:06.0', unit: 0 },
          { device: '0000:00:06.1', unit: 0 },
          { device: '0000:05:00.0', unit: 1 },
        ],
      },
    });

  it.each(['per-unit', 'shared'] as const)(
    'goes with its devices; its domains go on behind others (%s)',
    (domainIds) => {
      const of = twoUnits({ domainIds });
      of.assign('00:06.0', 1);
      of.assign('05:00.0', 1);
      const { machine } = of;
      const { ids, tables } = machine.parts.driver;
      const [result, sent] = of.do({ op: 'remove_unit', unit: 0 });
      expect(result).toBe(0);
      expect(sent).toContain('00:06.0');
      expect(sent).toContain('00:06.1');
      expect(machine.control.root.units.map(({ present }) => present)).toEqual([false, true]);
      expect([tables.units(1 as Domid), ids[1]!.didOf(1 as Domid) >= 0]).toEqual([2, true]);
      if (domainIds === 'per-unit') expect(ids[0]!.didOf(1 as Domid)).toBe(-1);
      const { first } = machine.control.root.domains[1]!.ram;
      const dma = (device: string) => machine.step({ op: 'dma', device, address: first * 4096, access: 'read' });
      expect(dma('0000:05:00.0').dma!.frame).toBe(first);
      expect(dma('0000:00:06.0')).toEqual({ result: -19 });
      expect(add(of, '00:06.0')[0]).toBe(-22);
      expect(of.do({ op: 'remove_unit', unit: 0 })[0]).toBe(-19);
      expect(of.do({ op: 'remove_unit', unit: 9 })[0]).toBe(-19);
      expect(violations(machine)).toEqual([]);
    },
  );

  it('is told of no removal of a grant any more, the other one is', () => {
    const of = twoUnits();
    const { machine } = of;
    of.assign('00:06.0', 1);
    of.assign('05:00.0', 1);
    const { first } = machine.control.root.domains[2]!.ram;
    machine.step({ op: 'grant_write', domain: 2, ref: 8, flags: GTF.permit_access, grantee: 1, frame: first });
    const elements = [{ flags: GNTMAP.device_map, ref: 8, domain: 2 }];
    const handle = machine.step({ op: 'map_grant_ref', domain: 1, elements }).elements![0]!.handle!;
    of.do({ op: 'remove_unit', unit: 0 });
    const unmap = { op: 'unmap_grant_ref', domain: 1, elements: [{ handle, busAddress: first * 4096 }] } as const;
    expect(of.do(unmap)[1]).toBe(`PSI 1 0x${(first * 4096).toString(16)}`);
    expect(violations(machine)).toEqual([]);
  });
});
