// What a comparison consists of: plain data, the same bytes for the same trace, platform, policies and seed.

import type { Release, StalePromise } from '../../passthrough/index.ts';
import type { TraceSummary } from '../trace/ftrace.ts';
import type { PolicyCost } from './cpu-cost.ts';
import type { DevicePlacement } from './device-placement.ts';
import type { WindowSummary } from './exposure/window-lengths.ts';
import type { InvalidationCounts } from './replay/index.ts';
import type { WorkloadCounts } from './workload/workload.ts';

/** Byte-seconds. `any` counts a byte once while it can be read, written or both. */
export interface ByteSeconds {
  readonly read: number;
  readonly write: number;
  readonly any: number;
}

/** What stays reachable after release. Definitions: README.md, "Exposure". */
export interface ExposureFigures {
  /** `bound`: what a unit may still hold at worst. `estimate`: what a cache of common size does hold. */
  readonly kind: 'bound' | 'estimate';
  /** The figure for any access; see `excess` for reads and writes apart. */
  readonly excessByteSeconds: number;
  readonly harmfulByteSeconds: number;
  readonly excess: ByteSeconds;
  readonly harmful: ByteSeconds;
  /** The part of the excess while the device holds no mapping of the frame with that access at all. */
  readonly unheld: ByteSeconds;
  /** Stale windows per released page, in microseconds. */
  readonly window: WindowSummary;
  readonly pagesReleased: number;
  readonly pagesExposed: number;
}

/** Touches of a late device, in the profile `lru`. */
export interface LateTouches {
  readonly lateTouches: number;
  /** Those that reached the old frame after it was released. */
  readonly staleAccesses: number;
  /** Touches of valid mappings: one for each mapped page. */
  readonly touches: number;
  /** Those refused because of a stale weaker entry; and those that a stale entry led to another frame. */
  readonly spuriousFaults: number;
  readonly misdirected: number;
}

/** One policy with one release. */
export interface PolicyRow {
  readonly name: string;
  readonly release: Release;
  readonly summary: string;
  readonly promise: StalePromise;
  /** Whether the bound keeps the promise. */
  readonly promiseHeld: boolean;
  readonly cost: PolicyCost;
  readonly exposure: ExposureFigures &
    LateTouches & {
      /** Maps that took a frame or a device frame that stale entries still led to. */
      readonly reusedBeforeFlush: number;
      /**
       * Maps that took a frame or a device frame that was not released: the recorded workload would have had to wait.
       */
      readonly reusedBeforeRelease: number;
    };
  readonly estimate: ExposureFigures;
  /** Of all units, device assignment included. */
  readonly invalidations: InvalidationCounts & { readonly per1000Unmaps: number };
  readonly iotlb: {
    readonly hits: number;
    readonly misses: number;
    readonly missRatio: number;
    readonly walkReads: number;
    readonly evictions: number;
  };
  /** Groups of mappings that got other device frames than recorded, because those were still waiting for a flush. */
  readonly groupsReaddressed: number;
}

export interface Comparison {
  readonly trace: { readonly file: string; readonly seconds: number; readonly cpus: number };
  /** The importer's counts. */
  readonly input: Omit<TraceSummary, 'file'>;
  /** What is replayed of it. */
  readonly replayed: WorkloadCounts;
  readonly timing: 'open loop, recorded timestamps';
  readonly platform: {
    readonly file: string | null;
    readonly units: number;
    readonly devices: readonly DevicePlacement[];
  };
  readonly seed: number;
  readonly touchRatePerSecond: number;
  readonly assumptions: readonly string[];
  readonly policies: readonly PolicyRow[];
  /** What to conclude, in sentences. */
  readonly conclusion: readonly string[];
}
