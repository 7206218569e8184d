// Decoding of the ACPI DMAR table: which VT-d units a platform has and which devices they serve (VT-d spec 8).

import { InputError } from '../../machine/errors.ts';
import { headerWarnings, regionWarnings, reservedWarnings, scopeWarnings, unitWarnings } from './dmar-checks.ts';
import * as layouts from './dmar-layout.ts';
import { type Decoded, type RecordLayout, readRecord, readText, StructureFlag, StructureType } from './dmar-layout.ts';
import type {
  DmarAffinity,
  DmarDeviceProperties,
  DmarNamespaceDevice,
  DmarReservedRegion,
  DmarRootPorts,
  DmarScope,
  DmarTable,
  DmarTranslationCaches,
  DmarUnit,
  DmarUnknownStructure,
  DmarWarning,
} from './dmar-table.ts';

export type * from './dmar-table.ts';

/** How strict {@link parseDmar} is. */
export interface DmarOptions {
  /** `require` (default): a table whose bytes do not add up to 0 is an error. `warn`: it is a warning. */
  readonly checksum?: 'require' | 'warn';
}

/** The table under decoding. `end` is the byte after the last one, as the header says. */
interface Reading {
  readonly view: DataView;
  readonly file: string;
  readonly end: number;
  readonly warnings: DmarWarning[];
  /** Segments that have an INCLUDE_ALL unit. */
  readonly includeAllSegments: Set<number>;
}

interface Structures {
  readonly units: DmarUnit[];
  readonly reservedRegions: DmarReservedRegion[];
  readonly rootPorts: DmarRootPorts[];
  readonly affinities: DmarAffinity[];
  readonly namespaceDevices: DmarNamespaceDevice[];
  readonly satc: DmarTranslationCaches[];
  readonly sidp: DmarDeviceProperties[];
  readonly unknown: DmarUnknownStructure[];
  readonly order: number[];
}

const HEADER = layouts.DMAR_HEADER;
const SIGNATURE = 'DMAR';
/** Smallest scope: the fixed part and one path entry. */
const SCOPE_MINIMUM_BYTES = layouts.SCOPE.bytes + layouts.PATH_HOP.bytes;

/**
 * Decodes a raw DMAR table.
 * @param bytes the table; what follows its own length is warned about and not read
 * @param file named in errors
 * @returns frozen plain data; oddities that firmware in the field has are in `warnings`
 * @throws InputError with the byte offset: `DMAR_SHORT` (no room for a header), `DMAR_SIGNATURE`, `DMAR_LENGTH` (the
 *   table is cut off, or too small for its header), `DMAR_CHECKSUM`, `DMAR_STRUCTURE` or `DMAR_SCOPE` (too small, or
 *   past the end of what holds it). Nothing else is thrown, whatever the bytes.
 */
export function parseDmar(bytes: Uint8Array, file: string, options: DmarOptions = {}): DmarTable {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const header = readHeader(view, file);
  const warnings: DmarWarning[] = [];
  const checksumOk = checkSum(bytes, header, file, options.checksum ?? 'require', warnings);
  warnings.push(...headerWarnings(header), ...reservedWarnings(HEADER, view, 0));

  const reading: Reading = { view, file, end: header.length, warnings, includeAllSegments: new Set() };
  const structures = readStructures(reading);
  if (structures.units.length === 0) {
    warnings.push({ code: 'DMAR_NO_UNIT', offset: HEADER.bytes, message: 'the table defines no unit (DRHD)' });
  }
  if (bytes.length > header.length) {
    const message = `${bytes.length - header.length} bytes follow the table, expected none`;
    warnings.push({ code: 'DMAR_TRAILING', offset: header.length, message });
  }
  const { signature: _, checksum: __, hostAddressWidth, flags, ...named } = header;
  return deepFreeze({
    header: { ...named, checksumOk },
    hostAddressWidth,
    flags,
    ...structures,
    warnings,
  });
}

function readHeader(view: DataView, file: string): Decoded<typeof HEADER> {
  const fail = (code: string, offset: number, message: string) => new InputError(code, { file, offset }, message);
  const present = view.byteLength;
  const { signature, length } = HEADER.fields;
  const found = readText(view, signature.offset, Math.min(signature.bytes, present));
  if (!SIGNATURE.startsWith(found)) {
    throw fail('DMAR_SIGNATURE', signature.offset, `found signature ${JSON.stringify(found)}, expected "${SIGNATURE}"`);
  }
  if (present < HEADER.bytes) {
    throw fail('DMAR_SHORT', present, `ends after ${present} bytes, expected a header of ${HEADER.bytes}`);
  }
  const header = readRecord(HEADER, view, 0);
  if (header.length < HEADER.bytes) {
    const message = `the table's length is ${header.length} bytes, expected at least ${HEADER.bytes}`;
    throw fail('DMAR_LENGTH', length.offset, message);
  }
  if (header.length > present) {
    const message = `the table's length is ${header.length} bytes, but only ${present} are there (cut off?)`;
    throw fail('DMAR_LENGTH', length.offset, message);
  }
  return header;
}

/** Whether the bytes of the table add up to 0 modulo 256. */
function checkSum(
  bytes: Uint8Array,
  header: Decoded<typeof HEADER>,
  file: string,
  strictness: 'require' | 'warn',
  warnings: DmarWarning[],
): boolean {
  let sum = 0;
  for (let i = 0; i < header.length; i++) sum = (sum + bytes[i]!) & 0xff;
  if (sum === 0) return true;
  const hex = (byte: number) => `0x${byte.toString(16).padStart(2, '0')}`;
  const expected = hex((header.checksum - sum) & 0xff);
  const message = `checksum is ${hex(header.checksum)}, expected ${expected} for these bytes`;
  const { offset } = HEADER.fields.checksum;
  if (strictness === 'require') throw new InputError('DMAR_CHECKSUM', { file, offset }, message);
  warnings.push({ code: 'DMAR_CHECKSUM', offset, message });
  return false;
}

function readStructures(reading: Reading): Structures {
  const structures: Structures = {
    units: [],
    reservedRegions: [],
    rootPorts: [],
    affinities: [],
    namespaceDevices: [],
    satc: [],
    sidp: [],
    unknown: [],
    order: [],
  };
  for (let at: number = HEADER.bytes; at < reading.end; ) {
    at = readStructure(reading, at, structures);
  }
  return structures;
}

/** Adds the structure at byte `at` to its list. Returns the byte after it, which is always past `at`. */
function readStructure(reading: Reading, at: number, into: Structures): number {
  const { view } = reading;
  const left = reading.end - at;
  if (left < layouts.STRUCTURE_HEADER.bytes) {
    const message = `${left} bytes left, expected a structure of at least ${layouts.STRUCTURE_HEADER.bytes}`;
    throw structureError(reading, at, message);
  }
  const { type, length } = readRecord(layouts.STRUCTURE_HEADER, view, at);
  const layout = STRUCTURE_LAYOUTS[type];
  const [name, minimum] = [layout?.name ?? `structure of type ${type}`, (layout ?? layouts.STRUCTURE_HEADER).bytes];
  const lengthAt = at + layouts.STRUCTURE_HEADER.fields.length.offset;
  if (length < minimum) {
    throw structureError(reading, lengthAt, `${name} of ${length} bytes, expected at least ${minimum}`);
  }
  if (length > left) {
    throw structureError(reading, lengthAt, `${name} of ${length} bytes, but only ${left} are left in the table`);
  }
  if (layout) reading.warnings.push(...reservedWarnings(layout, view, at));
  addStructure(reading, type, at, at + length, into);
  return at + length;
}

const STRUCTURE_LAYOUTS: Readonly<Record<number, RecordLayout>> = {
  [StructureType.DRHD]: layouts.DRHD,
  [StructureType.RMRR]: layouts.RMRR,
  [StructureType.ATSR]: layouts.ATSR,
  [StructureType.RHSA]: layouts.RHSA,
  [StructureType.ANDD]: layouts.ANDD,
  [StructureType.SATC]: layouts.SATC,
  [StructureType.SIDP]: layouts.SIDP,
};

function addStructure(reading: Reading, type: number, at: number, end: number, into: Structures): void {
  const { view, warnings } = reading;
  into.order.push(type);
  const scopesAfter = (layout: RecordLayout) => readScopes(reading, at + layout.bytes, end);
  switch (type) {
    case StructureType.DRHD:
      into.units.push(readUnit(reading, at, end));
      break;
    case StructureType.RMRR: {
      const { segment, base, limit } = readRecord(layouts.RMRR, view, at);
      const region = { segment, base, limit, scopes: scopesAfter(layouts.RMRR) };
      warnings.push(...regionWarnings(region, at));
      into.reservedRegions.push(region);
      break;
    }
    case StructureType.ATSR: {
      const { segment, flags } = readRecord(layouts.ATSR, view, at);
      const allPorts = (flags & StructureFlag.allPorts) !== 0;
      into.rootPorts.push({ segment, allPorts, scopes: scopesAfter(layouts.ATSR) });
      break;
    }
    case StructureType.RHSA: {
      const { registerBase, proximityDomain } = readRecord(layouts.RHSA, view, at);
      into.affinities.push({ registerBase, proximityDomain, ...restOf(view, at + layouts.RHSA.bytes, end) });
      break;
    }
    case StructureType.ANDD:
      into.namespaceDevices.push(readNamespaceDevice(reading, at, end));
      break;
    case StructureType.SATC: {
      const { segment, flags } = readRecord(layouts.SATC, view, at);
      const atcRequired = (flags & StructureFlag.atcRequired) !== 0;
      into.satc.push({ segment, atcRequired, scopes: scopesAfter(layouts.SATC) });
      break;
    }
    case StructureType.SIDP: {
      const { segment } = readRecord(layouts.SIDP, view, at);
      into.sidp.push({ segment, scopes: scopesAfter(layouts.SIDP) });
      break;
    }
    default: {
      const message = `structure of unknown type ${type} (${end - at} bytes) skipped`;
      warnings.push({ code: 'DMAR_UNKNOWN_STRUCTURE', offset: at, message });
      into.unknown.push({ type, body: readHex(view, at + layouts.STRUCTURE_HEADER.bytes, end) });
    }
  }
}

function readUnit(reading: Reading, at: number, end: number): DmarUnit {
  const { segment, flags, size, registerBase } = readRecord(layouts.DRHD, reading.view, at);
  const includeAll = (flags & StructureFlag.includeAll) !== 0;
  const scopes = readScopes(reading, at + layouts.DRHD.bytes, end);
  const unit = { segment, registerBase, includeAll, scopes, ...(size !== 0 && { size }) };
  reading.warnings.push(...unitWarnings(unit, at));
  if (includeAll && reading.includeAllSegments.has(segment)) {
    const message = `another INCLUDE_ALL unit on segment ${segment}, expected at most one`;
    reading.warnings.push({ code: 'DMAR_INCLUDE_ALL', offset: at, message });
  }
  if (includeAll) reading.includeAllSegments.add(segment);
  return unit;
}

function readNamespaceDevice(reading: Reading, at: number, end: number): DmarNamespaceDevice {
  const { deviceNumber } = readRecord(layouts.ANDD, reading.view, at);
  const nameAt = at + layouts.ANDD.bytes;
  const text = readText(reading.view, nameAt, end - nameAt);
  const nul = text.indexOf('\0');
  if (nul < 0) {
    const message = `name of ACPI device ${deviceNumber} runs to the end of its structure, expected a NUL after it`;
    reading.warnings.push({ code: 'DMAR_NAME', offset: nameAt, message });
  }
  if (nul < 0) return { deviceNumber, name: text };
  return { deviceNumber, name: text.slice(0, nul), ...restOf(reading.view, nameAt + nul + 1, end) };
}

/** The device scopes from byte `from` up to `end`, the end of the structure that holds them. */
function readScopes(reading: Reading, from: number, end: number): DmarScope[] {
  const scopes: DmarScope[] = [];
  for (let at = from; at < end; ) {
    const length = scopeLength(reading, at, end);
    const scope = readScope(reading.view, at, at + length);
    const odd = [...reservedWarnings(layouts.SCOPE, reading.view, at), ...scopeWarnings(scope, at)];
    reading.warnings.push(...odd);
    scopes.push(scope);
    at += length;
  }
  return scopes;
}

function scopeLength(reading: Reading, at: number, end: number): number {
  const fail = (offset: number, message: string) =>
    new InputError('DMAR_SCOPE', { file: reading.file, offset }, message);
  const left = end - at;
  if (left < SCOPE_MINIMUM_BYTES) {
    throw fail(at, `${left} bytes left in the structure, expected a device scope of at least ${SCOPE_MINIMUM_BYTES}`);
  }
  const { length } = readRecord(layouts.SCOPE, reading.view, at);
  const lengthAt = at + layouts.SCOPE.fields.length.offset;
  if (length < SCOPE_MINIMUM_BYTES || length % layouts.PATH_HOP.bytes !== 0) {
    throw fail(lengthAt, `device scope of ${length} bytes, expected an even number from ${SCOPE_MINIMUM_BYTES} up`);
  }
  if (length > left) {
    throw fail(lengthAt, `device scope of ${length} bytes, but only ${left} are left in the structure`);
  }
  return length;
}

function readScope(view: DataView, at: number, end: number): DmarScope {
  const { type, enumerationId, startBus, flags } = readRecord(layouts.SCOPE, view, at);
  const path: [number, number][] = [];
  for (let hopAt = at + layouts.SCOPE.bytes; hopAt < end; hopAt += layouts.PATH_HOP.bytes) {
    const hop = readRecord(layouts.PATH_HOP, view, hopAt);
    path.push([hop.device, hop.function]);
  }
  return { type, enumerationId, startBus, path, ...(flags !== 0 && { flags }) };
}

const restOf = (view: DataView, from: number, end: number) => (from < end ? { rest: readHex(view, from, end) } : {});

function readHex(view: DataView, from: number, end: number): string {
  let digits = '';
  for (let at = from; at < end; at++) digits += view.getUint8(at).toString(16).padStart(2, '0');
  return digits;
}

function structureError(reading: Reading, offset: number, message: string): InputError {
  return new InputError('DMAR_STRUCTURE', { file: reading.file, offset }, message);
}

function deepFreeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null) Object.values(value).forEach(deepFreeze);
  return Object.freeze(value);
}
