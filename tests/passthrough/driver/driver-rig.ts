// A driver over adversarial units, with a policy that does what the test tells it, and a view of what the units were
// sent: descriptors decoded from their queues.

import type { Dfn, Mfn } from '../../../machine/frame-number.ts';
import { FrameTable } from '../../../machine/frame-table.ts';
import { Heap } from '../../../machine/heap/heap.ts';
import { DOMID_XEN, type Domid, parseSbdf, type Sbdf, type UnitIndex, type Vcpu } from '../../../machine/ids.ts';
import { Progress } from '../../../machine/pending.ts';
import { Clock, type DeviceTlb, type DomainIdSpaces, IommuDriver } from '../../../passthrough/driver/index.ts';
import { DmaInFlight } from '../../../passthrough/hardware/dma.ts';
import {
  Adversary,
  type AdversaryCaches,
  type Capabilities,
  capabilitiesWith,
  decode,
  decodeCapabilities,
  encodeCapabilities,
  type MemoryLag,
  memoryLagOf,
  Register,
  VtdUnit,
} from '../../../passthrough/hardware/index.ts';
import {
  contextCacheDescriptor,
  deviceTlbDescriptor,
  iotlbDescriptor,
  waitDescriptor,
} from '../../../passthrough/hardware/layouts.ts';
import type { AccessChange, Flush, FlushPolicy, Release } from '../../../passthrough/policy/index.ts';
import { answers } from '../hardware/tables.ts';

export const DEVICE = '0000:03:00.0';
export const CPU = 0 as Vcpu;
export const OTHER_CPU = 1 as Vcpu;
export const domain = (value: number) => value as Domid;
export const dfn = (value: number) => value as Dfn;
export const unit = (value: number) => value as UnitIndex;

/** What a policy was shown of a change. */
export type Shown = { -readonly [K in keyof AccessChange]: AccessChange[K] };

export interface DriverRigOptions {
  readonly units?: readonly Partial<Capabilities>[];
  readonly frames?: number;
  readonly ledgerCapacity?: number;
  readonly mayEntries?: number;
  readonly release?: Release;
  readonly deviceTlbs?: readonly DeviceTlb[];
  readonly deviceTlbTimeout?: 'spins' | 'disabled';
  readonly onChange?: (change: AccessChange, flush: Flush) => void;
  /** Asked besides: a policy that ships. */
  readonly policy?: FlushPolicy;
  readonly superpages?: boolean;
  readonly reclaimTables?: boolean;
  readonly domainIds?: DomainIdSpaces;
}

export class DriverRig {
  readonly heap = new Heap();
  readonly clock: Clock;
  readonly frames: FrameTable;
  readonly dma: DmaInFlight;
  readonly lag: MemoryLag | null;
  readonly adversary: Adversary;
  readonly units: readonly VtdUnit[];
  readonly driver: IommuDriver;
  readonly shown: Shown[] = [];

  constructor(options: DriverRigOptions = {}) {
    const { heap } = this;
    const described = options.units ?? [{}];
    this.clock = new Clock(heap);
    this.frames = new FrameTable(heap, {
      frames: options.frames ?? 128,
      privateFrames: described.length,
    });
    this.dma = new DmaInFlight(heap, 4);
    this.lag = memoryLagOf(heap, described.map(capabilitiesWith));
    if (this.lag) this.frames.delayWith(this.lag);
    this.adversary = new Adversary(heap, this.frames, {
      units: described.length,
      deviceTlbs: described.some(({ deviceTlb }) => deviceTlb),
      lag: this.lag,
      mayEntries: options.mayEntries ?? 1 << 13,
    });
    this.units = described.map((one, index) => {
      const registers = encodeCapabilities(capabilitiesWith(one));
      return new VtdUnit({
        index,
        heap,
        frames: this.frames,
        dma: this.dma,
        registers,
        capabilities: decodeCapabilities(registers),
        lag: this.lag,
        caches: { adversary: this.adversary },
      });
    });
    const policy: FlushPolicy = {
      name: 'scripted',
      summary: 'what the test says',
      releases: ['afterFlush', 'onReturn'],
      onReuse: 'flush',
      promise: () => ({ kind: 'none' }),
      change: (change, flush) => {
        this.shown.push({ ...change });
        options.onChange?.(change, flush);
        options.policy?.change(change, flush);
      },
    };
    this.driver = new IommuDriver({
      heap,
      frames: this.frames,
      clock: this.clock,
      units: this.units,
      domains: 8,
      vcpus: 2,
      ledgerCapacity: options.ledgerCapacity ?? 64,
      policy,
      release: options.release ?? 'afterFlush',
      superpages: options.superpages ?? false,
      reclaimTables: options.reclaimTables ?? false,
      ...(options.domainIds ? { domainIds: options.domainIds } : {}),
      ...(options.deviceTlbTimeout ? { deviceTlbTimeout: options.deviceTlbTimeout } : {}),
      ...(options.deviceTlbs ? { deviceTlbs: options.deviceTlbs } : {}),
    });
  }

  /** A domain with tables of its own, and devices behind these units. */
  domain(value: number, units: readonly number[] = [], device = DEVICE): Domid {
    const id = domain(value);
    this.driver.tables.create(id);
    for (const at of units) this.driver.attach(CPU, id, unit(at), this.device(device));
    this.finish();
    return id;
  }

  device(text = DEVICE): Sbdf {
    return parseSbdf(text);
  }

  /** Frames that are in use. */
  get allocated(): number {
    let count = 0;
    for (let at = 0; at < this.frames.frames; at += 1) if (this.frames.isAllocated(at)) count += 1;
    return count;
  }

  frame(): Mfn {
    return this.frames.allocate(DOMID_XEN) as Mfn;
  }

  /** Carries out what was asked for on a CPU, units running whenever it cannot go on. Descriptors sent are returned. */
  finish(vcpu: Vcpu = CPU): string[] {
    const sent: string[] = [];
    for (;;) {
      const progress = this.driver.flush.step(vcpu);
      if (progress === Progress.done) break;
      if (progress !== Progress.blocked) continue;
      sent.push(...this.runUnits());
    }
    return [...sent, ...this.runUnits()];
  }

  /** Carries out what can be without the units. */
  submit(vcpu: Vcpu = CPU): Progress {
    for (;;) {
      const progress = this.driver.flush.step(vcpu);
      if (progress !== Progress.more) return progress;
    }
  }

  runUnits(): string[] {
    const sent = this.units.flatMap((one) => this.queued(one));
    for (const one of this.units) while (one.step());
    return sent;
  }

  /** The descriptors in a unit's queue that it has not fetched. */
  queued(of: VtdUnit = this.units[0]!): string[] {
    const head = of.readLow(Register.IQH) >>> 4;
    return Array.from({ length: of.queued }, (_, at) => {
      const first = ((head + at) % 256) * 4;
      const words = [0, 1, 2, 3].map((word) => this.frames.readWord(of.queueFrame, first + word));
      return `${of.index}: ${descriptorText(words)}`;
    });
  }

  may(at: number, source = 0x0300, of = this.units[0]!): string[] {
    return answers((of.caches as AdversaryCaches).mayTranslate(source, at));
  }
}

const GRANULARITY = ['reserved', 'global', 'domain', 'page'];

/** `iotlb page did 1 dfn 5 order 0 drains rw`, `context device did 1 source 300`, `wait`. */
function descriptorText(words: readonly number[]): string {
  const type = words[0]! & 0xf;
  if (type === 5) {
    const { statusWrite, statusData } = decode(waitDescriptor, words);
    return `wait ${statusWrite}=${statusData}`;
  }
  if (type === 1) {
    const of = decode(contextCacheDescriptor, words);
    const by = ['reserved', 'global', 'domain', 'device'][of.granularity];
    return `context ${by} did ${of.domainId} source ${of.sourceId.toString(16)}`;
  }
  if (type === 3) {
    const of = decode(deviceTlbDescriptor, words);
    return `device-tlb ${of.sourceId.toString(16)} ${of.size ? 'sized ' : ''}${of.address.toString(16)}`;
  }
  const of = decode(iotlbDescriptor, words);
  const parts = [`iotlb ${GRANULARITY[of.granularity]} did ${of.domainId}`];
  if (of.granularity === 3) parts.push(`dfn ${of.address} order ${of.addressMask}`);
  if (of.invalidationHint) parts.push('hint');
  parts.push(`drains ${of.drainReads ? 'r' : ''}${of.drainWrites ? 'w' : ''}`);
  return parts.join(' ').trim();
}
