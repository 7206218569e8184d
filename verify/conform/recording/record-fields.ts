// The records of a recording of real Xen, kind by kind: each field's role in a replay, and its type. The one place
// where this is written down: reading, comparing and types follow it.

import type { FieldType, FieldValues } from './field-values.ts';

/**
 * What a replay does with a field.
 * - `input`: drives the model.
 * - `adopted`: taken over by the model where it depends on the machine (numbers of frames); then the model's own.
 * - `compared`: the model must give exactly this. Never adopted.
 * - `checked`: must be as the model takes for granted, or as other fields say; otherwise the file is refused.
 * - `ignored`: for people, or said by other fields too.
 */
export type FieldRole = 'input' | 'adopted' | 'compared' | 'checked' | 'ignored';

/** Role and type of a field; `?` where it may be missing. */
export type FieldSpec = `${FieldRole} ${FieldType}${'' | '?'}`;
/** A record or an object in it. A list of one: any number of such objects. */
export interface FieldTable {
  readonly [field: string]: FieldSpec | FieldTable | readonly [FieldTable];
}

const logged = { xen: 'ignored any?', regs: 'ignored any?' } as const;
/** Between two markers in the log of the machine. */
const bracketed = { s: 'ignored any?', rc: 'compared int', iommu: 'compared descriptors', ...logged } as const;
/** A grant hypercall of domain `d` on `n` elements. */
const hypercall = { ...bracketed, d: 'input half', n: 'checked word', gt: 'compared changes?' } as const;
/** One that takes one element, whatever count it names. */
const single = { ...hypercall, n: 'input word' } as const;
const byDomain = { ...bracketed, d: 'input half' } as const;
const ofDomain = { ...bracketed, id: 'input half' } as const;
/** No hypercall of its own: nothing may reach the unit. (What a window does that dom0 opens is not recorded.) */
const quiet = { iommu: 'compared descriptors?' } as const;

export const recordFields = {
  config: {
    recording: 'checked word',
    /** A version, or a commit; then `xenVersion` says which version. */
    xen: 'input text',
    xenVersion: 'input text?',
    debug: 'checked bool',
    /** What the unit can do stands in `unit` too, and Xen uses no more of it. */
    qemuVtd: {
      cachingMode: 'checked bool',
      awBits: 'checked word',
      deviceIotlb: 'checked bool',
      intremap: 'ignored bool?',
    },
    iommu: {
      intremap: 'checked bool?',
      qinval: 'input bool',
      superpages: 'input bool',
      quarantine: 'input quarantine',
      ats: 'input bool',
    },
    dom0Iommu: 'input hardwareDomain',
    gnttab: {
      maxVersion: 'input word',
      transitive: 'input bool',
      transfer: 'input bool',
      maxFrames: 'input word',
      maxMaptrackFrames: 'checked word',
    },
    unit: {
      cap: 'input hex',
      ecap: 'input hex',
      // Bits of these.
      nd: 'checked word?',
      rwbf: 'checked bit?',
      cm: 'checked bit?',
      sagaw: 'checked word?',
      mgaw: 'checked word?',
      sllps: 'checked word?',
      psi: 'checked bit?',
      nfr: 'checked word?',
      mamv: 'checked word?',
      dwd: 'checked bit?',
      drd: 'checked bit?',
      c: 'checked bit?',
      qi: 'checked bit?',
      dt: 'checked bit?',
      ir: 'ignored bit?',
      pt: 'checked bit?',
      sc: 'checked bit?',
    },
    e820: 'input memory',
    dom0Identity: 'input identity',
    xenVaRange: 'checked hexes',
    noncanonical: 'checked hexes',
    cpu: { vendor: 'checked text', hvm: 'checked textOrNull' },
    /** In the order of the command line (xen: rmrr=, pci-phantom=); and what the hypervisor keeps as its console. */
    reservedRegions: 'input regions?',
    phantoms: 'input strides?',
    hidden: 'input hexes?',
  },
  /** What the unit was told until dom0 ran. */
  boot: { iommu: 'compared descriptors' },
  header: {},
  label: { t: 'ignored text' },
  note: { t: 'ignored text' },
  end: {},
  die: {},
  pci: {
    seg: 'checked word?',
    bdf: 'input hex',
    type: 'input device',
    secondary: 'input word?',
    subordinate: 'input word?',
    ats: 'input bool',
    id: 'ignored any?',
  },
  /** Its registers are no memory: a bad frame to grant. */
  edu: { bdf: 'checked hex', bar: 'checked hex', ident: 'ignored any?' },
  createdomain: {
    ...ofDomain,
    hvm: 'input bit?',
    hap: 'checked bit?',
    sharept: 'input bit?',
    cdf_iommu: 'input bit',
    /** Below 0: the default, which the domain's own record tells. */
    max_grant_frames: 'input int',
    max_maptrack_frames: 'input int',
    gver: 'input word',
  },
  populate: {
    ...ofDomain,
    n: 'input word?',
    order: 'input word?',
    in: 'input hexes?',
    mfn: 'adopted hex?',
    t: 'ignored text?',
  },
  pin_l4: ofDomain,
  win: { va: 'input hex', frame: 'input hexOrNull', dom: 'input half?', rw: 'input bit?' },
  watch: { d: 'input half', first: 'input word', n: 'input word' },
  domain: {
    ...quiet,
    id: 'input half',
    hvm: 'input bit',
    cdf_iommu: 'input bit',
    data: 'adopted hexes',
    gtmfn: 'adopted hexes',
    statusFrames: 'ignored any?',
    ram: 'adopted spans',
    va: 'adopted runs?',
    pt: 'adopted levels?',
    l1: 'input spans?',
    nol1: 'ignored any?',
    window: 'ignored any?',
    l1win: 'ignored any?',
    p2m: 'adopted runs?',
    tot_pages: 'compared word',
    maxGrantFrames: 'input word',
    maxMaptrackFrames: 'input word',
    maxGrantVersion: 'checked word?',
    maxPages: 'input word',
    version: 'checked word',
    dataFill: { len: 'input word', base: 'input word' },
    sharedInfo: 'adopted any?',
    startInfo: 'ignored any?',
    argBuffer: 'ignored any?',
  },
  info: { ...quiet, d: 'input half', tot_pages: 'compared word' },
  p2m: {
    ...quiet,
    d: 'input half',
    gfn: 'input hex',
    mfn: 'compared hexOrNull',
    rc: 'compared int?',
    t: 'ignored text?',
  },
  gset: {
    ...quiet,
    d: 'input half',
    v: 'input word',
    ref: 'input word',
    flags: 'input half',
    domid: 'input half',
    frame: 'input hex',
    off: 'input half',
    len: 'input half',
    tdom: 'input half',
    tref: 'input word',
  },
  map: {
    ...hypercall,
    ops: [
      {
        flags: 'input word',
        dom: 'input half',
        ref: 'input word',
        host: 'input hex',
        hk: 'ignored text?',
        st: 'compared int',
        h: 'compared word',
        dev: 'compared hex',
      },
    ],
  },
  unmap: {
    ...hypercall,
    ops: [{ host: 'input hex', dev: 'input hex', h: 'input word', hk: 'ignored text?', st: 'compared int' }],
  },
  unmap_and_replace: {
    ...hypercall,
    ops: [
      {
        host: 'input hex',
        new: 'input hex',
        h: 'input word',
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
        sg: 'input bit',
        s: 'input hex',
        sdom: 'input half',
        soff: 'input half',
        dg: 'input bit',
        dd: 'input hex',
        ddom: 'input half',
        doff: 'input half',
        len: 'input half',
        flags: 'input half',
        st: 'compared int',
      },
    ],
    mem: 'compared contents?',
  },
  transfer: {
    ...hypercall,
    ops: [{ mfn: 'input hex', dom: 'input half', ref: 'input word', st: 'compared int' }],
  },
  entry: {
    ...quiet,
    d: 'input half',
    ref: 'input word',
    flags: 'compared half',
    st: 'compared half',
    frame: 'compared hex',
  },
  setup_table: {
    ...single,
    ops: [{ dom: 'input half', nr: 'input word', ptr: 'input pointer', st: 'compared int', frames: 'compared hexes' }],
  },
  get_status_frames: {
    ...single,
    ops: [{ dom: 'input half', nr: 'input word', st: 'compared int', frames: 'compared hexes' }],
  },
  query_size: {
    ...single,
    ops: [{ dom: 'input half', st: 'compared int', nr: 'compared word', max: 'compared word' }],
  },
  get_version: { ...single, ops: [{ dom: 'input half', version: 'compared word' }] },
  set_version: { ...single, ops: [{ req: 'input word', version: 'compared word' }] },
  swap_grant_ref: { ...hypercall, ops: [{ a: 'input word', b: 'input word', st: 'compared int' }] },
  cache_flush: {
    ...hypercall,
    ops: [{ a: 'input hex', off: 'input half', len: 'input half', op: 'input word' }],
  },
  raw: {
    ...byDomain,
    cmd: 'input word',
    n: 'input word',
    ptr: 'input pointer',
    what: 'ignored text?',
    addr: 'ignored hex?',
  },
  assign: { ...bracketed, dom: 'input half', bdf: 'input hex', flags: 'input word?' },
  test_assign: { ...bracketed, dom: 'input half', bdf: 'input hex', flags: 'input word?' },
  deassign: { ...bracketed, dom: 'input half', bdf: 'input hex', flags: 'input word?' },
  pci_device_remove: { ...bracketed, bdf: 'input hex' },
  pci_device_add: { ...bracketed, bdf: 'input hex' },
  /** Who has each device, as Xen tells it. */
  owners: { ...quiet, devices: 'compared owners?', rc: 'ignored int?', t: 'ignored text?', xen: 'ignored any?' },
  /** Free pages of the hypervisor: as many as its own allocations take. */
  heap: { free_pages: 'ignored word', delta: 'ignored int', t: 'ignored text?' },
  destroydomain: { ...ofDomain, gt: 'compared changes?' },
  update_va_mapping: { ...byDomain, va: 'input hex', pte: 'input hex', mfn: 'ignored any?', t: 'ignored any?' },
  map_foreign: {
    ...byDomain,
    va: 'input hex',
    frame: 'input hex',
    dom: 'input half',
    rw: 'input bit',
    t: 'ignored any?',
  },
  unmap_own: { ...byDomain, va: 'input hex', mfn: 'ignored any?', t: 'ignored any?' },
  mmuext: { ...byDomain, cmd: 'input word', mfn: 'input hex', t: 'ignored any?' },
  memory_op: {
    ...byDomain,
    n: 'checked word',
    cmd: 'input word',
    order: 'input word?',
    in: 'input hexes',
    out: 'compared hexes',
    t: 'ignored any?',
  },
  add_to_physmap: { ...byDomain, space: 'input word', idx: 'input count', gfn: 'input hex', t: 'ignored any?' },
  remove_from_physmap: { ...byDomain, gfn: 'input hex', t: 'ignored any?' },
  dma: {
    s: 'ignored any?',
    bdf: 'input hex',
    addr: 'input hex',
    len: 'input word',
    w: 'input bit',
    cpu: 'input bytes',
    faultKnown: 'input bool',
    faults: 'compared faults?',
    written: 'compared bit?',
    read_data_ok: 'compared int?',
    mem: 'compared bytes?',
    why: 'ignored text?',
    /** Whose page a processor looks at through a window; the device may have another. */
    owner: 'input half?',
    iommu: 'compared descriptors',
    ...logged,
  },
  /** As `dma`, and nothing is looked at but the fault; `buffer` is the place in the device's own memory. */
  dma_raw: {
    s: 'ignored any?',
    bdf: 'input hex',
    addr: 'input hex',
    len: 'input word',
    w: 'input bit',
    buffer: 'input hex?',
    faults: 'compared faults?',
    why: 'ignored text?',
    iommu: 'compared descriptors',
    ...logged,
  },
  /** A network card fetches one descriptor of its ring in domain `dom`'s data, and writes back that it has. */
  nicgood: {
    s: 'ignored any?',
    bdf: 'input hex',
    dom: 'input half',
    busmaster: 'input bit',
    descriptor_done_written: 'compared bit',
    why: 'ignored text?',
    iommu: 'compared descriptors',
    ...logged,
  },
  /** One of a burst of fetches that fault. When, by its own clock, and from where is not told. */
  nicdma: {
    s: 'ignored any?',
    bdf: 'ignored hex?',
    i: 'ignored word',
    t_us: 'ignored word?',
    busmaster_after: 'ignored bit',
    faults: 'ignored faults?',
    iommu: 'compared descriptors',
    ...logged,
  },
  cmdreg: { bdf: 'ignored hex', value: 'ignored hex', busmaster: 'ignored bit', t: 'ignored text?' },
  poke: {
    ...quiet,
    d: 'ignored any?',
    frame: 'input hex',
    off: 'input word',
    len: 'input word',
    val: 'input hex?',
    byte: 'input word?',
  },
  peek: { ...quiet, mfn: 'input hex', off: 'input word', val: 'compared hex', t: 'ignored text?' },
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
