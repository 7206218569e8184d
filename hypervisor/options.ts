// What a machine is made of. Every size is a parameter, so that the same code serves a proof on two frames and a
// benchmark on a million.

import type { GrantLimits, GrantOptions, MaptrackOrder } from '../grant/index.ts';
import { parseSbdf } from '../machine/ids.ts';
import {
  type Capabilities,
  type CapabilityRegisters,
  defaultCapabilities,
  defaultLruShape,
  type FlushPolicy,
  type LruShape,
  policyNamed,
  type Release,
} from '../passthrough/index.ts';
import type { FrameRange } from './door/memory-op.ts';
import { type Rules, type RulesName, rulesNamed } from './rules.ts';

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
}

/** xen: enum pdev_type. `pci-endpoint` is conventional PCI. */
export type DeviceType =
  | 'endpoint'
  | 'pci-endpoint'
  | 'host-bridge'
  | 'root-port'
  | 'pcie-to-pci-bridge'
  | 'pci-bridge';

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
}

export const defaultIommuOptions: IommuOptions = Object.freeze({
  superpages: true,
  reclaimTables: true,
  quarantine: 'basic',
  queuedInvalidation: true,
  ats: false,
  hardwareDomain: 'strict',
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
}

function within(name: string, value: number, low: number, high: number): number {
  if (!Number.isInteger(value) || value < low || value > high)
    throw new RangeError(`${name} ${value}: expected ${low} to ${high}`);
  return value;
}

function oneOf(name: string, value: unknown, allowed: readonly string[]): void {
  if (!allowed.includes(value as string))
    throw new RangeError(`${name} ${String(value)}: expected ${allowed.join(' or ')}`);
}

/**
 * Fills in the defaults and refuses what cannot be.
 * @throws RangeError naming the option and what was expected.
 */
export function configure(options: MachineOptions): MachineConfig {
  const policy = typeof options.policy === 'object' ? options.policy : policyNamed(options.policy ?? 'strict-page');
  const release = options.release ?? policy.releases[0];
  if (!policy.releases.includes(release)) {
    throw new RangeError(`policy ${policy.name} with release ${release}: expected ${policy.releases.join(' or ')}`);
  }
  const units = options.units ?? [{}];
  const devices = options.devices ?? [];
  for (const { device, unit } of devices) {
    parseSbdf(device);
    within(`unit of ${device}`, unit, 0, units.length - 1);
  }
  const flushQueue = within('flushQueue', options.flushQueue ?? 512, 64, 65536);
  if ((flushQueue & (flushQueue - 1)) !== 0) throw new RangeError(`flushQueue ${flushQueue}: expected a power of two`);
  const caches = options.caches ?? { kind: 'adversary' };
  oneOf('caches.kind', caches.kind, ['adversary', 'lru']);
  oneOf('maptrackOrder', options.maptrackOrder ?? 'fifo', ['fifo', 'lowest-free']);
  within('units', units.length, 1, 31);
  return {
    domains: within('domains', options.domains ?? 4, 1, 1024),
    frames: within('frames', options.frames ?? 1024, 8, 2 ** 21),
    vcpus: within('vcpus', options.vcpus ?? 1, 1, 64),
    units,
    devices,
    grants: {
      grantFrames: within('grants.grantFrames', options.grants?.grantFrames ?? 1, 1, 1024),
      maptrackFrames: within('grants.maptrackFrames', options.grants?.maptrackFrames ?? 1, 0, 4096),
      version: within('grants.version', options.grants?.version ?? 2, 1, 2) as 1 | 2,
      transitive: options.grants?.transitive ?? true,
      transfer: options.grants?.transfer ?? true,
    },
    rules: typeof options.rules === 'object' ? options.rules : rulesNamed(options.rules ?? 'xen4_23'),
    maptrackOrder: options.maptrackOrder ?? 'fifo',
    windowPages: within('windowPages', options.windowPages ?? 512, 0, 2 ** 20),
    gfns: within('gfns', options.gfns ?? 1024, 0, 2 ** 26),
    policy,
    release,
    caches:
      caches.kind === 'lru'
        ? { kind: 'lru', shape: caches.shape ?? defaultLruShape }
        : { kind: 'adversary', mayEntries: caches.mayEntries ?? 1 << 14 },
    dmaSlots: within('dmaSlots', options.dmaSlots ?? 4, 1, 1024),
    batchMax: within('batchMax', options.batchMax ?? 128, 1, 1 << 16),
    flushQueue,
    iommu: { ...defaultIommuOptions, ...options.iommu },
    hypervisorFrames: within('hypervisorFrames', options.hypervisorFrames ?? 0, 0, 2 ** 20),
    scrubFreed: options.scrubFreed ?? true,
    keptIo: options.keptIo ?? [],
  };
}

/** Capabilities of a unit described in words, defaults filled in. */
export function unitCapabilities(unit: { readonly capabilities?: Partial<Capabilities> }): Capabilities {
  return { ...defaultCapabilities, ...unit.capabilities };
}
