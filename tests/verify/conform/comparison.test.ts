// The comparison by itself, against a machine that does exactly what was recorded; and with one thing altered, for each
// field of each kind that the recordings have: exactly that one is told.

import { describe, expect, test } from 'vitest';
import { Comparison, type Observation, sameDescriptor } from '../../../verify/conform/comparison.ts';
import { type FieldTable, recordFields } from '../../../verify/conform/recording/record-fields.ts';
import { Tally } from '../../../verify/conform/tally.ts';
import { RECORDED, recorded } from './recorded.ts';

function compare(kind: string, expected: Observation, got: Observation) {
  const tally = new Tally();
  new Comparison(tally).compare(7, kind, expected, got);
  return tally.result('r.jsonl', 1);
}

const recordings = await Promise.all(RECORDED.map(recorded));
const records = recordings.flatMap((recording) => recording.records);
/** Fields that may be missing, as an empty set or list of what they hold. */
const filled = (record: object): Observation => ({
  gt: [],
  faults: [],
  ...('o' in record && record.o === 'copy' ? { mem: [] } : {}),
  ...record,
});

test('a record agrees with itself, field by field', () => {
  for (const record of records) {
    const { compared, agreed, disagreements } = compare(record.o, filled(record), filled(record));
    expect([agreed, disagreements]).toEqual([compared, []]);
  }
});

/** The first record of a kind whose field is there, and in lists not empty. */
function sampleOf(kind: string, field: string, inElement: boolean): Observation | undefined {
  const holder = (record: Observation) => (inElement ? (record.ops as Observation[])[0] : record);
  const found = records.find((record) => {
    if (record.o !== kind) return false;
    const value = holder(record as unknown as Observation)?.[field];
    return value !== undefined && (!Array.isArray(value) || value.length > 0);
  });
  return found as Observation | undefined;
}

/** The same value, but for one thing. */
function altered(type: string, value: unknown): unknown[] {
  const list = value as unknown[];
  const [first, ...rest] = Array.isArray(value) ? (list as [unknown, ...unknown[]]) : [undefined];
  switch (type) {
    case 'int':
    case 'word':
    case 'half':
      return [(value as number) + 1, null];
    case 'bit':
      return [1 - (value as number), null];
    case 'bytes':
      return [`${value as string}00`, `ff${(value as string).slice(2)}`, null];
    case 'hex':
      return [`${value as string}0`];
    case 'hexOrNull':
      return [value === null ? '0x1' : null];
    case 'hexes':
      return [['0x7', ...rest], [...list, '0x7'], list.slice(0, -1)];
    case 'descriptors':
      return [
        [{ ...(first as object), did: 9999 }, ...rest],
        [{ ...(first as object), via: 'reg' }, ...rest],
        [...list, { t: 'wait' }],
        [...list, list.at(-1)],
        list.slice(0, -1),
      ];
    case 'changes': {
      const [dom, ref, flags, status] = first as [number, number, number, number];
      return [
        [[dom, ref, flags ^ 8, status], ...rest],
        [[dom, ref, flags, status ^ 8], ...rest],
        [...list, [dom, 5000, 1, 0]],
        list.slice(1),
      ];
    }
    case 'contents': {
      const entry = first as readonly unknown[];
      return [
        [[...entry.slice(0, 5), '0123456789abcdef'], ...rest],
        [...list, [9, '0x1', 0, 0, '00', '']],
        list.slice(1),
      ];
    }
    case 'owners': {
      const [bdf, owner] = first as [string, number | null];
      return [[[bdf, owner === null ? 0 : null], ...rest], [...list, ['0x7', 0]], list.slice(1)];
    }
    case 'faults':
      return [[], [{ ...(first as object), reason: 99 }], [{ ...(first as object), sid: '0x1' }]];
    default:
      throw new Error(`no alteration of ${type}`);
  }
}

interface Case {
  readonly name: string;
  readonly kind: string;
  readonly field: string;
  readonly type: string;
  readonly inElement: boolean;
}

function casesOf(kind: string, table: FieldTable, inElement: boolean): Case[] {
  return Object.entries(table).flatMap(([field, spec]) => {
    if (field === 'ops') return casesOf(kind, (spec as readonly [FieldTable])[0], true);
    if (typeof spec !== 'string' || !spec.startsWith('compared')) return [];
    const type = spec.slice('compared '.length).replace('?', '');
    return sampleOf(kind, field, inElement) ? [{ name: `${kind}.${field}`, kind, field, type, inElement }] : [];
  });
}

const cases = Object.entries(recordFields).flatMap(([kind, table]) => casesOf(kind, table, false));

describe('one thing altered is one disagreement, where it is', () => {
  test('most compared fields are in the recordings', () => {
    expect(cases.length).toBeGreaterThan(70);
    expect(new Set(cases.map(({ type }) => type)).size).toBeGreaterThan(6);
  });

  test.each(cases)('$name', ({ name, kind, field, type, inElement }) => {
    const sample = filled(sampleOf(kind, field, inElement)!);
    const whole = compare(kind, sample, sample);
    const value = inElement ? (sample.ops as Observation[])[0]![field] : sample[field];
    for (const other of altered(type, value)) {
      const ops = inElement
        ? (sample.ops as Observation[]).map((op, at) => (at === 0 ? { ...op, [field]: other } : op))
        : sample.ops;
      const got = inElement ? { ...sample, ops } : { ...sample, [field]: other };
      const { disagreements, compared, agreed } = compare(kind, sample, got);
      expect(disagreements).toHaveLength(1);
      expect(disagreements[0]).toMatchObject({ line: 7, op: kind });
      expect(disagreements[0]!.field).toContain(field);
      expect(compared - agreed).toBe(1);
      expect(compared).toBeGreaterThanOrEqual(whole.compared);
      expect(name).toContain(field);
    }
  });
});

describe('what counts', () => {
  const call = { o: 'map', s: 1, d: 0, n: 0, rc: 0, ops: [], iommu: [], gt: [] };

  test('each entry of either side of a set, once', () => {
    const got = {
      ...call,
      gt: [
        [1, 9, 1, 0],
        [1, 8, 25, 0],
      ],
    };
    const { byField, disagreements } = compare(
      'map',
      {
        ...call,
        gt: [
          [1, 8, 25, 0],
          [2, 8, 9, 0],
        ],
      },
      got,
    );
    expect(byField['map.gt']).toEqual([1, 3]);
    expect(disagreements.map(({ field, expected, got: model }) => [field, expected, model])).toEqual([
      ['gt[2,8]', [9, 0], null],
      ['gt[1,9]', null, [1, 0]],
    ]);
  });

  test('each descriptor in order, missing and surplus ones', () => {
    const wait = { t: 'wait', if: 0, sw: 1, fn: 1, data: 1 };
    const page = { t: 'iotlb', g: 'page', did: 1, dw: 1, dr: 1, addr: '0x1000', am: 0, ih: 0 };
    expect(
      compare('map', { ...call, iommu: [page, wait] }, { ...call, iommu: [wait, page] }).byField['map.iommu'],
    ).toEqual([0, 2]);
    expect(compare('map', { ...call, iommu: [page, wait] }, { ...call, iommu: [page] }).byField['map.iommu']).toEqual([
      1, 2,
    ]);
    expect(compare('map', { ...call, iommu: [] }, { ...call, iommu: [page, wait] }).byField['map.iommu']).toEqual([
      0, 2,
    ]);
  });

  test('of a device-TLB descriptor all but how many may be outstanding', () => {
    const flush = { t: 'dev-iotlb', sid: '0x28', addr: '0x1000', s: 0 };
    expect(sameDescriptor({ ...flush, maxinvs: 3 }, flush)).toBe(true);
    expect(sameDescriptor({ ...flush, s: 1 }, flush)).toBe(false);
    expect(sameDescriptor(flush, { ...flush, via: 'reg' })).toBe(false);
  });

  test('not what the observation leaves out, nor holes in its lists', () => {
    const ops = [{ dom: 1, nr: 2, ptr: 'ok', st: 0, frames: ['0x1', '0x2'] }];
    const seen = [{ st: 0, frames: [undefined, '0x2'] }];
    const { byField } = compare('setup_table', { ...call, ops }, { rc: 0, ops: seen });
    expect(byField).toEqual({ 'setup_table.rc': [1, 1], 'setup_table.st': [1, 1], 'setup_table.frames': [1, 1] });
  });
});
