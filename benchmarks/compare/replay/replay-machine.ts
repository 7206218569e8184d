// A machine with just what a trace needs: a domain for each address space, its frames, its devices, its tables.

import { Hypervisor, type LruShape, type MachineOptions } from '../../../hypervisor/index.ts';
import { HypervisorBug } from '../../../machine/errors.ts';
import type { Mfn } from '../../../machine/frame-number.ts';
import type { Domid, UnitIndex } from '../../../machine/ids.ts';
import { parseSbdf } from '../../../machine/ids.ts';
import type { PolicyChoice } from '../policy-choice.ts';
import type { ImportedTrace } from '../workload/workload.ts';
import { type AddressShifts, addressShifts } from './address-choice.ts';

/** A device, the unit that it is behind and the domain that it works for. */
export interface PlacedDevice {
  readonly device: string;
  readonly unit: number;
  readonly domain: number;
}

/** What a trace is replayed on. */
export interface ReplayPlatform {
  readonly units: number;
  /** At least one for each domain of the trace. */
  readonly devices: readonly PlacedDevice[];
}

export interface ReplayMachine {
  readonly machine: Hypervisor;
  /** Per domain: its first frame, and a device of it. */
  readonly firstFrame: readonly Mfn[];
  readonly source: readonly { readonly unit: number; readonly sourceId: number }[];
  /** Recorded frame of each machine frame; those that stand for none have numbers of their own. */
  readonly physical: Uint32Array;
  readonly shifts: readonly AddressShifts[];
}

export type ReplayCaches = { readonly kind: 'adversary' } | { readonly kind: 'lru'; readonly shape?: LruShape };

/** Frames of the hypervisor's own: roots, contexts, grant tables, status; those per unit and per domain besides. */
const SPARE_FRAMES = 64;
const FRAMES_PER_DOMAIN = 8;
const FRAMES_PER_UNIT = 260;
/** Words of the status page limit virtual CPUs x units. */
const STATUS_WORDS = 1024;

/** @throws RangeError when the trace needs a larger machine than there can be. */
export function replayMachine(
  trace: ImportedTrace,
  platform: ReplayPlatform,
  choice: PolicyChoice,
  caches: ReplayCaches,
): ReplayMachine {
  const { domains } = trace;
  const shifts = domains.map((domain) => addressShifts(domain, trace.cpus));
  const tables = shifts.reduce((sum, { tables }) => sum + tables, 0);
  const frames = domains.reduce((sum, domain) => sum + domain.frames, 0);
  const own = SPARE_FRAMES + domains.length * FRAMES_PER_DOMAIN + platform.units * FRAMES_PER_UNIT;
  // Without any flush a unit retains each pair of device frame and frame once.
  const pairs = domains.reduce((sum, domain) => sum + domain.leafTables * 512 * domain.frames, 0);
  const retained = Math.min(trace.counts.mappedPages, pairs) + 512;
  const options: MachineOptions = {
    domains: domains.length,
    frames: frames + tables + own,
    vcpus: replayCpus(trace, platform),
    units: Array.from({ length: platform.units }, () => ({})),
    devices: platform.devices.map(({ device, unit }) => ({ device, unit })),
    windowPages: 0,
    gfns: Math.max(...domains.map((domain) => domain.frames)),
    policy: choice.policy,
    release: choice.release,
    batchMax: 1,
    // Linux frees no table on such unmaps, and maps such buffers page by page.
    iommu: { superpages: false, reclaimTables: false },
    // Room for the flush queue of Linux (256) and one unmap more. Searches take time in proportion.
    flushQueue: Math.min(65_536, 2 ** Math.ceil(Math.log2(480 + trace.unmapPiecesMax))),
    caches:
      caches.kind === 'lru' ? caches : { kind: 'adversary', mayEntries: retained * platform.units + tables + own },
  };
  const machine = new Hypervisor(options);
  return { machine, ...build(machine, trace, platform), shifts };
}

/** Virtual CPUs: as many as the trace has, unless units leave room for fewer. */
export function replayCpus(trace: ImportedTrace, platform: ReplayPlatform): number {
  return Math.max(1, Math.min(trace.cpus, Math.floor(STATUS_WORDS / platform.units)));
}

function build(machine: Hypervisor, trace: ImportedTrace, platform: ReplayPlatform) {
  const physical = Uint32Array.from(
    { length: machine.parts.frames.frames },
    (_, frame) => trace.physicalFrames + frame,
  );
  const firstFrame = trace.domains.map(({ frames, physical: recorded }, domain) => {
    must(machine, { op: 'create_domain', domain, kind: 'hvm', frames, iommu: true, deviceTables: 'empty' });
    const { first } = machine.control.root.domains[domain]!.ram;
    physical.set(recorded, first);
    return first as Mfn;
  });
  for (const { device, domain } of platform.devices) must(machine, { op: 'assign_device', device, domain });
  const source = trace.domains.map((_, domain) => {
    const { device, unit } = platform.devices.find((placed) => placed.domain === domain)!;
    return { unit, sourceId: parseSbdf(device) % 0x10000 };
  });
  return { firstFrame, source, physical };
}

/** Does an operation that cannot be refused. */
export function must(machine: Hypervisor, op: Parameters<Hypervisor['step']>[0]): void {
  const { result } = machine.step(op);
  if (result < 0) throw new HypervisorBug('F0', `replay: ${JSON.stringify(op)} was refused with ${result}`);
}

/** The domain behind a did of a unit. */
export function domainOf(machine: Hypervisor, unit: number, did: number): Domid {
  return machine.parts.driver.ids[unit as UnitIndex]!.domainOf(did) as Domid;
}
