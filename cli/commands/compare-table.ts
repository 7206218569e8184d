// A comparison as a table for people.

import { basename } from 'node:path';
import Table from 'cli-table3';
import { type Comparison, isClean, type PolicyRow } from '../../benchmarks/index.ts';
import { type CliIo, printable, styled } from '../io.ts';

const WIDTH = 118;

/** Two lines of head, the table, notes, and what to conclude. Ends with a line end. */
export function compareReport(comparison: Comparison, io: CliIo): string {
  return `${[
    ...head(comparison).flatMap((text) => wrapped(text)),
    '',
    table(comparison.policies, io),
    '',
    ...notes(comparison).flatMap((text) => wrapped(text).map((line) => styled(io, 'dim', line))),
    '',
    ...comparison.conclusion.flatMap((text) => wrapped(`=> ${text}`)).map((line) => styled(io, 'bold', line)),
  ].join('\n')}\n`;
}

function head({ trace, replayed, platform }: Comparison): string[] {
  const devices = platform.devices.map(
    ({ device, unit, why, named }) => `${device}${named ? '' : ' (assumed)'} behind unit ${unit} (${why})`,
  );
  const table = platform.file === null ? 'no DMAR table' : printable(basename(platform.file));
  return [
    `Trace:    ${printable(basename(trace.file))}: ${replayed.maps} maps and ${replayed.unmaps} unmaps ` +
      `in ${trace.seconds.toFixed(2)} s on ${trace.cpus} CPU${trace.cpus === 1 ? '' : 's'}`,
    `Platform: ${table}, ${platform.units} VT-d unit${platform.units === 1 ? '' : 's'}; ${devices.join('; ')}`,
  ];
}

const HEADERS: readonly (readonly [first: string, second: string, third: string])[] = [
  ['', '', 'policy'],
  ['', '', 'release'],
  ['CPU', 'cycles', 'a map'],
  ['CPU', 'cycles', 'an unmap'],
  ['inval.', 'per 1000', 'unmaps'],
  ['IOTLB', 'misses', '%'],
  ['stale', 'window', 'p50 ms'],
  ['stale', 'window', 'p99 ms'],
  ['stale', 'window', 'max ms'],
  ['open', 'at', 'end'],
  ['stale', 'bound', 'KiB*s'],
  ['of it', 'harmful', 'KiB*s'],
  ['late:', 'stale', 'of all'],
];

function table(rows: readonly PolicyRow[], io: CliIo): string {
  const view = new Table({
    head: HEADERS.map((lines) => lines.join('\n')),
    colAligns: HEADERS.map((_, column) => (column < 2 ? 'left' : 'right')),
    style: { head: [], border: [], compact: true, 'padding-left': 0, 'padding-right': 1 },
    chars: BORDERS,
  });
  for (const row of rows) view.push(cells(row, io));
  return view
    .toString()
    .split('\n')
    .map((line) => line.trimEnd())
    .join('\n');
}

function cells(row: PolicyRow, io: CliIo): string[] {
  const { cost, exposure, invalidations, iotlb } = row;
  const { window } = exposure;
  const clean = isClean(row);
  const ms = (us: number | null) => (us === null ? '-' : (us / 1000).toFixed(us < 1e5 ? 2 : 0));
  const kib = (bytes: number) => (bytes === 0 ? '0' : (bytes / 1024).toFixed(bytes < 1e6 ? 1 : 0));
  const format = row.promiseHeld ? (clean ? 'green' : 'yellow') : 'red';
  return [
    row.promiseHeld ? row.name : styled(io, 'red', `${row.name} !`),
    row.release,
    cost.cyclesPerMap.toFixed(0),
    cost.cyclesPerUnmap.toFixed(0),
    invalidations.per1000Unmaps.toFixed(invalidations.per1000Unmaps < 100 ? 1 : 0),
    (iotlb.missRatio * 100).toFixed(1),
    ms(window.p50Us),
    ms(window.p99Us),
    ms(window.maxUs),
    String(window.open),
    styled(io, format, kib(exposure.excessByteSeconds)),
    styled(io, format, kib(exposure.harmfulByteSeconds)),
    `${exposure.staleAccesses}/${exposure.lateTouches}`,
  ];
}

const BORDERS = {
  ...Object.fromEntries(
    ['top', 'bottom', 'left', 'right', 'mid']
      .flatMap((side) => [side, `${side}-mid`, `${side}-left`, `${side}-right`])
      .concat('left-mid', 'mid-mid', 'right-mid', 'middle')
      .map((part) => [part, '']),
  ),
  middle: ' ',
};

function notes({ policies, touchRatePerSecond, seed, assumptions }: Comparison): string[] {
  const parameters = policies[0]?.cost.parameters ?? [];
  const unverified = parameters.filter(({ verified }) => !verified);
  return [
    'Inval.: invalidations. Stale: a device can still reach a page that was released, through what a unit ' +
      'remembers. Windows and bounds hold ' +
      'for the worst hardware; harmful: meanwhile the page or its device frame is mapped for something else.',
    `Late: touches by a device that comes late, ${touchRatePerSecond} times a second (seed ${seed}), ` +
      'on a cache of 128 entries.',
    `Cycles rest on ${unverified.length} of ${parameters.length} parameters that nobody verified ` +
      '(--json lists each with its source): compare rows, do not quote figures.',
    ...assumptions.filter((text) => text.startsWith('The trace')),
  ];
}

/** The text in lines of at most {@link WIDTH} characters; further lines are indented. */
function wrapped(text: string): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    if (line !== '' && line.length + 1 + word.length > WIDTH) {
      lines.push(line);
      line = `   ${word}`;
    } else line = line === '' && lines.length === 0 ? word : `${line} ${word}`;
  }
  return [...lines, line];
}
