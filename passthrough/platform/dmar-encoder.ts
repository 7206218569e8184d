// From a decoded DMAR table to bytes, by the layouts that the reader goes by (VT-d spec 8).

import * as layouts from './dmar-layout.ts';
import { type Decoded, type RecordLayout, StructureFlag, StructureType, writeRecord } from './dmar-layout.ts';
import type { DmarNamespaceDevice, DmarScope, DmarTable, DmarUnknownStructure } from './dmar-table.ts';
import { inTableOrder } from './structure-order.ts';

/** A decoded table, or as much of one as there is to say. Lengths, checksum and warnings are not read. */
export interface DmarContents extends Partial<Omit<DmarTable, 'header' | 'warnings'>> {
  readonly header?: Partial<DmarTable['header']>;
  readonly warnings?: unknown;
}

/** A machine with 39 bits of host addresses (the byte in the table is one less), and a table made by nobody. */
const DEFAULT_WIDTH = 38;
const DEFAULT_HEADER = { revision: 1, oemId: '', oemTableId: '', oemRevision: 0, creatorId: '', creatorRevision: 0 };

/** Everything of a structure but its type and length. */
type Body<Layout extends RecordLayout> = Omit<Decoded<Layout>, 'type' | 'length'>;

/**
 * The bytes of a table, lengths and checksum right. Structures follow one another as `order` says; those that it does
 * not mention come last, by number of type. Reserved bytes and bits are 0, names in the header are padded with spaces.
 * @throws RangeError naming the structure and field whose value does not fit, or that a scope has no path
 */
export function encodeDmar(contents: DmarContents): Uint8Array {
  const structures = inTableOrder(structuresOf(contents), contents.order ?? []);
  const { length: _, checksumOk: __, ...named } = { ...DEFAULT_HEADER, ...contents.header };
  const { hostAddressWidth = DEFAULT_WIDTH, flags = 0 } = contents;
  const header = { ...named, signature: 'DMAR', checksum: 0, hostAddressWidth, flags };
  const bytes = record(layouts.DMAR_HEADER, header, structures);
  bytes[layouts.DMAR_HEADER.fields.checksum.offset] = -bytes.reduce((sum, byte) => sum + byte, 0) & 0xff;
  return bytes;
}

/** The structures of each type. */
type ByType = Map<number, Uint8Array[]>;

function structuresOf(contents: DmarContents): ByType {
  const { units = [], reservedRegions = [], rootPorts = [], affinities = [], namespaceDevices = [] } = contents;
  const { satc = [], sidp = [], unknown = [] } = contents;
  const flagIf = (set: boolean, bit: number) => (set ? bit : 0);
  const known: ByType = new Map<number, Uint8Array[]>([
    [
      StructureType.DRHD,
      units.map(({ includeAll, scopes, size = 0, segment, registerBase }) => {
        const flags = flagIf(includeAll, StructureFlag.includeAll);
        return structure(layouts.DRHD, StructureType.DRHD, { flags, size, segment, registerBase }, scopes);
      }),
    ],
    [
      StructureType.RMRR,
      reservedRegions.map(({ scopes, ...fields }) => structure(layouts.RMRR, StructureType.RMRR, fields, scopes)),
    ],
    [
      StructureType.ATSR,
      rootPorts.map(({ allPorts, scopes, segment }) => {
        const flags = flagIf(allPorts, StructureFlag.allPorts);
        return structure(layouts.ATSR, StructureType.ATSR, { flags, segment }, scopes);
      }),
    ],
    [
      StructureType.RHSA,
      affinities.map(({ rest, ...fields }) =>
        record(layouts.RHSA, { ...fields, type: StructureType.RHSA }, [hexBytes(layouts.RHSA.name, rest)]),
      ),
    ],
    [StructureType.ANDD, namespaceDevices.map(namespaceDevice)],
    [
      StructureType.SATC,
      satc.map(({ atcRequired, scopes, segment }) => {
        const flags = flagIf(atcRequired, StructureFlag.atcRequired);
        return structure(layouts.SATC, StructureType.SATC, { flags, segment }, scopes);
      }),
    ],
    [
      StructureType.SIDP,
      sidp.map(({ scopes, segment }) => structure(layouts.SIDP, StructureType.SIDP, { segment }, scopes)),
    ],
  ]);
  for (const one of unknown) known.set(one.type, [...(known.get(one.type) ?? []), unknownStructure(one)]);
  return known;
}

function structure<Layout extends RecordLayout>(
  layout: Layout,
  type: number,
  fields: Body<Layout>,
  scopes: readonly DmarScope[],
): Uint8Array {
  return record(layout, { ...fields, type }, scopes.map(scopeBytes));
}

function scopeBytes({ path, flags = 0, ...fields }: DmarScope): Uint8Array {
  if (path.length === 0) throw new RangeError(`${layouts.SCOPE.name}: path []: expected at least one step`);
  const hops = path.map(([device, fn]) => record(layouts.PATH_HOP, { device, function: fn }, []));
  return record(layouts.SCOPE, { ...fields, flags }, hops);
}

function namespaceDevice({ deviceNumber, name, rest }: DmarNamespaceDevice): Uint8Array {
  const codes = [...name].map((character) => character.codePointAt(0)!);
  // A byte for each character, as the reader takes them; a NUL would end the name early.
  if (codes.some((code) => code === 0 || code > 0xff)) {
    throw new RangeError(`${layouts.ANDD.name}: name ${JSON.stringify(name)}: expected single bytes other than NUL`);
  }
  const text = Uint8Array.from([...codes, 0]);
  return record(layouts.ANDD, { type: StructureType.ANDD, deviceNumber }, [text, hexBytes(layouts.ANDD.name, rest)]);
}

function unknownStructure({ type, body }: DmarUnknownStructure): Uint8Array {
  return record(layouts.STRUCTURE_HEADER, { type }, [hexBytes(`structure of type ${type}`, body)]);
}

function hexBytes(of: string, digits = ''): Uint8Array {
  if (!/^([0-9a-f]{2})*$/i.test(digits)) {
    throw new RangeError(`${of}: bytes ${JSON.stringify(digits)}: expected two hex digits each`);
  }
  return Uint8Array.from(digits.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
}

/** A record and what follows it, with the length of both in its field `length`, if it has one. */
function record<Layout extends RecordLayout>(
  layout: Layout,
  fields: Omit<Decoded<Layout>, 'length'>,
  tail: readonly Uint8Array[],
): Uint8Array {
  const length = tail.reduce((sum, part) => sum + part.length, layout.bytes);
  const bytes = new Uint8Array(length);
  writeRecord(layout, new DataView(bytes.buffer), 0, { ...fields, length } as unknown as Decoded<Layout>);
  let at = layout.bytes;
  for (const part of tail) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}
