// Goal: W2, F3 and F7 hold, at every micro-step where they are about those, and can fail. Method: random moves and maps
// on random platforms; then one mistake at a time planted in a machine's parts, to be found by its invariant's id.

import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import type { VcpuOp } from '../../../hypervisor/door/vcpu-ops.ts';
import { isVcpuOp } from '../../../hypervisor/door/vcpu-ops.ts';
import type { Hypervisor } from '../../../hypervisor/index.ts';
import type { Vcpu } from '../../../machine/ids.ts';
import { Progress } from '../../../machine/pending.ts';
import { violations } from '../../../verify/index.ts';
import { invariants } from '../../../verify/invariants/list.ts';
import { falseCompletions, unseenWrites } from '../../../verify/invariants/unit-invariants.ts';
import { AssignmentMachine, type AssignmentOptions } from '../../hypervisor/assignment-machine.ts';
import { MOVABLE, platforms } from '../../hypervisor/assignment-platforms.ts';
import { inPieces } from '../../hypervisor/pieces.ts';
import { expectFound } from '../found.ts';

/** Domains whose kernels map what they like: 4 and 5. */
const KERNELS = [4, 5];
const FRAMES = 4;

type Mapping = { readonly domain: number; readonly dfn: number; readonly at: number; readonly pages: number };
type Act =
  | { readonly map: Mapping; readonly access: 'r' | 'rw' }
  | { readonly unmap: Mapping }
  | { readonly device: string; readonly to: number | null };

const mapping = fc.record({
  domain: fc.constantFrom(...KERNELS),
  dfn: fc.constantFrom(0, 1, 2, 3, 4, 512, 513),
  at: fc.nat(FRAMES - 1),
  pages: fc.integer({ min: 1, max: FRAMES }),
});
const act: fc.Arbitrary<Act> = fc.oneof(
  { weight: 3, arbitrary: fc.record({ map: mapping, access: fc.constantFrom('r' as const, 'rw' as const) }) },
  { weight: 3, arbitrary: fc.record({ unmap: mapping }) },
  { weight: 2, arbitrary: fc.record({ device: fc.constantFrom(...MOVABLE), to: fc.constantFrom(...KERNELS, null) }) },
);
const acts = fc.array(act, { minLength: 1, maxLength: 25 });

/** Every device that can be is a kernel's to begin with, and the policy is Xen's. */
function machineOf(options: AssignmentOptions): Hypervisor {
  const { machine } = new AssignmentMachine({ ...options, machine: { ...options.machine, policy: 'xen', vcpus: 2 } });
  for (const domain of KERNELS) {
    machine.step({ op: 'create_domain', domain, kind: 'pv', frames: FRAMES, iommu: true, deviceTables: 'empty' });
  }
  return machine;
}

const crowd: readonly Act[] = MOVABLE.map((device, at) => ({ device, to: KERNELS[at % 2]! }));

function opOf(machine: Hypervisor, one: Act): VcpuOp {
  if ('device' in one) {
    const { device, to } = one;
    return to === null ? { op: 'deassign_device', device } : { op: 'assign_device', device, domain: to };
  }
  const { domain, dfn, at, pages } = 'map' in one ? one.map : one.unmap;
  if ('unmap' in one) return { op: 'dma_unmap', domain, dfn, pages };
  const frame = machine.control.root.domains[domain]!.ram.first + at;
  return { op: 'dma_map', domain, dfn, frame, pages: Math.min(pages, FRAMES - at), access: one.access };
}

/** What these say is broken: M3 is about grants, and takes what a DMA API maps for one. */
const brokenIn = (machine: Hypervisor) => violations(machine).filter(({ invariant }) => invariant !== 'M3');

describe('on random platforms', () => {
  test.prop([platforms, acts], { numRuns: 60 })(
    'nothing is broken at rest, nor seen wrong in between',
    (platform, list) => {
      const machine = machineOf(platform);
      for (const one of [...crowd, ...list]) {
        inPieces(machine, opOf(machine, one), () => {
          expect(unseenWrites(machine, true)).toEqual([]);
          expect(falseCompletions(machine)).toEqual([]);
        });
      }
      expect(brokenIn(machine)).toEqual([]);
    },
  );
});

interface Mistake {
  readonly breaks: string;
  readonly mistake: string;
  readonly plant: (machine: Hypervisor) => void;
}

const mistakes: readonly Mistake[] = [
  {
    breaks: 'W2',
    mistake: 'nothing is written back (before XSA-321)',
    plant({ parts }) {
      parts.frames.writeBack = () => {};
    },
  },
  {
    breaks: 'W2',
    mistake: 'new table pages are not written back',
    plant({ parts }) {
      const { frames } = parts;
      const writeBack = frames.writeBack.bind(frames);
      frames.writeBack = (frame, word, words) => (words === 1024 ? undefined : writeBack(frame, word, words));
    },
  },
  {
    breaks: 'W2',
    mistake: 'context entries are not written back',
    plant({ parts }) {
      const { frames } = parts;
      const writeBack = frames.writeBack.bind(frames);
      frames.writeBack = (frame, word, words) => (words === 4 ? undefined : writeBack(frame, word, words));
    },
  },
  {
    breaks: 'W2',
    mistake: 'the write buffer is not flushed where an invalidation is left out',
    plant({ parts }) {
      if (parts.lag) parts.lag.flushBuffer = () => {};
    },
  },
  {
    breaks: 'W2',
    mistake: 'a new context entry is not followed by a flush of the buffer',
    plant({ parts }) {
      parts.driver.flush.requestBufferFlush = () => {};
    },
  },
  {
    breaks: 'F3',
    mistake: 'a wait that takes long counts as over (before XSA-373)',
    plant({ parts }) {
      parts.driver.flush.waits.isOver = () => true;
    },
  },
  {
    breaks: 'F7',
    mistake: 'device TLBs are not told',
    plant({ parts }) {
      parts.driver.flush.devices.next = () => -1;
    },
  },
  {
    breaks: 'F7',
    mistake: 'a range is told as half of it (before fd33987ba2)',
    plant({ parts }) {
      const { devices } = parts.driver.flush;
      const tell = devices.tell.bind(devices);
      devices.tell = (unit, device, dfn, order) => tell(unit, device, dfn, order > 0 ? order - 1 : order);
    },
  },
  {
    breaks: 'F7',
    mistake: 'the page beside the one that changed is told',
    plant({ parts }) {
      const { devices } = parts.driver.flush;
      const tell = devices.tell.bind(devices);
      devices.tell = (unit, device, dfn, order) => tell(unit, device, order < 0 ? 0 : dfn ^ 1, Math.max(order, 0));
    },
  },
  {
    breaks: 'F7',
    mistake: 'only the first device of a did is told',
    plant({ parts }) {
      const { devices } = parts.driver.flush;
      const next = devices.next.bind(devices);
      devices.next = (unit, did, from) => (from > 0 ? -1 : next(unit, did, from));
    },
  },
  {
    breaks: 'F7',
    mistake: 'the command goes through another unit (before 84c340ba4c)',
    plant({ parts }) {
      const { devices } = parts.driver.flush;
      const tell = devices.tell.bind(devices);
      const others = parts.units.filter(({ deviceTlbs }) => deviceTlbs !== null);
      devices.tell = (unit, device, dfn, order) =>
        tell((others.find(({ index }) => index !== unit) ?? { index: unit }).index, device, dfn, order);
    },
  },
  {
    breaks: 'F7',
    mistake: 'devices are told before the IOTLB is invalidated',
    plant(machine) {
      const { units, driver } = machine.parts;
      driver.flush.devices.tell = () => {};
      for (const unit of units) {
        const { caches, deviceTlbs } = unit;
        const fetch = caches.fetchInvalidation.bind(caches);
        caches.fetchInvalidation = () => {
          for (const source of deviceTlbs?.enabled() ?? []) {
            caches.fetchDeviceTlb();
            caches.invalidateDeviceTlb(source, null);
          }
          fetch();
        };
      }
    },
  },
];

/** Whether some act breaks the invariant, at rest or at a micro-step. */
function breaks(id: string, machine: Hypervisor, list: readonly Act[]): boolean {
  const [invariant] = invariants.filter((one) => one.id === id);
  for (const one of list) {
    let isBroken = false;
    try {
      inPieces(machine, opOf(machine, one), () => {
        if (id === 'F3') isBroken ||= falseCompletions(machine).length > 0;
      });
    } catch {
      // A guard of the model's own was faster.
      return false;
    }
    if (isBroken || violations(machine, [invariant!]).length > 0) return true;
  }
  return false;
}

/** Device TLBs are there, used, and told of pages. */
function withDeviceTlbs(platform: AssignmentOptions): AssignmentOptions {
  const units = platform.machine!.units!.map((unit) => ({
    capabilities: { ...('capabilities' in unit ? unit.capabilities : {}), ...ALL_OF_IT },
  }));
  return {
    ...platform,
    iommu: { ...platform.iommu, queuedInvalidation: true, ats: true },
    machine: { ...platform.machine, units },
  };
}

const ALL_OF_IT = { deviceTlb: true, queuedInvalidation: true, pageSelective: true, maxAddressMask: 18 } as const;

describe('each can fail', () => {
  it.each(mistakes)('$breaks finds that $mistake', ({ breaks: id, plant }) => {
    const property = fc.property(platforms, acts, (platform, list) => {
      const machine = machineOf(id === 'F7' ? withDeviceTlbs(platform) : platform);
      plant(machine);
      return !breaks(id, machine, [...crowd, ...list]);
    });
    expectFound(fc.check(property, { numRuns: 100, seed: 7, endOnFailure: true }));
  });
});

/** One unit with a few of the devices. */
const SMALL = {
  domains: 6,
  devices: MOVABLE.slice(0, 4).map((device) => ({ device, unit: 0 })),
} as const;

describe('F3 at every step', () => {
  it('finds that two processors share a status word (before 8970834eb9)', () => {
    const machine = machineOf({ unit: { domainIds: 16 }, hardware: false, machine: SMALL });
    for (const one of crowd.slice(0, 4)) inPieces(machine, opOf(machine, one));
    const { waits } = machine.parts.driver.flush;
    const [submit, isOver] = [waits.submit.bind(waits), waits.isOver.bind(waits)];
    waits.submit = (_, unit) => submit(0 as Vcpu, unit);
    waits.isOver = (_, unit) => isOver(0 as Vcpu, unit);
    for (const domain of KERNELS)
      inPieces(machine, opOf(machine, { map: { domain, dfn: 0, at: 0, pages: 1 }, access: 'rw' }));
    for (const [vcpu, domain] of [
      [0, 4],
      [1, 5],
    ] as const) {
      machine.begin({ op: 'dma_unmap', vcpu, domain, dfn: 0, pages: 1 });
      while (machine.microStep(vcpu as Vcpu) !== Progress.blocked);
    }
    expect(falseCompletions(machine)).toEqual([]);
    for (let step = 0; step < 3; step += 1) machine.step({ op: 'hardware', unit: 0 });
    expect(falseCompletions(machine)).toEqual(['unit 0: status word 0 says done, and its wait is not']);
  });
});

test('only operations in micro-steps are taken apart here', () => {
  const machine = machineOf({ machine: SMALL });
  for (const one of crowd) expect(isVcpuOp(opOf(machine, one))).toBe(true);
});
