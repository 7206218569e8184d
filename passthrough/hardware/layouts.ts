// Bit layouts of everything that VT-d reads in memory or shows in registers, legacy mode.
//
// One table each. The codec below, the docs and the tests read the tables; the hot paths use constants taken from
// them by `maskOf` and `shiftOf`. Sources: VT-d specification, sections 9.1 (root entry), 9.3 (context entry),
// 9.8 (second-level entries), 6.5.2 (invalidation descriptors), 10.4 (registers), 10.4.14 (fault records).

/** A field from bit `low` to bit `high`, inclusive. A field may cross a 32-bit word. */
export interface Field {
  readonly high: number;
  readonly low: number;
}

export interface Layout<Name extends string = string> {
  readonly name: string;
  readonly bits: 32 | 64 | 128;
  readonly fields: Readonly<Record<Name, Field>>;
}

/** A layout whose fields are written as the specification does: `[63, 12]`, or one number for a single bit. */
function layout<const F extends Readonly<Record<string, number | readonly [number, number]>>>(
  name: string,
  bits: 32 | 64 | 128,
  fields: F,
): Layout<Extract<keyof F, string>> {
  const entries = Object.entries(fields).map(([key, at]) => {
    const [high, low] = typeof at === 'number' ? [at, at] : at;
    return [key, { high, low }] as const;
  });
  return { name, bits, fields: Object.fromEntries(entries) as Record<Extract<keyof F, string>, Field> };
}

/** VT-d 9.1. */
export const rootEntry = layout('root entry', 128, { present: 0, contextTable: [63, 12] });

/** VT-d 9.3. */
export const contextEntry = layout('context entry', 128, {
  present: 0,
  faultProcessingDisable: 1,
  translationType: [3, 2],
  secondLevelTable: [63, 12],
  addressWidth: [66, 64],
  ignored: [70, 67],
  domainId: [87, 72],
});

/** VT-d 9.8. One layout for all levels: `superpage` counts at levels 2 and 3 only. */
export const secondLevelEntry = layout('second-level entry', 64, {
  read: 0,
  write: 1,
  execute: 2,
  superpage: 7,
  accessed: 8,
  dirty: 9,
  snoop: 11,
  frame: [51, 12],
  software: [61, 52],
  transient: 62,
});

/** VT-d 6.5.2.1. */
export const contextCacheDescriptor = layout('context-cache invalidate descriptor', 128, {
  type: [3, 0],
  granularity: [5, 4],
  domainId: [31, 16],
  sourceId: [47, 32],
  functionMask: [49, 48],
});

/** VT-d 6.5.2.3. */
export const iotlbDescriptor = layout('IOTLB invalidate descriptor', 128, {
  type: [3, 0],
  granularity: [5, 4],
  drainWrites: 6,
  drainReads: 7,
  domainId: [31, 16],
  addressMask: [69, 64],
  invalidationHint: 70,
  address: [127, 76],
});

/** VT-d 6.5.2.5. With `size`, the lowest 0 of the address (bit 12 and above) says how many pages are meant. */
export const deviceTlbDescriptor = layout('device-TLB invalidate descriptor', 128, {
  type: [3, 0],
  maxPending: [20, 16],
  sourceId: [47, 32],
  size: 64,
  address: [127, 76],
});

/** VT-d 6.5.2.8. */
export const waitDescriptor = layout('invalidation wait descriptor', 128, {
  type: [3, 0],
  interrupt: 4,
  statusWrite: 5,
  fence: 6,
  pageDrain: 7,
  statusData: [63, 32],
  statusAddress: [127, 66],
});

/** VT-d 10.4.14. `accessType` 1 is a read. */
export const faultRecord = layout('fault record', 128, {
  page: [63, 12],
  sourceId: [79, 64],
  reason: [103, 96],
  addressType: [125, 124],
  accessType: 126,
  fault: 127,
});

/** VT-d 10.4.2. */
export const capability = layout('capability register', 64, {
  domains: [2, 0],
  advancedFaultLog: 3,
  writeBufferFlush: 4,
  protectedLow: 5,
  protectedHigh: 6,
  cachingMode: 7,
  supportedWidths: [12, 8],
  maxGuestWidth: [21, 16],
  zeroLengthRead: 22,
  faultRecordOffset: [33, 24],
  superpages: [37, 34],
  pageSelective: 39,
  faultRecords: [47, 40],
  maxAddressMask: [53, 48],
  drainWrites: 54,
  drainReads: 55,
});

/** VT-d 10.4.3. */
export const extendedCapability = layout('extended capability register', 64, {
  coherent: 0,
  queuedInvalidation: 1,
  deviceTlb: 2,
  interruptRemapping: 3,
  extendedInterrupts: 4,
  passThrough: 6,
  snoopControl: 7,
  iotlbRegisterOffset: [17, 8],
});

/** VT-d 10.4.4 and 10.4.5: one-shot and sticky bits share their places. */
export const globalCommand = layout('global command and status', 32, {
  translationEnable: 31,
  setRootTable: 30,
  writeBufferFlush: 27,
  queuedInvalidationEnable: 26,
});

/** VT-d 10.4.7. */
export const contextCommand = layout('context command register', 64, {
  domainId: [15, 0],
  sourceId: [31, 16],
  functionMask: [33, 32],
  actualGranularity: [60, 59],
  requestedGranularity: [62, 61],
  invalidate: 63,
});

/** VT-d 10.4.8.1. */
export const iotlbCommand = layout('IOTLB invalidate register', 64, {
  domainId: [47, 32],
  drainWrites: 48,
  drainReads: 49,
  actualGranularity: [58, 57],
  requestedGranularity: [61, 60],
  invalidate: 63,
});

/** VT-d 10.4.8.2. */
export const invalidateAddress = layout('invalidate address register', 64, {
  addressMask: [5, 0],
  invalidationHint: 6,
  address: [63, 12],
});

/** VT-d 10.4.9. */
export const faultStatus = layout('fault status register', 32, {
  overflow: 0,
  pending: 1,
  queueError: 4,
  invalidationTimeout: 6,
  recordIndex: [15, 8],
});

/** VT-d 10.4.22 (invalidation queue error record): the device whose TLB did not answer in time. */
export const queueErrorRecord = layout('invalidation queue error record', 64, {
  timeoutSource: [47, 32],
});

/** Every layout by name, for docs and tests. */
export const layouts: readonly Layout[] = [
  rootEntry,
  contextEntry,
  secondLevelEntry,
  contextCacheDescriptor,
  iotlbDescriptor,
  deviceTlbDescriptor,
  waitDescriptor,
  faultRecord,
  capability,
  extendedCapability,
  globalCommand,
  contextCommand,
  iotlbCommand,
  invalidateAddress,
  faultStatus,
  queueErrorRecord,
];

/** Field values of an entry: missing ones are 0. */
export type FieldValues<Name extends string> = { readonly [K in Name]?: number };

/**
 * The words of an entry, lowest first, from its fields.
 * @throws RangeError when a value does not fit its field.
 */
export function encode<Name extends string>(of: Layout<Name>, values: FieldValues<Name>): number[] {
  const words = new Array<number>(of.bits / 32).fill(0);
  for (const [name, value] of Object.entries(values) as [Name, number][]) {
    const { high, low } = of.fields[name];
    const width = high - low + 1;
    if (!Number.isSafeInteger(value) || value < 0 || value >= 2 ** width) {
      throw new RangeError(`${of.name}: ${name} = ${value} does not fit in ${width} bits`);
    }
    let rest = value;
    for (let bit = low; bit <= high; ) {
      const shift = bit & 31;
      const take = Math.min(32 - shift, high - bit + 1);
      const chunk = rest % 2 ** take;
      words[bit >>> 5] = (words[bit >>> 5]! | (chunk << shift)) >>> 0;
      rest = Math.floor(rest / 2 ** take);
      bit += take;
    }
  }
  return words;
}

/** One field of an entry whose words are given lowest first. */
export function fieldOf<Name extends string>(of: Layout<Name>, name: Name, words: readonly number[]): number {
  const { high, low } = of.fields[name];
  let value = 0;
  let scale = 1;
  for (let bit = low; bit <= high; ) {
    const shift = bit & 31;
    const take = Math.min(32 - shift, high - bit + 1);
    value += ((words[bit >>> 5]! >>> shift) % 2 ** take) * scale;
    scale *= 2 ** take;
    bit += take;
  }
  return value;
}

/** All fields of an entry. */
export function decode<Name extends string>(of: Layout<Name>, words: readonly number[]): Record<Name, number> {
  const names = Object.keys(of.fields) as Name[];
  return Object.fromEntries(names.map((name) => [name, fieldOf(of, name, words)])) as Record<Name, number>;
}

/** Mask of a field within its 32-bit word, for hot paths. The field must lie in one word. */
export function maskOf<Name extends string>(of: Layout<Name>, name: Name): number {
  const { high, low } = of.fields[name];
  if (high >>> 5 !== low >>> 5) throw new RangeError(`${of.name}: ${name} crosses words`);
  return ((2 ** (high - low + 1) - 1) * 2 ** (low & 31)) >>> 0;
}

/** Shift of a field within its 32-bit word. */
export function shiftOf<Name extends string>(of: Layout<Name>, name: Name): number {
  return of.fields[name].low & 31;
}
