// What a machine is made of. Every size is a parameter, so that the same code serves a proof on two frames and a
// benchmark on a million.

import type { GrantLimits, GrantOptions, MaptrackOrder } from '../grant/index.ts';
import {
  type BeyondReach,
  type CacheShape,
  type Capabilities,
  type CapabilityRegisters,
  capabilitiesWith,
  type DomainIdSpaces,
  defaultLruShape,
  encodeCapabilities,
  type FlushPolicy,
  type LruShape,
  policyNamed,
  type Release,
  type ReservedRegion,
} from '../passthrough/index.ts';
import { checkDevices, checkRegions } from './devices/descriptions.ts';
import {
  between,
  type Check,
  checkFields,
  device,
  type Fields,
  fieldList,
  flag,
  index,
  listOf,
  object,
  oneOf,
  oneWord,
  optional,
  record,
  text,
  tuple,
  word,
} from './door/field-checks.ts';
import type { FrameRange } from './door/memory-op.ts';
import { type Rules, type RulesName, ruleChecks, rulesNamed } from './rules.ts';

/** A VT-d unit: capabilities in words, or register values of a real one. */
export type UnitDescription =
  | { readonly capabilities?: Partial<Capabilities> }
  | { readonly registers: CapabilityRegisters };

export interface DeviceDescription {
  /** `0000:03:00.0`. */
  readonly device: string;
  /** Index of the unit that it is behind. */
  readonly unit: number;
  /** What it is, as far as its context entries depend on it; an endpoint by default. */
  readonly type?: DeviceType;
  /** Bridges: the first and last bus behind it. */
  readonly secondary?: number;
  readonly subordinate?: number;
  /** Whether it has a device TLB (ATS). */
  readonly ats?: boolean;
  /** It uses the ids of functions of its slot besides its own, so far apart: 1, 2 or 4 (xen: pci-phantom=). */
  readonly phantomStride?: number;
  /** A virtual function: the function that it belongs to. */
  readonly physicalFunction?: string;
  /** The hypervisor keeps it to itself, as its console (xen: pci_hide_device). */
  readonly hidden?: boolean;
}

/** A range that firmware wants mapped one to one for devices (ACPI: RMRR); its frames are nobody's memory. */
export type { ReservedRegion } from '../passthrough/index.ts';

/** xen: enum pdev_type. `pci-endpoint` is conventional PCI; `unknown`: no function answers there. */
export type DeviceType =
  | 'endpoint'
  | 'pci-endpoint'
  | 'host-bridge'
  | 'root-port'
  | 'pcie-to-pci-bridge'
  | 'pci-bridge'
  | 'unknown';

/** Limits of every domain, its highest table version, and boot options (xen: gnttab=). */
export interface GrantSettings extends GrantLimits, GrantOptions {
  readonly version: 1 | 2;
}

/** Boot options of the hypervisor that are about its IOMMU driver. */
export interface IommuOptions {
  /** Large leaves where a whole table is contiguous (xen: iommu=superpages). */
  readonly superpages: boolean;
  /** Tables without entries are taken out and freed (Xen since 4.17). */
  readonly reclaimTables: boolean;
  /** Where a device goes that leaves a guest (xen: iommu=quarantine). */
  readonly quarantine: 'none' | 'basic' | 'scratch';
  /** Invalidations go through queues, where the units have them (xen: iommu=qinval). */
  readonly queuedInvalidation: boolean;
  /** Device TLBs are used (xen: ats). */
  readonly ats: boolean;
  /**
   * What the hardware domain's devices reach: its own frames and grants; all of memory, from boot on; whatever they
   * like, untranslated (xen: dom0-iommu=strict, relaxed, passthrough).
   */
  readonly hardwareDomain: 'strict' | 'relaxed' | 'passthrough';
  /** Each unit has domain ids of its own, or the platform has those of its smallest unit (before 2009: b9c20c7878). */
  readonly domainIds: DomainIdSpaces;
  /**
   * What becomes of device frames beyond the width of a unit that serves the domain, or would with a device: they are
   * mapped, and unseen behind that unit, as recorded of Xen; or mapping and device are refused with -EFAULT, as in
   * Linux of 2008 (intel_iommu_map, attach).
   */
  readonly beyondReach: BeyondReach;
}

/** Options of a machine; whatever is left out has the default below. */
export interface MachineOptions {
  /** Domains that there may be: domids 0 to one less. */
  readonly domains?: number;
  /** Frames of RAM. */
  readonly frames?: number;
  readonly vcpus?: number;
  readonly units?: readonly UnitDescription[];
  readonly devices?: readonly DeviceDescription[];
  readonly grants?: Partial<GrantSettings>;
  /** A version of Xen, by the name of a preset, or decisions of one's own. */
  readonly rules?: RulesName | Rules;
  readonly maptrackOrder?: MaptrackOrder;
  /** Pages of each PV domain's window for host mappings, and gfns of each HVM domain. */
  readonly windowPages?: number;
  readonly gfns?: number;
  /** A shipped policy's name, or a policy. */
  readonly policy?: string | FlushPolicy;
  readonly release?: Release;
  readonly caches?:
    | { readonly kind: 'adversary'; readonly mayEntries?: number }
    | { readonly kind: 'lru'; readonly shape?: LruShape };
  /** Translated accesses that may wait to be performed. */
  readonly dmaSlots?: number;
  /** Elements of a batch, and records of a flush queue (a power of two). */
  readonly batchMax?: number;
  readonly flushQueue?: number;
  readonly iommu?: Partial<IommuOptions>;
  /**
   * Frames behind the RAM for the hypervisor's own use, tables above all. 0 (the default): it takes them from RAM, as
   * domains do, so that a freed table can become a domain's page.
   */
  readonly hypervisorFrames?: number;
  /**
   * Whether frames that a living domain gives back are cleared (xen: scrub-domheap). Xen leaves them as they are unless
   * told so; true is the default all the same, for a machine has fewer states then. Frames of domains that died, and
   * those lost in a transfer, always are.
   */
  readonly scrubFreed?: boolean;
  /**
   * Frames beyond memory, `[first, last]`, that the hypervisor keeps to itself: registers of its units above all. The
   * range of interrupt messages always is. xen: dom0_setup_permissions.
   */
  readonly keptIo?: readonly FrameRange[];
  /**
   * Frames of memory, `[first, last]`, that count as I/O memory: no domain's, and the hardware domain may map them.
   * Those of reserved regions always do. xen: arch_init_memory, of the first MiB.
   */
  readonly ioFrames?: readonly FrameRange[];
  readonly reservedRegions?: readonly ReservedRegion[];
}

export const defaultIommuOptions: IommuOptions = Object.freeze({
  superpages: true,
  reclaimTables: true,
  quarantine: 'basic',
  queuedInvalidation: true,
  ats: false,
  hardwareDomain: 'strict',
  domainIds: 'per-unit',
  beyondReach: 'unseen',
});

const defaultGrantSettings: GrantSettings = Object.freeze({
  grantFrames: 1,
  maptrackFrames: 1,
  version: 2,
  transitive: true,
  transfer: true,
});

/** Options with every default filled in. */
export interface MachineConfig {
  readonly domains: number;
  readonly frames: number;
  readonly vcpus: number;
  readonly units: readonly UnitDescription[];
  readonly devices: readonly DeviceDescription[];
  readonly grants: GrantSettings;
  readonly rules: Rules;
  readonly maptrackOrder: MaptrackOrder;
  readonly windowPages: number;
  readonly gfns: number;
  readonly policy: FlushPolicy;
  readonly release: Release;
  readonly caches:
    | { readonly kind: 'adversary'; readonly mayEntries: number }
    | { readonly kind: 'lru'; readonly shape: LruShape };
  readonly dmaSlots: number;
  readonly batchMax: number;
  readonly flushQueue: number;
  readonly iommu: IommuOptions;
  readonly hypervisorFrames: number;
  readonly scrubFreed: boolean;
  readonly keptIo: readonly FrameRange[];
  readonly ioFrames: readonly FrameRange[];
  readonly reservedRegions: readonly ReservedRegion[];
}

const frameCount = between(0, 2 ** 20);
const busNumber = optional(between(0, 255));
const policyFunction: Check = (value, name) => {
  if (typeof value !== 'function') throw new TypeError(`${name} ${String(value)}: expected a function`);
};
const release = oneWord('onReturn', 'afterFlush');
const cache: Fields<CacheShape> = {
  entries: between(1, 2 ** 20),
  ways: between(1, 2 ** 20),
  replacement: oneWord('lru', 'fifo', 'random'),
};
const lruShape: Fields<LruShape> = {
  contextCache: record(cache),
  iotlb: record(cache),
  level2: record(cache),
  level3: record(cache),
  level4: record(cache),
  rewalkOnPermissionMiss: flag,
};
/** What a profile of caches has beside its kind. */
const profiles = {
  adversary: record({ kind: text, mayEntries: optional(between(1, 2 ** 31)) }),
  lru: record({ kind: text, shape: optional(record(lruShape)) }),
} as const;

const capabilities: Fields<Capabilities> = {
  domainIds: optional(oneOf(16, 64, 256, 1024, 4096, 16384, 65536)),
  cachingMode: optional(flag),
  writeBufferFlush: optional(flag),
  levels: optional(listOf(oneOf(3, 4, 5))),
  addressBits: optional(between(31, 57)),
  superpage2m: optional(flag),
  superpage1g: optional(flag),
  pageSelective: optional(flag),
  maxAddressMask: optional(between(0, 63)),
  faultRecords: optional(between(1, 256)),
  drainWrites: optional(flag),
  drainReads: optional(flag),
  coherent: optional(flag),
  queuedInvalidation: optional(flag),
  deviceTlb: optional(flag),
  passThrough: optional(flag),
  snoopControl: optional(flag),
};
const registers: Fields<CapabilityRegisters> = { cap: tuple(word, word), ecap: tuple(word, word) };

const iommu: Fields<IommuOptions> = {
  superpages: optional(flag),
  reclaimTables: optional(flag),
  quarantine: optional(oneWord('none', 'basic', 'scratch')),
  queuedInvalidation: optional(flag),
  ats: optional(flag),
  hardwareDomain: optional(oneWord('strict', 'relaxed', 'passthrough')),
  domainIds: optional(oneWord('per-unit', 'shared')),
  beyondReach: optional(oneWord('unseen', 'refused')),
};
const grants: Fields<GrantSettings> = {
  grantFrames: optional(between(1, 1024)),
  maptrackFrames: optional(between(0, 4096)),
  version: optional(between(1, 2)),
  transitive: optional(flag),
  transfer: optional(flag),
};
const deviceFields: Fields<DeviceDescription> = {
  device,
  unit: index,
  type: optional(
    oneWord('endpoint', 'pci-endpoint', 'host-bridge', 'root-port', 'pcie-to-pci-bridge', 'pci-bridge', 'unknown'),
  ),
  secondary: busNumber,
  subordinate: busNumber,
  ats: optional(flag),
  phantomStride: optional(oneOf(1, 2, 4)),
  physicalFunction: optional(device),
  hidden: optional(flag),
};
const regionFields: Fields<ReservedRegion> = {
  firstFrame: between(0, 2 ** 40),
  frames: between(1, 2 ** 20),
  devices: listOf(device),
};

const checkRules = record(ruleChecks);

/** What each option may be; those that depend on one another are looked at in {@link configure}. */
const OPTIONS: Fields<MachineOptions> = {
  domains: optional(between(1, 1024)),
  frames: optional(between(8, 2 ** 21)),
  vcpus: optional(between(1, 64)),
  units: optional(listOf(unit)),
  devices: optional(listOf(record(deviceFields))),
  grants: optional(record(grants)),
  rules: optional((value, name, of) => {
    if (typeof value === 'string') rulesNamed(value);
    else checkRules(value, name, of);
  }),
  maptrackOrder: optional(oneWord('fifo', 'lowest-free')),
  windowPages: optional(frameCount),
  gfns: optional(between(0, 2 ** 29)),
  policy: optional(policy),
  release: optional(release),
  caches: optional(caches),
  dmaSlots: optional(between(1, 1024)),
  batchMax: optional(between(1, 1 << 16)),
  flushQueue: optional(between(64, 65536)),
  iommu: optional(record(iommu)),
  hypervisorFrames: optional(frameCount),
  scrubFreed: optional(flag),
  keptIo: optional(listOf(tuple(index, index))),
  ioFrames: optional(listOf(tuple(index, index))),
  reservedRegions: optional(listOf(record(regionFields))),
};
const OPTION_LIST = fieldList(OPTIONS);

function unit(value: unknown, name: string, of?: string): void {
  object(value, name);
  const given = value as Partial<Record<'capabilities' | 'registers', unknown>>;
  if (given.capabilities !== undefined && given.registers !== undefined)
    throw new TypeError(`${name}: expected one of capabilities and registers`);
  record({ capabilities: optional(record(capabilities)), registers: optional(record(registers)) })(value, name, of);
}

function caches(value: unknown, name: string, of?: string): void {
  object(value, name);
  const { kind } = value as { readonly kind?: unknown };
  oneWord('adversary', 'lru')(kind, `${name}.kind`);
  profiles[kind as keyof typeof profiles](value, name, of);
}

/** A policy of one's own may have more than this: it is code, not data. */
function policy(value: unknown, name: string): void {
  if (typeof value === 'string') return;
  object(value, name);
  const { name: own, releases, onReuse, promise, change, ...others } = value as Partial<FlushPolicy>;
  text(own, `${name}.name`);
  listOf(release)(releases, `${name}.releases`);
  if (releases!.length === 0) throw new TypeError(`${name}.releases: expected at least one`);
  oneWord('flush', 'refuse', 'allow')(onReuse, `${name}.onReuse`);
  policyFunction(promise, `${name}.promise`);
  policyFunction(change, `${name}.change`);
  for (const hook of ['elementEnd', 'operationEnd', 'tick'] as const)
    optional(policyFunction)(others[hook], `${name}.${hook}`);
  optional(index)(others.timerUs, `${name}.timerUs`);
}

/** What is given, and defaults for what is left out, or undefined. */
function filled<Options extends object>(defaults: Options, given: Partial<Options> = {}): Options {
  const set = Object.entries(given).filter(([, value]) => value !== undefined);
  return { ...defaults, ...(Object.fromEntries(set) as Partial<Options>) };
}

/**
 * Fills in the defaults and refuses what cannot be.
 * @throws RangeError, TypeError naming the option, what it is and what was expected.
 */
export function configure(options: MachineOptions): MachineConfig {
  object(options, 'machine options');
  checkFields(options, OPTION_LIST, 'machine options');
  const policy = typeof options.policy === 'object' ? options.policy : policyNamed(options.policy ?? 'strict-page');
  const release = options.release ?? policy.releases[0];
  if (!policy.releases.includes(release)) {
    throw new RangeError(`policy ${policy.name} with release ${release}: expected ${policy.releases.join(' or ')}`);
  }
  const {
    units = [{}],
    devices = [],
    reservedRegions = [],
    flushQueue = 512,
    caches = { kind: 'adversary' },
  } = options;
  between(1, 31)(units.length, 'units');
  checkDevices(devices, units.length);
  checkRegions(reservedRegions);
  if ((flushQueue & (flushQueue - 1)) !== 0) throw new RangeError(`flushQueue ${flushQueue}: expected a power of two`);
  return {
    domains: options.domains ?? 4,
    frames: options.frames ?? 1024,
    vcpus: options.vcpus ?? 1,
    units,
    devices,
    grants: filled(defaultGrantSettings, options.grants),
    rules: typeof options.rules === 'object' ? options.rules : rulesNamed(options.rules ?? 'xen4_23'),
    maptrackOrder: options.maptrackOrder ?? 'fifo',
    windowPages: options.windowPages ?? 512,
    gfns: options.gfns ?? 1024,
    policy,
    release,
    caches:
      caches.kind === 'lru'
        ? { kind: 'lru', shape: caches.shape ?? defaultLruShape }
        : { kind: 'adversary', mayEntries: caches.mayEntries ?? 1 << 14 },
    dmaSlots: options.dmaSlots ?? 4,
    batchMax: options.batchMax ?? 128,
    flushQueue,
    iommu: filled(defaultIommuOptions, options.iommu),
    hypervisorFrames: options.hypervisorFrames ?? 0,
    scrubFreed: options.scrubFreed ?? true,
    keptIo: options.keptIo ?? [],
    ioFrames: options.ioFrames ?? [],
    reservedRegions,
  };
}

/** Frames, as far as they are memory, that count as I/O memory. */
export function ioFrames({ ioFrames: named, reservedRegions }: MachineConfig): readonly FrameRange[] {
  return [...named, ...reservedRegions.map(({ firstFrame, frames }) => [firstFrame, firstFrame + frames - 1] as const)];
}

/** Register values of a unit: a real one's, or those of its capabilities, defaults filled in. */
export function unitRegisters(
  unit: Partial<Extract<UnitDescription, { registers: unknown }>> & { readonly capabilities?: Partial<Capabilities> },
): CapabilityRegisters {
  return unit.registers ?? encodeCapabilities(capabilitiesWith(unit.capabilities));
}
