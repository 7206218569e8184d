// Turns a policy's answers into descriptors and waits, in micro-steps.
//
// Per virtual CPU the heap holds what the policy asked for and how far it has been carried out. `step` carries out one
// piece: one descriptor, one wait descriptor, or the end of a wait. A step that cannot go on says so and changes
// nothing.

import type { Dfn, Mfn } from '../../../machine/frame-number.ts';
import type { FrameTable } from '../../../machine/frame-table.ts';
import type { Domid, Vcpu } from '../../../machine/ids.ts';
import { Progress } from '../../../machine/pending.ts';
import { highWord, joinWords, nextBit } from '../../../machine/wide.ts';
import type { Capabilities, VtdUnit } from '../../hardware/index.ts';
import type { Flush, FlushPolicy, Release, Structure } from '../../policy/flush-policy.ts';
import type { DomainIds } from '../domain-ids.ts';
import type { DeviceTables } from '../tables/device-tables.ts';
import { ChangeInMaking, rightsOf } from './access-change.ts';
import { DeviceTlbFlush } from './device-tlb-flush.ts';
import type { FlushEngineOptions } from './engine-options.ts';
import { FlushLedger } from './flush-ledger.ts';
import { flushBuffer, hasRoom, isRegisterIdle, submitContext, submitIotlb, Waits } from './invalidation.ts';
import { VcpuFlush } from './vcpu-flush.ts';

// Words per virtual CPU: how many requests there are and the next of them, the next unit; whether a wait is wanted.
const COUNT = 0;
const NEXT = 1;
const UNIT = 2;
const WAIT_WANTED = 3;
/** Units that were sent invalidations which no wait has covered. */
const TOUCHED = 4;
const PHASE = 5;
/** Units whose wait is not over. */
const AWAITED = 6;
/** The first device TLB that the request in hand has not come to. */
const DEVICE_TLB = 7;
/** Units whose write buffer may hold changes that no invalidation has taken along. */
const BUFFERS = 8;
const REQUESTS = 9;
// A request: its kind, the domain with the order above it, the device frame.
const REQUEST_WORDS = 4;
const KIND = 0;
const DOMAIN_ORDER = 1;
const DFN_LOW = 2;
const DFN_HIGH = 3;
const REQUESTS_MAX = 62;

const PAGE = 3;
const DOMAIN = 2;
const GLOBAL = 1;
const LEAVES_ONLY = 0x100;
/** A wait was asked for before the next request: this one is waited for by itself. */
const AWAITED_ALONE = 0x200;
/** It concerns entries that were absent: units that do not cache those are passed over. */
const ABSENT_ONLY = 0x400;
/** The driver's own, for one unit and a did it names: context cache of a device; IOTLB of the did, all or one page. */
const CONTEXT_OF = 4;
const IOTLB_OF = 5;
const PAGE_OF = 6;

const SUBMIT = 0;
const SUBMIT_WAITS = 1;
const WAIT = 2;
/** A wait for what one unit was just sent, and nothing else: submitted, then awaited. */
const SUBMIT_OWN_WAIT = 3;
const OWN_WAIT = 4;

const NOTHING: readonly number[] = [];

export class FlushEngine {
  readonly ledger: FlushLedger;
  readonly waits: Waits;
  readonly devices: DeviceTlbFlush;
  policy: FlushPolicy;
  release: Release;
  readonly #frames: FrameTable;
  readonly #units: readonly VtdUnit[];
  readonly #ids: readonly DomainIds[];
  readonly #tables: DeviceTables;
  readonly #states: readonly Uint32Array[];
  readonly #change = new ChangeInMaking();
  readonly #flushes: readonly Flush[];
  readonly #cachingUnits: number;
  readonly #bufferedUnits: number;
  /** Whether the change that the policy is shown is of absent entries only. */
  #isAbsentOnly = false;
  readonly #allUnits: number;

  constructor(options: FlushEngineOptions, policy: FlushPolicy, release: Release) {
    const { heap, frames } = options;
    this.#frames = frames;
    this.#units = options.units;
    this.#ids = options.ids;
    this.#tables = options.tables;
    this.ledger = new FlushLedger(heap, options.clock, {
      vcpus: options.vcpus,
      domains: options.domains,
      capacity: options.ledgerCapacity,
      ...(options.isIdle ? { isIdle: options.isIdle } : {}),
      releaseTable: (table, level) => options.tables.pages.release(table, level),
    });
    this.#states = Array.from({ length: options.vcpus }, (_, vcpu) =>
      heap.reserveTransient(
        [
          { name: `vCPU ${vcpu} flush`, words: REQUESTS },
          {
            name: `vCPU ${vcpu} flush requests`,
            words: REQUESTS_MAX * REQUEST_WORDS,
            identity: { kind: 'slots', recordWords: REQUEST_WORDS },
          },
        ],
        (state) => REQUESTS + state[COUNT]! * REQUEST_WORDS,
      ),
    );
    this.waits = new Waits(frames, options.units);
    this.#allUnits = 2 ** options.units.length - 1;
    this.policy = policy;
    this.release = release;
    this.#flushes = Array.from({ length: options.vcpus }, (_, vcpu) => new VcpuFlush(this, vcpu as Vcpu));
    const maskOf = (has: (of: Capabilities) => boolean) =>
      options.units.reduce((mask, unit) => (has(unit.capabilities) ? mask | (1 << unit.index) : mask), 0);
    this.#cachingUnits = maskOf(({ cachingMode }) => cachingMode);
    this.#bufferedUnits = maskOf(({ writeBufferFlush }) => writeBufferFlush);
    this.devices = new DeviceTlbFlush({ ...options, onTimeout: options.deviceTlbTimeout });
  }

  /** Whether device frames have a removal that was not flushed. */
  isPending(domain: Domid, dfn: Dfn, order: number): boolean {
    return this.ledger.isPending(domain, dfn, order);
  }

  /**
   * Device access changed: notes a removal, and asks the policy. A domain without devices has nothing to flush.
   * `before` and `after` are entry rights (0, 1 read, 3 read and write); `dropped` are the tables taken out, as
   * TableChanges has them.
   */
  changed(
    vcpu: Vcpu,
    domain: Domid,
    dfn: Dfn,
    order: number,
    before: number,
    after: number,
    frameChanged: boolean,
    structure: Structure = 'none',
    dropped: readonly number[] = NOTHING,
  ): void {
    const units = this.#tables.units(domain);
    if (units === 0) {
      for (const table of dropped) this.#tables.pages.release((table >>> 4) as Mfn, table & 7);
      return;
    }
    const change = this.#change;
    change.domain = domain;
    change.dfn = dfn;
    change.order = order;
    change.from = rightsOf(before);
    change.to = rightsOf(after);
    change.frameChanged = frameChanged;
    change.structure = structure;
    change.absentMayBeCached = (units & this.#cachingUnits) !== 0;
    change.pendingRemoval = before === 0 && this.isPending(domain, dfn, order);
    for (let at = 0; at < dropped.length; at += 1) {
      this.#makeRoom(vcpu);
      this.ledger.droppedTable(vcpu, domain, dfn, dropped[at]!);
    }
    if (frameChanged || (before & ~after) !== 0) {
      this.#makeRoom(vcpu);
      this.ledger.removed(vcpu, domain, dfn, order);
    }
    this.#isAbsentOnly = before === 0 && structure === 'none' && !change.pendingRemoval;
    if (this.#bufferedUnits !== 0) this.#states[vcpu]![BUFFERS]! |= units & this.#bufferedUnits;
    this.policy.change(change, this.#flushes[vcpu]!);
    this.#isAbsentOnly = false;
  }

  #makeRoom(vcpu: Vcpu): void {
    if (this.ledger.isFull(vcpu)) this.ledger.makeRoom(vcpu, this.release === 'onReturn', this.policy.name);
  }

  /** Holds a completion back until everything removed before it is flushed. */
  hold(vcpu: Vcpu, kind: number, a: number, b: number, c: number, d: number, e: number): void {
    if (!this.ledger.canAttach(vcpu)) this.#makeRoom(vcpu);
    this.ledger.hold(vcpu, kind, a, b, c, d, e);
  }

  elementEnd(vcpu: Vcpu): void {
    this.policy.elementEnd?.(this.#flushes[vcpu]!);
  }

  operationEnd(vcpu: Vcpu): void {
    this.policy.operationEnd?.(this.#flushes[vcpu]!);
  }

  tick(vcpu: Vcpu): void {
    this.policy.tick?.(this.#flushes[vcpu]!);
  }

  /** The policy's answer, or the driver's own wish: an invalidation. */
  request(vcpu: Vcpu, kind: number, domain: number, dfn: number, order: number): void {
    const state = this.#states[vcpu]!;
    const count = state[COUNT]!;
    if (count === REQUESTS_MAX)
      throw new RangeError(`policy ${this.policy.name}: more than ${REQUESTS_MAX} invalidations asked for at once`);
    const at = REQUESTS + count * REQUEST_WORDS;
    if (count > 0 && state[WAIT_WANTED] !== 0) {
      state[at - REQUEST_WORDS + KIND]! |= AWAITED_ALONE;
      state[WAIT_WANTED] = 0;
    }
    state[at + KIND] = kind;
    state[at + DOMAIN_ORDER] = domain | (order << 16);
    state[at + DFN_LOW] = dfn;
    state[at + DFN_HIGH] = highWord(dfn);
    state[COUNT] = count + 1;
  }

  requestPage(vcpu: Vcpu, domain: Domid, dfn: Dfn, order: number, leavesOnly: boolean): void {
    if (this.#tables.units(domain) === 0) return;
    const { domain: of, dfn: at, order: by } = this.#change;
    const isAbsent = this.#isAbsentOnly && of === domain && at === dfn && by === order;
    this.request(vcpu, PAGE | (leavesOnly ? LEAVES_ONLY : 0) | (isAbsent ? ABSENT_ONLY : 0), domain, dfn, order);
  }

  requestDomain(vcpu: Vcpu, domain: Domid): void {
    if (this.#tables.units(domain) !== 0) this.request(vcpu, DOMAIN, domain, 0, 0);
  }

  requestGlobal(vcpu: Vcpu): void {
    this.request(vcpu, GLOBAL, 0, 0, 0);
  }

  /**
   * Of one unit, by did: the context cache of a device, then the IOTLB, each with a wait of its own (xen:
   * domain_context_mapping_one).
   */
  requestContextFlush(vcpu: Vcpu, unit: number, did: number, sourceId: number): void {
    this.request(vcpu, CONTEXT_OF, did, sourceId, unit);
    this.request(vcpu, IOTLB_OF, did, sourceId, unit);
  }

  /** What was written for a unit reaches it, by an invalidation or by command. xen: iommu_flush_write_buffer. */
  requestBufferFlush(vcpu: Vcpu, unit: number): void {
    this.#states[vcpu]![BUFFERS]! |= this.#bufferedUnits & (1 << unit);
  }

  /** Of one unit, by did: the IOTLB for one page. */
  requestPageOf(vcpu: Vcpu, unit: number, did: number, dfn: Dfn): void {
    this.request(vcpu, PAGE_OF, did, dfn, unit);
  }

  requestWait(vcpu: Vcpu): void {
    this.#states[vcpu]![WAIT_WANTED] = 1;
  }

  isUnwaited(vcpu: Vcpu): boolean {
    const state = this.#states[vcpu]!;
    return state[TOUCHED] !== 0 || state[COUNT] !== 0;
  }

  /** Whether anything is left to carry out on this CPU. */
  isIdle(vcpu: Vcpu): boolean {
    const state = this.#states[vcpu]!;
    return state[COUNT] === 0 && state[WAIT_WANTED] === 0 && state[PHASE] === SUBMIT && state[BUFFERS] === 0;
  }

  /** Carries out one piece of what was asked for on this CPU. */
  step(vcpu: Vcpu): Progress {
    const state = this.#states[vcpu]!;
    const phase = state[PHASE]!;
    if (phase === WAIT) return this.#wait(vcpu, state);
    if (phase === SUBMIT_WAITS) return this.#submitWaits(vcpu, state);
    if (phase === SUBMIT_OWN_WAIT) return this.#submitOwnWait(vcpu, state);
    if (phase === OWN_WAIT) return this.#ownWait(vcpu, state);
    const count = state[COUNT]!;
    if (count > 0) return this.#submit(vcpu, state, count);
    if (state[BUFFERS] !== 0) this.#flushBuffers(state);
    if (state[WAIT_WANTED] === 0) return Progress.done;
    const first = nextBit(state[TOUCHED]!, 0);
    if (first >= 0 && !this.waits.canSubmit(first)) return Progress.blocked;
    state[PHASE] = SUBMIT_WAITS;
    state[AWAITED] = state[TOUCHED]!;
    state[UNIT] = 0;
    return this.#submitWaits(vcpu, state);
  }

  /** Buffers that no invalidation has flushed since they were written to. VT-d 10.4.4. */
  #flushBuffers(state: Uint32Array): void {
    const buffers = state[BUFFERS]!;
    for (let unit = nextBit(buffers, 0); unit >= 0; unit = nextBit(buffers, unit + 1)) flushBuffer(this.#units[unit]!);
    state[BUFFERS] = 0;
  }

  #submit(vcpu: Vcpu, state: Uint32Array, count: number): Progress {
    const next = state[NEXT]!;
    const at = REQUESTS + next * REQUEST_WORDS;
    const kind = state[at + KIND]!;
    const domain = (state[at + DOMAIN_ORDER]! & 0xffff) as Domid;
    const order = state[at + DOMAIN_ORDER]! >>> 16;
    const dfn = joinWords(state[at + DFN_LOW]!, state[at + DFN_HIGH]!) as Dfn;
    const mask = this.#unitsOf(kind, domain, order);
    const first = state[UNIT]!;
    const unit = nextBit(mask, first);
    const on = unit < 0 ? null : this.#units[unit]!;
    if (on && (!isRegisterIdle(on) || !hasRoom(on))) return Progress.blocked;
    // What was removed before the first unit is told is covered on all of them; what comes later may not be.
    const by = kind & 0xff;
    if (first === 0 && by <= PAGE && (kind & ABSENT_ONLY) === 0) {
      const from = by === PAGE ? dfn : -1;
      this.ledger.cover(vcpu, by === GLOBAL ? -1 : domain, from, order, (kind & LEAVES_ONLY) !== 0);
    }
    if (on) {
      state[UNIT] = unit + 1;
      if (this.#submitTo(on, kind, domain, dfn, order)) {
        state[TOUCHED] = state[TOUCHED]! | (1 << unit);
        state[BUFFERS] = state[BUFFERS]! & ~(1 << unit);
        if (this.#isAwaitedAtOnce(unit, kind, domain)) {
          state[PHASE] = SUBMIT_OWN_WAIT;
          state[DEVICE_TLB] = 0;
          return Progress.more;
        }
      }
      if (nextBit(mask, unit + 1) >= 0) return Progress.more;
    }
    state[at + KIND] = 0;
    state[UNIT] = 0;
    if (next + 1 < count) {
      state[NEXT] = next + 1;
      return Progress.more;
    }
    state[COUNT] = 0;
    state[NEXT] = 0;
    return state[WAIT_WANTED] === 0 && state[BUFFERS] === 0 ? Progress.done : Progress.more;
  }

  /**
   * As a policy asked, step by step. Context entries are never left half done; and device TLBs may be told only when
   * the IOTLB, from which they would fill themselves again, is clean. VT-d 6.5.2.5.
   */
  #isAwaitedAtOnce(unit: number, kind: number, domain: number): boolean {
    if ((kind & AWAITED_ALONE) !== 0 || (kind & 0xff) >= CONTEXT_OF) return true;
    return this.#nextDeviceTlb(unit, kind, domain, 0) >= 0;
  }

  /** The next device TLB that a request on a unit concerns; -1: none. */
  #nextDeviceTlb(unit: number, kind: number, domain: number, from: number): number {
    const by = kind & 0xff;
    if (by === CONTEXT_OF || !this.devices.areThere) return -1;
    if (by === GLOBAL) return this.devices.next(unit, -1, from);
    return this.devices.next(unit, by >= IOTLB_OF ? domain : this.#ids[unit]!.didOf(domain as Domid), from);
  }

  /** xen: queue_invalidate_wait, after each invalidation. By register the command itself says when it is done. */
  #submitOwnWait(vcpu: Vcpu, state: Uint32Array): Progress {
    const unit = state[UNIT]! - 1;
    if (!this.waits.canSubmit(unit)) return Progress.blocked;
    this.waits.submit(vcpu, unit);
    state[PHASE] = OWN_WAIT;
    return Progress.more;
  }

  /** What the unit was sent is complete: the device TLBs come next, one by one. */
  #ownWait(vcpu: Vcpu, state: Uint32Array): Progress {
    const unit = state[UNIT]! - 1;
    if (!this.waits.isOver(vcpu, unit)) return this.#recover(vcpu, unit, state[DEVICE_TLB]! - 1);
    state[TOUCHED] = state[TOUCHED]! & ~(1 << unit);
    const at = REQUESTS + state[NEXT]! * REQUEST_WORDS;
    const kind = state[at + KIND]!;
    const device = this.#nextDeviceTlb(unit, kind, state[at + DOMAIN_ORDER]! & 0xffff, state[DEVICE_TLB]!);
    state[PHASE] = device < 0 ? SUBMIT : SUBMIT_OWN_WAIT;
    if (device < 0) {
      if ((kind & 0xff) === IOTLB_OF) this.devices.attached(unit, state[at + DFN_LOW]!);
      if ((kind & AWAITED_ALONE) !== 0 && this.#isLastUnit(state, at)) this.ledger.flushed(vcpu);
      return Progress.more;
    }
    const dfn = joinWords(state[at + DFN_LOW]!, state[at + DFN_HIGH]!);
    const order = (kind & 0xff) === PAGE ? state[at + DOMAIN_ORDER]! >>> 16 : -1;
    this.devices.tell(unit, device, dfn, order);
    state[DEVICE_TLB] = device + 1;
    return Progress.more;
  }

  /** A wait that is not over may never be, since a device did not answer: that is given up, or the wait repeated. */
  #recover(vcpu: Vcpu, unit: number, device: number): Progress {
    if (!this.devices.givesUp) return Progress.blocked;
    return this.devices.giveUp(vcpu, unit, device) || this.waits.repeat(vcpu, unit) ? Progress.more : Progress.blocked;
  }

  /** Whether every unit that a request concerns was told, and nothing else is without a wait. */
  #isLastUnit(state: Uint32Array, at: number): boolean {
    const domain = (state[at + DOMAIN_ORDER]! & 0xffff) as Domid;
    const mask = this.#unitsOf(state[at + KIND]!, domain, state[at + DOMAIN_ORDER]! >>> 16);
    return nextBit(mask, state[UNIT]!) < 0 && state[TOUCHED] === 0;
  }

  #unitsOf(kind: number, domain: Domid, order: number): number {
    const by = kind & 0xff;
    if (by === GLOBAL) return this.#allUnits;
    const units = by >= CONTEXT_OF ? 1 << order : this.#tables.units(domain);
    return (kind & ABSENT_ONLY) === 0 ? units : units & this.#cachingUnits;
  }

  /** One request on one unit. Ids resolve here, at the drain: the unit's own did, if the domain still has one. */
  #submitTo(unit: VtdUnit, kind: number, domain: Domid, dfn: Dfn, order: number): boolean {
    const frames = this.#frames;
    const by = kind & 0xff;
    if (by === CONTEXT_OF) submitContext(frames, unit, domain, dfn);
    else if (by === IOTLB_OF) submitIotlb(frames, unit, DOMAIN, domain, 0, 0, false);
    else if (by === PAGE_OF) submitIotlb(frames, unit, PAGE, domain, dfn, 0, false);
    else if (by === GLOBAL) submitIotlb(frames, unit, GLOBAL, 0, 0, 0, false);
    else {
      const did = this.#ids[unit.index]!.didOf(domain);
      if (did < 0) return false;
      submitIotlb(frames, unit, by, did, by === PAGE ? dfn : 0, by === PAGE ? order : 0, (kind & LEAVES_ONLY) !== 0);
    }
    return true;
  }

  #submitWaits(vcpu: Vcpu, state: Uint32Array): Progress {
    const awaited = state[AWAITED]!;
    const unit = nextBit(awaited, state[UNIT]!);
    if (unit >= 0) {
      if (!this.waits.canSubmit(unit)) return Progress.blocked;
      this.waits.submit(vcpu, unit);
      state[UNIT] = unit + 1;
      if (nextBit(awaited, unit + 1) >= 0) return Progress.more;
    }
    state[UNIT] = 0;
    state[PHASE] = WAIT;
    return Progress.more;
  }

  #wait(vcpu: Vcpu, state: Uint32Array): Progress {
    const awaited = state[AWAITED]!;
    for (let unit = nextBit(awaited, 0); unit >= 0; unit = nextBit(awaited, unit + 1)) {
      if (!this.waits.isOver(vcpu, unit)) return this.#recover(vcpu, unit, -1);
    }
    state[TOUCHED] = state[TOUCHED]! & ~awaited;
    state[AWAITED] = 0;
    state[WAIT_WANTED] = 0;
    state[PHASE] = SUBMIT;
    this.ledger.flushed(vcpu);
    return Progress.done;
  }

  /** Units that this CPU waits for now: the hardware to let run. 0 when it does not wait. */
  awaited(vcpu: Vcpu): number {
    const state = this.#states[vcpu]!;
    if (state[PHASE] === OWN_WAIT) return 1 << (state[UNIT]! - 1);
    return state[PHASE] === WAIT ? state[AWAITED]! : 0;
  }
}
