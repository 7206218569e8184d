// Layouts that guests and hypervisor share. xen: public/grant_table.h.

/** Flags of a shared grant entry. */
export const GTF = {
  invalid: 0,
  permit_access: 1,
  accept_transfer: 2,
  transitive: 3,
  type_mask: 3,
  readonly: 0x0004,
  reading: 0x0008,
  writing: 0x0010,
  sub_page: 0x0100,
  /** Of entries of type accept_transfer. */
  transfer_committed: 0x0004,
  transfer_completed: 0x0008,
} as const;

/** Flags of a map operation. Bits 3 and 4 shape the host mapping; bits 16 and above are the guest's own. */
export const GNTMAP = {
  device_map: 1,
  host_map: 2,
  readonly: 4,
  application_map: 8,
  contains_pte: 16,
} as const;

/**
 * Entries of a shared frame, as a power of two: 512 of 8 bytes (version 1), 256 of 16 bytes (version 2).
 *
 * Version 1: word 0 flags (15:0) and domid (31:16), word 1 the frame. Version 2: word 0 likewise; a full page has its
 * frame in words 2 and 3; a sub-page entry has offset (15:0) and length (31:16) in word 1 beside that; a transitive one
 * the next domid in word 1 (15:0) and the next ref in word 2.
 */
export function entriesShift(version: number): number {
  return 10 - version;
}

/** Words of a frame, as a power of two: those of an entry are this less {@link entriesShift}. */
export const ENTRY_WORDS_SHIFT = 10;
/** Status words (16 bits, one per ref) of a status frame, as a power of two. */
export const STATUS_PER_FRAME_SHIFT = 11;
/** Status frames that a number of shared frames of version 2 needs. */
export function statusFramesOf(frames: number): number {
  return Math.ceil((frames << entriesShift(2)) / (1 << STATUS_PER_FRAME_SHIFT));
}

/** Refs that survive a change of version, and do not hinder it. xen: GNTTAB_NR_RESERVED_ENTRIES. */
export const RESERVED_ENTRIES = 8;

/** Words of an element of map_grant_ref: 32 bytes. */
export const MapElement = {
  hostLow: 0,
  hostHigh: 1,
  flags: 2,
  ref: 3,
  domainAndStatus: 4,
  handle: 5,
  busLow: 6,
  busHigh: 7,
} as const;

/** Words of an element of unmap_grant_ref: 24 bytes. unmap_and_replace has its new address where this has the bus's. */
export const UnmapElement = { hostLow: 0, hostHigh: 1, busLow: 2, busHigh: 3, handle: 4, status: 5 } as const;

/** Words of an element of copy: 40 bytes. Each end: ref or frame, then domid (15:0) and offset (31:16). */
export const CopyElement = {
  source: 0,
  destination: 4,
  lengthAndFlags: 8,
  status: 9,
} as const;
export const CopyEndWords = { low: 0, high: 1, domainAndOffset: 2 } as const;

/** Flags of a copy: which ends are refs. */
export const GNTCOPY = { source_gref: 1, dest_gref: 2 } as const;

/** Words of an element of transfer: frame, domid, ref; status. */
export const TransferElement = { frameLow: 0, frameHigh: 1, domain: 2, ref: 3, status: 4 } as const;

/** Words of an element of swap_grant_ref. */
export const SwapElement = { a: 0, b: 1, status: 2 } as const;

/** The handle that a failed map leaves behind is not written; this one is never valid. */
export const INVALID_HANDLE = 0xffffffff;

/** Pin counters: four of 8 bits in one word. xen: GNTPIN_*. */
export const Pin = {
  hostWrite: { one: 1, shift: 0 },
  hostRead: { one: 1 << 8, shift: 8 },
  deviceWrite: { one: 1 << 16, shift: 16 },
  deviceRead: { one: 1 << 24, shift: 24 },
} as const;

/** One of each kind: {@link pinsAreFull} of this says whether any counter is full. */
export const ANY_PIN = 0x01010101;

/** A counter with this bit set can take no more: 128 pins of one kind. */
const PIN_FULL = 0x80;
const WRITE_PINS = 0x00ff00ff;

const { device_map: DEVICE_MAP, host_map: HOST_MAP, readonly: READONLY } = GNTMAP;

/** What a map with these flags adds to the pin word: one per half. */
export function pinIncrement(flags: number): number {
  return PIN_INCREMENT[flags & (DEVICE_MAP | HOST_MAP | READONLY)]!;
}

/** By device_map (1), host_map (2), readonly (4). */
const PIN_INCREMENT = [0, 1, 2, 3, 4, 5, 6, 7].map((flags) => {
  const [host, device] = (flags & READONLY) !== 0 ? [Pin.hostRead, Pin.deviceRead] : [Pin.hostWrite, Pin.deviceWrite];
  return ((flags & HOST_MAP) !== 0 ? host.one : 0) + ((flags & DEVICE_MAP) !== 0 ? device.one : 0);
});

/** References to the frame that a map with these flags holds: one per half. */
export function pageReferences(flags: number): number {
  return (flags & DEVICE_MAP) + ((flags & HOST_MAP) >>> 1);
}

/**
 * References to the frame's writable type that it holds. A host mapping of an HVM granter's frame by another domain
 * takes none: its RAM is always writable.
 */
export function typeReferences(flags: number, mapperIsGranter: boolean, granterIsPv: boolean): number {
  if ((flags & READONLY) !== 0) return 0;
  return (flags & DEVICE_MAP) + (mapperIsGranter || granterIsPv ? (flags & HOST_MAP) >>> 1 : 0);
}

/** Whether a counter that is about to grow has reached the limit. xen: active entry, since 8cec5d065c. */
export function pinsAreFull(pins: number, increment: number): boolean {
  return (pins & Math.imul(increment, PIN_FULL)) !== 0;
}

/** Whether some counter is smaller than what is to be taken from it. */
export function pinsUnderflow(pins: number, decrement: number): boolean {
  return (
    (pins & 0xff) < (decrement & 0xff) ||
    (pins & 0xff00) < (decrement & 0xff00) ||
    (pins & 0xff0000) < (decrement & 0xff0000) ||
    pins >>> 24 < decrement >>> 24
  );
}

export function hasWritePins(pins: number): boolean {
  return (pins & WRITE_PINS) !== 0;
}
