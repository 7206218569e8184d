// Each invariant over a state at rest can fail: a mistake planted in one part of a machine is found by its id.

import { fc } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { GNTMAP, GTF, Pin } from '../../grant/index.ts';
import { type Hypervisor, P2mType } from '../../hypervisor/index.ts';
import type { Gfn, Mfn } from '../../machine/frame-number.ts';
import { FrameType } from '../../machine/frame-table.ts';
import type { Domid, MaptrackHandle } from '../../machine/ids.ts';
import { drawArbitrary, mixedMachine, opOf, violations } from '../../verify/index.ts';
import { expectFound } from '../verify/found.ts';

const D1 = 1 as Domid;
const D2 = 2 as Domid;
const ramOf = (machine: Hypervisor, domain: number) => machine.control.root.domains[domain]!.ram.first as Mfn;

/** A mistake at rest, and the invariants that name it. */
const planted: readonly (readonly [string, readonly string[], (machine: Hypervisor) => void])[] = [
  ['a usage bit without a pin', ['G5'], ({ parts }) => parts.grants.markUsage(D1, 8, GTF.reading)],
  [
    'a pin on a frame of somebody else',
    ['G3', 'G5', 'G7'],
    (machine) => machine.parts.grants.activate(D1, 8, Pin.hostRead.one, D2, ramOf(machine, 3)),
  ],
  ['a handle that is neither live nor free', ['G8'], ({ parts }) => void parts.grants.maptrack(D1).take(0)],
  [
    'a handle that is live and free',
    ['G3', 'G8'],
    ({ parts }) => {
      const maptrack = parts.grants.maptrack(D1);
      const handle = maptrack.take(0) as MaptrackHandle;
      maptrack.set(handle, 0, D1, 8, GNTMAP.device_map | GNTMAP.readonly);
      maptrack.giveBack(handle, 0);
    },
  ],
  [
    'a counter of 129',
    ['G3', 'G5', 'G9'],
    (machine) => machine.parts.grants.activate(D1, 8, 129 * Pin.hostRead.one, D2, ramOf(machine, 1)),
  ],
  [
    'a frame that lost its type, and not its device entry',
    ['M2'],
    (machine) => machine.parts.frames.resetType(ramOf(machine, 1), FrameType.none),
  ],
  [
    'a hole in the p2m that devices see through',
    ['M4'],
    ({ parts }) => parts.p2m.set(D2, 0 as Gfn, 0 as Mfn, P2mType.hole),
  ],
  [
    'a device frame that is another machine frame',
    ['M1', 'M3', 'M6'],
    (machine) => void machine.parts.driver.map(0 as never, D1, 90 as never, ramOf(machine, 3), 3),
  ],
  [
    'a reference that nobody holds',
    ['P3'],
    (machine) => void machine.parts.frames.takeReferences(ramOf(machine, 1), 1, 0),
  ],
  [
    'a type reference that nobody holds',
    ['P3'],
    (machine) => void machine.parts.frames.getType(ramOf(machine, 1), FrameType.writable),
  ],
  [
    'a table that a device writes',
    ['M2', 'P2', 'P3'],
    (machine) => {
      machine.parts.frames.resetType(ramOf(machine, 1), FrameType.none);
      machine.parts.frames.getType(ramOf(machine, 1), FrameType.l1PageTable);
    },
  ],
  [
    'a free frame at a gfn',
    ['M1', 'P1'],
    (machine) => {
      const { frames } = machine.parts;
      frames.dropReferences(machine.parts.p2m.frame(D2, 1 as Gfn), 1, 0);
      frames.free(machine.parts.p2m.frame(D2, 1 as Gfn));
    },
  ],
  [
    'RAM at two gfns',
    ['M4', 'P6'],
    ({ parts }) => parts.p2m.set(D2, 8 as Gfn, parts.p2m.frame(D2, 1 as Gfn), P2mType.ram),
  ],
];

describe('a mistake planted at rest', () => {
  it.each(planted)('%s', (_, ids, plant) => {
    const machine = mixedMachine();
    expect(violations(machine)).toEqual([]);
    plant(machine);
    const found = new Set(violations(machine).map(({ invariant }) => invariant));
    expect([...found].sort()).toEqual(ids);
  });
});

describe('a mistake planted in an operation is found by random ones', () => {
  const draws = fc.array(drawArbitrary(fc), { minLength: 1, maxLength: 50, size: 'max' });
  const mistakes: readonly (readonly [string, string, (machine: Hypervisor) => void])[] = [
    [
      'an unmap forgets a pin',
      'G3',
      ({ parts: { grants } }) => {
        const drop = grants.dropPins.bind(grants);
        grants.dropPins = (granter, ref, pins, readOnly) => drop(granter, ref, pins & ~Pin.deviceRead.one, readOnly);
      },
    ],
    [
      'a handle that ends is not free',
      'G8',
      ({ parts: { grants } }) => {
        for (const domain of [0, 1, 2, 3] as Domid[]) {
          const maptrack = grants.maptrack(domain);
          maptrack.put = (handle) => maptrack.setFlags(handle, 0);
        }
      },
    ],
    [
      'a handle is given to two mappings',
      'G3',
      ({ parts: { grants } }) => {
        const maptrack = grants.maptrack(D1);
        const take = maptrack.take.bind(maptrack);
        maptrack.take = (vcpu) => maptrack.live()[0] ?? take(vcpu);
      },
    ],
    [
      'an unmap forgets a reference',
      'P3',
      ({ context }) => {
        const drop = context.pages.drop.bind(context.pages);
        context.pages.drop = (vcpu, frame, pages, types) => drop(vcpu, frame, Math.max(0, pages - 1), types);
      },
    ],
    [
      'a type changes, and devices do not follow',
      'M2',
      ({ context }) => {
        context.access.unmap = () => 0;
      },
    ],
    [
      'a frame at a gfn of which devices do not hear',
      'M4',
      ({ parts }) => {
        const { p2m } = parts;
        const set = p2m.set.bind(p2m);
        p2m.set = (domain, gfn, frame, type) => set(domain, gfn, frame, type === P2mType.grantReadonly ? 2 : type);
      },
    ],
  ];

  it.each(mistakes)('%s', (_, id, plant) => {
    const property = fc.property(draws, (sequence) => {
      const machine = mixedMachine();
      plant(machine);
      for (const draw of sequence) {
        machine.step(opOf(machine, draw));
        if (violations(machine).some(({ invariant }) => invariant === id)) return false;
      }
      return true;
    });
    expectFound(fc.check(property, { numRuns: 100, seed: 9, endOnFailure: true }));
  });
});
