// Runs a trace under several policies and puts cost beside exposure.

import { PAGE_SIZE } from '../../machine/frame-number.ts';
import type { DmarTable, StalePromise } from '../../passthrough/index.ts';
import { type CostModel, defaultCostModel } from '../cost/cost-parameters.ts';
import type { ByteSeconds, Comparison, ExposureFigures, PolicyRow } from './comparison.ts';
import { conclusions } from './conclusion.ts';
import { policyCost } from './cpu-cost.ts';
import { placeDevices } from './device-placement.ts';
import type { ExposureTally } from './exposure/exposure-tracker.ts';
import type { AccessTime } from './exposure/stale-pages.ts';
import { allPolicies, type PolicyChoice, type PolicySelection, policyChoices } from './policy-choice.ts';
import { LATE_PAGES, type ReplayPlatform, type ReplayResult, replay } from './replay/index.ts';
import type { ImportedTrace } from './workload/workload.ts';

/** Touches per second of the late device. */
export const TOUCH_RATE_PER_SECOND = 1000;

export interface CompareOptions {
  /** From `importTrace`. */
  readonly trace: ImportedTrace;
  /** The machine's DMAR table; without one, there is one unit. */
  readonly platform?: DmarTable;
  /** What the report calls it. */
  readonly platformFile?: string;
  /** Default: all that ship, each with all of its releases. */
  readonly policies?: readonly PolicySelection[];
  /** Seed of the late device. Default 1. */
  readonly seed?: number;
  /** Mean rate of the late device; 0: none. */
  readonly touchRatePerSecond?: number;
  readonly costs?: CostModel;
  /** Called now and then with what is going on; what it returns is waited for. */
  readonly onProgress?: (text: string) => Promise<void> | void;
}

/**
 * Replays a trace under each policy, twice: in the cache profile `adversary` for bounds, in `lru` for estimates and for
 * what devices pay.
 * @throws RangeError naming the option that cannot be.
 */
export async function comparePolicies(options: CompareOptions): Promise<Comparison> {
  const { trace, seed = 1, touchRatePerSecond = TOUCH_RATE_PER_SECOND, costs = defaultCostModel() } = options;
  const choices = policyChoices(options.policies ?? allPolicies);
  if (!Number.isSafeInteger(seed) || seed < 0) throw new RangeError(`seed ${seed}: expected 0 to 2^53-1`);
  if (!(touchRatePerSecond >= 0 && touchRatePerSecond <= 1e6)) {
    throw new RangeError(`touchRatePerSecond ${touchRatePerSecond}: expected 0 to 1000000`);
  }
  const placement = placeDevices(trace, options.platform ?? null);
  const rows: PolicyRow[] = [];
  for (const choice of choices) {
    const run = (kind: 'adversary' | 'lru') => replay(trace, placement, choice, runOptions(kind));
    const runOptions = (kind: 'adversary' | 'lru') => ({
      caches: { kind },
      seed,
      touchRatePerSecond,
      onProgress: (done: number) => options.onProgress?.(progressText(choice, choices, kind, done, trace)),
    });
    rows.push(policyRow(choice, await run('adversary'), await run('lru'), costs));
  }
  const { file, ...input } = trace.summary;
  return {
    trace: { file, seconds: (input.lastTimeUs - input.firstTimeUs) / 1e6, cpus: trace.cpus },
    input,
    replayed: trace.counts,
    timing: 'open loop, recorded timestamps',
    platform: { file: options.platformFile ?? null, units: placement.units, devices: placement.devices },
    seed,
    touchRatePerSecond,
    assumptions: [...placement.assumptions, ...assumptions(trace, placement, options.platform !== undefined)],
    policies: rows,
    conclusion: conclusions(rows),
  };
}

function progressText(
  choice: PolicyChoice,
  choices: readonly PolicyChoice[],
  kind: string,
  done: number,
  trace: ImportedTrace,
): string {
  const row = `${choices.indexOf(choice) + 1} of ${choices.length}`;
  const name = `${choice.policy.name}:${choice.release}`;
  return `policy ${row}, ${name} (${kind}): ${done} of ${trace.events.count} events`;
}

function policyRow(choice: PolicyChoice, bound: ReplayResult, run: ReplayResult, costs: CostModel): PolicyRow {
  const { policy, release } = choice;
  const { iotlbHits: hits, iotlbMisses: misses, walkReads, evictions } = run.caches;
  const { page, domain, global } = run.invalidations;
  const promise = policy.promise(release);
  return {
    name: policy.name,
    release,
    summary: policy.summary,
    promise,
    promiseHeld: isHeld(promise, bound.exposure),
    cost: policyCost(run, costs),
    exposure: {
      ...figures('bound', bound.exposure),
      ...run.accesses,
      reusedBeforeFlush: bound.exposure.reusedBeforeFlush,
      reusedBeforeRelease: bound.exposure.reusedBeforeRelease,
    },
    estimate: figures('estimate', run.exposure),
    invalidations: { ...run.invalidations, per1000Unmaps: ratio((page + domain + global) * 1000, run.work.unmaps) },
    iotlb: { hits, misses, missRatio: ratio(misses, hits + misses), walkReads, evictions },
    groupsReaddressed: run.groupsShifted,
  };
}

function figures(kind: 'bound' | 'estimate', tally: ExposureTally): ExposureFigures {
  const excess = byteSeconds(tally.excess);
  const harmful = byteSeconds(tally.harmful);
  return {
    kind,
    excessByteSeconds: excess.any,
    harmfulByteSeconds: harmful.any,
    excess,
    harmful,
    unheld: byteSeconds(tally.unheld),
    window: tally.window,
    pagesReleased: tally.pagesReleased,
    pagesExposed: tally.pagesExposed,
  };
}

function byteSeconds({ read, write, any }: Readonly<AccessTime>): ByteSeconds {
  const of = (pageUs: number) => (pageUs * PAGE_SIZE) / 1e6;
  return { read: of(read), write: of(write), any: of(any) };
}

function isHeld(promise: StalePromise, { excess, window }: ExposureTally): boolean {
  if (promise.kind === 'bounded') return (window.maxUs ?? 0) <= promise.staleUsMax;
  return promise.kind === 'none' || (excess.any === 0 && window.pages === 0);
}

const ratio = (part: number, whole: number): number => (whole === 0 ? 0 : part / whole);

function assumptions(trace: ImportedTrace, platform: ReplayPlatform, hasTable: boolean): string[] {
  const sentences = [
    'Open loop: events happen at their recorded times, whatever an operation costs; hardware takes no time.',
    'Frames are reused as recorded. Device frames are too, except where one still waits for its flush and the policy ' +
      'does not allow reuse: then the allocator takes others.',
    `Devices use each page of a mapping once, right after the map. A late one touches up to ${LATE_PAGES} pages back.`,
    'The observation ends with the trace.',
  ];
  if (hasTable) {
    sentences.push('The DMAR table does not hold the capability registers of the units: default capabilities.');
  }
  if (platform.units > 1) sentences.push('Units are waited for one after another.');
  if (trace.counts.writeOnlyMaps > 0) {
    sentences.push(`${trace.counts.writeOnlyMaps} write-only maps are modelled as read and write.`);
  }
  if (trace.counts.remaps > 0) {
    sentences.push(`${trace.counts.remaps} maps of device frames that were mapped: the old mapping is unmapped first.`);
  }
  return sentences;
}
