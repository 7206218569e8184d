// Goal: capabilities say in words what the CAP and ECAP registers say in bits.
// Method: a round trip over all capabilities a unit can have, and register values of units that exist.

import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import {
  type Capabilities,
  type CapabilityRegisters,
  capabilitiesWith,
  decode,
  decodeCapabilities,
  defaultCapabilities,
  encode,
  encodeCapabilities,
} from '../../../passthrough/hardware/index.ts';
import { capability, extendedCapability } from '../../../passthrough/hardware/layouts.ts';

const flag = fc.boolean();
const capabilities: fc.Arbitrary<Capabilities> = fc
  .record({
    domainIds: fc.constantFrom(16, 64, 256, 1024, 4096, 16384, 65536),
    cachingMode: flag,
    writeBufferFlush: flag,
    levels: fc.subarray([3, 4, 5], { minLength: 1 }),
    addressBits: fc.integer({ min: 31, max: 57 }),
    superpage2m: flag,
    superpage1g: flag,
    pageSelective: flag,
    maxAddressMask: fc.nat(63),
    faultRecords: fc.integer({ min: 1, max: 256 }),
    drainWrites: flag,
    drainReads: flag,
    coherent: flag,
    queuedInvalidation: flag,
    deviceTlb: flag,
    passThrough: flag,
    snoopControl: flag,
  })
  .map((of) => ({
    ...of,
    addressBits: Math.min(of.addressBits, 12 + 9 * Math.max(...of.levels)),
    superpage1g: of.superpage1g && of.superpage2m,
    maxAddressMask: of.pageSelective ? of.maxAddressMask : 0,
    deviceTlb: of.deviceTlb && of.queuedInvalidation,
  }));

test.prop([capabilities])('capabilities survive the way through the registers', (of) => {
  expect(decodeCapabilities(encodeCapabilities(of))).toEqual(of);
});

/** The words of a register value, lowest first. */
const words = (value: bigint): [number, number] => [Number(value & 0xffffffffn), Number(value >> 32n)];

describe('registers of units that exist', () => {
  test('QEMU with 39-bit addresses has three levels and no caching mode', () => {
    const of = decodeCapabilities({ cap: words(0xd2008c22260206n), ecap: words(0xf42n) });
    expect(of).toEqual({
      ...defaultCapabilities,
      domainIds: 65536,
      levels: [3],
      addressBits: 39,
      faultRecords: 1,
      coherent: false,
    });
  });

  test('QEMU with 48-bit addresses and caching mode', () => {
    const of = decodeCapabilities({ cap: words(0xd2008c222f0686n), ecap: words(0xf00f4an) });
    expect(of).toMatchObject({
      domainIds: 65536,
      cachingMode: true,
      levels: [3, 4],
      addressBits: 48,
      pageSelective: true,
      maxAddressMask: 18,
      faultRecords: 1,
      drainWrites: true,
      drainReads: true,
      queuedInvalidation: true,
      passThrough: true,
      coherent: false,
      deviceTlb: false,
    });
  });

  test('a Broadwell server unit', () => {
    const of = decodeCapabilities({ cap: words(0x8d2078c106f0466n), ecap: words(0xf020dfn) });
    expect(of).toMatchObject({
      domainIds: 65536,
      cachingMode: false,
      levels: [4],
      addressBits: 48,
      superpage2m: true,
      superpage1g: true,
      queuedInvalidation: true,
      coherent: true,
      deviceTlb: true,
      passThrough: true,
      snoopControl: true,
      writeBufferFlush: false,
    });
  });
});

describe('registers that no working unit shows', () => {
  const good = encodeCapabilities(defaultCapabilities);

  test('a reserved number of domains', () => {
    expect(() => decodeCapabilities({ ...good, cap: [good.cap[0] | 7, good.cap[1]] })).toThrow(/ND is 7/);
  });

  test('no table depth that is known', () => {
    expect(() => decodeCapabilities({ ...good, cap: [good.cap[0] & ~0x1f00, good.cap[1]] })).toThrow(/SAGAW/);
    // Bits 0 and 4 stand for depths of 2 and 6 levels.
    expect(() => decodeCapabilities({ ...good, cap: [(good.cap[0] & ~0x1f00) | 0x1100, good.cap[1]] })).toThrow(
      /SAGAW/,
    );
  });

  const ones = [0xffffffff, 0xffffffff] as const;
  test.each([
    ['CAP', { ...good, cap: ones }],
    ['ECAP', { ...good, ecap: ones }],
  ])('all ones in %s', (name, registers) => {
    expect(() => decodeCapabilities(registers)).toThrow(`${name} is all ones`);
  });

  const cap = (fields: Parameters<typeof encode<keyof typeof capability.fields>>[1]) => {
    const before = decode(capability, good.cap);
    const of = encode(capability, { ...before, ...fields });
    return { ...good, cap: [of[0]!, of[1]!] as const };
  };
  const ecap = (fields: Parameters<typeof encode<keyof typeof extendedCapability.fields>>[1]) => {
    const of = encode(extendedCapability, { ...decode(extendedCapability, good.ecap), ...fields });
    return { ...good, ecap: [of[0]!, of[1]!] as const };
  };

  test.each<[string, CapabilityRegisters, RegExp]>([
    ['1 GiB leaves and none of 2 MiB', cap({ superpages: 2 }), /superpage1g without superpage2m/],
    ['device TLBs and no queue', ecap({ deviceTlb: 1, queuedInvalidation: 0 }), /deviceTlb without queuedInvalidation/],
    ['fault records among the fixed registers', cap({ faultRecordOffset: 2 }), /CAP.FRO.*0x20/],
    ['IOTLB registers among the fixed registers', ecap({ iotlbRegisterOffset: 0xb }), /ECAP.IRO.*0xb0/],
    ['IOTLB registers among the fault records', ecap({ iotlbRegisterOffset: 0x23 }), /overlap.*ECAP.IRO.*0x230/],
    ['fault records over the IOTLB registers', cap({ faultRecordOffset: 0xc, faultRecords: 15 }), /overlap.*0xf0/],
  ])('%s', (_, registers, reason) => {
    expect(() => decodeCapabilities(registers)).toThrow(reason);
  });

  test('but one past another is well, and an address mask that means nothing is no reason', () => {
    expect(decodeCapabilities(cap({ faultRecordOffset: 0xc, faultRecords: 2 })).faultRecords).toBe(3);
    expect(decodeCapabilities(ecap({ iotlbRegisterOffset: 0x2a })).deviceTlb).toBe(false);
    expect(decodeCapabilities(cap({ pageSelective: 0 })).maxAddressMask).toBe(0);
  });
});

test('what is left out follows from what is given', () => {
  expect(capabilitiesWith()).toEqual(defaultCapabilities);
  const of = capabilitiesWith({ pageSelective: false, superpage2m: false, levels: [3] });
  expect([of.maxAddressMask, of.superpage1g, of.addressBits]).toEqual([0, false, 39]);
  expect(() => encodeCapabilities(of)).not.toThrow();
});

describe('capabilities that no unit can have are refused by name', () => {
  test.each<[string, Partial<Capabilities>]>([
    ['domainIds', { domainIds: 100 }],
    ['levels', { levels: [] }],
    ['levels', { levels: [2] }],
    ['levels', { levels: [4, 6] }],
    ['addressBits', { addressBits: 30 }],
    ['addressBits', { levels: [3], addressBits: 40 }],
    ['maxAddressMask', { maxAddressMask: 64 }],
    ['faultRecords', { faultRecords: 0 }],
    ['faultRecords', { faultRecords: 257 }],
    ['superpage1g without superpage2m', { superpage2m: false }],
    ['maxAddressMask 18 without pageSelective', { pageSelective: false }],
    ['deviceTlb without queuedInvalidation', { deviceTlb: true, queuedInvalidation: false }],
  ])('%s', (name, change) => {
    expect(() => encodeCapabilities({ ...defaultCapabilities, ...change })).toThrow(RangeError);
    expect(() => encodeCapabilities({ ...defaultCapabilities, ...change })).toThrow(name);
  });
});
