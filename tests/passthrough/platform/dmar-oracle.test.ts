// Real firmware tables against the decoding by iasl, the ACPI compiler. The tables are not part of the project:
// PASSTHROUGH_DATA names a directory with `dmar/<name>.hex` and `dmar/<name>.iasl.txt`.

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { type DmarTable, parseDmar } from '../../../passthrough/platform/dmar.ts';
import { dmarBytes } from '../../../passthrough/platform/dmar-bytes.ts';
import { encodeDmar } from '../../../passthrough/platform/dmar-encoder.ts';
import { DMAR_HEADER } from '../../../passthrough/platform/dmar-layout.ts';
import { Platform } from '../../../passthrough/platform/units/index.ts';

const folder = process.env.PASSTHROUGH_DATA && join(process.env.PASSTHROUGH_DATA, 'dmar');
const names =
  folder && existsSync(folder)
    ? readdirSync(folder).flatMap((file) => (/^DMAR-.*\.hex$/.test(file) ? [file.slice(0, -'.hex'.length)] : []))
    : [];
const decoded = names.filter((name) => existsSync(join(folder ?? '', `${name}.iasl.txt`)));
if (names.length === 0) {
  process.stderr.write('dmar-oracle: skipped, PASSTHROUGH_DATA names no directory with dmar/DMAR-*.hex\n');
}

/** A structure or a scope as iasl prints it: its lines `label : value`, in order. */
type Block = Map<string, string>;

interface IaslStructure {
  readonly type: number;
  readonly fields: Block;
  readonly scopes: { readonly fields: Block; readonly path: [number, number][] }[];
}

const FIELD = /^\[[^\]]*\]\s+(.+?) : (.*?)\s*$/;

/** Splits the text into the header's fields and those of each structure and scope. */
function readIasl(text: string): { header: Block; structures: IaslStructure[] } {
  const header: Block = new Map();
  const structures: IaslStructure[] = [];
  for (const line of text.split(/\r?\n/)) {
    const [, label, value] = FIELD.exec(line) ?? [];
    if (label === undefined || value === undefined) continue;
    const structure = structures.at(-1);
    const scope = structure?.scopes.at(-1);
    if (label === 'Subtable Type') {
      structures.push({ type: Number.parseInt(value, 16), fields: new Map(), scopes: [] });
    } else if (label === 'Device Scope Type') {
      structure?.scopes.push({ fields: new Map([[label, value]]), path: [] });
    } else if (label === 'PCI Path') {
      const [device, fn] = value.split(',').map((part) => Number.parseInt(part, 16));
      scope?.path.push([device!, fn!]);
    } else {
      (scope?.fields ?? structure?.fields ?? header).set(label, value);
    }
  }
  return { header, structures };
}

type IaslScope = IaslStructure['scopes'][number];

const structuresOfType = (name: string, type: number): IaslStructure[] =>
  readIasl(readFileSync(join(folder ?? '', `${name}.iasl.txt`), 'utf8')).structures.filter((one) => one.type === type);

/** Types 1 to 4; ACPI devices are no PCI functions. */
const isPciScope = ({ fields }: IaslScope): boolean => Number.parseInt(fields.get('Device Scope Type')!, 16) < 5;

function addressOf(of: Block, { fields, path }: IaslScope): string {
  const [device, fn] = path[0]!;
  const number = (value: number) => value.toString(16);
  const segment = of.get('PCI Segment Number');
  return `${segment}:${fields.get('PCI Bus Number')}:${number(device)}.${number(fn)}`;
}

/** What {@link parseDmar} should say, going by iasl alone. Numbers of 64 bits as bigint. */
function expectedTable(text: string) {
  const { header, structures } = readIasl(text);
  const field = (block: Block, label: string): string => {
    const value = block.get(label);
    if (value === undefined) throw new Error(`iasl text without ${label}`);
    return value;
  };
  const number = (block: Block, label: string) => Number.parseInt(field(block, label), 16);
  const wide = (block: Block, label: string) => BigInt(`0x${field(block, label)}`);
  const string = (block: Block, label: string) =>
    field(block, label)
      .replace(/^"(.*)"$/, '$1')
      .trimEnd();
  const ofType = (type: number) => structures.filter((structure) => structure.type === type);
  const scopes = (structure: IaslStructure) =>
    structure.scopes.map(({ fields, path }) => ({
      type: number(fields, 'Device Scope Type'),
      enumerationId: number(fields, 'Enumeration ID'),
      startBus: number(fields, 'PCI Bus Number'),
      path,
    }));
  const flag = (block: Block) => (number(block, 'Flags') & 1) === 1;
  const segmentOf = (block: Block) => number(block, 'PCI Segment Number');
  return {
    header: {
      length: number(header, 'Table Length'),
      revision: number(header, 'Revision'),
      checksumOk: !/incorrect checksum/i.test(text),
      oemId: string(header, 'Oem ID'),
      oemTableId: string(header, 'Oem Table ID'),
      oemRevision: number(header, 'Oem Revision'),
      creatorId: string(header, 'Asl Compiler ID'),
      creatorRevision: number(header, 'Asl Compiler Revision'),
    },
    hostAddressWidth: number(header, 'Host Address Width'),
    flags: number(header, 'Flags'),
    units: ofType(0).map(({ fields, ...rest }) => ({
      segment: segmentOf(fields),
      registerBase: wide(fields, 'Register Base Address'),
      includeAll: flag(fields),
      scopes: scopes({ fields, ...rest }),
    })),
    order: structures.map(({ type }) => type),
    reservedRegions: ofType(1).map(({ fields, ...rest }) => ({
      segment: segmentOf(fields),
      base: wide(fields, 'Base Address'),
      limit: wide(fields, 'End Address (limit)'),
      scopes: scopes({ fields, ...rest }),
    })),
    rootPorts: ofType(2).map(({ fields, ...rest }) => ({
      segment: segmentOf(fields),
      allPorts: flag(fields),
      scopes: scopes({ fields, ...rest }),
    })),
    affinities: ofType(3).map(({ fields }) => ({
      registerBase: wide(fields, 'Base Address'),
      proximityDomain: number(fields, 'Proximity Domain'),
    })),
    namespaceDevices: ofType(4).map(({ fields }) => ({
      deviceNumber: number(fields, 'Device Number'),
      name: string(fields, 'Device Name'),
    })),
  };
}

function bytesOf(name: string): Uint8Array {
  const file = `${name}.hex`;
  return dmarBytes(new Uint8Array(readFileSync(join(folder ?? '', file))), file);
}

const tableOf = (name: string): DmarTable => parseDmar(bytesOf(name), `${name}.hex`);

describe.skipIf(names.length === 0)('firmware tables', () => {
  test('there are some with a decoding by iasl', () => {
    expect(decoded.length).toBeGreaterThan(0);
  });

  // SATC and SIDP are left out: this iasl does not decode them.
  test.each(decoded)('%s is what iasl says', (name) => {
    const { satc: _satc, sidp: _sidp, unknown: _unknown, warnings: _warnings, ...table } = tableOf(name);
    const numeric = {
      ...table,
      units: table.units.map((unit) => ({ ...unit, registerBase: BigInt(unit.registerBase) })),
      reservedRegions: table.reservedRegions.map((region) => ({
        ...region,
        base: BigInt(region.base),
        limit: BigInt(region.limit),
      })),
      affinities: table.affinities.map((entry) => ({ ...entry, registerBase: BigInt(entry.registerBase) })),
      namespaceDevices: table.namespaceDevices.map(({ deviceNumber, name: path }) => ({ deviceNumber, name: path })),
    };
    expect(numeric).toEqual(expectedTable(readFileSync(join(folder ?? '', `${name}.iasl.txt`), 'utf8')));
  });

  // What names in the header are padded with is not decoded; the checksum follows from it.
  test.each(names)('%s is encoded as it was', (name) => {
    const table = tableOf(name);
    const encoded = encodeDmar(table);
    expect(parseDmar(encoded, name)).toEqual(table);
    const { checksum, oemId, creatorRevision } = DMAR_HEADER.fields;
    const isKept = (_: number, at: number) =>
      at !== checksum.offset && (at < oemId.offset || at >= creatorRevision.offset);
    expect([...encoded].filter(isKept)).toEqual([...bytesOf(name)].filter(isKept));
  });

  // All scopes of these tables have one step, and none is in two units.
  test.each(decoded)('%s is a platform in which units have what iasl shows in their scopes', (name) => {
    const platform = new Platform(tableOf(name));
    const drhds = structuresOfType(name, 0);
    const devices = drhds.flatMap(({ fields, scopes }, unit) =>
      scopes.filter(isPciScope).map((scope) => ({ unit, device: addressOf(fields, scope) })),
    );
    const answers = devices.map(({ device }) => ({ unit: platform.unitOf(device).unit, device }));
    expect(answers).toEqual(devices);
    expect(new Set(devices.map(({ device }) => platform.unitOf(device).why))).toEqual(
      new Set(devices.length > 0 ? ['explicit'] : []),
    );
    // A function on the bus of all bridges that no unit names goes to the unit for all others.
    const all = drhds.findIndex(({ fields }) => Number.parseInt(fields.get('Flags')!, 16) === 1);
    expect(platform.unitOf('00:13.7').unit).toBe(all < 0 ? null : all);
  });

  test.each(decoded)('%s reserves for devices what iasl shows', (name) => {
    const platform = new Platform(tableOf(name));
    for (const [region, { fields, scopes }] of structuresOfType(name, 1).entries()) {
      const base = BigInt(`0x${fields.get('Base Address')}`);
      for (const scope of scopes) {
        const found = platform.reservedRegionsOf(addressOf(fields, scope)).find((one) => one.region === region);
        expect(found).toMatchObject({ firstFrame: Number(base >> 12n), shared: scopes.length > 1, certain: true });
      }
    }
  });

  test('one table has a unit without registers, for which Xen turns VT-d off; none has another such mistake', () => {
    const disabled = names.map((name) => new Platform(tableOf(name)).disabledBy?.code).filter((code) => code);
    expect(disabled.filter((code) => code !== 'UNIT_BASE')).toEqual([]);
  });

  test.each(names)('%s can be read', (name) => {
    const { header, units, warnings } = tableOf(name);
    expect(header.checksumOk).toBe(true);
    expect(units.length).toBeGreaterThan(0);
    expect(warnings.filter(({ code }) => code === 'DMAR_UNKNOWN_STRUCTURE')).toEqual([]);
  });
});
