// The state around a disagreement, limited to what the operation names: for each kind of record, and for each field
// that names something of its own.

import type { ElementOf, RecordedLine, RecordKind, RecordOf } from './recording/record-fields.ts';
import { sbdfOf, wideOf } from './replay/hex-value.ts';
import type { MachineProbe, SharedEntry } from './replay/machine-probe.ts';
import type { Disagreement, Observed } from './tally.ts';

const DOMID_SELF = 0x7ff0;
const PIN_NAMES = ['host write', 'host read', 'device write', 'device read'];
const RIGHTS = ['nothing', 'reads', 'writes', 'reads and writes'];
/** Elements of a batch that are told of where the disagreement is not in one of them, and items of a list. */
const TOLD = 4;

type Explain<Kind extends RecordKind> = (probe: MachineProbe, record: RecordOf<Kind>) => readonly string[];

const explainHandles = (probe: MachineProbe, { d, ops }: RecordOf<'unmap' | 'unmap_and_replace'>) =>
  ops.flatMap(({ h }) => aboutHandle(probe, d, h));
const explainTables = (
  probe: MachineProbe,
  { d, ops }: RecordOf<'setup_table' | 'get_status_frames' | 'query_size' | 'get_version'>,
) => ops.map(({ dom }) => aboutTable(probe, owner(d, dom)));
const explainDevice = (
  probe: MachineProbe,
  { bdf, dom }: RecordOf<'assign' | 'test_assign' | 'deassign' | 'nicgood'>,
) => [aboutOwner(probe, bdf), aboutDomain(probe, dom)];
const explainAccess = (probe: MachineProbe, { bdf, addr }: RecordOf<'dma' | 'dma_raw'>) => [
  aboutOwner(probe, bdf),
  ...aboutDevice(probe, probe.deviceOwner(sbdfOf(Number(bdf))) ?? -1, frameAt(addr)),
  aboutFrame(probe, frameAt(addr)),
];
const explainAddress = (probe: MachineProbe, { d, va }: RecordOf<'update_va_mapping' | 'unmap_own'>) =>
  aboutAddress(probe, d, va);

/** What each kind of record names: entries, pins, handles, frames, gfns, devices. */
const explainers: { readonly [Kind in RecordKind]?: Explain<Kind> } = {
  boot: (probe) => [aboutDomain(probe, 0)],
  createdomain: (probe, { id }) => [aboutDomain(probe, id)],
  populate: (probe, { id, in: list }) => [aboutDomain(probe, id), ...aboutPlaces(probe, id, list ?? [])],
  pin_l4: (probe, { id }) => [aboutDomain(probe, id)],
  domain: (probe, { id }) => [aboutDomain(probe, id), aboutTable(probe, id)],
  info: (probe, { d }) => [aboutDomain(probe, d)],
  p2m: (probe, { d, gfn }) => aboutPlaces(probe, d, [gfn]),
  gset: (probe, { d, ref }) => [aboutTable(probe, d), ...aboutRef(probe, d, ref)],
  map: (probe, { d, ops }) => ops.flatMap((element) => aboutMap(probe, d, element)),
  unmap: explainHandles,
  unmap_and_replace: explainHandles,
  copy: (probe, { d, ops }) =>
    ops.flatMap(({ sg, s, sdom, dg, dd, ddom }) => [
      ...aboutEnd(probe, owner(d, sdom), sg, s),
      ...aboutEnd(probe, owner(d, ddom), dg, dd),
    ]),
  transfer: (probe, { d, ops }) =>
    ops.flatMap(({ mfn, dom, ref }) => [aboutFrame(probe, Number(mfn)), ...aboutRef(probe, owner(d, dom), ref)]),
  swap_grant_ref: (probe, { d, ops }) => ops.flatMap(({ a, b }) => [a, b].flatMap((ref) => aboutRef(probe, d, ref))),
  cache_flush: (probe, { d, ops }) => [aboutDomain(probe, d), ...ops.map(({ a }) => aboutFrame(probe, frameAt(a)))],
  entry: (probe, { d, ref }) => aboutRef(probe, d, ref),
  setup_table: explainTables,
  get_status_frames: explainTables,
  query_size: explainTables,
  get_version: explainTables,
  set_version: (probe, { d }) => [aboutTable(probe, d)],
  raw: (probe, { d }) => [aboutDomain(probe, d), aboutTable(probe, d)],
  assign: explainDevice,
  test_assign: explainDevice,
  deassign: explainDevice,
  pci_device_remove: (probe, { bdf }) => [aboutOwner(probe, bdf)],
  pci_device_add: (probe, { bdf }) => [aboutOwner(probe, bdf)],
  destroydomain: (probe, { id }) => [aboutDomain(probe, id)],
  update_va_mapping: explainAddress,
  unmap_own: explainAddress,
  map_foreign: (probe, { d, va, dom, frame }) => [
    ...aboutAddress(probe, d, va),
    ...aboutPlaces(probe, owner(d, dom), [frame]),
  ],
  mmuext: (probe, { mfn }) => [aboutFrame(probe, Number(mfn))],
  memory_op: (probe, { d, in: list }) => [aboutDomain(probe, d), ...aboutPlaces(probe, d, list)],
  add_to_physmap: (probe, { d, gfn }) => [aboutTable(probe, d), ...aboutPlaces(probe, d, [gfn])],
  remove_from_physmap: (probe, { d, gfn }) => aboutPlaces(probe, d, [gfn]),
  owners: (probe, { devices }) => (devices ?? []).slice(0, TOLD).map(([bdf]) => aboutOwner(probe, bdf)),
  nicdma: () => ['a fetch of a descriptor asks for no invalidation'],
  dma: explainAccess,
  dma_raw: explainAccess,
  nicgood: explainDevice,
  poke: (probe, { frame }) => [aboutFrame(probe, Number(frame))],
  peek: (probe, { mfn }) => [aboutFrame(probe, Number(mfn))],
  win: (probe, { frame, dom }) => (frame === null ? [] : aboutPlaces(probe, dom ?? 0, [frame])),
  watch: (probe, { d }) => [aboutDomain(probe, d)],
};

/** Fields that name something themselves. */
const named: readonly (readonly [
  field: RegExp,
  explain: (probe: MachineProbe, match: RegExpExecArray, of: Disagreement) => readonly string[],
])[] = [
  [/^devices\[(0x\w+)\]/, (probe, [, bdf]) => [aboutOwner(probe, bdf!)]],
  [/^gt\[(\d+),(\d+)\]/, (probe, [, domain, ref]) => aboutRef(probe, Number(domain), Number(ref))],
  [/^mem\[(\d+),(0x\w+)\]/, (probe, [, domain, frame]) => aboutPlaces(probe, Number(domain), [frame!])],
  [/^iommu\[/, (probe, _, { expected, got }) => [expected, got].flatMap((side) => aboutDescriptor(probe, side))],
];

/** Lines about what a record and a field of it name, as it is in the model now. */
export function explain(probe: MachineProbe, record: RecordedLine, disagreement: Disagreement): string[] {
  const { field } = disagreement;
  const explainer = explainers[record.o] as Explain<RecordKind> | undefined;
  const lines = [...(explainer?.(probe, limited(record, field) as RecordOf<RecordKind>) ?? [])];
  for (const [pattern, explainField] of named) {
    const match = pattern.exec(field);
    if (match) lines.push(...explainField(probe, match, disagreement));
  }
  return [...new Set(lines)];
}

/** The record with that element alone which disagrees, or with the first few. */
function limited(record: RecordedLine, field: string): RecordedLine {
  if (!('ops' in record)) return record;
  const only = /^ops\[(\d+)\]/.exec(field)?.[1];
  const ops = only === undefined ? record.ops.slice(0, TOLD) : [record.ops[Number(only)]!];
  return { ...record, ops } as RecordedLine;
}

const owner = (caller: number, domain: number): number => (domain === DOMID_SELF ? caller : domain);
const hex = (value: number): string => `0x${value.toString(16)}`;
const frameAt = (address: string): number => Math.floor(Number(address) / 4096);

function aboutMap(probe: MachineProbe, mapper: number, { dom, ref, host }: ElementOf<'map'>): string[] {
  const granter = owner(mapper, dom);
  const entry = probe.entry(granter, ref);
  const lines = aboutRef(probe, granter, ref);
  if (!entry) return lines;
  const dfn = probe.isHvm(mapper) ? frameAt(host) : entry.frame[0];
  return [...lines, ...aboutDevice(probe, mapper, dfn)];
}

/** One end of a copy. */
const aboutEnd = (probe: MachineProbe, domain: number, isRef: number, place: string): string[] =>
  isRef === 1 ? aboutRef(probe, domain, Number(place)) : aboutPlaces(probe, domain, [place]);

function aboutRef(probe: MachineProbe, domain: number, ref: number): string[] {
  const entry = probe.entry(domain, ref);
  if (!entry) return [`domain ${domain} has no ref ${ref}`];
  return [`domain ${domain} ref ${ref}: ${entryText(entry)}; ${pinText(probe, domain, ref)}`];
}

function entryText({ flags, grantee, status, frame }: SharedEntry): string {
  return `flags ${hex(flags)} status ${hex(status)}, for domain ${grantee}, frame ${hex(frame[0])}`;
}

function pinText(probe: MachineProbe, domain: number, ref: number): string {
  const pins = probe.pins(domain, ref);
  if (pins === 0) return 'not pinned';
  const counts = PIN_NAMES.map((name, at) => `${(pins >>> (8 * at)) & 0xff} ${name}`);
  return `pinned to frame ${hex(probe.activeFrame(domain, ref))}: ${counts.join(', ')}`;
}

function aboutHandle(probe: MachineProbe, mapper: number, handle: number): string[] {
  const found = probe.handle(mapper, handle);
  if (!found) return [`handle ${handle} of domain ${mapper}: not live`];
  const { domain, ref, flags } = found;
  const line = `handle ${handle} of domain ${mapper}: domain ${domain} ref ${ref}, flags ${flags}`;
  return [line, ...aboutRef(probe, domain, ref)];
}

function aboutDevice(probe: MachineProbe, domain: number, dfn: number): string[] {
  if (!probe.domain(domain)) return [];
  const entry = probe.deviceEntry(domain, dfn);
  if (!entry) return [`domain ${domain} has no device tables`];
  const frame = entry.rights === 0 ? '' : ` of ${hex(entry.frame)}`;
  return [`devices of domain ${domain} at ${hex(dfn)}: ${RIGHTS[entry.rights & 3]}${frame}`];
}

/** What a descriptor invalidates, if it names a domain. */
function aboutDescriptor(probe: MachineProbe, side: Observed): string[] {
  if (typeof side !== 'object' || side === null) return [];
  const { did, addr } = side as { readonly did?: number; readonly addr?: string };
  if (typeof did !== 'number') return [];
  const domain = probe.domainOfDid(did);
  const whose = `did ${did}: ${probe.domain(domain) ? `domain ${domain}` : 'of no domain'}`;
  return typeof addr === 'string' ? [whose, ...aboutDevice(probe, domain, frameAt(addr))] : [whose];
}

function aboutFrame(probe: MachineProbe, frame: number): string {
  const found = probe.frame(frame);
  if (!found) return `frame ${hex(frame)}: free, or no frame`;
  const types = found.types === 0 ? 'no type' : `${found.types} as ${found.type}`;
  return `frame ${hex(frame)}: of domain ${found.owner}, ${found.references} references, ${types}`;
}

/** Frames of a PV domain; of an HVM domain gfns, and the frames there. */
function aboutPlaces(probe: MachineProbe, domain: number, places: readonly string[]): string[] {
  return places.slice(0, TOLD).flatMap((place) => {
    const at = Number(place);
    if (!probe.isHvm(domain)) return [aboutFrame(probe, at)];
    const frame = probe.frameAtGfn(domain, at);
    const gfn = `gfn ${hex(at)} of domain ${domain}: `;
    return frame === null ? [`${gfn}a hole`] : [`${gfn}${probe.gfnType(domain, at)}`, aboutFrame(probe, frame)];
  });
}

function aboutAddress(probe: MachineProbe, domain: number, address: `0x${string}`): string[] {
  const entry = probe.pageEntry(domain, wideOf(address));
  if (!entry) return [`${address} of domain ${domain}: no L1 table`];
  const [low, high] = entry;
  const text = `${address} of domain ${domain}: entry ${hex(low + high * 0x100000000)}`;
  return (low & 1) === 0 ? [text] : [text, aboutFrame(probe, (low >>> 12) + high * 0x100000)];
}

function aboutOwner(probe: MachineProbe, bdf: string): string {
  const device = sbdfOf(Number(bdf));
  const found = probe.deviceOwner(device);
  return `device ${device}: ${found === undefined ? 'none' : found === null ? "nobody's" : `of domain ${found}`}`;
}

function aboutDomain(probe: MachineProbe, domain: number): string {
  const found = probe.domain(domain);
  if (!found) return `no domain ${domain}`;
  const tables = found.iommu ? 'with device tables' : 'without device tables';
  return `domain ${domain}: ${found.kind}, ${found.state}, ${probe.totalPages(domain)} pages, ${tables}`;
}

const aboutTable = (probe: MachineProbe, domain: number): string =>
  probe.domain(domain)
    ? `table of domain ${domain}: version ${probe.version(domain)}, ${probe.tableFrames(domain).shared.length} frames`
    : `no domain ${domain}`;
