// What a VT-d unit can do, from its CAP and ECAP registers. VT-d 10.4.2, 10.4.3.

import { capability, decode, encode, extendedCapability } from './layouts.ts';

/** A unit's capabilities in words. `encodeCapabilities` and `decodeCapabilities` convert to and from register bits. */
export interface Capabilities {
  /** Number of domain ids: 16, 64, 256, 1024, 4096, 16384 or 65536 (CAP.ND). */
  readonly domainIds: number;
  /** Hardware may cache non-present and erroneous entries (CAP.CM). */
  readonly cachingMode: boolean;
  /** Software must flush the write buffer after table writes (CAP.RWBF). */
  readonly writeBufferFlush: boolean;
  /** Levels of tables that the unit walks: any of 3 (39 bits), 4 (48) and 5 (57) (CAP.SAGAW). */
  readonly levels: readonly number[];
  /** Width of the addresses that it accepts, in bits (CAP.MGAW + 1). */
  readonly addressBits: number;
  /** 2 MiB and 1 GiB leaves (CAP.SLLPS). */
  readonly superpage2m: boolean;
  readonly superpage1g: boolean;
  /** Page-selective invalidation (CAP.PSI), and the largest address mask it takes (CAP.MAMV). */
  readonly pageSelective: boolean;
  readonly maxAddressMask: number;
  /** Fault recording registers (CAP.NFR + 1). */
  readonly faultRecords: number;
  /** Write and read draining (CAP.DWD, CAP.DRD). */
  readonly drainWrites: boolean;
  readonly drainReads: boolean;
  /** Walks snoop the processor's caches (ECAP.C). */
  readonly coherent: boolean;
  readonly queuedInvalidation: boolean;
  readonly deviceTlb: boolean;
  readonly passThrough: boolean;
  readonly snoopControl: boolean;
}

/** CAP and ECAP as two pairs of 32-bit words, lowest first. */
export interface CapabilityRegisters {
  readonly cap: readonly [number, number];
  readonly ecap: readonly [number, number];
}

/** Byte offset of the first fault record, and of the IOTLB registers, in a unit that this library encodes. */
const FAULT_RECORD_OFFSET = 0x220;
const IOTLB_OFFSET = 0xf0;
/** Bytes of the registers whose places are fixed, as far as every unit has them, and of the two IOTLB registers. */
const FIXED_REGISTERS = 0xc0;
const IOTLB_REGISTERS = 16;

/**
 * A common unit: 256 domain ids, 4 levels, superpages, page-selective and queued invalidation, coherent, no caching
 * mode.
 */
export const defaultCapabilities: Capabilities = Object.freeze({
  domainIds: 256,
  cachingMode: false,
  writeBufferFlush: false,
  levels: Object.freeze([3, 4]),
  addressBits: 48,
  superpage2m: true,
  superpage1g: true,
  pageSelective: true,
  maxAddressMask: 18,
  faultRecords: 8,
  drainWrites: true,
  drainReads: true,
  coherent: true,
  queuedInvalidation: true,
  deviceTlb: false,
  passThrough: true,
  snoopControl: false,
});

/** The capabilities given, and those of a common unit for what is left out, as far as these allow. */
export function capabilitiesWith(given: Partial<Capabilities> = {}): Capabilities {
  const set = Object.entries(given).filter(([, value]) => value !== undefined);
  const all: Capabilities = { ...defaultCapabilities, ...(Object.fromEntries(set) as Partial<Capabilities>) };
  return {
    ...all,
    superpage1g: given.superpage1g ?? all.superpage2m,
    maxAddressMask: given.maxAddressMask ?? (all.pageSelective ? all.maxAddressMask : 0),
    addressBits: given.addressBits ?? Math.min(all.addressBits, widestOf(all.levels)),
  };
}

/** Bits of an address that tables of the most levels reach. */
function widestOf(levels: readonly number[]): number {
  return 12 + 9 * Math.max(3, ...levels);
}

/** What no unit has one of without the other. VT-d 10.4.2 (SLLPS, MAMV), 10.4.3 (DT). */
function refuseImpossible(of: Capabilities): void {
  if (of.superpage1g && !of.superpage2m)
    throw new RangeError('superpage1g without superpage2m: expected every smaller size, too (CAP.SLLPS)');
  if (of.maxAddressMask > 0 && !of.pageSelective)
    throw new RangeError(`maxAddressMask ${of.maxAddressMask} without pageSelective: expected 0 (CAP.MAMV, CAP.PSI)`);
  if (of.deviceTlb && !of.queuedInvalidation)
    throw new RangeError('deviceTlb without queuedInvalidation: expected both (ECAP.DT, ECAP.QI)');
}

/**
 * Register values of a unit with these capabilities.
 * @throws RangeError naming the capability that no unit can have.
 */
export function encodeCapabilities(of: Capabilities): CapabilityRegisters {
  const nd = [16, 64, 256, 1024, 4096, 16384, 65536].indexOf(of.domainIds);
  if (nd < 0) throw new RangeError(`domainIds ${of.domainIds}: expected 16, 64, 256, 1024, 4096, 16384 or 65536`);
  if (of.levels.length === 0 || of.levels.some((level) => level < 3 || level > 5)) {
    throw new RangeError(`levels ${JSON.stringify(of.levels)}: expected at least one of 3, 4 and 5`);
  }
  const widest = widestOf(of.levels);
  if (of.addressBits < 31 || of.addressBits > widest) {
    throw new RangeError(`addressBits ${of.addressBits}: expected 31 to ${widest}, what its tables reach`);
  }
  refuseImpossible(of);
  const cap = encode(capability, {
    domains: nd,
    writeBufferFlush: Number(of.writeBufferFlush),
    cachingMode: Number(of.cachingMode),
    supportedWidths: of.levels.reduce((bits, level) => bits | (1 << (level - 2)), 0),
    maxGuestWidth: of.addressBits - 1,
    faultRecordOffset: FAULT_RECORD_OFFSET / 16,
    superpages: Number(of.superpage2m) | (Number(of.superpage1g) << 1),
    pageSelective: Number(of.pageSelective),
    faultRecords: of.faultRecords - 1,
    maxAddressMask: of.maxAddressMask,
    drainWrites: Number(of.drainWrites),
    drainReads: Number(of.drainReads),
  });
  const ecap = encode(extendedCapability, {
    coherent: Number(of.coherent),
    queuedInvalidation: Number(of.queuedInvalidation),
    deviceTlb: Number(of.deviceTlb),
    passThrough: Number(of.passThrough),
    snoopControl: Number(of.snoopControl),
    iotlbRegisterOffset: IOTLB_OFFSET / 16,
  });
  return { cap: [cap[0]!, cap[1]!], ecap: [ecap[0]!, ecap[1]!] };
}

/**
 * Capabilities from register values.
 * @throws RangeError for values that no working unit shows (xen: vtd/iommu.c, "all ones", ND 7, no usable SAGAW).
 */
export function decodeCapabilities({ cap, ecap }: CapabilityRegisters): Capabilities {
  for (const [name, words] of Object.entries({ CAP: cap, ECAP: ecap })) {
    if (words.every((word) => word >>> 0 === 0xffffffff))
      throw new RangeError(`${name} is all ones: there is no unit at this address`);
  }
  const c = decode(capability, cap);
  const e = decode(extendedCapability, ecap);
  if (c.domains === 7) throw new RangeError('CAP.ND is 7, which is reserved');
  const levels = [3, 4, 5].filter((level) => c.supportedWidths & (1 << (level - 2)));
  if (levels.length === 0) throw new RangeError('CAP.SAGAW names no table depth of 3, 4 or 5 levels');
  refuseOverlap(c.faultRecordOffset * 16, (c.faultRecords + 1) * 16, e.iotlbRegisterOffset * 16);
  const found = Object.freeze({
    domainIds: 2 ** (4 + 2 * c.domains),
    cachingMode: c.cachingMode === 1,
    writeBufferFlush: c.writeBufferFlush === 1,
    levels: Object.freeze(levels),
    addressBits: c.maxGuestWidth + 1,
    superpage2m: (c.superpages & 1) === 1,
    superpage1g: (c.superpages & 2) === 2,
    pageSelective: c.pageSelective === 1,
    // Of no meaning on a unit without page-selective invalidation.
    maxAddressMask: c.pageSelective === 1 ? c.maxAddressMask : 0,
    faultRecords: c.faultRecords + 1,
    drainWrites: c.drainWrites === 1,
    drainReads: c.drainReads === 1,
    coherent: e.coherent === 1,
    queuedInvalidation: e.queuedInvalidation === 1,
    deviceTlb: e.deviceTlb === 1,
    passThrough: e.passThrough === 1,
    snoopControl: e.snoopControl === 1,
  });
  refuseImpossible(found);
  return found;
}

/** Fault records and IOTLB registers lie where CAP.FRO and ECAP.IRO say: behind the others, and apart. VT-d 10.4. */
function refuseOverlap(faults: number, length: number, iotlb: number): void {
  const hex = (offset: number) => `0x${offset.toString(16)}`;
  const places = [
    ['fault records (CAP.FRO, CAP.NFR)', faults],
    ['IOTLB registers (ECAP.IRO)', iotlb],
  ] as const;
  for (const [name, at] of places) {
    if (at < FIXED_REGISTERS)
      throw new RangeError(
        `${name} at ${hex(at)}: expected them behind the other registers, from ${hex(FIXED_REGISTERS)}`,
      );
  }
  if (faults < iotlb + IOTLB_REGISTERS && iotlb < faults + length)
    throw new RangeError(`${places[0][0]} at ${hex(faults)} overlap the ${places[1][0]} at ${hex(iotlb)}`);
}
