// The records of a recording of real Xen, kind by kind: each field's role in a replay, and its type. The one place
// where this is written down: reading, comparing and types follow it.

/**
 * What a replay does with a field.
 * - `input`: drives the model.
 * - `adopted`: taken over by the model where it depends on the machine (numbers of frames); then the model's own.
 * - `compared`: the model must give exactly this. Never adopted.
 * - `ignored`: for people.
 */
export type FieldRole = 'input' | 'adopted' | 'compared' | 'ignored';

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
} as const;
type Word<Field extends keyof typeof fieldWords> = (typeof fieldWords)[Field][number];

/** The types of fields, and what each is in a program. */
export interface FieldValues {
  int: number;
  bool: boolean;
  text: string;
  quarantine: Word<'quarantine'>;
  hardwareDomain: Word<'hardwareDomain'>;
  /** Where an argument of a hypercall lies. */
  pointer: Word<'pointer'>;
  any: unknown;
  /** 64 bits as `0x...`. */
  hex: `0x${string}`;
  hexOrNull: `0x${string}` | null;
  hexes: readonly `0x${string}`[];
  /** `[first, last]`, and for some a word about them. */
  spans: readonly (readonly [`0x${string}`, `0x${string}`, string?])[];
  /** `[from, mfn, count, step]`, and for some the access: places one after another, frames `step` apart. */
  runs: readonly (readonly [`0x${string}`, `0x${string}`, number, number, ('rw' | 'ro')?])[];
  /** `[mfn, level]`. */
  levels: readonly (readonly [string, number])[];
  /** `[dom, ref, flags, status]`. */
  changes: readonly (readonly [number, number, number, number])[];
  /** `[dom, frame, first, last, bytes, hash]`. */
  contents: readonly (readonly [number, string, number, number, string, string])[];
  descriptors: readonly RecordedDescriptor[];
  faults: readonly RecordedFault[];
}
export type FieldType = keyof FieldValues;

/** Role and type of a field; `?` where it may be missing. */
export type FieldSpec = `${FieldRole} ${FieldType}${'' | '?'}`;
/** A record or an object in it. A list of one: any number of such objects. */
export interface FieldTable {
  readonly [field: string]: FieldSpec | FieldTable | readonly [FieldTable];
}

const logged = { xen: 'ignored any?', regs: 'ignored any?' } as const;
/** Between two markers in the log of the machine. */
const bracketed = { s: 'input int', rc: 'compared int', iommu: 'compared descriptors', ...logged } as const;
/** A grant hypercall of domain `d` on `n` elements. */
const hypercall = { ...bracketed, d: 'input int', n: 'input int', gt: 'compared changes?' } as const;
const byDomain = { ...bracketed, d: 'input int' } as const;
const ofDomain = { ...bracketed, id: 'input int' } as const;

export const recordFields = {
  config: {
    recording: 'input int',
    xen: 'input text',
    debug: 'input bool',
    qemuVtd: { cachingMode: 'input bool', awBits: 'input int', deviceIotlb: 'input bool' },
    iommu: {
      qinval: 'input bool',
      superpages: 'input bool',
      quarantine: 'input quarantine',
      ats: 'input bool',
    },
    dom0Iommu: 'input hardwareDomain',
    gnttab: {
      maxVersion: 'input int',
      transitive: 'input bool',
      transfer: 'input bool',
      maxFrames: 'input int',
      maxMaptrackFrames: 'input int',
    },
    unit: { cap: 'input hex', ecap: 'input hex' },
    e820: 'input spans',
    dom0Identity: 'input spans',
    xenVaRange: 'input hexes',
    noncanonical: 'input hexes',
    cpu: 'input any',
  },
  boot: { iommu: 'ignored descriptors' },
  header: {},
  label: { t: 'ignored text' },
  note: { t: 'ignored text' },
  end: {},
  die: {},
  pci: {
    bdf: 'input hex',
    type: 'input text',
    secondary: 'input int?',
    subordinate: 'input int?',
    ats: 'input any',
    id: 'ignored any?',
  },
  edu: { bdf: 'input hex', bar: 'input hex', ident: 'ignored any?' },
  createdomain: {
    ...ofDomain,
    hvm: 'input int?',
    hap: 'input int?',
    sharept: 'input int?',
    cdf_iommu: 'input int',
    max_grant_frames: 'input int',
    max_maptrack_frames: 'input int',
    gver: 'input int',
    // Not in the list of what is compared: nothing is submitted for a domain without devices.
    iommu: 'ignored descriptors',
  },
  populate: {
    ...ofDomain,
    n: 'input int?',
    order: 'input int?',
    in: 'input hexes?',
    mfn: 'adopted hex?',
    t: 'ignored text?',
  },
  pin_l4: ofDomain,
  win: { va: 'input hex', frame: 'input hexOrNull', dom: 'input int?', rw: 'input int?' },
  watch: { d: 'input int', first: 'input int', n: 'input int' },
  domain: {
    id: 'input int',
    hvm: 'input int',
    cdf_iommu: 'input int',
    data: 'adopted hexes',
    gtmfn: 'adopted hexes',
    statusFrames: 'adopted hexes',
    ram: 'adopted spans',
    va: 'adopted runs?',
    pt: 'adopted levels?',
    l1: 'input spans?',
    nol1: 'input spans?',
    window: 'input hexes',
    l1win: 'adopted hex',
    p2m: 'adopted runs?',
    tot_pages: 'compared int',
    maxGrantFrames: 'input int',
    maxMaptrackFrames: 'input int',
    maxGrantVersion: 'input int?',
    maxPages: 'input int',
    version: 'input int',
    dataFill: { len: 'input int', base: 'input int' },
    sharedInfo: 'adopted text',
    startInfo: 'adopted hexOrNull',
    argBuffer: 'input hex',
  },
  info: { d: 'input int', tot_pages: 'compared int' },
  p2m: { d: 'input int', gfn: 'input hex', mfn: 'compared hexOrNull', rc: 'ignored int?', t: 'ignored text?' },
  gset: {
    d: 'input int',
    v: 'input int',
    ref: 'input int',
    flags: 'input int',
    domid: 'input int',
    frame: 'input hex',
    off: 'input int',
    len: 'input int',
    tdom: 'input int',
    tref: 'input int',
  },
  map: {
    ...hypercall,
    ops: [
      {
        flags: 'input int',
        dom: 'input int',
        ref: 'input int',
        host: 'input hex',
        hk: 'ignored text?',
        st: 'compared int',
        h: 'compared int',
        dev: 'compared hex',
      },
    ],
  },
  unmap: {
    ...hypercall,
    ops: [{ host: 'input hex', dev: 'input hex', h: 'input int', hk: 'ignored text?', st: 'compared int' }],
  },
  unmap_and_replace: {
    ...hypercall,
    ops: [
      {
        host: 'input hex',
        new: 'input hex',
        h: 'input int',
        hk: 'ignored text?',
        nk: 'ignored text?',
        st: 'compared int',
      },
    ],
  },
  copy: {
    ...hypercall,
    ops: [
      {
        sg: 'input int',
        s: 'input hex',
        sdom: 'input int',
        soff: 'input int',
        dg: 'input int',
        dd: 'input hex',
        ddom: 'input int',
        doff: 'input int',
        len: 'input int',
        flags: 'input int',
        st: 'compared int',
      },
    ],
    mem: 'compared contents?',
  },
  transfer: {
    ...hypercall,
    ops: [{ mfn: 'input hex', dom: 'input int', ref: 'input int', st: 'compared int' }],
  },
  entry: { d: 'input int', ref: 'input int', flags: 'compared int', st: 'compared int', frame: 'compared hex' },
  setup_table: {
    ...hypercall,
    ops: [{ dom: 'input int', nr: 'input int', ptr: 'input pointer', st: 'compared int', frames: 'compared hexes' }],
  },
  get_status_frames: {
    ...hypercall,
    ops: [{ dom: 'input int', nr: 'input int', st: 'compared int', frames: 'compared hexes' }],
  },
  query_size: {
    ...hypercall,
    ops: [{ dom: 'input int', st: 'compared int', nr: 'compared int', max: 'compared int' }],
  },
  get_version: { ...hypercall, ops: [{ dom: 'input int', version: 'compared int' }] },
  set_version: { ...hypercall, ops: [{ req: 'input int', version: 'compared int' }] },
  swap_grant_ref: { ...hypercall, ops: [{ a: 'input int', b: 'input int', st: 'compared int' }] },
  cache_flush: {
    ...hypercall,
    ops: [{ a: 'input hex', off: 'input int', len: 'input int', op: 'input int' }],
  },
  raw: {
    ...byDomain,
    cmd: 'input int',
    n: 'input int',
    ptr: 'input pointer',
    what: 'ignored text?',
    addr: 'ignored hex?',
    iommu: 'ignored descriptors',
  },
  assign: { ...bracketed, dom: 'input int', bdf: 'input hex' },
  deassign: { ...bracketed, dom: 'input int', bdf: 'input hex' },
  destroydomain: { ...ofDomain, gt: 'compared changes?' },
  update_va_mapping: { ...byDomain, va: 'input hex', pte: 'input hex', mfn: 'ignored any?', t: 'ignored any?' },
  map_foreign: {
    ...byDomain,
    va: 'input hex',
    frame: 'input hex',
    dom: 'input int',
    rw: 'input int',
    t: 'ignored any?',
  },
  unmap_own: { ...byDomain, va: 'input hex', mfn: 'ignored any?', t: 'ignored any?' },
  mmuext: { ...byDomain, cmd: 'input int', mfn: 'input hex', t: 'ignored any?' },
  memory_op: {
    ...byDomain,
    cmd: 'input int',
    order: 'input int?',
    in: 'input hexes',
    out: 'compared hexes',
    t: 'ignored any?',
  },
  add_to_physmap: { ...byDomain, space: 'input int', idx: 'input int', gfn: 'input hex', t: 'ignored any?' },
  remove_from_physmap: { ...byDomain, gfn: 'input hex', t: 'ignored any?' },
  dma: {
    s: 'input int',
    bdf: 'input hex',
    addr: 'input hex',
    len: 'input int',
    w: 'input int',
    cpu: 'input text',
    faultKnown: 'input bool',
    faults: 'compared faults?',
    written: 'compared int?',
    read_data_ok: 'compared int?',
    mem: 'compared text?',
    why: 'ignored text?',
    owner: 'ignored int?',
    iommu: 'ignored descriptors',
    ...logged,
  },
  poke: {
    d: 'input int',
    frame: 'input hex',
    off: 'input int',
    len: 'input int',
    val: 'input hex?',
    byte: 'input int?',
  },
  peek: { mfn: 'input hex', off: 'input int', val: 'compared hex', t: 'ignored text?' },
} as const satisfies Record<string, FieldTable>;

export type RecordKind = keyof typeof recordFields;

type FieldValue<Spec> = Spec extends `${FieldRole} ${infer Type}`
  ? Type extends `${infer Plain}?`
    ? FieldValues[Plain & FieldType] | undefined
    : FieldValues[Type & FieldType]
  : Spec extends readonly [infer Element]
    ? readonly FieldsOf<Element>[]
    : FieldsOf<Spec>;
type FieldsOf<Table> = { readonly [Field in keyof Table]: FieldValue<Table[Field]> };

/** A record of one kind, as it is in the file. */
export type RecordOf<Kind extends RecordKind> = FieldsOf<(typeof recordFields)[Kind]> & { readonly o: Kind };
/** An element of a record with `ops`. */
export type ElementOf<Kind extends RecordKind> =
  RecordOf<Kind> extends { readonly ops: readonly (infer E)[] } ? E : never;
export type RecordedLine = { readonly [Kind in RecordKind]: RecordOf<Kind> }[RecordKind];
