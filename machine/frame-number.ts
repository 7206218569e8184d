// Frame numbers. A frame is 4096 bytes. The four kinds are different types, so that one cannot pass for another.

declare const frameKind: unique symbol;

/** Machine frame number: a frame of the machine's memory. */
export type Mfn = number & { readonly [frameKind]: 'mfn' };
/** Guest frame number: a frame of a domain's own, translated, view of its memory. */
export type Gfn = number & { readonly [frameKind]: 'gfn' };
/** Pseudo-physical frame number: what a PV guest numbers its frames by. */
export type Pfn = number & { readonly [frameKind]: 'pfn' };
/** Device frame number: a frame of the address space that a device sees (an I/O virtual address >> 12). */
export type Dfn = number & { readonly [frameKind]: 'dfn' };

export const PAGE_SHIFT = 12;
/** Bytes in a frame. */
export const PAGE_SIZE = 4096;
/** 32-bit words in a frame. */
export const PAGE_WORDS = 1024;

/** The largest frame number that a 57-bit (5-level) address can hold. */
export const FRAME_MAX = 2 ** 45 - 1;

function frame<T extends number>(value: number, kind: string): T {
  if (!Number.isSafeInteger(value) || value < 0 || value > FRAME_MAX) {
    throw new RangeError(`${kind} ${value}: expected an integer from 0 to 2^45-1`);
  }
  return value as T;
}

export const mfn = (value: number): Mfn => frame<Mfn>(value, 'mfn');
export const gfn = (value: number): Gfn => frame<Gfn>(value, 'gfn');
export const pfn = (value: number): Pfn => frame<Pfn>(value, 'pfn');
export const dfn = (value: number): Dfn => frame<Dfn>(value, 'dfn');

/** Frames of a block of an order: 2^order. Not `2 ** order`, which costs a call where it counts. */
export function pagesOf(order: number): number {
  return order < 31 ? 1 << order : 2 ** order;
}

/** The first frame of the aligned block of an order that a frame lies in. */
export function alignDown(frame: number, order: number): number {
  return order < 31 ? frame - (frame & ((1 << order) - 1)) : Math.floor(frame / 2 ** order) * 2 ** order;
}

/** The frame that lies `count` frames further on. */
export function frameAdd<T extends Mfn | Gfn | Pfn | Dfn>(base: T, count: number): T {
  return ((base as number) + count) as T;
}

/**
 * A 64-bit value as JSON carries it: a number up to 2^53-1, a `0x...` string above.
 * Parsed once, at the door.
 */
export type Wide = number | `0x${string}`;
