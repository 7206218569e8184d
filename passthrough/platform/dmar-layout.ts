// The ACPI DMAR table, byte by byte: one layout per record. Whatever reads or writes a record goes by these tables.
// All integers are little-endian. Source: VT-d spec 8.1 to 8.8; SIDP and the scope's flags from tables in the field.

/** `text` is ASCII padded with spaces or NULs; `reserved` bytes should be zero and are not decoded. */
export type FieldKind = 'u8' | 'u16' | 'u32' | 'u64' | 'text' | 'reserved';

/** One field: `offset` from the record's first byte and size, both in bytes. */
export interface FieldLayout<Kind extends FieldKind = FieldKind> {
  readonly kind: Kind;
  readonly offset: number;
  readonly bytes: number;
}

/** The fixed part of a record. What follows it (structures, scopes, a name) runs to the record's own `length`. */
export interface RecordLayout {
  readonly name: string;
  /** Bytes of the fixed part; the fields tile it without gaps. */
  readonly bytes: number;
  readonly fields: Readonly<Record<string, FieldLayout>>;
}

/** A 64-bit value: `0x` and lowercase hex digits without padding, as `0xfed90000`. */
export type Hex64 = `0x${string}`;

type FieldValue<Kind extends FieldKind> = Kind extends 'u64' ? Hex64 : Kind extends 'text' ? string : number;

/** What {@link readRecord} makes of a layout: every field but the reserved ones. */
export type Decoded<Layout extends RecordLayout> = {
  readonly [Field in keyof Layout['fields'] as Layout['fields'][Field]['kind'] extends 'reserved'
    ? never
    : Field]: FieldValue<Layout['fields'][Field]['kind']>;
};

const u8 = (offset: number): FieldLayout<'u8'> => ({ kind: 'u8', offset, bytes: 1 });
const u16 = (offset: number): FieldLayout<'u16'> => ({ kind: 'u16', offset, bytes: 2 });
const u32 = (offset: number): FieldLayout<'u32'> => ({ kind: 'u32', offset, bytes: 4 });
const u64 = (offset: number): FieldLayout<'u64'> => ({ kind: 'u64', offset, bytes: 8 });
const text = (offset: number, bytes: number): FieldLayout<'text'> => ({ kind: 'text', offset, bytes });
const reserved = (offset: number, bytes: number): FieldLayout<'reserved'> => ({ kind: 'reserved', offset, bytes });

/** The table's header (VT-d spec 8.1). `length` covers the whole table; all its bytes add up to 0 modulo 256. */
export const DMAR_HEADER = {
  name: 'DMAR header',
  bytes: 48,
  fields: {
    signature: text(0, 4),
    length: u32(4),
    revision: u8(8),
    checksum: u8(9),
    oemId: text(10, 6),
    oemTableId: text(16, 8),
    oemRevision: u32(24),
    creatorId: text(28, 4),
    creatorRevision: u32(32),
    hostAddressWidth: u8(36),
    flags: u8(37),
    reserved: reserved(38, 10),
  },
} as const satisfies RecordLayout;

/** What every remapping structure starts with (VT-d spec 8.2). */
export const STRUCTURE_HEADER = {
  name: 'structure header',
  bytes: 4,
  fields: { type: u16(0), length: u16(2) },
} as const satisfies RecordLayout;

/** Remapping hardware unit definition (VT-d spec 8.3). `size` bits 3:0: 2^n pages of registers. */
export const DRHD = {
  name: 'DRHD',
  bytes: 16,
  fields: { type: u16(0), length: u16(2), flags: u8(4), size: u8(5), segment: u16(6), registerBase: u64(8) },
} as const satisfies RecordLayout;

/** Reserved memory region (VT-d spec 8.4). `limit` is the last byte. */
export const RMRR = {
  name: 'RMRR',
  bytes: 24,
  fields: { type: u16(0), length: u16(2), reserved: reserved(4, 2), segment: u16(6), base: u64(8), limit: u64(16) },
} as const satisfies RecordLayout;

/** Root port ATS capability (VT-d spec 8.5). */
export const ATSR = {
  name: 'ATSR',
  bytes: 8,
  fields: { type: u16(0), length: u16(2), flags: u8(4), reserved: reserved(5, 1), segment: u16(6) },
} as const satisfies RecordLayout;

/** Remapping hardware static affinity (VT-d spec 8.6). */
export const RHSA = {
  name: 'RHSA',
  bytes: 20,
  fields: {
    type: u16(0),
    length: u16(2),
    reserved: reserved(4, 4),
    registerBase: u64(8),
    proximityDomain: u32(16),
  },
} as const satisfies RecordLayout;

/** ACPI name-space device declaration (VT-d spec 8.7). A NUL-terminated name follows. */
export const ANDD = {
  name: 'ANDD',
  bytes: 8,
  fields: { type: u16(0), length: u16(2), reserved: reserved(4, 3), deviceNumber: u8(7) },
} as const satisfies RecordLayout;

/** SoC integrated address translation cache (VT-d spec 8.8). */
export const SATC = {
  name: 'SATC',
  bytes: 8,
  fields: { type: u16(0), length: u16(2), flags: u8(4), reserved: reserved(5, 1), segment: u16(6) },
} as const satisfies RecordLayout;

/** SoC integrated device property (as found in the field). */
export const SIDP = {
  name: 'SIDP',
  bytes: 8,
  fields: { type: u16(0), length: u16(2), reserved: reserved(4, 2), segment: u16(6) },
} as const satisfies RecordLayout;

/** Device scope (VT-d spec 8.3.1). One or more {@link PATH_HOP}s follow. `flags` are used under a SIDP only. */
export const SCOPE = {
  name: 'device scope',
  bytes: 6,
  fields: {
    type: u8(0),
    length: u8(1),
    flags: u8(2),
    reserved: reserved(3, 1),
    enumerationId: u8(4),
    startBus: u8(5),
  },
} as const satisfies RecordLayout;

/** One step of a scope's path. Each step but the last names a bridge to descend through. */
export const PATH_HOP = {
  name: 'path entry',
  bytes: 2,
  fields: { device: u8(0), function: u8(1) },
} as const satisfies RecordLayout;

/** Value of the `type` field of each known structure. */
export const StructureType = { DRHD: 0, RMRR: 1, ATSR: 2, RHSA: 3, ANDD: 4, SATC: 5, SIDP: 6 } as const;

/** Bit 0 of the `flags` of a DRHD, an ATSR and a SATC. */
export const StructureFlag = { includeAll: 1, allPorts: 1, atcRequired: 1 } as const;

/** Bits of the table's own `flags`. */
export const DmarFlag = { interruptRemapping: 1, x2apicOptOut: 2, dmaControlOptIn: 4 } as const;

/** Value of a scope's `type` field. */
export const ScopeType = { endpoint: 1, bridge: 2, ioapic: 3, hpet: 4, namespaceDevice: 5 } as const;

/**
 * Decodes the record at byte `at`; the caller has made sure that its fixed part lies inside the view.
 * 64-bit values come as {@link Hex64}. Text comes as `iasl` shows it: up to a NUL, unprintable bytes as spaces, none at
 * the end.
 */
export function readRecord<Layout extends RecordLayout>(layout: Layout, view: DataView, at: number): Decoded<Layout> {
  const values: Record<string, number | string> = {};
  for (const [name, field] of Object.entries(layout.fields)) {
    if (field.kind !== 'reserved') values[name] = readField(field, view, at + field.offset);
  }
  return values as Decoded<Layout>;
}

function readField(field: FieldLayout, view: DataView, at: number): number | string {
  switch (field.kind) {
    case 'u8':
      return view.getUint8(at);
    case 'u16':
      return view.getUint16(at, true);
    case 'u32':
      return view.getUint32(at, true);
    case 'u64':
      return hex64(view.getUint32(at, true), view.getUint32(at + 4, true));
    default:
      return asciiText(readText(view, at, field.bytes));
  }
}

function asciiText(characters: string): string {
  const nul = characters.indexOf('\0');
  const text = nul < 0 ? characters : characters.slice(0, nul);
  return text.replace(/[^ -~]/g, ' ').trimEnd();
}

function hex64(low: number, high: number): Hex64 {
  return high === 0 ? `0x${low.toString(16)}` : `0x${high.toString(16)}${low.toString(16).padStart(8, '0')}`;
}

/**
 * Writes the record at byte `at`, where there is room for it; reserved bytes stay as they are. Text is padded with
 * spaces.
 * @throws RangeError naming the field whose value does not fit
 */
export function writeRecord<Layout extends RecordLayout>(
  layout: Layout,
  view: DataView,
  at: number,
  values: Decoded<Layout>,
): void {
  for (const [name, field] of Object.entries(layout.fields)) {
    if (field.kind === 'reserved') continue;
    const value = (values as Record<string, unknown>)[name];
    const expected = writeField(field, view, at + field.offset, value);
    if (expected) throw new RangeError(`${layout.name}: ${name} ${JSON.stringify(value)}: expected ${expected}`);
  }
}

/** What was expected instead of a value that does not fit. */
function writeField(field: FieldLayout, view: DataView, at: number, value: unknown): string | null {
  if (field.kind === 'u64') {
    if (typeof value !== 'string' || !/^0x[0-9a-f]{1,16}$/i.test(value)) return '0x and up to 16 hex digits';
    view.setBigUint64(at, BigInt(value), true);
    return null;
  }
  if (field.kind === 'text') {
    if (typeof value !== 'string' || value.length > field.bytes || !/^[ -~]*$/.test(value)) {
      return `up to ${field.bytes} printable ASCII characters`;
    }
    const padded = value.padEnd(field.bytes);
    for (let i = 0; i < field.bytes; i++) view.setUint8(at + i, padded.charCodeAt(i));
    return null;
  }
  const most = 2 ** (8 * field.bytes) - 1;
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 0 || value > most) return `0 to ${most}`;
  for (let i = 0; i < field.bytes; i++) view.setUint8(at + i, Math.floor(value / 2 ** (8 * i)) & 0xff);
  return null;
}

/** The bytes as characters, one each (Latin-1). */
export function readText(view: DataView, at: number, bytes: number): string {
  let characters = '';
  for (let i = 0; i < bytes; i++) characters += String.fromCharCode(view.getUint8(at + i));
  return characters;
}
