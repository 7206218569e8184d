// A DMAR table as text for people.

import Table from 'cli-table3';
import type { DeviceAnswer, Platform, RegionAnswer } from '../../passthrough/index.ts';
import type { DmarScope, DmarTable } from '../../passthrough/platform/dmar.ts';
import { DmarFlag } from '../../passthrough/platform/dmar-layout.ts';
import { scopeText } from '../../passthrough/platform/units/scope-reach.ts';
import { printable } from '../io.ts';

const FLAG_NAMES: readonly (readonly [bit: number, name: string])[] = [
  [DmarFlag.interruptRemapping, 'interrupt remapping'],
  [DmarFlag.x2apicOptOut, 'x2APIC opt-out'],
  [DmarFlag.dmaControlOptIn, 'DMA control opt-in'],
];

type Heading = (title: string) => string;

/** The whole table, one section for each kind of structure that it has. Ends with a line end. */
export function dmarListing(table: DmarTable, heading: Heading): string {
  const sections = [
    headerLines(table, heading),
    section(heading, 'Units (DRHD)', ['#', 'segment', 'registers', 'devices'], unitRows(table)),
    section(heading, 'Reserved regions (RMRR)', ['segment', 'base', 'limit', 'size', 'devices'], regionRows(table)),
    section(
      heading,
      'Root ports with ATS (ATSR)',
      ['segment', 'ports'],
      table.rootPorts.map(({ segment, allPorts, scopes }) => [
        hex(segment, 4),
        devices(scopes, allPorts ? 'all ports' : undefined),
      ]),
    ),
    section(
      heading,
      'Affinities (RHSA)',
      ['registers', 'proximity domain'],
      table.affinities.map(({ registerBase, proximityDomain }) => [registerBase, String(proximityDomain)]),
    ),
    section(
      heading,
      'ACPI devices (ANDD)',
      ['number', 'name'],
      table.namespaceDevices.map(({ deviceNumber, name }) => [String(deviceNumber), printable(name)]),
    ),
    section(
      heading,
      'Translation caches on the chip (SATC)',
      ['segment', 'required', 'devices'],
      table.satc.map(({ segment, atcRequired, scopes }) => [
        hex(segment, 4),
        atcRequired ? 'yes' : 'no',
        devices(scopes),
      ]),
    ),
    section(
      heading,
      'Devices on the chip (SIDP)',
      ['segment', 'devices'],
      table.sidp.map(({ segment, scopes }) => [hex(segment, 4), devices(scopes)]),
    ),
  ];
  return `${sections.filter((text) => text !== '').join('\n\n')}\n`;
}

/** What a platform says of some of its devices, one block each. Ends with a line end. */
export function deviceListing(answers: readonly DeviceAnswer[], heading: Heading): string {
  return `${answers.map((answer) => deviceBlock(answer, heading)).join('\n\n')}\n`;
}

function deviceBlock({ device, unit, reservedRegions, ats, satc }: DeviceAnswer, heading: Heading): string {
  const regions = reservedRegions.length > 0 ? reservedRegions.map(regionText) : ['none'];
  const lines: [label: string, text: string][] = [
    ['unit', unitText(unit)],
    ...regions.map((text, index): [string, string] => [index === 0 ? 'reserved' : '', text]),
    ['ATS', `${ats.allowed === null ? 'unknown' : ats.allowed ? 'allowed' : 'not allowed'}: ${ats.reason}`],
  ];
  if (satc) lines.push(['SATC', `listed, translation cache ${satc.atcRequired ? 'required' : 'not required'}`]);
  return [heading(device), ...lines.map(([label, text]) => `  ${label.padEnd(10)}${text}`)].join('\n');
}

function unitText({ unit, why, reason, candidates, segment, registerBase }: DeviceAnswer['unit']): string {
  const where = `segment ${hex(segment, 4)}`;
  if (unit !== null) return `${unit}, ${where}, registers at ${registerBase} (${why}: ${reason})`;
  if (why === 'none') return `none on ${where}: ${reason}`;
  const others = candidates.map((candidate) => `unit ${candidate}`).join(' or ');
  return `unknown on ${where}, ${others}: ${reason}`;
}

function regionText({ base, limit, firstFrame, frames, shared, certain }: RegionAnswer): string {
  const mapped = frames === 0 ? 'maps nothing' : `frames 0x${firstFrame.toString(16)} and ${frames - 1} more`;
  const notes = [shared && 'shared with other devices', !certain && 'perhaps: only the PCI topology tells'];
  return [`${base}..${limit}`, mapped, ...notes.filter((note) => note !== false)].join(', ');
}

/** What is wrong with a table, and what Xen does about it: `Xen disables VT-d (EFAULT): ...`. */
export function findingLines({ findings }: Pick<Platform, 'findings'>): string[] {
  return findings.map(({ effect, errno, message, source }) => {
    const does = effect === 'kept' ? 'Xen goes on' : effect === 'ignored' ? 'Xen ignores it' : `Xen ${effect}`;
    return `${message}: ${does}${errno ? ` (-${errno})` : ''}; ${source}`;
  });
}

function headerLines({ header, hostAddressWidth, flags }: DmarTable, heading: Heading): string {
  const oem = printable([header.oemId, header.oemTableId].filter((id) => id !== '').join(' / '));
  const set = FLAG_NAMES.filter(([bit]) => (flags & bit) !== 0).map(([, name]) => name);
  return [
    heading(`DMAR revision ${header.revision}, ${header.length} bytes, made by ${oem || 'nobody named'}`),
    `checksum ${header.checksumOk ? 'good' : 'WRONG'}`,
    `host addresses of ${hostAddressWidth + 1} bits (raw 0x${hex(hostAddressWidth, 2)})`,
    `flags 0x${hex(flags, 2)}${set.length > 0 ? `: ${set.join(', ')}` : ''}`,
  ].join('\n');
}

function unitRows({ units }: DmarTable): string[][] {
  return units.map(({ segment, registerBase, includeAll, scopes }, index) => [
    String(index),
    hex(segment, 4),
    registerBase,
    devices(scopes, includeAll ? 'all others (include-all)' : undefined),
  ]);
}

function regionRows({ reservedRegions }: DmarTable): string[][] {
  return reservedRegions.map(({ segment, base, limit, scopes }) => [
    hex(segment, 4),
    base,
    limit,
    sizeText(BigInt(limit) - BigInt(base) + 1n),
    devices(scopes),
  ]);
}

function section(heading: Heading, title: string, columns: string[], rows: string[][]): string {
  if (rows.length === 0) return '';
  const table = new Table({ head: columns, chars: NO_BORDERS, style: { head: [], border: [], compact: true } });
  table.push(...rows);
  const lines = table.toString().split('\n');
  return [heading(`${title}: ${rows.length}`), ...lines.map((line) => line.trimEnd())].join('\n');
}

const NO_BORDERS = Object.fromEntries(
  ['top', 'bottom', 'left', 'right', 'mid']
    .flatMap((side) => [side, `${side}-mid`, `${side}-left`, `${side}-right`])
    .concat('left-mid', 'mid-mid', 'right-mid', 'middle')
    .map((part) => [part, '']),
);

/** One device a line. */
function devices(scopes: readonly DmarScope[], others?: string): string {
  const lines = scopes.map(scopeText);
  if (others !== undefined) lines.push(others);
  return lines.length > 0 ? lines.join('\n') : 'none';
}

/** Bytes in the largest unit that divides them: `128 KiB`. */
export function sizeText(bytes: bigint): string {
  if (bytes <= 0n) return 'reversed';
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let [value, unit] = [bytes, 0];
  while (value % 1024n === 0n && unit < units.length - 1) {
    value /= 1024n;
    unit++;
  }
  return `${value} ${units[unit]}`;
}

const hex = (value: number, digits: number): string => value.toString(16).padStart(digits, '0');
