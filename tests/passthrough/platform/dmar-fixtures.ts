// DMAR tables written out by hand, from the specification and not from the layouts under test.

export const u16 = (value: number): number[] => [value & 0xff, (value >> 8) & 0xff];
export const u32 = (value: number): number[] => [...u16(value & 0xffff), ...u16(value >>> 16)];
export const u64 = (value: bigint): number[] => [
  ...u32(Number(value & 0xffffffffn)),
  ...u32(Number((value >> 32n) & 0xffffffffn)),
];
export const ascii = (text: string): number[] => [...text].map((character) => character.charCodeAt(0));

/** A structure: type, length, body. */
export const structure = (type: number, ...body: number[]): number[] => [
  ...u16(type),
  ...u16(4 + body.length),
  ...body,
];

/** A device scope with its hops as device, function, device, function, ... */
export const scope = (type: number, enumerationId: number, startBus: number, ...hops: number[]): number[] => [
  type,
  6 + hops.length,
  0,
  0,
  enumerationId,
  startBus,
  ...hops,
];

export const drhd = (flags: number, segment: number, base: bigint, ...scopes: number[]): number[] =>
  structure(0, flags, 0, ...u16(segment), ...u64(base), ...scopes);
export const rmrr = (segment: number, base: bigint, limit: bigint, ...scopes: number[]): number[] =>
  structure(1, 0, 0, ...u16(segment), ...u64(base), ...u64(limit), ...scopes);
export const atsr = (flags: number, segment: number, ...scopes: number[]): number[] =>
  structure(2, flags, 0, ...u16(segment), ...scopes);
export const rhsa = (base: bigint, proximity: number): number[] =>
  structure(3, 0, 0, 0, 0, ...u64(base), ...u32(proximity));
export const andd = (device: number, name: string): number[] => structure(4, 0, 0, 0, device, ...ascii(name));
export const satc = (flags: number, segment: number, ...scopes: number[]): number[] =>
  structure(5, flags, 0, ...u16(segment), ...scopes);
export const sidp = (segment: number, ...scopes: number[]): number[] => structure(6, 0, 0, ...u16(segment), ...scopes);

export interface HeaderFields {
  readonly revision?: number;
  readonly width?: number;
  readonly flags?: number;
  /** Instead of the true length. */
  readonly length?: number;
}

/** A table with a right checksum. */
export function dmarTable(structures: readonly number[][], header: HeaderFields = {}): Uint8Array {
  const body = structures.flat();
  const bytes = Uint8Array.from([
    ...ascii('DMAR'),
    ...u32(header.length ?? 48 + body.length),
    header.revision ?? 1,
    0,
    ...ascii('ACME  '),
    ...ascii('BOARD\0\0\0'),
    ...u32(1),
    ...ascii('INTL'),
    ...u32(0x20200101),
    header.width ?? 38,
    header.flags ?? 0,
    ...new Array<number>(10).fill(0),
    ...body,
  ]);
  return withChecksum(bytes);
}

/** A copy whose checksum is right. */
export function withChecksum(bytes: Uint8Array): Uint8Array {
  const fixed = bytes.slice();
  fixed[9] = 0;
  fixed[9] = -fixed.reduce((sum, byte) => sum + byte, 0) & 0xff;
  return fixed;
}

/** One of everything, with a path through two bridges. */
export const FULL_TABLE = dmarTable(
  [
    drhd(0, 0, 0xfed90000n, ...scope(1, 0, 0, 0x1c, 0, 2, 0, 3, 1), ...scope(2, 0, 0x80, 1, 0)),
    drhd(1, 0, 0x1_fed91000n, ...scope(3, 2, 0xf0, 0x1f, 0), ...scope(4, 0, 0, 0x1f, 0), ...scope(5, 1, 0, 0x15, 0)),
    drhd(1, 1, 0xfed92000n),
    rmrr(0, 0x89db1000n, 0x89dd0fffn, ...scope(1, 0, 0, 0x14, 0)),
    atsr(0, 0, ...scope(2, 0, 0, 3, 0)),
    atsr(1, 1),
    rhsa(0x1_fed91000n, 0x12345678),
    andd(1, '\\_SB.PCI0.I2C0\0\0'),
    satc(1, 0, ...scope(1, 0, 0, 2, 0)),
    satc(0, 2, ...scope(1, 0, 0, 0xb, 0)),
    sidp(0, ...scope(1, 0, 0, 2, 0)),
  ],
  { width: 0x2d, flags: 5 },
);
