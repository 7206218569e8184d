// What descriptors come to: what a unit can do of them, and plain records for comparing what reaches a unit with what
// is known to reach it.

import type { Capabilities } from './capabilities.ts';
import {
  contextCacheDescriptor,
  decode,
  deviceTlbDescriptor,
  fieldOf,
  iotlbDescriptor,
  type Layout,
  maskOf,
  waitDescriptor,
} from './layouts.ts';
import { DescriptorType, IotlbGranularity } from './registers.ts';
import { entryFrame } from './walk.ts';

const DRAIN_READS = maskOf(iotlbDescriptor, 'drainReads');
const DRAIN_WRITES = maskOf(iotlbDescriptor, 'drainWrites');

/**
 * Told of every invalidation and wait in the order in which a unit takes them: the descriptor's four words, or those
 * that say the same as a command register. No part of the state.
 */
export interface InvalidationObserver {
  taken(unit: number, w0: number, w1: number, w2: number, w3: number, byRegister: boolean): void;
}

/** Counters of a unit, unhashed: what it did since it was made. */
export const UNIT_COUNTERS = [
  'contextInvalidations',
  'globalInvalidations',
  'domainInvalidations',
  'pageInvalidations',
  'waits',
] as const;
export type UnitCounter = (typeof UNIT_COUNTERS)[number];

/** Bits of a descriptor's first three words that must be 0, by its type. VT-d 6.5.2. */
const RESERVED: readonly (readonly [number, number, number])[] = Array.from({ length: 16 }, (_, type) => {
  if (type === DescriptorType.context) return [0xffc0, 0xfffc0000, 0];
  if (type === DescriptorType.iotlb) return [0xff00, 0xffffffff, 0xf80];
  return type === DescriptorType.wait ? [0xffffff80, 0, 3] : [0, 0, 0];
});

/**
 * Frame that the queue lies in, by the queue address register.
 * @throws RangeError for a queue of more than one page, which no driver here makes.
 */
export function queueFrameOf(low: number, high: number): number {
  if ((low & 7) !== 0) throw new RangeError(`IQA 0x${low.toString(16)}: expected a queue of one page (QS 0)`);
  return entryFrame(low, high);
}

/** Whether bits are set that must not be. */
export function hasReservedBits(w0: number, w1: number, w2: number): boolean {
  const masks = RESERVED[w0 & 0xf]!;
  return ((w0 & masks[0]) | (w1 & masks[1]) | (w2 & masks[2])) !== 0;
}

/** Whether a descriptor (its first and third word) says something that a unit can do. */
export function isKnown(unit: Capabilities, pageOrder: number, low: number, third: number): boolean {
  const type = low & 0xf;
  if (type === DescriptorType.deviceTlb) return unit.deviceTlb;
  if (type === DescriptorType.context) return ((low >>> 4) & 3) !== 0;
  return type === DescriptorType.iotlb && performed(pageOrder, low, third) !== 0;
}

/**
 * The granularity that an IOTLB invalidation is carried out with: one of pages is done for the domain by a unit that
 * does not know pages, and not at all (0) where there are more of them than the unit takes at once: 2^`pageOrder`
 * (-1: none). VT-d 10.4.8.1.
 */
export function performed(pageOrder: number, low: number, third: number): number {
  const granularity = (low >>> 4) & 3;
  if (granularity !== IotlbGranularity.page) return granularity;
  if (pageOrder < 0) return IotlbGranularity.domain;
  return (third & 0x3f) > pageOrder ? 0 : granularity;
}

/** What an invalidation waits for: bit 0 writes, bit 1 reads. Only that of the IOTLB does. VT-d 6.5.2.3. */
export function drainsOf(unit: Capabilities, low: number): number {
  if ((low & 0xf) !== DescriptorType.iotlb) return 0;
  const writes = (low & DRAIN_WRITES) !== 0 && unit.drainWrites;
  const reads = (low & DRAIN_READS) !== 0 && unit.drainReads;
  return Number(writes) | (Number(reads) << 1);
}

/** One descriptor, or one command of a register (`via`). `sid` is `bb:dd.f`, or a number in hexadecimal of an ATS. */
export type Invalidation =
  | {
      readonly t: 'cc';
      readonly g: string;
      readonly did: number;
      readonly sid?: string;
      readonly fm?: number;
      readonly via?: 'reg';
    }
  | {
      readonly t: 'iotlb';
      readonly g: string;
      readonly dw: number;
      readonly dr: number;
      readonly did: number;
      readonly addr?: string;
      readonly am?: number;
      readonly ih?: number;
      readonly via?: 'reg';
    }
  | { readonly t: 'dev-iotlb'; readonly sid: string; readonly addr: string; readonly s: number }
  | { readonly t: 'wait'; readonly if: number; readonly sw: number; readonly fn: number; readonly data: number }
  | { readonly t: 'other'; readonly words: readonly number[] };

const CONTEXT_BY = ['reserved', 'global', 'domain', 'device'];
const IOTLB_BY = ['reserved', 'global', 'domain', 'page'];

/** The address that a descriptor's upper half gives, in hexadecimal. */
function addressOf(of: Layout<'address'>, words: readonly number[]): string {
  const page = fieldOf(of, 'address', words);
  return page === 0 ? '0x0' : `0x${page.toString(16)}000`;
}

function bdfText(source: number): string {
  const hex = (part: number) => part.toString(16).padStart(2, '0');
  return `${hex(source >>> 8)}:${hex((source >>> 3) & 31)}.${source & 7}`;
}

/** The record of a descriptor's four words, lowest first. */
export function invalidationOf(words: readonly number[], byRegister: boolean): Invalidation {
  const via = byRegister ? { via: 'reg' as const } : {};
  switch (words[0]! & 0xf) {
    case DescriptorType.context: {
      const of = decode(contextCacheDescriptor, words);
      const base = { t: 'cc', g: CONTEXT_BY[of.granularity]!, did: of.domainId } as const;
      return of.granularity === 3
        ? { ...base, sid: bdfText(of.sourceId), fm: of.functionMask, ...via }
        : { ...base, ...via };
    }
    case DescriptorType.iotlb: {
      const of = decode(iotlbDescriptor, words);
      const g = IOTLB_BY[of.granularity]!;
      const base = { t: 'iotlb', g, dw: of.drainWrites, dr: of.drainReads, did: of.domainId } as const;
      if (of.granularity !== 3) return { ...base, ...via };
      return { ...base, addr: addressOf(iotlbDescriptor, words), am: of.addressMask, ih: of.invalidationHint, ...via };
    }
    case DescriptorType.deviceTlb: {
      const of = decode(deviceTlbDescriptor, words);
      const sid = `0x${of.sourceId.toString(16)}`;
      return { t: 'dev-iotlb', sid, addr: addressOf(deviceTlbDescriptor, words), s: of.size };
    }
    case DescriptorType.wait: {
      const of = decode(waitDescriptor, words);
      return { t: 'wait', if: of.interrupt, sw: of.statusWrite, fn: of.fence, data: of.statusData };
    }
    default:
      return { t: 'other', words: [...words] };
  }
}
