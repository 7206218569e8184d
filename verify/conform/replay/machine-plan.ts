// From the records to the machine that they were made on: its options, and its domains frame by frame.

import type { DeviceDescription, MachineOptions, MemoryLayout, Op, RulesName } from '../../../hypervisor/index.ts';
import { InputError } from '../../../machine/errors.ts';
import type { RecordOf } from '../recording/record-fields.ts';
import type { Recording } from '../recording/recording.ts';
import { frameOf, sbdfOf, wideOf } from './hex-value.ts';

type DomainRecord = RecordOf<'domain'>;
type CreateOp = Extract<Op, { op: 'create_domain' }>;

/** Frames of the hypervisor's own, for device tables; beyond the RAM of the recorded machine. */
const HYPERVISOR_FRAMES = 4096;
/** Of the emulated machine: registers of its VT-d unit; and HyperTransport's range, beyond which no address reaches. */
const KEPT_IO = [
  [0xfed90, 0xfed90],
  [0xfd00000, 2 ** 40 - 1],
] as const;
/** The first MiB of memory. */
const LOW_MEMORY = [0, 0xff] as const;
/** gfns of an HVM domain: those of its RAM, grant frames and window, and some behind them; and as many at the most. */
const GFNS = 1 << 17;
const GFNS_MAX = 1 << 29;
const HANDLES_PER_FRAME = 256;
/** The emulated unit remembers 1024 translations, and whatever contexts it saw. */
const IOTLB_ENTRIES = 1024;

/** What a domain turns out to be that is created at a place: its `domain` record, which comes later, if any does. */
export function domainRecord(recording: Recording, domain: number, at: number): DomainRecord | undefined {
  for (let next = at + 1; next < recording.records.length; next += 1) {
    const record = recording.records[next]!;
    if (record.o === 'domain' && record.id === domain) return record;
    if (record.o === 'createdomain' && record.id === domain) return undefined;
  }
  return undefined;
}

export function machineOptions(recording: Recording, rules: RulesName): MachineOptions {
  const { config, records } = recording;
  let domains = 1;
  let batchMax = 1;
  let grantFrames = config.gnttab.maxFrames;
  const devices: DeviceDescription[] = [];
  for (const record of records) {
    if (record.o === 'createdomain') {
      domains = Math.max(domains, record.id + 1);
      grantFrames = Math.max(grantFrames, record.max_grant_frames);
    } else if (record.o === 'pci') devices.push(deviceOf(record, config));
    else if (record.o === 'pci_device_add' && !isKnown(devices, record.bdf)) {
      devices.push({ device: sbdfOf(Number(record.bdf)), unit: 0, type: 'unknown' });
    } else if ('ops' in record) batchMax = Math.max(batchMax, record.ops.length);
    else if (record.o === 'memory_op') batchMax = Math.max(batchMax, record.in.length << (record.order ?? 0));
  }
  return {
    domains,
    frames: ramFrames(config),
    devices,
    units: [{ registers: { cap: wordsOf(config.unit.cap), ecap: wordsOf(config.unit.ecap) } }],
    grants: {
      grantFrames,
      maptrackFrames: maptrackFrames(recording),
      version: config.gnttab.maxVersion === 1 ? 1 : 2,
      transitive: config.gnttab.transitive,
      transfer: config.gnttab.transfer,
    },
    rules,
    policy: 'xen',
    maptrackOrder: 'fifo',
    windowPages: 0,
    gfns: gfnsOf(recording),
    batchMax,
    hypervisorFrames: HYPERVISOR_FRAMES,
    keptIo: KEPT_IO,
    ioFrames: [LOW_MEMORY],
    scrubFreed: false,
    caches: {
      kind: 'lru',
      shape: {
        contextCache: { entries: 256, ways: 256, replacement: 'lru' },
        iotlb: { entries: IOTLB_ENTRIES, ways: 8, replacement: 'lru' },
        level2: { entries: 4, ways: 4, replacement: 'lru' },
        level3: { entries: 4, ways: 4, replacement: 'lru' },
        level4: { entries: 4, ways: 4, replacement: 'lru' },
        // A write that hits a read-only entry is refused without another walk.
        rewalkOnPermissionMiss: false,
      },
    },
    reservedRegions: (config.reservedRegions ?? []).map(([first, last, of]) => ({
      firstFrame: frameOf(first),
      frames: frameOf(last) - frameOf(first) + 1,
      devices: of.map((bdf) => sbdfOf(Number(bdf))),
    })),
    iommu: {
      superpages: config.iommu.superpages,
      quarantine: config.iommu.quarantine,
      queuedInvalidation: config.iommu.qinval,
      ats: config.iommu.ats,
      hardwareDomain: config.dom0Iommu,
    },
  };
}

const isKnown = (devices: readonly DeviceDescription[], bdf: string): boolean =>
  devices.some(({ device }) => device === sbdfOf(Number(bdf)));

/** gfns that HVM domains use, by what records name. */
function gfnsOf({ records }: Recording): number {
  const translated = new Set<number>();
  let gfns = 0;
  const name = (domain: number, places: readonly string[], order = 0) => {
    if (!translated.has(domain)) return;
    for (const end of places.map((place) => frameOf(place) + (1 << order)))
      if (end <= GFNS_MAX) gfns = Math.max(gfns, end);
  };
  for (const record of records) {
    if (record.o === 'createdomain' && record.hvm === 1) {
      translated.add(record.id);
      gfns = Math.max(gfns, GFNS);
    } else if (record.o === 'populate') name(record.id, record.in ?? [], record.order);
    else if (record.o === 'memory_op') name(record.d, record.in, record.order);
    else if (record.o === 'add_to_physmap') name(record.d, [record.gfn]);
  }
  return gfns;
}

/** Frames of maptrack that a domain may come to need here: a limit that nobody can reach costs no memory. */
function maptrackFrames({ records }: Recording): number {
  let maps = 0;
  for (const record of records) if (record.o === 'map') maps += record.ops.length;
  return Math.ceil(maps / HANDLES_PER_FRAME) + 1;
}

function ramFrames(config: RecordOf<'config'>): number {
  const ends = config.e820
    .filter(([, , use]) => use === 'usable')
    .map(([, last]) => Math.floor(Number(last) / 4096) + 1);
  return Math.max(0, ...ends);
}

/** Low and high word of a register. */
export function wordsOf(hex: string): readonly [low: number, high: number] {
  const digits = hex.slice(2).padStart(16, '0');
  return [Number.parseInt(digits.slice(8), 16), Number.parseInt(digits.slice(0, 8), 16)];
}

function deviceOf(record: RecordOf<'pci'>, { phantoms, hidden }: RecordOf<'config'>): DeviceDescription {
  const bdf = Number(record.bdf);
  // The stride is said of a slot; only a function below it has functions beyond. xen: pci_add_device.
  const isOf = (slot: string, stride: number) => Number(slot) >>> 3 === bdf >>> 3 && stride > (bdf & 7);
  const phantomStride = phantoms?.find(([slot, stride]) => isOf(slot, stride))?.[1];
  return {
    device: sbdfOf(bdf),
    unit: 0,
    type: record.type,
    ...(record.secondary !== undefined && { secondary: record.secondary }),
    ...(record.subordinate !== undefined && { subordinate: record.subordinate }),
    ats: record.ats,
    ...(phantomStride !== undefined && { phantomStride }),
    ...(hidden?.some((other) => Number(other) === bdf) && { hidden: true }),
  };
}

/** The operation that builds the hardware domain, which is there from the start. @throws InputError when it is not. */
export function hardwareDomainOp(recording: Recording, found: DomainRecord | undefined): CreateOp {
  const { config, file } = recording;
  if (!found) {
    const expected = 'expected a "domain" record of domain 0 that says what its memory is';
    throw new InputError('RECORDING_DOMAIN', { file, line: 1 }, expected);
  }
  return {
    op: 'create_domain',
    domain: 0,
    kind: 'pv',
    iommu: found.cdf_iommu === 1,
    memory: pvMemory(found, config),
    grantFrames: found.maxGrantFrames,
    maptrackFrames: Math.min(found.maxMaptrackFrames, maptrackFrames(recording)),
    grantVersion: config.gnttab.maxVersion === 1 ? 1 : 2,
    maxPages: found.maxPages,
    hardware: true,
  };
}

/** The operation that builds another domain, complete with the memory that its `domain` record says it has. */
export function domainOp(
  recording: Recording,
  record: RecordOf<'createdomain'>,
  found: DomainRecord | undefined,
): CreateOp {
  const isHvm = record.hvm === 1;
  const limit = (asked: number, given: number | undefined) => (asked < 0 ? (given ?? 0) : asked);
  const maptrack = limit(record.max_maptrack_frames, found?.maxMaptrackFrames);
  return {
    op: 'create_domain',
    domain: record.id,
    kind: isHvm ? 'hvm' : 'pv',
    iommu: record.cdf_iommu === 1,
    grantFrames: limit(record.max_grant_frames, found?.maxGrantFrames),
    maptrackFrames: Math.min(maptrack, maptrackFrames(recording)),
    grantVersion: record.gver as 1 | 2,
    ...(isHvm && record.sharept === 1 && record.cdf_iommu === 1 ? { sharedTables: true } : {}),
    ...(found && { memory: isHvm ? hvmMemory(found) : pvMemory(found, null), maxPages: found.maxPages }),
  };
}

function pvMemory(found: DomainRecord, hardware: RecordOf<'config'> | null): MemoryLayout {
  return {
    ram: found.ram.map(([first, last]) => [frameOf(first), frameOf(last)]),
    pageTables: (found.pt ?? []).map(([frame, level]) => [frameOf(frame), level]),
    mapped: (found.l1 ?? []).map(([first, last]) => [wideOf(first), wideOf(last)]),
    mappings: (found.va ?? []).map(([va, frame, count, step, access]) => [
      wideOf(va),
      frameOf(frame),
      count,
      step,
      access ?? 'rw',
    ]),
    grantFrames: found.gtmfn.slice(0, 1).map(frameOf),
    heapFrames:
      typeof found.sharedInfo === 'string' && found.sharedInfo.startsWith('0x') ? [frameOf(found.sharedInfo)] : [],
    ...(hardware && {
      identity: identityOf(hardware),
    }),
  };
}

/** What is mapped for the hardware domain beside its memory, but for the reserved regions, which come with devices. */
function identityOf({ dom0Identity, reservedRegions = [] }: RecordOf<'config'>): MemoryLayout['identity'] & object {
  const whole = dom0Identity.map(([first, last, access]) => [frameOf(first), frameOf(last), access] as const);
  return reservedRegions.reduce(
    (ranges, [start, end]) =>
      ranges.flatMap(([first, last, access]) =>
        [
          [first, Math.min(last, frameOf(start) - 1), access] as const,
          [Math.max(first, frameOf(end) + 1), last, access] as const,
        ].filter(([from, to]) => from <= to),
      ),
    whole,
  );
}

function hvmMemory(found: DomainRecord): MemoryLayout {
  const tableGfns = new Set(found.gtmfn);
  const p2m = found.p2m ?? [];
  return {
    p2m: p2m
      .filter(([gfn]) => !tableGfns.has(gfn))
      .map(([gfn, frame, count, step]) => [frameOf(gfn), frameOf(frame), count, step]),
    grantFrames: found.gtmfn.slice(0, 1).flatMap((gfn) => {
      const frame = frameAt(found, gfn);
      return frame === null ? [] : [frame];
    }),
  };
}

/** The frame that a gfn of an HVM domain was found to be; null for one that it is not known to have. */
export function frameAt(found: DomainRecord, gfn: string): number | null {
  const wanted = frameOf(gfn);
  for (const [first, frame, count, step] of found.p2m ?? []) {
    const at = wanted - frameOf(first);
    if (at >= 0 && at < count) return frameOf(frame) + at * step;
  }
  return null;
}
