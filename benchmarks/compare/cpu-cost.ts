// Cost: CPU cycles per map and per unmap by part, and beside them what the device waits for. Never one sum of both.

import { type CostModel, type CostProvenance, provenance } from '../cost/cost-parameters.ts';
import type { InvalidationWork, ReplayResult, WorkCounts } from './replay/index.ts';

/** Mean CPU cycles of one operation, by part. */
export interface CycleParts {
  readonly tables: number;
  readonly allocator: number;
  /** Descriptors put into a queue. */
  readonly submit: number;
  /** Waiting for invalidations. */
  readonly wait: number;
  /** The lock of the invalidation queue, uncontended. */
  readonly lock: number;
  /** Flushes of other CPUs' TLBs: 0, for a DMA API changes no CPU mapping. */
  readonly cpuTlb: number;
  /** Invalidation work done later, charged to the unmaps that caused it. Of maps: 0. */
  readonly deferred: number;
  readonly other: number;
}

export interface PolicyCost {
  readonly cyclesPerMap: number;
  readonly cyclesPerUnmap: number;
  readonly parts: { readonly map: CycleParts; readonly unmap: CycleParts };
  /** Nanoseconds on the device's side over the whole trace. */
  readonly deviceNs: {
    /** IOTLB misses, the read of the lowest table included. */
    readonly misses: number;
    /** Further reads of page walks, where upper levels were not cached either. */
    readonly walkReads: number;
    /** Invalidations carried out by the units. */
    readonly invalidationService: number;
  };
  readonly loop: 'open';
  readonly parameters: readonly CostProvenance[];
}

/** Parameters that a comparison uses, in the order of the table. */
const USED: readonly CostProvenance['id'][] = [
  'cpuGhz',
  'iovaAllocCycles',
  'iovaFindCycles',
  'iovaFreeCycles',
  'pageTableUpdateMapCycles',
  'pageTableUpdateUnmapCycles',
  'mapOtherCycles',
  'unmapOtherCycles',
  'deferredBookkeepingCycles',
  'lockCycles',
  'invalidationSyncCycles',
  'descriptorSubmitCycles',
  'extraDescriptorNs',
  'domainFlushNs',
  'globalFlushNs',
  'missNs',
  'walkReadNs',
];

/** The cost of a replay in the profile `lru`. */
export function policyCost({ work, caches, invalidations }: ReplayResult, model: CostModel): PolicyCost {
  const map = mapParts(work, model);
  const unmap = unmapParts(work, model);
  return {
    cyclesPerMap: total(map),
    cyclesPerUnmap: total(unmap),
    parts: { map, unmap },
    deviceNs: {
      misses: caches.iotlbMisses * model.missNs,
      walkReads: Math.max(0, caches.walkReads - caches.iotlbMisses) * model.walkReadNs,
      invalidationService:
        invalidations.page * model.extraDescriptorNs +
        invalidations.domain * model.domainFlushNs +
        invalidations.global * model.globalFlushNs,
    },
    loop: 'open',
    parameters: provenance(model).filter(({ id }) => USED.includes(id)),
  };
}

function mapParts(work: WorkCounts, model: CostModel): CycleParts {
  const each = (sum: number) => mean(sum, work.maps);
  const flush = flushCycles(work.byMaps, model);
  return {
    tables: each(work.mappedPages * model.pageTableUpdateMapCycles),
    allocator: each(work.maps * model.iovaAllocCycles),
    submit: each(flush.submit),
    wait: each(flush.wait),
    lock: each(flush.lock),
    cpuTlb: 0,
    deferred: 0,
    other: each(work.maps * model.mapOtherCycles),
  };
}

function unmapParts(work: WorkCounts, model: CostModel): CycleParts {
  const each = (sum: number) => mean(sum, work.unmaps);
  const flush = flushCycles(work.byUnmaps, model);
  const deferred = flushCycles(work.deferred, model);
  const atOnce = work.unmaps - work.deferredUnmaps;
  return {
    tables: each(work.unmappedPages * model.pageTableUpdateUnmapCycles),
    allocator: each(work.unmaps * (model.iovaFindCycles + model.iovaFreeCycles)),
    submit: each(flush.submit),
    wait: each(flush.wait),
    lock: each(flush.lock),
    cpuTlb: 0,
    deferred: each(deferred.submit + deferred.wait + deferred.lock),
    other: each(atOnce * model.unmapOtherCycles + work.deferredUnmaps * model.deferredBookkeepingCycles),
  };
}

/** Cycles of invalidations: the first page behind a wait costs a whole round trip, each further one a little. */
function flushCycles(work: InvalidationWork, model: CostModel) {
  const cycles = (ns: number) => ns * model.cpuGhz;
  const submitted = work.pages + work.domains + work.globals;
  const sync = Math.max(0, model.invalidationSyncCycles - model.descriptorSubmitCycles);
  return {
    submit: submitted * model.descriptorSubmitCycles,
    wait:
      work.pageWaits * sync +
      (work.waits > 0 ? work.pages - work.firstPages : 0) * cycles(model.extraDescriptorNs) +
      work.domains * Math.max(0, cycles(model.domainFlushNs) - model.descriptorSubmitCycles) +
      work.globals * Math.max(0, cycles(model.globalFlushNs) - model.descriptorSubmitCycles),
    lock: work.waits * model.lockCycles,
  };
}

const mean = (sum: number, count: number): number => (count === 0 ? 0 : sum / count);

const total = (parts: CycleParts): number => Object.values(parts).reduce((sum: number, part: number) => sum + part, 0);
