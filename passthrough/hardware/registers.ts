// Offsets of a VT-d unit's registers, in bytes; commands in them as the descriptors that say the same. VT-d 10.4.

import {
  contextCacheDescriptor,
  contextCommand,
  encode,
  fieldOf,
  invalidateAddress,
  iotlbCommand,
  iotlbDescriptor,
} from './layouts.ts';

export const Register = {
  VER: 0x00,
  CAP: 0x08,
  ECAP: 0x10,
  GCMD: 0x18,
  GSTS: 0x1c,
  RTADDR: 0x20,
  CCMD: 0x28,
  FSTS: 0x34,
  FECTL: 0x38,
  IQH: 0x80,
  IQT: 0x88,
  IQA: 0x90,
  IQER: 0xb0,
} as const;

/** Words kept per unit: covers the largest offset that CAP.FRO, CAP.NFR and ECAP.IRO can name. */
export const REGISTER_WORDS = 8192;

/** Reasons of a DMA fault, as in the fault record. VT-d 7.2.3, appendix A. */
export const FaultReason = {
  rootNotPresent: 0x1,
  contextNotPresent: 0x2,
  contextInvalid: 0x3,
  addressBeyondWidth: 0x4,
  writeNotPermitted: 0x5,
  readNotPermitted: 0x6,
  nextTableInvalid: 0x7,
  rootTableInvalid: 0x8,
  contextTableInvalid: 0x9,
  rootReserved: 0xa,
  contextReserved: 0xb,
  entryReserved: 0xc,
  requestBlocked: 0xd,
} as const;
export type FaultReason = (typeof FaultReason)[keyof typeof FaultReason];

const reasonNames = new Map<number, string>(Object.entries(FaultReason).map(([name, value]) => [value, name]));

/** `5` gives `writeNotPermitted`. */
export function faultReasonName(reason: number): string {
  return reasonNames.get(reason) ?? `reason 0x${reason.toString(16)}`;
}

/** What a device wants with an address. */
export const Access = { read: 1, write: 2 } as const;
export type Access = (typeof Access)[keyof typeof Access];

/** Granularities of context-cache and IOTLB invalidation. VT-d 6.5.2. */
export const ContextGranularity = { global: 1, domain: 2, device: 3 } as const;
export const IotlbGranularity = { global: 1, domain: 2, page: 3 } as const;

/** Types of descriptors in the invalidation queue. VT-d 6.5.2. */
export const DescriptorType = { context: 1, iotlb: 2, deviceTlb: 3, interruptEntry: 4, wait: 5 } as const;

/** The descriptor that says what the context command register says. VT-d 6.5.1, 10.4.7. */
export function contextDescriptorOf(command: readonly number[]): number[] {
  return encode(contextCacheDescriptor, {
    type: DescriptorType.context,
    granularity: fieldOf(contextCommand, 'requestedGranularity', command),
    domainId: fieldOf(contextCommand, 'domainId', command),
    sourceId: fieldOf(contextCommand, 'sourceId', command),
    functionMask: fieldOf(contextCommand, 'functionMask', command),
  });
}

/** The descriptor that says what the IOTLB registers say. VT-d 6.5.1, 10.4.8. */
export function iotlbDescriptorOf(command: readonly number[], address: readonly number[]): number[] {
  return encode(iotlbDescriptor, {
    type: DescriptorType.iotlb,
    granularity: fieldOf(iotlbCommand, 'requestedGranularity', command),
    domainId: fieldOf(iotlbCommand, 'domainId', command),
    drainReads: fieldOf(iotlbCommand, 'drainReads', command),
    drainWrites: fieldOf(iotlbCommand, 'drainWrites', command),
    addressMask: fieldOf(invalidateAddress, 'addressMask', address),
    invalidationHint: fieldOf(invalidateAddress, 'invalidationHint', address),
    address: fieldOf(invalidateAddress, 'address', address),
  });
}
