// Goal: A1 to A7, F1, F6, M5 and W3 can fail. Method: one mistake at a time planted in a machine's parts; random
// operations on devices, on random platforms, must find it by that invariant's id, at rest or at a step.

import { fc } from '@fast-check/vitest';
import { describe, it } from 'vitest';
import { isGuest } from '../../../hypervisor/devices/owners.ts';
import type { FlushPolicy, Hypervisor, MachineOptions } from '../../../hypervisor/index.ts';
import type { Dfn } from '../../../machine/frame-number.ts';
import type { Domid } from '../../../machine/ids.ts';
import { isQuarantine, quarantineDomid, strictPage } from '../../../passthrough/index.ts';
import { drawArbitrary, invariants, mixedMachine, opOf, platformArbitrary, violations } from '../../../verify/index.ts';
import { freedTables, missedRegions } from '../../../verify/invariants/assignment-invariants.ts';
import { inPieces } from '../../hypervisor/pieces.ts';
import { expectFound } from '../found.ts';

interface Mistake {
  readonly breaks: string;
  readonly mistake: string;
  readonly plant?: (machine: Hypervisor) => void;
  readonly policy?: FlushPolicy;
  readonly platform?: (of: MachineOptions) => MachineOptions;
  /** What is broken at a step, by the id; nothing at rest need be. */
  readonly atSteps?: (machine: Hypervisor) => readonly string[];
}

type Driver = Hypervisor['parts']['driver'];

/** Entries of some requesters are left as they are. */
function plantLeftEntries({ parts }: Hypervisor, isLeft: (requester: number) => boolean): void {
  const { driver } = parts;
  const [attach, detach] = [driver.attach.bind(driver), driver.detach.bind(driver)];
  driver.attach = (vcpu, domain, unit, device) => (isLeft(device) ? 0 : attach(vcpu, domain, unit, device));
  driver.detach = (vcpu, unit, device) => void (isLeft(device) || detach(vcpu, unit, device));
}

function plantQuarantineRoot(driver: Driver, root: (index: number, levels: number) => number): void {
  driver.quarantine.rootOfLevels = (index, levels) => root(index, levels) as never;
}

const withQuarantine =
  (quarantine: 'basic' | 'scratch') =>
  (of: MachineOptions): MachineOptions => ({ ...of, iommu: { ...of.iommu, quarantine } });

const mistakes: readonly Mistake[] = [
  {
    breaks: 'A1',
    mistake: "a device's entry stays when it moves",
    plant: (machine) => plantLeftEntries(machine, (requester) => requester % 0x10000 === 0x500),
  },
  {
    breaks: 'A1',
    mistake: "a guest's devices have no order",
    plant({ control }) {
      const change = control.change.bind(control);
      control.change = (what, recipe) =>
        change(what, (draft) => {
          recipe(draft);
          for (const device of draft.devices) device.place = 0;
        });
    },
  },
  {
    breaks: 'A2',
    mistake: "devices in quarantine go by the hardware domain's table",
    platform: withQuarantine('scratch'),
    plant: ({ parts: { driver } }) =>
      plantQuarantineRoot(driver, (_, levels) => driver.tables.rootOfLevels(0 as Domid, levels)),
  },
  {
    breaks: 'A3',
    mistake: 'all devices in quarantine have one scratch page',
    platform: withQuarantine('scratch'),
    plant({ parts: { driver } }) {
      const { quarantine } = driver;
      const [prepare, root] = [quarantine.prepare.bind(quarantine), quarantine.rootOfLevels.bind(quarantine)];
      quarantine.prepare = (index) => prepare(0) || prepare(index);
      plantQuarantineRoot(driver, (_, levels) => root(0, levels));
    },
  },
  {
    breaks: 'A3',
    mistake: 'all devices in quarantine have one did',
    platform: withQuarantine('scratch'),
    plant({ parts: { driver } }) {
      for (const ids of driver.ids) {
        const [didOf, obtain] = [ids.didOf.bind(ids), ids.obtain.bind(ids)];
        const first = (domain: Domid) => (isQuarantine(domain) ? quarantineDomid(0) : domain);
        ids.didOf = (domain) => didOf(first(domain));
        ids.obtain = (domain) => obtain(first(domain));
      }
    },
  },
  {
    breaks: 'A4',
    mistake: 'phantom functions stay where they were',
    plant: (machine) => plantLeftEntries(machine, (requester) => requester % 0x10000 === 0x404),
  },
  {
    breaks: 'A5',
    mistake: 'a device with reserved regions finds nothing in quarantine',
    platform: withQuarantine('basic'),
    plant({ parts: { driver } }) {
      driver.quarantine.hasTables = () => false;
    },
  },
  {
    breaks: 'A5',
    mistake: 'a region is unmapped before the entry of its device leads elsewhere',
    atSteps: missedRegions,
    plant({ parts, config }) {
      const { driver } = parts;
      const attach = driver.attach.bind(driver);
      driver.attach = (vcpu, domain, unit, device) => {
        for (const guest of [1, 2] as Domid[]) {
          if (guest === domain) continue;
          for (const { firstFrame } of config.reservedRegions) driver.unmap(vcpu, guest, firstFrame as Dfn, 0);
        }
        return attach(vcpu, domain, unit, device);
      };
    },
  },
  {
    breaks: 'A6',
    mistake: 'the tables of a domain that dies go before its devices',
    atSteps: freedTables,
    plant({ parts: { driver }, control }) {
      const hasPending = driver.hasPending.bind(driver);
      driver.hasPending = (domain) => {
        if (control.root.domains[domain]?.state === 'dying') driver.destroyTables(domain);
        return hasPending(domain);
      };
    },
  },
  {
    breaks: 'A7',
    mistake: 'a broken device is mended by whoever wants it',
    // Few enough to meet the one function that can be broken.
    platform: ({ devices = [], ...of }) => ({
      ...of,
      reservedRegions: [],
      devices: devices.filter(({ device }) => /:0[12356]:00.0/.test(device)),
    }),
    plant(machine) {
      const { control } = machine;
      const step = machine.step.bind(machine);
      machine.step = (op) => {
        if (op.op !== 'assign_device') return step(op);
        control.change('mended', (draft) => {
          for (const device of draft.devices) if (device.device === op.device) device.broken = false;
        });
        return step(op);
      };
    },
  },
  {
    breaks: 'F1',
    mistake: 'what was taken away is never flushed',
    policy: { ...strictPage, releases: ['onReturn'], change() {} },
  },
  {
    breaks: 'F1',
    mistake: 'the page beside the one that changed is flushed',
    policy: {
      ...strictPage,
      releases: ['onReturn'],
      change: (change, flush) => strictPage.change({ ...change, dfn: (change.dfn + 1) as Dfn }, flush),
    },
  },
  {
    breaks: 'F6',
    mistake: 'an entry changes and the context cache is not told',
    plant({ parts: { driver } }) {
      driver.flush.requestContextFlush = () => {};
    },
  },
  {
    breaks: 'F6',
    mistake: 'an entry changes and another requester is flushed',
    plant({ parts: { driver } }) {
      const request = driver.flush.requestContextFlush.bind(driver.flush);
      driver.flush.requestContextFlush = (vcpu, unit, did, source) => request(vcpu, unit, did, source ^ 1);
    },
  },
  {
    breaks: 'M5',
    mistake: 'a region stays mapped when its last device goes',
    plant({ parts: { driver }, config }) {
      const unmap = driver.unmap.bind(driver);
      const isReserved = (dfn: number) => config.reservedRegions.some(({ firstFrame }) => firstFrame === dfn);
      driver.unmap = (vcpu, domain, dfn, order) => (isReserved(dfn) ? 0 : unmap(vcpu, domain, dfn, order));
    },
  },
  {
    breaks: 'W3',
    mistake: 'a narrow unit begins at the top of the table',
    plant({ parts: { driver } }) {
      driver.tables.rootOfLevels = (domain) => driver.tables.root(domain) as never;
    },
  },
  {
    breaks: 'W3',
    mistake: 'a narrow unit begins at the top of quarantine',
    platform: withQuarantine('scratch'),
    plant: ({ parts: { driver } }) => plantQuarantineRoot(driver, (index) => driver.quarantine.root(index)),
  },
  {
    breaks: 'W3',
    mistake: 'all entries say four levels',
    plant({ parts: { frames } }) {
      const write = frames.writeWideEntry.bind(frames);
      frames.writeWideEntry = (table, entry, w0, w1, w2, w3) =>
        write(table, entry, w0, w1, w2 === 0 ? 0 : (w2 & ~7) | 2, w3);
    },
  },
];

const shape = { minLength: 1, maxLength: 40, size: 'max' } as const;
const draws = fc.array(drawArbitrary(fc, { about: 'devices' }), shape);
const allDraws = fc.array(drawArbitrary(fc), shape);

/** Whether a run breaks an invariant. A guard of the model's own may be faster, or a policy's queue be full. */
function isBroken(mistake: Mistake, of: MachineOptions, sequence: readonly Draw[]): boolean {
  const { breaks, plant, policy, platform, atSteps } = mistake;
  const guards = invariants.filter(({ id }) => id === breaks);
  const machine = mixedMachine(policy ?? 'xen', { machine: platform ? platform(of) : of });
  plant?.(machine);
  for (const draw of sequence) {
    const op = opOf(machine, draw);
    const before = machine.control.root;
    let found = false;
    try {
      if (atSteps) inPieces(machine, op, () => (found ||= !op.op.startsWith('remove') && atSteps(machine).length > 0));
      else machine.step(op);
      found ||= !atSteps && violations(machine, guards).length > 0;
    } catch {
      return false;
    }
    if (found || (breaks === 'A7' && brokenToGuest(before, machine))) return true;
  }
  return false;
}

type Draw = Parameters<typeof opOf>[1];

function brokenToGuest(before: Hypervisor['control']['root'], { control }: Hypervisor): boolean {
  return control.root.devices.some(({ owner }, at) => {
    const old = before.devices[at]!;
    return old.broken && old.owner !== owner && isGuest(control, owner);
  });
}

describe('a planted mistake', () => {
  it.each(mistakes)('$breaks finds that $mistake', (mistake) => {
    const property = fc.property(
      platformArbitrary(fc),
      mistake.policy ? allDraws : draws,
      (of, sequence) => !isBroken(mistake, of, sequence),
    );
    expectFound(fc.check(property, { numRuns: 150, seed: 7, endOnFailure: true }));
  });
});
