// The parts of a machine, made in one fixed order, so that two machines of the same configuration have the same heap.

import { CopyClaims, GrantTables, UnmapBatches } from '../grant/index.ts';
import { Errno } from '../machine/errno.ts';
import { FrameTable } from '../machine/frame-table.ts';
import { Heap } from '../machine/heap/heap.ts';
import { DOMID_IO } from '../machine/ids.ts';
import { Locks } from '../machine/locks.ts';
import { PendingOperations } from '../machine/pending.ts';
import {
  Adversary,
  Clock,
  type DeviceTlb,
  DmaInFlight,
  decodeCapabilities,
  IommuDriver,
  type MemoryLag,
  memoryLagOf,
  type PciFunction,
  pciFunctions,
  VtdUnit,
} from '../passthrough/index.ts';
import { P2m } from './memory/p2m.ts';
import { PvTables } from './memory/pv-tables.ts';
import { ioFrames, type MachineConfig, unitRegisters } from './options.ts';

/** Words of active entries that a grant frame may need. */
const ACTIVE_WORDS = 1 << 12;
/** Room for the other parts. */
const SMALL_PARTS_WORDS = 1 << 17;

export interface Parts {
  readonly heap: Heap;
  readonly clock: Clock;
  readonly frames: FrameTable;
  readonly dma: DmaInFlight;
  readonly units: readonly VtdUnit[];
  /** Whether some unit knows device TLBs. */
  readonly hasDeviceTlbs: boolean;
  readonly adversary: Adversary | null;
  /** What units do not see of memory yet; null where they all see it as it is. */
  readonly lag: MemoryLag | null;
  readonly driver: IommuDriver;
  readonly pending: PendingOperations;
  readonly locks: Locks;
  /** One lock: under it devices change hands. */
  readonly deviceLock: Locks;
  /** The devices, in the order of the configuration. */
  readonly functions: readonly PciFunction[];
  readonly grants: GrantTables;
  readonly batches: UnmapBatches;
  readonly claims: CopyClaims;
  readonly pvTables: PvTables;
  readonly p2m: P2m;
}

export function makeParts(config: MachineConfig): Parts {
  const { domains, vcpus } = config;
  // Most of a large machine's words: a record of each frame, and per domain the handles on it and active entries.
  const perFrame = (config.frames + config.hypervisorFrames) * (8 + 2 * domains);
  const heap = new Heap(perFrame + domains * config.grants.grantFrames * ACTIVE_WORDS + SMALL_PARTS_WORDS);
  const clock = new Clock(heap);
  const frames = new FrameTable(heap, {
    frames: config.frames,
    hypervisorFrames: config.hypervisorFrames,
    privateFrames: config.units.length,
    domains,
    keepsFreed: !config.scrubFreed,
  });
  for (const [first, last] of ioFrames(config)) reserveFrames(frames, first, last);
  const dma = new DmaInFlight(heap, config.dmaSlots);
  const registersOf = config.units.map(unitRegisters);
  const capabilities = registersOf.map(decodeCapabilities);
  const dids = Math.max(1, ...capabilities.map(({ domainIds }) => domainIds));
  const hasDeviceTlbs = capabilities.some(({ deviceTlb }) => deviceTlb);
  const lag = memoryLagOf(heap, capabilities);
  if (lag) frames.delayWith(lag);
  const adversary =
    config.caches.kind === 'adversary'
      ? new Adversary(heap, frames, {
          units: Math.max(1, config.units.length),
          mayEntries: config.caches.mayEntries,
          dids,
          deviceTlbs: hasDeviceTlbs,
          lag,
        })
      : null;
  const units = registersOf.map((registers, index) => {
    return new VtdUnit({
      index,
      heap,
      frames,
      dma,
      registers,
      capabilities: capabilities[index]!,
      lag,
      deviceTlbs: config.devices.length,
      caches: adversary
        ? { adversary }
        : { lru: (config.caches as Extract<MachineConfig['caches'], { kind: 'lru' }>).shape },
    });
  });
  const functions = pciFunctions(config.devices, config.reservedRegions);
  const pending = new PendingOperations(heap, { vcpus, elementsMax: config.batchMax });
  const driver = new IommuDriver({
    isIdle: (vcpu) => pending.isIdle(vcpu),
    heap,
    frames,
    clock,
    units,
    domains,
    vcpus,
    ledgerCapacity: config.flushQueue,
    policy: config.policy,
    release: config.release,
    queuedInvalidation: config.iommu.queuedInvalidation,
    ...(config.iommu.ats && config.iommu.queuedInvalidation
      ? { deviceTlbs: deviceTlbsOf(config, units, functions) }
      : {}),
    ...(config.iommu.quarantine === 'none' ? {} : { quarantine: quarantineOf(config, functions) }),
    // The adversary keeps every way to a table apart: there must not be 512^3 of them.
    ...(adversary ? { quarantineReach: Math.max(config.frames, config.gfns) } : {}),
    domainIds: config.iommu.domainIds,
    deviceTlbTimeout: config.rules.passthrough.deviceTlbTimeout,
    didsExhausted: Errno[config.rules.passthrough.didsExhausted],
    beyondReach: config.iommu.beyondReach,
    superpages: config.iommu.superpages,
    reclaimTables: config.iommu.reclaimTables,
  });
  return {
    heap,
    clock,
    frames,
    dma,
    units,
    hasDeviceTlbs,
    adversary,
    lag,
    driver,
    pending,
    locks: new Locks(heap, 'grant table locks', domains),
    deviceLock: new Locks(heap, 'device lock', 1),
    functions,
    grants: new GrantTables(heap, frames, { domains, limits: config.grants, order: config.maptrackOrder, vcpus }),
    batches: new UnmapBatches(heap, vcpus),
    claims: new CopyClaims(heap, vcpus),
    pvTables: new PvTables(heap, frames, domains),
    p2m: new P2m(heap, { domains, gfns: config.gfns, frames: frames.frames }),
  };
}

/** What firmware keeps for devices is nobody's memory. */
function reserveFrames(frames: FrameTable, first: number, last: number): void {
  for (let frame = first; frame <= last && frame < frames.ram; frame += 1)
    frames.allocate(DOMID_IO, { at: frame, xenHeap: true });
}

/** What each endpoint finds in quarantine, in the order of their addresses; none where no device finds anything. */
function quarantineOf(config: MachineConfig, functions: readonly PciFunction[]) {
  const scratch = config.iommu.quarantine === 'scratch';
  const devices = functions
    .filter(({ endpointIndex }) => endpointIndex >= 0)
    .sort((a, b) => a.endpointIndex - b.endpointIndex)
    .map(({ regions }) => regions.map((region) => config.reservedRegions[region]!));
  return { scratch, devices: scratch || devices.some((of) => of.length > 0) ? devices : [] };
}

/**
 * Devices with device TLBs whose unit takes the descriptors, and has the queue that these need. The last found at boot
 * comes first (xen: enable_ats_device adds to the head of the unit's list).
 */
function deviceTlbsOf(
  config: MachineConfig,
  units: readonly VtdUnit[],
  functions: readonly PciFunction[],
): readonly DeviceTlb[] {
  return config.devices
    .flatMap(({ ats, unit }, index) => {
      const { deviceTlb, queuedInvalidation } = units[unit]!.capabilities;
      return ats && deviceTlb && queuedInvalidation ? [{ unit, source: functions[index]!.sbdf % 0x10000 }] : [];
    })
    .sort((a, b) => b.source - a.source);
}
