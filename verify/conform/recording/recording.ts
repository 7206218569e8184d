// A recording in memory: its records, checked, with the lines that they came from.

import { InputError } from '../../../machine/errors.ts';
import { fieldTypes, type TypeCheck } from './field-types.ts';
import type { FieldType } from './field-values.ts';
import {
  type FieldSpec,
  type FieldTable,
  type RecordedLine,
  type RecordKind,
  type RecordOf,
  recordFields,
} from './record-fields.ts';
import { brokenRule } from './record-rules.ts';

/** The form of recordings that is understood: `config.recording`. */
const RECORDING = 2;

export interface Recording {
  readonly file: string;
  readonly config: RecordOf<'config'>;
  /** In the order of the file, one per line; the config is the first. */
  readonly records: readonly RecordedLine[];
}

/** A field made ready for checking. */
interface FieldCheck {
  readonly name: string;
  readonly isOptional: boolean;
  readonly type?: TypeCheck;
  readonly nested?: readonly FieldCheck[];
  readonly isList: boolean;
}

const checks = new Map<string, readonly FieldCheck[]>(
  Object.entries(recordFields).map(([kind, table]) => [kind, checksOf(table)]),
);

function checksOf(table: FieldTable): FieldCheck[] {
  return Object.entries(table).map(([name, spec]) => {
    if (typeof spec === 'string') return { name, isList: false, ...plainField(spec) };
    const isList = Array.isArray(spec);
    return { name, isOptional: false, isList, nested: checksOf((isList ? spec[0] : spec) as FieldTable) };
  });
}

function plainField(spec: FieldSpec): { readonly isOptional: boolean; readonly type: TypeCheck } {
  const type = spec.slice(spec.indexOf(' ') + 1);
  const isOptional = type.endsWith('?');
  return { isOptional, type: fieldTypes[(isOptional ? type.slice(0, -1) : type) as FieldType] };
}

/**
 * Reads the text of a recording.
 * @param ending what is wrong with the place where the text ends, if it was cut off there
 * @throws InputError with file and line: `RECORDING_LINE` for what is no JSON object, `RECORDING_KIND`,
 * `RECORDING_FIELD`, `RECORDING_CONFIG` for a first line that is none or of another form, `RECORDING_END`
 */
export function parseRecording(text: string, file: string, ending?: string): Recording {
  const records: RecordedLine[] = [];
  let line = 0;
  for (let at = 0; at < text.length; ) {
    const end = text.indexOf('\n', at);
    line += 1;
    if (end < 0 && ending !== undefined) throw new InputError('RECORDING_END', { file, line }, ending);
    const stop = end < 0 ? text.length : end;
    // Behind the last line break there may be blanks.
    if (end < 0 && text.slice(at).trim() === '') break;
    const place = { file, line };
    const record = parseLine(text.slice(at, stop), place);
    if (line === 1) checkConfig(record, place);
    else if (record.o === 'config') throw new InputError('RECORDING_KIND', place, 'a second config record');
    records.push(record);
    at = stop + 1;
  }
  if (ending !== undefined) throw new InputError('RECORDING_END', { file, line: line + 1 }, ending);
  const [config] = records;
  if (!config) throw new InputError('RECORDING_CONFIG', { file, line: 1 }, 'empty; expected a config record');
  return { file, config: config as RecordOf<'config'>, records };
}

function parseLine(text: string, place: { file: string; line: number }): RecordedLine {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new InputError('RECORDING_LINE', place, `no JSON (${why}); expected one record per line`);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new InputError('RECORDING_LINE', place, 'expected a record, as in {"o":"map",...}');
  const record = value as Record<string, unknown>;
  const fields = typeof record.o === 'string' ? checks.get(record.o) : undefined;
  if (!fields) {
    const kind = JSON.stringify(record.o) ?? 'none';
    throw new InputError('RECORDING_KIND', place, `unknown kind of record ("o": ${kind}); known: ${kinds()}`);
  }
  // `iommu` is an object in the config and a list of descriptors everywhere else: each kind has its own table.
  checkFields(record, fields, place, record.o as string);
  const found = value as RecordedLine;
  const broken = brokenRule(found);
  if (broken) {
    const { field, expected } = broken;
    throw fieldError(place, `${found.o}.${field}`, (found as unknown as Record<string, unknown>)[field], expected);
  }
  return found;
}

const kinds = (): string => Object.keys(recordFields).join(', ');

function checkFields(
  value: Record<string, unknown>,
  fields: readonly FieldCheck[],
  place: { file: string; line: number },
  path: string,
): void {
  for (const field of fields) {
    const found = value[field.name];
    if (found === undefined && field.isOptional) continue;
    if (field.nested === undefined) {
      if (found !== undefined && field.type!.holds(found)) continue;
      throw fieldError(place, `${path}.${field.name}`, found, field.type!.expected);
    }
    if (field.isList) {
      if (!Array.isArray(found)) throw fieldError(place, `${path}.${field.name}`, found, 'a list');
      for (let at = 0; at < found.length; at += 1)
        checkNested(found[at], field.nested, place, `${path}.${field.name}[${at}]`);
    } else checkNested(found, field.nested, place, `${path}.${field.name}`);
  }
}

function checkNested(
  found: unknown,
  fields: readonly FieldCheck[],
  place: { file: string; line: number },
  path: string,
): void {
  if (typeof found !== 'object' || found === null) throw fieldError(place, path, found, 'an object');
  checkFields(found as Record<string, unknown>, fields, place, path);
}

function fieldError(place: { file: string; line: number }, path: string, found: unknown, expected: string): InputError {
  const what = found === undefined ? 'missing' : `is ${JSON.stringify(found).slice(0, 60)}`;
  return new InputError('RECORDING_FIELD', place, `${path} ${what}; expected ${expected}`);
}

function checkConfig(record: RecordedLine, place: { file: string; line: number }): void {
  const isConfig = record.o === 'config';
  if (isConfig && record.recording === RECORDING) return;
  const found = isConfig ? `"recording": ${record.recording}` : `"o": "${record.o}"`;
  throw new InputError(
    'RECORDING_CONFIG',
    place,
    `the first record has ${found}; expected a config with "recording": ${RECORDING}`,
  );
}

/** Whether the record is of this kind. */
export function isKind<Kind extends RecordKind>(
  record: RecordedLine,
  kind: Kind,
): record is RecordOf<Kind> & RecordedLine {
  return record.o === kind;
}
