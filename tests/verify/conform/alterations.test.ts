// Recordings with each compared field of each kind of record altered somewhere, replayed: all of it is noticed, where
// it is, nothing else is, and each disagreement comes with the state around it.

import { expect, test } from 'vitest';
import { conformRecording } from '../../../verify/conform/index.ts';
import { type FieldTable, recordFields } from '../../../verify/conform/recording/record-fields.ts';
import { parseRecording } from '../../../verify/conform/recording/recording.ts';
import { RECORDED, recordedText } from './recorded.ts';

type Json = Record<string, unknown>;

/** For each type another value of it: first by changing or taking away, then by adding. */
const ALTERATIONS: Readonly<Record<string, readonly ((value: never) => unknown)[]>> = {
  int: [(value: number) => value + 1, (value: number) => value - 1],
  word: [(value: number) => (value ^ 1) >>> 0, (value: number) => (value + 2) >>> 0],
  half: [(value: number) => value ^ 1, (value: number) => value ^ 2],
  bit: [(value: number) => 1 - value, (value: number) => 1 - value],
  hex: [(value: string) => `${value.slice(0, 2)}1${value.slice(3)}0`.slice(0, 18), () => '0x123456789'],
  hexOrNull: [(value: string | null) => (value === null ? '0x1' : null), () => '0x123456789'],
  bytes: [(value: string) => `${value.slice(2)}a5`, (value: string) => `${value}00`],
  hexes: [(value: string[]) => (value.length > 0 ? value.slice(1) : ['0x7']), (value: string[]) => [...value, '0x7']],
  descriptors: [
    (value: Json[] = []) => (value.length > 0 ? value.slice(0, -1) : [{ t: 'wait' }]),
    (value: Json[] = []) => [...value, { t: 'iotlb', g: 'page', did: 1, addr: '0x1000' }],
  ],
  changes: [
    (value: number[][] = []) => (value.length > 0 ? value.slice(1) : [[0, 900, 1, 0]]),
    (value: number[][] = []) => [...value, [0, 901, 1, 0]],
  ],
  contents: [
    (value: unknown[] = []) => (value.length > 0 ? value.slice(1) : [[0, '0x1', 0, 0, '00', '0123456789abcdef']]),
    (value: unknown[] = []) => [...value, [0, '0x2', 0, 0, '00', '0123456789abcdef']],
  ],
  owners: [
    (value: unknown[]) => value.slice(1),
    (value: [string, unknown][]) => value.map(([bdf, owner], at) => (at === 0 ? [bdf, 77] : [bdf, owner])),
  ],
  faults: [
    (value?: Json[]) => (value ? [{ ...value[0], reason: 9 }] : [{ sid: '0x30', reason: 6, addr: '0x0', write: 0 }]),
    (value?: Json[]) => (value ? [] : [{ sid: '0x28', reason: 6, addr: '0x0', write: 1 }]),
  ],
};
/** Of these a missing one is an empty one. */
const LISTS = ['descriptors', 'changes', 'contents', 'faults'];

/** Whether a field of a record is compared there: neither adopted nor left out. */
function isCompared(record: Json, field: string): boolean {
  const { o, cmd, faultKnown, nr } = { ...record, ...((record.ops as Json[] | undefined)?.[0] ?? {}) } as Json;
  if (o === 'memory_op' && field === 'out') return cmd !== 0;
  if (o === 'dma' && field === 'faults') return faultKnown === true;
  if (o === 'get_status_frames' && field === 'frames') return nr !== 0;
  return true;
}

/** Frames of a table that no list had before are adopted. */
const isFirstSight = (records: readonly Json[], place: number, value: unknown): boolean =>
  records[place]!.o === 'setup_table' &&
  Array.isArray(value) &&
  !records.slice(0, place).some(({ o, ops }) => o === 'setup_table' && JSON.stringify(ops).includes(value.join('","')));

interface Field {
  readonly name: string;
  readonly kind: string;
  readonly field: string;
  readonly type: string;
  readonly isElement: boolean;
}

function comparedFields(kind: string, table: FieldTable, isElement = false): Field[] {
  return Object.entries(table).flatMap(([field, spec]) => {
    if (field === 'ops') return comparedFields(kind, (spec as readonly [FieldTable])[0], true);
    if (typeof spec !== 'string' || !spec.startsWith('compared ')) return [];
    return [
      { name: `${kind}.${field}`, kind, field, type: spec.slice('compared '.length).replace('?', ''), isElement },
    ];
  });
}

const fields = Object.entries(recordFields).flatMap(([kind, table]) => comparedFields(kind, table));
const noticed = new Set<string>();

/** Alters, for each field that the recording has, the last record that has it and has not been altered yet. */
function alter(text: string, pass: number) {
  const lines = text.trimEnd().split('\n');
  const records = lines.map((line) => JSON.parse(line) as Json);
  const altered = new Map<number, Field[]>();
  for (const field of fields) {
    const holder = (record: Json) => (field.isElement ? (record.ops as Json[] | undefined)?.[0] : record);
    const has = (record: Json, place: number) => {
      const value = record.o === field.kind ? holder(record)?.[field.field] : undefined;
      const isThere = value !== undefined || (record.o === field.kind && LISTS.includes(field.type));
      return isThere && isCompared(record, field.field) && !isFirstSight(records, place, value);
    };
    const free = records.findLastIndex((record, place) => !altered.has(place) && has(record, place));
    const at = free < 0 ? records.findLastIndex(has) : free;
    if (at < 0) continue;
    const record = holder(records[at]!)!;
    record[field.field] = ALTERATIONS[field.type]![pass]!(record[field.field] as never);
    altered.set(at, [...(altered.get(at) ?? []), field]);
    lines[at] = JSON.stringify(records[at]);
  }
  return { text: lines.join('\n'), altered };
}

/** Where a list of status frames comes once only, its status says whether there is something to adopt. */
const ALTERED = RECORDED.filter((name) => name !== 'scen14-417-cm0');

for (const pass of [0, 1]) {
  test.each(ALTERED)(`%s: every alteration is noticed and explained (${['less', 'more'][pass]})`, async (name) => {
    const { text, altered } = alter(recordedText(name), pass);
    const { conformance, explanations } = await conformRecording(parseRecording(text, name), {
      explain: Number.POSITIVE_INFINITY,
    });
    const told = conformance.disagreements;
    const isTold = (at: number, field: string) => told.some((one) => one.line === at + 1 && one.field.includes(field));
    const missed = [...altered].flatMap(([at, of]) => of.filter(({ field }) => !isTold(at, field)));
    const others = told.filter(({ line }) => !altered.has(line - 1));
    const unexplained = [...explanations]
      .filter(([, about]) => about.length === 0)
      .map(([{ op, field }]) => [op, field]);
    expect({ missed, others, unexplained }).toEqual({ missed: [], others: [], unexplained: [] });
    for (const { name: found } of [...altered.values()].flat()) noticed.add(found);
  });
}

test('every compared field of every kind has been altered', () => {
  expect(fields.map(({ name }) => name).filter((name) => !noticed.has(name))).toEqual([]);
});
