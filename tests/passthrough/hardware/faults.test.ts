// Goal: each way in which a request can fail has its reason, and the fault log keeps it as the specification says.
// Method: for each reason a machine that is wrong in that way alone; the log read by registers and by `take`.

import { describe, expect, test } from 'vitest';
import {
  Access,
  defaultLruShape,
  FaultReason,
  faultReasonName,
  Register,
} from '../../../passthrough/hardware/index.ts';
import { DEVICE, type Mapped, mapped, OTHER_DEVICE, R, type RigOptions, RW } from './tables.ts';

/** Far beyond the frames of any of these machines. */
const NOWHERE = 0x12345;

interface Failure {
  readonly reason: number;
  readonly what: string;
  readonly dfn?: number;
  readonly access?: Access;
  readonly options?: RigOptions;
  readonly spoil: (machine: Mapped) => void;
}

const failures: readonly Failure[] = [
  {
    reason: 0x1,
    what: 'the root entry is not present',
    spoil: ({ rig, root }) => rig.rootEntry(root, 0, [0, 0, 0, 0]),
  },
  {
    reason: 0x2,
    what: 'the context entry is not present',
    spoil: ({ rig, contexts }) => rig.clearContext(contexts, DEVICE),
  },
  {
    reason: 0x3,
    what: 'the context names a depth that the unit does not walk',
    spoil: ({ rig, contexts, path }) => rig.context(contexts, DEVICE, { table: path[0]!, levels: 5 }),
  },
  {
    reason: 0x3,
    what: 'the context has the reserved translation type',
    spoil: ({ rig, contexts, path }) => rig.context(contexts, DEVICE, { table: path[0]!, type: 3 }),
  },
  {
    reason: 0x3,
    what: 'the context wants pass-through from a unit without it',
    options: { units: [{ passThrough: false }] },
    spoil: ({ rig, contexts, path }) => rig.context(contexts, DEVICE, { table: path[0]!, type: 2 }),
  },
  { reason: 0x4, what: 'the address is beyond the tables', dfn: 0x8000000, spoil: () => {} },
  {
    reason: 0x5,
    what: 'a write meets a read-only page',
    access: Access.write,
    spoil: ({ rig, leaves }) => rig.entry(leaves, 5, 40, R),
  },
  {
    reason: 0x5,
    what: 'a write meets no page',
    access: Access.write,
    spoil: ({ rig, leaves }) => rig.absent(leaves, 5),
  },
  { reason: 0x6, what: 'a read meets a write-only page', spoil: ({ rig, leaves }) => rig.entry(leaves, 5, 40, 2) },
  { reason: 0x6, what: 'a read meets no table', spoil: ({ rig, path }) => rig.absent(path[0]!, 0) },
  { reason: 0x7, what: 'a table lies outside memory', spoil: ({ rig, path }) => rig.entry(path[1]!, 0, NOWHERE, RW) },
  {
    reason: 0x7,
    what: 'the highest table lies outside memory',
    spoil: ({ rig, contexts }) => rig.context(contexts, DEVICE, { table: NOWHERE }),
  },
  {
    reason: 0x8,
    what: 'the root table lies outside memory',
    spoil: ({ rig }) => {
      rig.unit.writeRegister(Register.RTADDR, NOWHERE << 12);
      rig.command(rig.unit, { setRootTable: 1, translationEnable: 1 });
    },
  },
  {
    reason: 0x9,
    what: 'the context table lies outside memory',
    spoil: ({ rig, root }) => rig.rootEntry(root, 0, [(NOWHERE << 12) | 1, 0, 0, 0]),
  },
  {
    reason: 0xa,
    what: 'the root entry has a reserved bit',
    spoil: ({ rig, root, contexts }) => rig.rootEntry(root, 0, [(contexts << 12) | 3, 0, 0, 0]),
  },
  {
    reason: 0xb,
    what: 'the context entry has a reserved bit',
    spoil: ({ rig, contexts, path }) =>
      rig.frames.writeWideEntry(contexts, DEVICE, (path[0]! << 12) | 0x11, 0, 0x101, 0),
  },
  {
    reason: 0xc,
    what: 'a superpage is not supported',
    options: { units: [{ superpage2m: false }] },
    spoil: ({ rig, path }) => rig.entry(path[1]!, 0, 512, RW, { superpage: 1 }),
  },
  {
    reason: 0xc,
    what: 'a superpage is not aligned',
    spoil: ({ rig, path }) => rig.entry(path[1]!, 0, 513, RW, { superpage: 1 }),
  },
  {
    reason: 0xc,
    what: 'a leaf snoops on a unit that cannot',
    spoil: ({ rig, leaves }) => rig.entry(leaves, 5, 40, RW, { snoop: 1 }),
  },
  {
    reason: 0xc,
    what: 'an upper entry snoops',
    spoil: ({ rig, path, leaves }) => rig.entry(path[1]!, 0, leaves, RW, { snoop: 1 }),
  },
];

describe.each([
  ['adversary', {}],
  ['lru', { lru: defaultLruShape }],
] as const)('in the profile %s', (_, profile) => {
  test.each(failures)('reason $reason: $what', ({ reason, spoil, dfn = 5, access = Access.read, options = {} }) => {
    const machine = mapped({ ...profile, ...options });
    machine.rig.entry(machine.leaves, 5, 40, RW);
    spoil(machine);
    const { unit } = machine.rig;
    expect(unit.translate(DEVICE, dfn, access)).toBe(-reason);
    expect(unit.faults.take(), 'translate leaves no trace').toEqual([]);
    expect(unit.request(DEVICE, dfn, access)).toBe(-reason);
    expect(unit.faults.take()).toEqual([
      {
        sourceId: DEVICE,
        dfn,
        access: access === Access.write ? 'write' : 'read',
        reason,
        reasonName: faultReasonName(reason),
      },
    ]);
  });

  test('a request that succeeds is not logged', () => {
    const { rig, leaves } = mapped(profile);
    rig.entry(leaves, 5, 40, RW);
    expect(rig.unit.request(DEVICE, 5, Access.write)).toBe(40);
    expect(rig.unit.faults.take()).toEqual([]);
  });
});

test('every reason but the last is among them, which translation requests meet (device-tlbs.test.ts)', () => {
  const tried = new Set(failures.map(({ reason }) => reason));
  const known = Object.values(FaultReason).filter((reason) => reason !== FaultReason.requestBlocked);
  expect([...tried].sort((a, b) => a - b)).toEqual(known);
});

test('every adversarial answer that is a fault of the tables as they are is the fault of the walk', () => {
  for (const { spoil, dfn = 5, access = Access.read, options = {} } of failures) {
    const machine = mapped(options);
    machine.rig.entry(machine.leaves, 5, 40, RW);
    spoil(machine);
    const [current] = machine.rig.may(dfn);
    const walked = machine.rig.unit.translate(DEVICE, dfn, access);
    if (walked === -5 || walked === -6) expect((current!.rights & access) === 0).toBe(true);
    else expect(current).toMatchObject({ frame: walked, current: true });
  }
});

describe('the fault log', () => {
  const status = ({ rig }: Mapped) => rig.unit.readLow(Register.FSTS);
  const OVERFLOW = 1;
  const PENDING = 2;

  test('fills its records in turn and names the first that is pending', () => {
    const machine = mapped({ units: [{ faultRecords: 3 }] });
    const { unit } = machine.rig;
    expect(status(machine)).toBe(0);
    unit.request(DEVICE, 1, Access.read);
    unit.request(OTHER_DEVICE, 2, Access.write);
    expect(status(machine)).toBe(PENDING);
    expect(unit.faults.take().map(({ sourceId, dfn, access }) => [sourceId, dfn, access])).toEqual([
      [DEVICE, 1, 'read'],
      [OTHER_DEVICE, 2, 'write'],
    ]);
    expect(status(machine)).toBe(0);
    unit.request(DEVICE, 3, Access.read);
    expect(status(machine)).toBe(PENDING | (2 << 8));
    unit.request(DEVICE, 4, Access.read);
    expect(status(machine)).toBe(PENDING | (2 << 8));
    expect(unit.faults.take().map(({ dfn }) => dfn)).toEqual([3, 4]);
  });

  test('keeps the oldest faults and notes an overflow when all records are taken', () => {
    const machine = mapped({ units: [{ faultRecords: 2 }] });
    const { unit } = machine.rig;
    for (const dfn of [1, 2, 3, 4]) unit.request(DEVICE, dfn, Access.read);
    expect(status(machine)).toBe(PENDING | OVERFLOW);
    expect(unit.faults.overflowed).toBe(true);
    expect(unit.faults.take().map(({ dfn }) => dfn)).toEqual([1, 2]);
    expect(status(machine)).toBe(0);
  });

  test('records nothing more until software clears the overflow by writing a one', () => {
    const machine = mapped({ units: [{ faultRecords: 1 }] });
    const { unit } = machine.rig;
    unit.request(DEVICE, 1, Access.read);
    unit.request(DEVICE, 2, Access.read);
    unit.writeRegister(Register.FSTS, PENDING);
    expect(status(machine)).toBe(PENDING | OVERFLOW);
    unit.writeRegister(Register.FSTS, OVERFLOW);
    expect(status(machine)).toBe(PENDING);
    expect(unit.faults.overflowed).toBe(false);
  });

  test('holds an address beyond 2^32 pages', () => {
    const { rig } = mapped({ units: [{ levels: [5], addressBits: 57 }], levels: 5 });
    rig.unit.request(DEVICE, 2 ** 40 + 17, Access.read);
    expect(rig.unit.faults.take()).toMatchObject([{ dfn: 2 ** 40 + 17, reason: 6 }]);
  });
});
