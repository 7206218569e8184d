// What is not compared has a row in docs/conformance.md, with a reason; and no row is about what there is not.

import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { conformRecording } from '../../../verify/conform/index.ts';
import { type FieldTable, recordFields } from '../../../verify/conform/recording/record-fields.ts';
import { RECORDED, recorded } from './recorded.ts';

const path = (place: string): string => fileURLToPath(new URL(place, import.meta.url));

/** Rows of the table: what is counted, what it is, why. */
function rows(): readonly (readonly string[])[] {
  const text = readFileSync(path('../../../docs/conformance.md'), 'utf8');
  return [...text.matchAll(/^\| `([^`]+)` \| (.+) \| (.+) \|$/gm)].map(([, ...cells]) => cells as string[]);
}

/** Kinds of records of which no field is compared. */
const uncomparedKinds = Object.entries(recordFields as Readonly<Record<string, FieldTable>>)
  .filter(([, table]) => !JSON.stringify(table).includes('"compared '))
  .map(([kind]) => kind);

/** What the code counts by name. */
function countedInCode(): string[] {
  const folder = path('../../../verify/conform');
  const files = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.ts'));
  const sources = files.map((name) => readFileSync(`${folder}/${name}`, 'utf8'));
  return sources.flatMap((text) => [...text.matchAll(/\bskip\('([^']+)'/g)].map(([, name]) => name!));
}

test('docs/conformance.md has a row for everything that is not compared, and for nothing else', async () => {
  const counted = new Set([...uncomparedKinds, ...countedInCode()]);
  for (const name of RECORDED) {
    const { conformance } = await conformRecording(await recorded(name));
    for (const found of Object.keys(conformance.notCompared)) counted.add(found);
  }
  // Without queued invalidation: no recording of the project's own is.
  counted.add('boot');
  const told = rows().map(([name]) => name!);
  expect(told.toSorted()).toEqual([...counted].toSorted());
});

test('and each row says what it is and why', () => {
  for (const [name, what, why] of rows())
    expect([name, what!.length > 10, why!.length > 5]).toEqual([name, true, true]);
});

test('what is counted is a kind of record, or a field of one', () => {
  for (const [name] of rows()) {
    const [kind, ...fields] = name!.split('.');
    let found: unknown = (recordFields as Readonly<Record<string, unknown>>)[kind!];
    for (const field of fields) {
      const table = found as Readonly<Record<string, unknown>>;
      found = table[field] ?? (table.ops as readonly Readonly<Record<string, unknown>>[])?.[0]?.[field];
    }
    expect([name, found !== undefined]).toEqual([name, true]);
  }
});
