// What a comparison with recordings came to, for people.

import { basename } from 'node:path';
import Table from 'cli-table3';
import type { Conformance, ConformedRecording, Disagreement, FileConformance } from '../../verify/conform/index.ts';
import { type CliIo, printable, styled } from '../io.ts';

/** Longest value that a line shows. */
const VALUE_CHARS = 160;
/** The column that holds words, beside the first. */
const WORDS_COLUMN = 4;

/** Agreement per file and per kind of record, the first disagreements, and a conclusion. Ends with a line end. */
export function conformReport(
  conformance: Conformance,
  results: readonly ConformedRecording[],
  first: number,
  io: CliIo,
): string {
  const listed = results.flatMap((result) => disagreementLines(result, first, io));
  return `${[
    fileTable(conformance.files, io),
    '',
    kindTable(conformance.files, io),
    '',
    ...listed,
    ...conformance.files.flatMap((file) => passedOver(file)),
    styled(io, 'bold', conclusion(conformance)),
  ].join('\n')}\n`;
}

function fileTable(files: readonly FileConformance[], io: CliIo): string {
  return rows(
    ['recording', 'fields compared', 'disagree', 'agreement', 'of'],
    files.map(({ file, records, compared, agreed }) => [
      printable(basename(file)),
      count(compared),
      count(compared - agreed),
      share(agreed, compared, io),
      `${count(records)} records`,
    ]),
  );
}

/** Sums over all files, by kind of record: which fields disagree. */
function kindTable(files: readonly FileConformance[], io: CliIo): string {
  const kinds = new Map<string, { agreed: number; compared: number; fields: Map<string, number> }>();
  for (const { byField } of files) {
    for (const [name, [agreed, compared]] of Object.entries(byField)) {
      const [kind = '', ...field] = name.split('.');
      const sum = kinds.get(kind) ?? { agreed: 0, compared: 0, fields: new Map<string, number>() };
      kinds.set(kind, sum);
      sum.agreed += agreed;
      sum.compared += compared;
      const missed = compared - agreed;
      if (missed > 0) sum.fields.set(field.join('.'), (sum.fields.get(field.join('.')) ?? 0) + missed);
    }
  }
  return rows(
    ['kind of record', 'fields compared', 'disagree', 'agreement', 'where'],
    [...kinds].map(([kind, { agreed, compared, fields }]) => [
      kind,
      count(compared),
      count(compared - agreed),
      share(agreed, compared, io),
      [...fields].map(([field, missed]) => `${field} ${count(missed)}`).join(', '),
    ]),
  );
}

function disagreementLines({ conformance, explanations }: ConformedRecording, first: number, io: CliIo): string[] {
  const { file, disagreements } = conformance;
  if (disagreements.length === 0) return [];
  const shown = disagreements.slice(0, first);
  const left = disagreements.length - shown.length;
  return [
    ...shown.flatMap((disagreement) => [
      oneDisagreement(file, disagreement, io),
      ...(explanations.get(disagreement) ?? []).map((line) => styled(io, 'dim', `    ${line}`)),
    ]),
    ...(left > 0
      ? [styled(io, 'dim', `${printable(basename(file))}: ${count(left)} more (--first ${disagreements.length})`)]
      : []),
    '',
  ];
}

/** What the model does not do as the recorded machine did, by its config. */
function passedOver({ file, notCompared }: FileConformance): string[] {
  const fields = Object.keys(notCompared).filter((name) => name.startsWith('config.'));
  return fields.map((field) => `${printable(basename(file))}:1 ${field}: passed over, the model knows no other`);
}

function oneDisagreement(file: string, { line, op, field, expected, got }: Disagreement, io: CliIo): string {
  const place = `${printable(basename(file))}:${line}`;
  return `${styled(io, 'bold', place)} ${op} ${field}: Xen ${value(expected)}, model ${styled(io, 'red', value(got))}`;
}

function value(of: Disagreement['expected']): string {
  if (of === null) return 'nothing';
  const text = printable(typeof of === 'string' ? of : JSON.stringify(of));
  return text.length > VALUE_CHARS ? `${text.slice(0, VALUE_CHARS)}...` : text;
}

function conclusion({ agreement, compared, files }: Conformance): string {
  const records = files.reduce((sum, file) => sum + file.records, 0);
  const what = `${count(compared)} fields of ${count(records)} records in ${count(files.length)} recordings`;
  if (agreement === 1) return `=> the model agrees with real Xen in all of ${what}`;
  return `=> the model agrees with real Xen in ${percent(agreement)} of ${what}`;
}

const count = (of: number): string => of.toLocaleString('en-US');
/** Rounded down: what is not all of it does not look like it. */
const percent = (of: number): string => `${(Math.floor(of * 100_000) / 1000).toFixed(3)} %`;

function share(agreed: number, compared: number, io: CliIo): string {
  if (compared === 0) return '-';
  return styled(io, agreed === compared ? 'green' : 'red', percent(agreed / compared));
}

const BORDERS = {
  ...Object.fromEntries(
    ['top', 'bottom', 'left', 'right', 'mid']
      .flatMap((side) => [side, `${side}-mid`, `${side}-left`, `${side}-right`])
      .concat('left-mid', 'mid-mid', 'right-mid', 'middle')
      .map((part) => [part, '']),
  ),
};

/** Columns of figures stand right, those of words left. */
function rows(head: readonly string[], body: readonly (readonly string[])[]): string {
  const view = new Table({
    head: [...head],
    colAligns: head.map((_, column) => (column === 0 || column === WORDS_COLUMN ? 'left' : 'right')),
    style: { head: [], border: [], compact: true, 'padding-left': 0, 'padding-right': 2 },
    chars: BORDERS,
  });
  for (const row of body) view.push([...row]);
  return view
    .toString()
    .split('\n')
    .map((line) => line.trimEnd())
    .join('\n');
}
