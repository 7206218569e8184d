// Replays a workload through a machine under one policy, and measures: exposure in either cache profile, work and
// device accesses in the profile `lru`.
//
// The loop is open: events happen at their recorded times whatever an operation costs, and hardware takes no time.

import { HypervisorBug } from '../../../machine/errors.ts';
import type { Mfn } from '../../../machine/frame-number.ts';
import { Access, LRU_COUNTERS, LruCaches, type LruCounter } from '../../../passthrough/index.ts';
import { type ExposureTally, ExposureTracker } from '../exposure/exposure-tracker.ts';
import type { PolicyChoice } from '../policy-choice.ts';
import { EventKind, type ImportedTrace } from '../workload/workload.ts';
import { AddressChoice } from './address-choice.ts';
import { FlushTimers } from './flush-timers.ts';
import { LateDevice } from './late-device.ts';
import {
  domainOf,
  must,
  type ReplayCaches,
  type ReplayMachine,
  type ReplayPlatform,
  replayMachine,
} from './replay-machine.ts';
import { type WorkCounts, WorkMeter } from './work-counts.ts';

/** What devices met in the profile `lru`. */
export interface DeviceAccesses {
  /** One for each page, right after its map returned. */
  touches: number;
  /** Such touches that a unit refused, though the tables allow them. */
  spuriousFaults: number;
  /** Such touches that a stale entry led to another frame. */
  misdirected: number;
  /** Touches of pages that had been unmapped. */
  lateTouches: number;
  /** Late touches that reached the old frame after it was released. */
  staleAccesses: number;
}

/** Invalidations that units carried out. */
export interface InvalidationCounts {
  readonly context: number;
  readonly global: number;
  readonly domain: number;
  readonly page: number;
  readonly waits: number;
}

export interface ReplayResult {
  readonly exposure: ExposureTally;
  readonly work: WorkCounts;
  readonly accesses: Readonly<DeviceAccesses>;
  readonly invalidations: InvalidationCounts;
  /** Sums over the units; all 0 in the profile `adversary`. */
  readonly caches: Readonly<Record<LruCounter, number>>;
  /** Address groups that got other device frames than the recorded ones. */
  readonly groupsShifted: number;
}

export interface ReplayOptions {
  readonly caches: ReplayCaches;
  readonly seed: number;
  readonly touchRatePerSecond: number;
  /** Called now and then with the number of events done; what it returns is waited for. */
  readonly onProgress?: (events: number) => Promise<void> | void;
}

/** Events between two reports of progress. */
const REPORT_EVENTS = 2048;

/** @throws RangeError when the trace needs a larger machine than there can be; HypervisorBug for our own defects. */
export async function replay(
  trace: ImportedTrace,
  platform: ReplayPlatform,
  choice: PolicyChoice,
  options: ReplayOptions,
): Promise<ReplayResult> {
  const run = new Replay(trace, replayMachine(trace, platform, choice, options.caches), options);
  for (let event = 0; event < trace.events.count; event += 1) {
    run.event(event);
    if (event % REPORT_EVENTS === 0) await options.onProgress?.(event);
  }
  return run.finish();
}

class Replay {
  readonly #trace: ImportedTrace;
  readonly #on: ReplayMachine;
  readonly #tracker: ExposureTracker;
  readonly #addresses: AddressChoice;
  readonly #timers: FlushTimers;
  readonly #work: WorkMeter;
  /** Null in the profile `adversary`, where devices do not matter. */
  readonly #late: LateDevice | null;
  readonly #accesses: DeviceAccesses = {
    touches: 0,
    spuriousFaults: 0,
    misdirected: 0,
    lateTouches: 0,
    staleAccesses: 0,
  };

  constructor(trace: ImportedTrace, on: ReplayMachine, options: ReplayOptions) {
    const { machine } = on;
    this.#trace = trace;
    this.#on = on;
    const tracker = new ExposureTracker(on.physical);
    this.#tracker = tracker;
    this.#addresses = new AddressChoice(trace, machine, on.shifts);
    this.#timers = new FlushTimers(machine);
    this.#work = new WorkMeter(machine);
    const startUs = trace.events.timeUs[0] ?? 0;
    const { seed, touchRatePerSecond: ratePerSecond } = options;
    this.#late = options.caches.kind === 'lru' ? new LateDevice({ seed, ratePerSecond, startUs }) : null;
    machine.access.observer = {
      released: (domain, dfn, order) => tracker.released(domain, dfn, 2 ** order),
    };
    const observer = {
      cached(unit: number, did: number, dfn: number, pages: number, frame: number, rights: number) {
        const domain = domainOf(machine, unit, did);
        for (let page = 0; page < pages; page += 1) tracker.cached(domain, dfn + page, frame + page, rights);
      },
      dropped(unit: number, did: number, dfn: number, pages: number, frame: number, rights: number) {
        const domain = domainOf(machine, unit, did);
        for (let page = 0; page < pages; page += 1) tracker.dropped(domain, dfn + page, frame + page, rights);
      },
    };
    for (const unit of machine.units) unit.caches.observer = observer;
  }

  event(index: number): void {
    const { events } = this.#trace;
    const { machine } = this.#on;
    this.#passTime(events.timeUs[index]!);
    const domain = events.domain[index]!;
    const vcpu = events.vcpu[index]! % machine.config.vcpus;
    const dfn = events.dfn[index]! + this.#addresses.offset(domain, events.group[index]!);
    this.#work.before(vcpu);
    if (events.kind[index] === EventKind.map) this.#map(index, domain, vcpu, dfn);
    else this.#unmap(vcpu, domain, dfn, events.pages[index]!);
    this.#timers.ran(vcpu);
  }

  /** Everything that happens between two events, in the order of time. A timer due at the very moment goes first. */
  #passTime(untilUs: number): void {
    for (;;) {
      const vcpu = this.#timers.next(untilUs);
      const lateUs = this.#late?.nextUs ?? Number.POSITIVE_INFINITY;
      if (vcpu >= 0 && this.#timers.dueUs(vcpu) <= lateUs) this.#tick(vcpu, this.#timers.dueUs(vcpu));
      else if (lateUs <= untilUs) this.#lateTouch(lateUs);
      else break;
    }
    this.#advance(untilUs);
  }

  #advance(us: number): void {
    this.#on.machine.parts.clock.advanceTo(us);
    this.#tracker.advanceTo(us);
  }

  #tick(vcpu: number, nowUs: number): void {
    this.#advance(nowUs);
    must(this.#on.machine, { op: 'tick', vcpu, nowUs });
    this.#work.ticked();
    this.#timers.fired(vcpu);
  }

  #map(index: number, domain: number, vcpu: number, dfn: number): void {
    const { events } = this.#trace;
    const pages = events.pages[index]!;
    const rights = events.rights[index]!;
    const frame = this.#on.firstFrame[domain]! + events.frame[index]!;
    must(this.#on.machine, {
      op: 'dma_map',
      vcpu,
      domain,
      dfn,
      frame,
      pages,
      access: rights === 3 ? 'rw' : 'r',
    });
    this.#work.mapped(vcpu, pages);
    this.#tracker.mapped(domain, dfn, pages, frame, rights);
    if (this.#late) this.#touch(domain, dfn, pages, frame as Mfn, rights);
  }

  /** The device uses every page of a new mapping once: it writes where it may, else it reads. */
  #touch(domain: number, dfn: number, pages: number, frame: Mfn, rights: number): void {
    const { unit, sourceId } = this.#on.source[domain]!;
    const on = this.#on.machine.units[unit]!;
    const access = (rights & 2) !== 0 ? Access.write : Access.read;
    for (let page = 0; page < pages; page += 1) {
      const reached = on.request(sourceId, dfn + page, access);
      this.#accesses.touches += 1;
      if (reached < 0) this.#accesses.spuriousFaults += 1;
      else if (reached !== frame + page) this.#accesses.misdirected += 1;
    }
  }

  #unmap(vcpu: number, domain: number, dfn: number, pages: number): void {
    let live = 0;
    for (let page = 0; page < pages; page += 1) {
      const at = this.#tracker.liveAt(domain, dfn + page);
      if (at === undefined) continue;
      live += 1;
      this.#late?.remember(domain, dfn + page, at >>> 2, at & 3);
    }
    this.#tracker.unmapped(domain, dfn, pages);
    const { result } = this.#on.machine.step({ op: 'dma_unmap', vcpu, domain, dfn, pages });
    if (result !== live) {
      throw new HypervisorBug('F0', `replay: unmap of ${live} pages at device frame ${dfn} gave ${result}`);
    }
    this.#work.unmapped(vcpu, live);
    this.#addresses.unmapped(domain, dfn, pages);
  }

  #lateTouch(us: number): void {
    this.#advance(us);
    const page = this.#late!.take();
    if (!page) return;
    const { unit, sourceId } = this.#on.source[page.domain]!;
    const access = (page.rights & 2) !== 0 ? Access.write : Access.read;
    const isStale = this.#tracker.isStale(page.domain, page.dfn, page.frame, access);
    const reached = this.#on.machine.units[unit]!.request(sourceId, page.dfn, access);
    this.#accesses.lateTouches += 1;
    if (isStale && reached === page.frame) this.#accesses.staleAccesses += 1;
  }

  finish(): ReplayResult {
    const { machine } = this.#on;
    this.#passTime(Math.max(this.#trace.summary.lastTimeUs, machine.nowUs));
    const units = machine.units;
    const sum = (count: (unit: (typeof units)[number]) => number) => units.reduce((all, unit) => all + count(unit), 0);
    const counter = (name: LruCounter) =>
      sum((unit) => (unit.caches instanceof LruCaches ? unit.caches.counter(name) : 0));
    return {
      exposure: this.#tracker.finish(),
      work: this.#work.counts(),
      accesses: this.#accesses,
      invalidations: {
        context: sum((unit) => unit.counter('contextInvalidations')),
        global: sum((unit) => unit.counter('globalInvalidations')),
        domain: sum((unit) => unit.counter('domainInvalidations')),
        page: sum((unit) => unit.counter('pageInvalidations')),
        waits: sum((unit) => unit.counter('waits')),
      },
      caches: Object.fromEntries(LRU_COUNTERS.map((name) => [name, counter(name)])) as Record<LruCounter, number>,
      groupsShifted: this.#addresses.shifted,
    };
  }
}
