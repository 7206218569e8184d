// A DMAR table as text for people.

import Table from 'cli-table3';
import type { DmarScope, DmarTable } from '../../passthrough/platform/dmar.ts';
import { DmarFlag, ScopeType } from '../../passthrough/platform/dmar-layout.ts';
import { printable } from '../io.ts';

const SCOPE_NAMES: Readonly<Record<number, string>> = {
  [ScopeType.endpoint]: 'endpoint',
  [ScopeType.bridge]: 'bridge',
  [ScopeType.ioapic]: 'ioapic',
  [ScopeType.hpet]: 'hpet',
  [ScopeType.namespaceDevice]: 'acpi',
};

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

/** `endpoint 00:1f.7`; `bridge 00:1c.0/02.0` for one behind a bridge; `ioapic 2 at f0:1f.0` with its id. */
export function scopeText({ type, enumerationId, startBus, path }: DmarScope): string {
  const place = `${hex(startBus, 2)}:${path.map(([device, fn]) => `${hex(device, 2)}.${fn.toString(16)}`).join('/')}`;
  if (type === ScopeType.endpoint || type === ScopeType.bridge) return `${SCOPE_NAMES[type]} ${place}`;
  return `${SCOPE_NAMES[type] ?? `type ${type}`} ${enumerationId} at ${place}`;
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
