// The types of fields, and what each is in a program.

/** A VT-d descriptor as recordings have it: `t` is cc, iotlb, dev-iotlb or wait. */
export interface RecordedDescriptor {
  readonly t: string;
  readonly [field: string]: number | string;
}

/** A DMA fault of the unit: requester, reason, address, whether it was a write. */
export interface RecordedFault {
  readonly sid: string;
  readonly reason: number;
  readonly addr: string;
  readonly write: number;
}

/** Words that some fields choose from. */
export const fieldWords = {
  quarantine: ['none', 'basic', 'scratch'],
  hardwareDomain: ['strict', 'relaxed', 'passthrough'],
  pointer: ['ok', 'null', 'unmapped', 'noncanonical', 'xen'],
  device: ['endpoint', 'pci-endpoint', 'host-bridge', 'root-port', 'pcie-to-pci-bridge', 'pci-bridge'],
} as const;
type Word<Field extends keyof typeof fieldWords> = (typeof fieldWords)[Field][number];

/** The types of fields, and what each is in a program. */
export interface FieldValues {
  /** Signed: a status or an errno. */
  int: number;
  /** Unsigned: as far as numbers are exact, of 32 and of 16 bits; 0 or 1. */
  count: number;
  word: number;
  half: number;
  bit: 0 | 1;
  bool: boolean;
  text: string;
  textOrNull: string | null;
  /** Two digits a byte, at least one. */
  bytes: string;
  quarantine: Word<'quarantine'>;
  hardwareDomain: Word<'hardwareDomain'>;
  /** Where an argument of a hypercall lies. */
  pointer: Word<'pointer'>;
  device: Word<'device'>;
  any: unknown;
  /** 64 bits as `0x...`. */
  hex: `0x${string}`;
  hexOrNull: `0x${string}` | null;
  hexes: readonly `0x${string}`[];
  /** `[first, last]`, and what memory is for or who may do what with it. */
  spans: readonly (readonly [`0x${string}`, `0x${string}`])[];
  memory: readonly (readonly [`0x${string}`, `0x${string}`, string])[];
  identity: readonly (readonly [`0x${string}`, `0x${string}`, 'rw' | 'ro'])[];
  /** `[from, mfn, count, step]`, and for some the access: places one after another, frames `step` apart. */
  runs: readonly (readonly [`0x${string}`, `0x${string}`, number, number, ('rw' | 'ro')?])[];
  /** `[mfn, level]`. */
  levels: readonly (readonly [string, number])[];
  /** `[dom, ref, flags, status]`. */
  changes: readonly (readonly [number, number, number, number])[];
  /** `[dom, frame, first, last, bytes, hash]`. */
  contents: readonly (readonly [number, string, number, number, string, string])[];
  /** `[first, last, [bdf, ...]]`: pages that firmware wants mapped one to one for devices. */
  regions: readonly (readonly [`0x${string}`, `0x${string}`, readonly `0x${string}`[]])[];
  /** `[bdf, stride]`: the functions of that slot use further ids of it, so far apart. */
  strides: readonly (readonly [`0x${string}`, 1 | 2 | 4])[];
  /** `[bdf, domid]`; null: nobody's. */
  owners: readonly (readonly [`0x${string}`, number | null])[];
  descriptors: readonly RecordedDescriptor[];
  faults: readonly RecordedFault[];
}
export type FieldType = keyof FieldValues;
