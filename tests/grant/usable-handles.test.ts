// U3: of a maptrack of F frames, one virtual CPU can have 256 * F - 1 handles live at once, each once, whatever went
// before; and each of these can fail. Section 1.4 of the reference.

import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { GNTMAP, GTF } from '../../grant/index.ts';
import { Hypervisor } from '../../hypervisor/index.ts';
import type { Domid } from '../../machine/ids.ts';
import { violations } from '../../verify/index.ts';
import { expectFound } from '../verify/found.ts';

const FLAGS = GNTMAP.device_map | GNTMAP.readonly;
const GRANTS = 8;
const PINS_MAX = 128;
const NO_SPACE = -13;

/** Domain 1 grants domain 0 eight frames. */
function machineOf(maptrackFrames: number): Hypervisor {
  const sizes = { domains: 2, frames: 32, gfns: 2, windowPages: 4, batchMax: 8 };
  const machine = new Hypervisor({ ...sizes, grants: { maptrackFrames } });
  machine.step({ op: 'create_domain', domain: 0, kind: 'pv', frames: 1 });
  machine.step({ op: 'create_domain', domain: 1, kind: 'pv', frames: GRANTS });
  const { first } = machine.control.root.domains[1]!.ram;
  for (let at = 0; at < GRANTS; at += 1) {
    const grant = { domain: 1, ref: 8 + at, flags: GTF.permit_access, grantee: 0, frame: first + at };
    machine.step({ op: 'grant_write', ...grant });
  }
  return machine;
}

/** Maps until there is no handle left, for bus addresses by handle. @returns a handle that was given twice; null. */
function fill(machine: Hypervisor, live: Map<number, number>): number | null {
  for (let at = 0; at < GRANTS; at += 1) {
    for (let pinned = 0; pinned <= PINS_MAX; pinned += 1) {
      const element = { flags: FLAGS, ref: 8 + at, domain: 1 };
      const { status, handle, busAddress } = machine.step({ op: 'map_grant_ref', domain: 0, elements: [element] })
        .elements![0]!;
      if (status === NO_SPACE) return null;
      if (status !== 0) break;
      if (live.has(handle!)) return handle!;
      live.set(handle!, Number(busAddress));
    }
  }
  return null;
}

/** What is wrong with the handles: all are taken, some ended, all taken again. Null: nothing. */
function fault(machine: Hypervisor, frames: number, ended: readonly number[]): string | null {
  const live = new Map<number, number>();
  for (const handles of [ended, []]) {
    const twice = fill(machine, live);
    if (twice !== null) return `handle ${twice} twice`;
    if (live.size !== 256 * frames - 1) return `${live.size} handles`;
    for (const handle of handles) {
      const busAddress = live.get(handle);
      if (busAddress === undefined) continue;
      machine.step({ op: 'unmap_grant_ref', domain: 0, elements: [{ handle, busAddress }] });
      live.delete(handle);
    }
  }
  return violations(machine)[0]?.message ?? null;
}

const inputs = [fc.integer({ min: 1, max: 3 }), fc.array(fc.nat({ max: 700 }), { maxLength: 60 })] as const;
type Maptrack = ReturnType<Hypervisor['parts']['grants']['maptrack']>;

/** Mistakes in the running machine, and what is said of them. */
const mistakes: readonly (readonly [string, RegExp, (maptrack: Maptrack) => void])[] = [
  [
    'the end of the list is handed out, too',
    /^\d+ handles/,
    (maptrack) => {
      const take = maptrack.take.bind(maptrack);
      maptrack.take = (vcpu) => {
        const handle = take(vcpu);
        return handle >= 0
          ? handle
          : ((maptrack.idle().find((idle) => maptrack.flags(idle) === 0) ?? -1) as typeof handle);
      };
    },
  ],
  [
    'of each frame one handle is lost',
    /^\d+ handles/,
    (maptrack) => {
      const take = maptrack.take.bind(maptrack);
      maptrack.take = (vcpu) => {
        const handle = take(vcpu);
        return handle % 256 === 7 ? take(vcpu) : handle;
      };
    },
  ],
  [
    'a handle that ends does not come back',
    /^\d+ handles/,
    (maptrack) => {
      maptrack.put = (handle) => maptrack.setFlags(handle, 0);
    },
  ],
  [
    'a handle is free before it has ended',
    /twice/,
    (maptrack) => {
      const set = maptrack.set.bind(maptrack);
      maptrack.set = (handle, vcpu, ...use) => {
        set(handle, vcpu, ...use);
        if (handle === 40) maptrack.giveBack(handle, vcpu);
      };
    },
  ],
];

describe('handles of one virtual CPU', () => {
  test.prop([...inputs], { numRuns: 12 })('G8, U3: 256 * F - 1 can be live at once, each once', (frames, ended) => {
    expect(fault(machineOf(frames), frames, ended)).toBeNull();
  });

  it.each(mistakes)('%s: found', (_, said, plant) => {
    const reports = new Set<string>();
    const property = fc.property(...inputs, (frames, ended) => {
      const machine = machineOf(frames);
      plant(machine.parts.grants.maptrack(0 as Domid));
      const found = fault(machine, frames, ended);
      if (found !== null) reports.add(found);
      return found === null;
    });
    expectFound(fc.check(property, { numRuns: 12, seed: 5, endOnFailure: true }));
    expect([...reports].join()).toMatch(said);
  });
});
