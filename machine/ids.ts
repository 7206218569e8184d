// Identifiers that cross module borders, each its own type.

declare const idKind: unique symbol;
type Id<Kind extends string> = number & { readonly [idKind]: Kind };

/** Domain id, 0..0x7FEF for guests (xen: public/xen.h). */
export type Domid = Id<'domid'>;
/** Domain id of one VT-d unit, the tag of its cached translations. Never a {@link Domid}. */
export type Did = Id<'did'>;
/** Index of a VT-d unit in the platform's list. */
export type UnitIndex = Id<'unit'>;
/** Index of a virtual CPU of the machine. */
export type Vcpu = Id<'vcpu'>;
/** Grant reference: index into the granter's table. */
export type GrantRef = Id<'gref'>;
/** Maptrack handle: index into the mapper's table of live mappings. */
export type MaptrackHandle = Id<'maptrack'>;
/** Segment, bus, device, function: 16 + 8 + 5 + 3 bits. */
export type Sbdf = Id<'sbdf'>;

export const DOMID_FIRST_RESERVED = 0x7ff0 as Domid;
export const DOMID_SELF = 0x7ff0 as Domid;
export const DOMID_IO = 0x7ff1 as Domid;
export const DOMID_XEN = 0x7ff2 as Domid;
export const DOMID_INVALID = 0x7ff4 as Domid;

function id<T extends number>(value: number, limit: number, kind: string): T {
  if (!Number.isInteger(value) || value < 0 || value >= limit) {
    throw new RangeError(`${kind} ${value}: expected an integer from 0 to ${limit - 1}`);
  }
  return value as T;
}

export const domid = (value: number): Domid => id<Domid>(value, 0x8000, 'domid');
export const did = (value: number): Did => id<Did>(value, 0x10000, 'did');
export const unitIndex = (value: number): UnitIndex => id<UnitIndex>(value, 32, 'unit');
export const vcpu = (value: number): Vcpu => id<Vcpu>(value, 1024, 'vcpu');
export const grantRef = (value: number): GrantRef => id<GrantRef>(value, 0x100000000, 'grant ref');
export const sbdf = (value: number): Sbdf => id<Sbdf>(value, 0x100000000, 'sbdf');

const SBDF_TEXT = /^(?:([0-9a-f]{1,4}):)?([0-9a-f]{1,2}):([0-9a-f]{1,2})\.([0-7])$/i;

/**
 * `0000:03:00.0` or `03:00.0` as a number.
 * @throws RangeError when the text is not a PCI address.
 */
export function parseSbdf(text: string): Sbdf {
  const match = SBDF_TEXT.exec(text);
  const [segment, bus, device, fn] = (match ?? []).slice(1).map((part) => Number.parseInt(part ?? '0', 16));
  if (!match || device === undefined || device > 31) {
    throw new RangeError(
      `PCI address ${JSON.stringify(text)}: expected segment:bus:device.function, as in 0000:03:00.0`,
    );
  }
  return ((segment || 0) * 0x10000 + ((bus ?? 0) << 8) + (device << 3) + (fn ?? 0)) as Sbdf;
}

/** `0000:03:00.0`. */
export function sbdfText(value: Sbdf): string {
  const hex = (part: number, digits: number) => part.toString(16).padStart(digits, '0');
  const bdf = value % 0x10000;
  return `${hex(Math.floor(value / 0x10000), 4)}:${hex(bdf >> 8, 2)}:${hex((bdf >> 3) & 31, 2)}.${bdf & 7}`;
}
