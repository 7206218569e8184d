// One VT-d unit: registers, invalidation by register and by queue, translation, fault log.
//
// The unit acts in steps of its own (`step`), never by itself: a fetch, a completion, a status write. So it can be as
// slow as the caller likes, and what the driver does in between is seen.

import type { Mfn } from '../../machine/frame-number.ts';
import type { FrameTable } from '../../machine/frame-table.ts';
import type { Heap } from '../../machine/heap/heap.ts';
import type { Adversary } from './caches/adversary.ts';
import { AdversaryCaches } from './caches/adversary-caches.ts';
import { LruCaches, type LruShape } from './caches/lru-caches.ts';
import type { TranslationCaches } from './caches/translation-caches.ts';
import type { Capabilities, CapabilityRegisters } from './capabilities.ts';
import { DeviceTlbs, deviceTlbRange } from './device-tlbs.ts';
import type { DmaInFlight } from './dma.ts';
import { FaultLog } from './fault-log.ts';
import {
  drainsOf,
  hasReservedBits,
  type InvalidationObserver,
  isKnown,
  performed,
  queueFrameOf,
  UNIT_COUNTERS,
  type UnitCounter,
} from './invalidation-record.ts';
import { globalCommand, iotlbDescriptor, maskOf, waitDescriptor } from './layouts.ts';
import type { MemoryLag } from './memory-lag.ts';
import {
  type Access,
  contextDescriptorOf,
  DescriptorType,
  IotlbGranularity,
  iotlbDescriptorOf,
  REGISTER_WORDS,
  Register,
} from './registers.ts';
import { entryFrame } from './walk.ts';

const ENABLE = maskOf(globalCommand, 'translationEnable');
const SET_ROOT = maskOf(globalCommand, 'setRootTable');
const QUEUE_ENABLE = maskOf(globalCommand, 'queuedInvalidationEnable');
const FLUSH_BUFFER = maskOf(globalCommand, 'writeBufferFlush');
const STATUS_WRITE = maskOf(waitDescriptor, 'statusWrite');
const HINT = maskOf(iotlbDescriptor, 'invalidationHint');

/** Descriptors in the queue: one frame of them. */
export const QUEUE_ENTRIES = 256;

// Words of the unit's own, beside its registers: where the queue stands, what it did, what the status register says, an
// invalidation that was fetched and is not complete, and the memory of the queue.
const HEAD = 0;
const TAIL = 1;
const COUNTERS = 2;
/** A command register waits for the hardware. */
const COMMANDS = 7;
/** As GSTS has it. */
const STATUS = 8;
/** The frame in the queue address register. */
const QUEUE_FRAME = 9;
const POSITION_WORDS = 10;
/** 1: an invalidation is in hand. */
const HELD = POSITION_WORDS;
const HELD_WORDS = HELD + 1;
/** Which register to answer; 0 for the queue. */
const HELD_FROM = HELD + 5;
const HELD_END = HELD + 6;
const QUEUE = 16;
const FROM_QUEUE = 0;
const FROM_CONTEXT_COMMAND = 1;
const FROM_IOTLB_COMMAND = 2;

export interface UnitOptions {
  readonly index: number;
  readonly heap: Heap;
  readonly frames: FrameTable;
  readonly dma: DmaInFlight;
  readonly registers: CapabilityRegisters;
  readonly capabilities: Capabilities;
  readonly caches: { readonly adversary: Adversary } | { readonly lru: LruShape };
  /** What units do not see yet of memory, if anything; and for how many devices they know of TLBs (256). */
  readonly lag?: MemoryLag | null;
  readonly deviceTlbs?: number;
}

export class VtdUnit {
  readonly index: number;
  readonly capabilities: Capabilities;
  /** The drains that its IOTLB invalidations can ask for: bit 0 writes, bit 1 reads. */
  readonly drains: number;
  readonly caches: TranslationCaches;
  readonly faults: FaultLog;
  /** The devices that translate ahead; null on a unit that knows no device TLBs. */
  readonly deviceTlbs: DeviceTlbs | null;
  observer: InvalidationObserver | null = null;
  readonly #heap: Heap;
  readonly #frames: FrameTable;
  readonly #dma: DmaInFlight;
  readonly #lag: MemoryLag | null;
  readonly #didMask: number;
  /** Sticky bits of the command register that it has. */
  readonly #switches: number;
  /** The largest address mask that it does page by page; -1: none. */
  readonly #pageOrder: number;
  readonly #registers: number;
  readonly #own: Uint32Array;
  /** A frame of the hypervisor's for the invalidation queue, if the driver wishes to use it. */
  readonly ownQueueFrame: Mfn;
  /** The root table that was set, plus 1; 0: none was. */
  readonly #root: number;
  readonly #iotlbRegister: number;

  constructor(options: UnitOptions) {
    const { index, heap, frames, capabilities } = options;
    this.index = index;
    this.capabilities = capabilities;
    this.drains = Number(capabilities.drainWrites) | (Number(capabilities.drainReads) << 1);
    this.#heap = heap;
    this.#frames = frames;
    this.#dma = options.dma;
    this.#lag = options.lag ?? null;
    this.#didMask = capabilities.domainIds - 1;
    this.#pageOrder = capabilities.pageSelective ? capabilities.maxAddressMask : -1;
    this.#switches = ENABLE | (capabilities.queuedInvalidation ? QUEUE_ENABLE : 0);
    this.#registers = heap.reserve(`unit ${index} registers`, REGISTER_WORDS).base;
    this.#own = heap.reserveTransient(
      [
        { name: `unit ${index} positions and work`, words: POSITION_WORDS, identity: { kind: 'unhashed' } },
        {
          name: `unit ${index} invalidation in hand`,
          words: HELD_END - HELD,
          identity: { kind: 'slots', recordWords: HELD_END - HELD },
        },
        {
          name: `unit ${index} queue`,
          words: QUEUE_ENTRIES * 4,
          identity: {
            kind: 'ring',
            rings: 1,
            ringWords: QUEUE_ENTRIES * 4,
            recordWords: 4,
            window: () => ({ head: this.#own[HEAD]!, count: this.queued }),
          },
        },
      ],
      (own) => (own[HEAD] === own[TAIL] ? HELD_END : own.length),
    );
    this.ownQueueFrame = frames.addPrivate(this.#own.subarray(QUEUE));
    this.#root = heap.reserve(`unit ${index} root table`, 1).base;
    this.#write64(Register.CAP, options.registers.cap[0], options.registers.cap[1]);
    this.#write64(Register.ECAP, options.registers.ecap[0], options.registers.ecap[1]);
    heap.write(this.#registers + (Register.VER >> 2), 0x10);
    this.#iotlbRegister = ((options.registers.ecap[0] >>> 8) & 0x3ff) * 16;
    this.faults = new FaultLog(heap, this.#registers, options.registers.cap, capabilities.faultRecords);
    this.deviceTlbs = capabilities.deviceTlb ? new DeviceTlbs(heap, index, options.deviceTlbs ?? 256) : null;
    const common = { unit: index, heap, capabilities, rootTable: () => heap.words[this.#root]! - 1 };
    this.caches =
      'lru' in options.caches
        ? new LruCaches({ ...common, frames, shape: options.caches.lru, lag: this.#lag })
        : new AdversaryCaches({ ...common, shared: options.caches.adversary, deviceTlbs: this.deviceTlbs });
  }

  counter(name: UnitCounter): number {
    return this.#own[COUNTERS + UNIT_COUNTERS.indexOf(name)]!;
  }

  #count(counter: number): void {
    this.#own[COUNTERS + counter]! += 1;
  }

  #write64(offset: number, low: number, high: number): void {
    this.#heap.write(this.#registers + (offset >> 2), low);
    this.#heap.write(this.#registers + (offset >> 2) + 1, high);
  }

  /** Low word of a register. */
  readLow(offset: number): number {
    if (offset === Register.IQH) return this.#own[HEAD]! * 16;
    if (offset === Register.IQT) return this.#own[TAIL]! * 16;
    return this.#heap.words[this.#registers + (offset >> 2)]!;
  }

  /** High word of a 64-bit register. */
  readHigh(offset: number): number {
    if (offset === Register.IQH || offset === Register.IQT) return 0;
    return this.#heap.words[this.#registers + (offset >> 2) + 1]!;
  }

  /** Offset of the IOTLB invalidate register; the address register lies 8 bytes before it. */
  get iotlbRegister(): number {
    return this.#iotlbRegister + 8;
  }

  /** Writes a register, with the effects that the specification gives it. `high` is ignored for 32-bit registers. */
  writeRegister(offset: number, low: number, high = 0): void {
    if (offset === Register.IQT) {
      this.#own[TAIL] = (low >>> 4) & (QUEUE_ENTRIES - 1);
      return;
    }
    if (offset === Register.GCMD) return this.#globalCommand(low);
    if (offset === Register.FSTS) return this.faults.clearStatus(low);
    if (offset === Register.CAP || offset === Register.ECAP || offset === Register.IQH || offset === Register.GSTS)
      return;
    this.#write64(offset, low, high);
    if (offset === Register.CCMD || offset === this.iotlbRegister) this.#noteCommands();
    if (offset === Register.IQA) this.#own[QUEUE_FRAME] = queueFrameOf(low, high);
  }

  /** Whether a command register waits for the hardware, kept in one word for {@link step} to look at. */
  #noteCommands(): void {
    const waits = this.readHigh(Register.CCMD) >>> 31 !== 0 || this.readHigh(this.iotlbRegister) >>> 31 !== 0;
    this.#own[COMMANDS] = Number(waits);
  }

  #globalCommand(command: number): void {
    const status = this.#registers + (Register.GSTS >> 2);
    const before = this.#heap.words[status]!;
    let after = ((before & SET_ROOT) | (command & this.#switches)) >>> 0;
    if ((command & FLUSH_BUFFER) !== 0) this.#lag?.flushBuffer(this.index);
    if ((command & SET_ROOT) !== 0) {
      const root = entryFrame(this.readLow(Register.RTADDR), this.readHigh(Register.RTADDR));
      const old = this.#heap.words[this.#root]! - 1;
      if (this.caches instanceof AdversaryCaches) this.caches.rootTableSet(root, old);
      this.#heap.write(this.#root, root + 1);
      after |= SET_ROOT;
    }
    if ((after & QUEUE_ENABLE) !== 0 && (before & QUEUE_ENABLE) === 0) {
      this.#own[HEAD] = 0;
      this.#own[TAIL] = 0;
    }
    this.#heap.write(status, after);
    this.#own[STATUS] = after;
  }

  get translating(): boolean {
    return (this.#own[STATUS]! & ENABLE) !== 0;
  }

  get queueEnabled(): boolean {
    return (this.#own[STATUS]! & QUEUE_ENABLE) !== 0;
  }

  /** Descriptors that were submitted and not fetched. */
  get queued(): number {
    return (this.#own[TAIL]! - this.#own[HEAD]!) & (QUEUE_ENTRIES - 1);
  }

  /** Whether everything that was submitted is done or given up. */
  get isAtRest(): boolean {
    return this.#own[HELD] === 0 && this.queued === 0 && !this.faults.queueStopped;
  }

  /**
   * The frame that the unit finds for a request, or minus a fault reason. Leaves no trace in the fault log.
   * In the profile `adversary` this is the answer of the tables as they are; see `mayTranslate` for all of them.
   */
  translate(sourceId: number, dfn: number, access: Access): number {
    return this.translating ? this.caches.translate(sourceId, dfn, access) : dfn;
  }

  /** As {@link translate}; a fault is recorded. */
  request(sourceId: number, dfn: number, access: Access): number {
    const frame = this.translate(sourceId, dfn, access);
    if (frame < 0) this.faults.record(-frame, sourceId, dfn, access);
    return frame;
  }

  /** Whether the unit can act. */
  canStep(): boolean {
    if (this.#own[HELD] !== 0) return !this.#drainBlocks();
    return this.#own[COMMANDS] !== 0 || (this.queueEnabled && this.queued > 0 && !this.faults.queueStopped);
  }

  /**
   * One step of the hardware: completes the invalidation that it fetched, or else fetches the next.
   * False when there is nothing to do, or a drain has to wait.
   */
  step(): boolean {
    const own = this.#own;
    if (own[HELD] !== 0) {
      if (this.#drainBlocks()) return false;
      this.#complete();
      return true;
    }
    if (own[COMMANDS] !== 0) {
      this.#fetchRegisterCommand();
      return true;
    }
    if (own[HEAD] === own[TAIL] || !this.queueEnabled || this.faults.queueStopped) return false;
    this.#fetchDescriptor();
    return true;
  }

  #held(word: number): number {
    return this.#own[HELD_WORDS + word]!;
  }

  /** Register commands become the descriptor that says the same, so that both paths end in one place. VT-d 6.5.1. */
  #fetchRegisterCommand(): void {
    const register = (offset: number) => [this.readLow(offset), this.readHigh(offset)];
    if (this.readHigh(Register.CCMD) >>> 31 !== 0)
      return this.#hold(contextDescriptorOf(register(Register.CCMD)), FROM_CONTEXT_COMMAND);
    const { iotlbRegister } = this;
    this.#hold(iotlbDescriptorOf(register(iotlbRegister), register(iotlbRegister - 8)), FROM_IOTLB_COMMAND);
  }

  #hold(words: readonly number[], from: number): void {
    const own = this.#own;
    own[HELD] = 1;
    for (let i = 0; i < 4; i += 1) own[HELD_WORDS + i] = words[i]!;
    own[HELD_FROM] = from;
    this.observer?.taken(this.index, words[0]!, words[1]!, words[2]!, words[3]!, true);
    this.#lag?.flushBuffer(this.index);
    this.caches.fetchInvalidation();
  }

  #fetchDescriptor(): void {
    const own = this.#own;
    const at = own[HEAD]! * 4;
    const frame = own[QUEUE_FRAME]!;
    const queue = this.#heap.blocks[frame]!;
    const isThere = frame === this.ownQueueFrame || this.#frames.isMemory(frame);
    if (!isThere || hasReservedBits(queue[at]!, queue[at + 1]!, queue[at + 2]!)) return this.faults.queueError();
    const type = queue[at]! & 0xf;
    if (type === DescriptorType.wait) {
      // Nothing fetched before it is incomplete: the unit holds one invalidation at a time.
      if ((queue[at]! & STATUS_WRITE) !== 0) this.#writeStatus(queue[at + 1]!, queue[at + 2]!, queue[at + 3]!);
      this.#count(4);
    } else if (isKnown(this.capabilities, this.#pageOrder, queue[at]!, queue[at + 2]!)) {
      own[HELD] = 1;
      for (let i = 0; i < 4; i += 1) own[HELD_WORDS + i] = queue[at + i]!;
      own[HELD_FROM] = FROM_QUEUE;
      this.#lag?.flushBuffer(this.index);
      if (type === DescriptorType.deviceTlb) this.caches.fetchDeviceTlb();
      else this.caches.fetchInvalidation();
    } else {
      // The head stays at the descriptor in error, and the queue stands still until software clears it. VT-d 6.5.2.10.
      return this.faults.queueError();
    }
    this.observer?.taken(this.index, queue[at]!, queue[at + 1]!, queue[at + 2]!, queue[at + 3]!, false);
    own[HEAD] = (own[HEAD]! + 1) & (QUEUE_ENTRIES - 1);
  }

  #writeStatus(data: number, low: number, high: number): void {
    const frame = entryFrame(low, high) as Mfn;
    if (this.#frames.isMemory(frame)) this.#frames.writeWord(frame, (low & 0xffc) >>> 2, data);
  }

  /** Frame that the queue lies in. */
  get queueFrame(): number {
    return this.#own[QUEUE_FRAME]!;
  }

  /** Slot of the queue that the tail register names: where the next descriptor goes. */
  get queueTail(): number {
    return this.#own[TAIL]!;
  }

  /** Writes a slot of the queue, if the queue lies in the unit's own frame. */
  writeOwnQueue(slot: number, w0: number, w1: number, w2: number, w3: number): boolean {
    const own = this.#own;
    if (own[QUEUE_FRAME] !== this.ownQueueFrame) return false;
    const at = QUEUE + slot * 4;
    own[at] = w0;
    own[at + 1] = w1;
    own[at + 2] = w2;
    own[at + 3] = w3;
    return true;
  }

  #drainBlocks(): boolean {
    if (this.#dma.isEmpty) return false;
    const low = this.#held(0);
    const drains = drainsOf(this.capabilities, low);
    const granularity = performed(this.#pageOrder, low, this.#held(2));
    if (drains === 0 || granularity === 0) return false;
    const scope = { granularity, did: this.#heldDid(), dfn: this.#heldDfn(), order: this.#held(2) & 0x3f };
    return this.#dma.blocks(this.index, scope, (drains & 2) !== 0, (drains & 1) !== 0);
  }

  #heldDfn(): number {
    return (this.#held(2) >>> 12) + this.#held(3) * 0x100000;
  }

  /** Bits beyond those that the unit has ids for are ignored. VT-d 6.5.2.1. */
  #heldDid(): number {
    return (this.#held(0) >>> 16) & this.#didMask;
  }

  #complete(): void {
    const low = this.#held(0);
    const second = this.#held(1);
    const type = low & 0xf;
    let granularity = (low >>> 4) & 3;
    if (type === DescriptorType.deviceTlb) {
      if (this.deviceTlbs!.isSilent(second & 0xffff)) return this.#timeOut(second & 0xffff);
      this.caches.invalidateDeviceTlb(second & 0xffff, deviceTlbRange(this.#held(2), this.#held(3)));
    } else if (type === DescriptorType.context) {
      if (granularity !== 0) {
        this.caches.invalidateContext(granularity, this.#heldDid(), second & 0xffff, (second >>> 16) & 3);
        this.#count(0);
      }
    } else {
      const third = this.#held(2);
      granularity = performed(this.#pageOrder, low, third);
      if (granularity !== 0) {
        const order = granularity === IotlbGranularity.page ? third & 0x3f : 0;
        this.caches.invalidateIotlb(granularity, this.#heldDid(), this.#heldDfn(), order, (third & HINT) !== 0);
        this.#count(granularity);
      }
    }
    this.#answer(granularity);
    this.#own[HELD] = 0;
  }

  /**
   * A device did not acknowledge its invalidation in time: that is given up, the waits behind it write nothing, and
   * the queue stands still until software clears the error. VT-d 6.5.2.10.
   */
  #timeOut(sourceId: number): void {
    const own = this.#own;
    own[HELD] = 0;
    this.caches.abandonDeviceTlb();
    this.faults.invalidationTimeout(sourceId);
    const queue = this.#heap.blocks[own[QUEUE_FRAME]!]!;
    while (own[HEAD] !== own[TAIL] && (queue[own[HEAD]! * 4]! & 0xf) === DescriptorType.wait)
      own[HEAD] = (own[HEAD]! + 1) & (QUEUE_ENTRIES - 1);
  }

  /** The device whose acknowledgement the unit waits for, or gave up waiting for; -1 when there is none. */
  get unanswered(): number {
    if (this.faults.timedOut) return this.faults.timeoutSource;
    const source = this.#held(1) & 0xffff;
    if (this.#own[HELD] === 0 || (this.#held(0) & 0xf) !== DescriptorType.deviceTlb) return -1;
    return this.deviceTlbs!.isSilent(source) ? source : -1;
  }

  /** Register path: clears the command bit and reports the granularity performed. VT-d 6.5.1. */
  #answer(granularity: number): void {
    const from = this.#own[HELD_FROM]!;
    if (from === FROM_QUEUE) return;
    const isContext = from === FROM_CONTEXT_COMMAND;
    const register = isContext ? Register.CCMD : this.iotlbRegister;
    const [rest, shift] = isContext ? [0x67ffffff, 27] : [0x79ffffff, 25];
    const high = (this.readHigh(register) & rest) | (granularity << shift);
    this.#write64(register, this.readLow(register), high >>> 0);
    this.#noteCommands();
  }
}
