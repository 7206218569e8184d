// A machine of frames and units, with tables written entry by entry: what the tests of the hardware work on.
// Nothing of the driver takes part; every register, entry and descriptor is the test's own.

import type { Mfn } from '../../../machine/frame-number.ts';
import { FrameTable } from '../../../machine/frame-table.ts';
import { Heap } from '../../../machine/heap/heap.ts';
import { DOMID_XEN } from '../../../machine/ids.ts';
import { DmaInFlight } from '../../../passthrough/hardware/dma.ts';
import {
  Adversary,
  AdversaryCaches,
  type Capabilities,
  type CapabilityRegisters,
  capabilitiesWith,
  decodeCapabilities,
  encode,
  encodeCapabilities,
  LruCaches,
  type LruShape,
  type MayTranslation,
  type MemoryLag,
  memoryLagOf,
  Register,
  VtdUnit,
} from '../../../passthrough/hardware/index.ts';
import * as layouts from '../../../passthrough/hardware/layouts.ts';

/** Requester 00:01.0 and a second one, 00:01.1. */
export const DEVICE = 0x0008;
export const OTHER_DEVICE = 0x0009;

export const R = 1;
export const RW = 3;

/** Page of a three-level table by its indexes, highest first. */
export const page = (third: number, second: number, first: number): number => third * 0x40000 + second * 512 + first;

export interface RigOptions {
  /** One unit for each. */
  readonly units?: readonly Partial<Capabilities>[];
  readonly registers?: CapabilityRegisters;
  readonly lru?: LruShape;
  readonly frames?: number;
  readonly mayEntries?: number;
}

export interface Invalidation {
  readonly granularity: 'global' | 'domain' | 'page';
  readonly did?: number;
  readonly dfn?: number;
  readonly order?: number;
  readonly hint?: boolean;
  readonly drainReads?: boolean;
  readonly drainWrites?: boolean;
}

export interface ContextInvalidation {
  readonly granularity: 'global' | 'domain' | 'device';
  readonly did?: number;
  readonly source?: number;
  readonly functionMask?: number;
}

const IOTLB_GRANULARITY = { global: 1, domain: 2, page: 3 } as const;
const CONTEXT_GRANULARITY = { global: 1, domain: 2, device: 3 } as const;

export interface ContextFields {
  readonly table?: number;
  readonly levels?: number;
  readonly did?: number;
  readonly type?: number;
  readonly present?: number;
}

export class Rig {
  readonly heap = new Heap();
  readonly frames: FrameTable;
  readonly dma: DmaInFlight;
  readonly lag: MemoryLag | null;
  readonly adversary: Adversary | null;
  readonly units: readonly VtdUnit[];

  constructor(options: RigOptions = {}) {
    const described = options.units ?? [{}];
    const ram = options.frames ?? 64;
    const { heap } = this;
    this.frames = new FrameTable(heap, {
      frames: ram,
      privateFrames: described.length,
    });
    this.dma = new DmaInFlight(heap, 4);
    const sizes = { units: described.length, mayEntries: options.mayEntries ?? 1 << 14 };
    this.lag = memoryLagOf(heap, described.map(capabilitiesWith));
    if (this.lag) this.frames.delayWith(this.lag);
    const deviceTlbs = described.some(({ deviceTlb }) => deviceTlb);
    this.adversary = options.lru ? null : new Adversary(heap, this.frames, { ...sizes, lag: this.lag, deviceTlbs });
    this.units = described.map((one, index) => this.#makeUnit(one, index, options));
    // Frame 0 is no table, as on any machine.
    this.table();
  }

  #makeUnit(described: Partial<Capabilities>, index: number, options: RigOptions): VtdUnit {
    const registers = options.registers ?? encodeCapabilities(capabilitiesWith(described));
    return new VtdUnit({
      index,
      heap: this.heap,
      frames: this.frames,
      dma: this.dma,
      registers,
      capabilities: decodeCapabilities(registers),
      lag: this.lag,
      caches: options.lru ? { lru: options.lru } : { adversary: this.adversary! },
    });
  }

  get unit(): VtdUnit {
    return this.units[0]!;
  }

  /** A frame of zeros. */
  table(): Mfn {
    const frame = this.frames.allocate(DOMID_XEN);
    if (frame < 0) throw new RangeError('the rig has no frame left');
    return frame as Mfn;
  }

  freeTable(frame: Mfn): void {
    this.frames.dropReferences(frame, 1, 0);
    this.frames.free(frame);
  }

  /** Root table set, translation on, and the queue if wanted. */
  start(options: { readonly queue?: boolean; readonly unit?: number } = {}): Mfn {
    const unit = this.units[options.unit ?? 0]!;
    const root = this.table();
    unit.writeRegister(Register.RTADDR, root << 12);
    this.command(unit, { setRootTable: 1 });
    const sticky = options.queue === false ? {} : { queuedInvalidationEnable: 1 };
    if (options.queue !== false) {
      unit.writeRegister(Register.IQA, unit.ownQueueFrame << 12);
      this.command(unit, sticky);
    }
    this.command(unit, { ...sticky, translationEnable: 1 });
    return root;
  }

  command(unit: VtdUnit, fields: Parameters<typeof encode<keyof typeof layouts.globalCommand.fields>>[1]): void {
    unit.writeRegister(Register.GCMD, encode(layouts.globalCommand, fields)[0]!);
  }

  /** Writes a root entry. */
  rootEntry(root: Mfn, bus: number, words: readonly number[]): void {
    this.frames.writeWideEntry(root, bus, words[0]!, words[1]!, words[2]!, words[3]!);
  }

  /** A context table for bus 0 under a root table. */
  contextTable(root: Mfn): Mfn {
    const contexts = this.table();
    this.rootEntry(root, 0, encode(layouts.rootEntry, { present: 1, contextTable: contexts }));
    return contexts;
  }

  context(contexts: Mfn, source: number, fields: ContextFields): void {
    const words = encode(layouts.contextEntry, {
      present: fields.present ?? 1,
      translationType: fields.type ?? 0,
      secondLevelTable: fields.table ?? 0,
      addressWidth: (fields.levels ?? 3) - 2,
      domainId: fields.did ?? 1,
    });
    this.frames.writeWideEntry(contexts, source & 0xff, words[0]!, words[1]!, words[2]!, words[3]!);
  }

  clearContext(contexts: Mfn, source: number): void {
    this.frames.writeWideEntry(contexts, source & 0xff, 0, 0, 0, 0);
  }

  /** Writes a second-level entry: a frame with rights, perhaps a superpage, perhaps other bits. Rights 0: absent. */
  entry(table: Mfn, index: number, frame: number, rights: number, extra: EntryFields = {}): void {
    const words = encode(layouts.secondLevelEntry, { read: rights & 1, write: rights >> 1, frame, ...extra });
    this.frames.writeEntry(table, index, words[0]!, words[1]!);
  }

  absent(table: Mfn, index: number): void {
    this.frames.writeEntry(table, index, 0, 0);
  }

  /** Hands a descriptor to a unit's queue; nothing is done with it yet. */
  submit(words: readonly number[], unit = this.unit): void {
    const tail = unit.readLow(Register.IQT) >>> 4;
    this.frames.writeWideEntry(unit.queueFrame as Mfn, tail, words[0]!, words[1]!, words[2]!, words[3]!);
    unit.writeRegister(Register.IQT, ((tail + 1) % 256) << 4);
  }

  /** Lets a unit go on until it has nothing to do. */
  run(unit = this.unit): void {
    while (unit.step());
  }

  iotlb(invalidation: Invalidation, unit = this.unit): void {
    this.submit(iotlbWords(invalidation), unit);
    this.run(unit);
  }

  contextCache(invalidation: ContextInvalidation, unit = this.unit): void {
    this.submit(contextWords(invalidation), unit);
    this.run(unit);
  }

  /** By registers what {@link iotlb} does by the queue. */
  iotlbByRegister(invalidation: Invalidation, unit = this.unit): void {
    const address = encode(layouts.invalidateAddress, {
      addressMask: invalidation.order ?? 0,
      invalidationHint: Number(invalidation.hint ?? false),
      address: invalidation.dfn ?? 0,
    });
    const command = encode(layouts.iotlbCommand, {
      domainId: invalidation.did ?? 0,
      drainReads: Number(invalidation.drainReads ?? false),
      drainWrites: Number(invalidation.drainWrites ?? false),
      requestedGranularity: IOTLB_GRANULARITY[invalidation.granularity],
      invalidate: 1,
    });
    unit.writeRegister(unit.iotlbRegister - 8, address[0]!, address[1]!);
    unit.writeRegister(unit.iotlbRegister, command[0]!, command[1]!);
    this.run(unit);
  }

  contextCacheByRegister(invalidation: ContextInvalidation, unit = this.unit): void {
    const command = encode(layouts.contextCommand, {
      domainId: invalidation.did ?? 0,
      sourceId: invalidation.source ?? 0,
      functionMask: invalidation.functionMask ?? 0,
      requestedGranularity: CONTEXT_GRANULARITY[invalidation.granularity],
      invalidate: 1,
    });
    unit.writeRegister(Register.CCMD, command[0]!, command[1]!);
    this.run(unit);
  }

  /** All that a request may get. */
  may(dfn: number, source = DEVICE, unit = this.unit): MayTranslation[] {
    if (!(unit.caches instanceof AdversaryCaches)) throw new TypeError('the unit is no adversary');
    return unit.caches.mayTranslate(source, dfn);
  }

  get lru(): LruCaches {
    if (!(this.unit.caches instanceof LruCaches)) throw new TypeError('the unit is no lru');
    return this.unit.caches;
  }
}

type EntryFields = Readonly<
  Partial<Record<'superpage' | 'snoop' | 'accessed' | 'dirty' | 'execute' | 'software', number>>
>;

export function iotlbWords(of: Invalidation): number[] {
  return encode(layouts.iotlbDescriptor, {
    type: 2,
    granularity: IOTLB_GRANULARITY[of.granularity],
    drainReads: Number(of.drainReads ?? false),
    drainWrites: Number(of.drainWrites ?? false),
    domainId: of.did ?? 0,
    addressMask: of.order ?? 0,
    invalidationHint: Number(of.hint ?? false),
    address: of.dfn ?? 0,
  });
}

export function contextWords(of: ContextInvalidation): number[] {
  return encode(layouts.contextCacheDescriptor, {
    type: 1,
    granularity: CONTEXT_GRANULARITY[of.granularity],
    domainId: of.did ?? 0,
    sourceId: of.source ?? 0,
    functionMask: of.functionMask ?? 0,
  });
}

/** A wait that writes `data` to a word of a frame. */
export function waitWords(frame: number, word: number, data: number): number[] {
  return encode(layouts.waitDescriptor, {
    type: 5,
    statusWrite: 1,
    fence: 1,
    statusData: data,
    statusAddress: frame * 1024 + word,
  });
}

/** A started unit whose device has a table of so many levels: what most tests begin with. */
export interface Mapped {
  readonly rig: Rig;
  readonly root: Mfn;
  readonly contexts: Mfn;
  /** The tables on the way to page 0, the highest first. */
  readonly path: readonly Mfn[];
  /** The lowest of them, whose entries are leaves. */
  readonly leaves: Mfn;
}

export function mapped(options: RigOptions & { readonly levels?: number; readonly did?: number } = {}): Mapped {
  const rig = new Rig(options);
  const root = rig.start();
  const contexts = rig.contextTable(root);
  const levels = options.levels ?? 3;
  const path = Array.from({ length: levels }, () => rig.table());
  for (let at = 0; at + 1 < levels; at += 1) rig.entry(path[at]!, 0, path[at + 1]!, RW);
  rig.context(contexts, DEVICE, { table: path[0]!, levels, did: options.did ?? 1 });
  return { rig, root, contexts, path, leaves: path[levels - 1]! };
}

/** Answers as text, sorted: `40 rw`, `41 r`, `fault 6`. */
export function answers(found: readonly MayTranslation[]): string[] {
  return found.map(answerText).sort();
}

function answerText({ frame, rights }: MayTranslation): string {
  if (frame < 0) return `fault ${-frame}`;
  return `${frame} ${['none', 'r', 'w', 'rw'][rights]!}`;
}
