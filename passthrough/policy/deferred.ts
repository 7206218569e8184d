// Policy deferred: a flush queue, as Linux has it for DMA.

import { type Flush, type FlushPolicy, needsRefresh } from './flush-policy.ts';

/**
 * Removals are gathered per CPU; at `entries` of them, or `timeoutUs` after the first, one domain-selective
 * invalidation covers them all. The defaults are Linux's flush queue (linux: dma-iommu.c, IOVA_DEFAULT_FQ_SIZE 256,
 * IOVA_DEFAULT_FQ_TIMEOUT 10 ms).
 */
export function makeDeferred(options: { readonly entries: number; readonly timeoutUs: number }): FlushPolicy {
  const { entries, timeoutUs } = options;
  if (!Number.isInteger(entries) || entries < 1) throw new RangeError(`entries ${entries}: expected at least 1`);
  if (!Number.isInteger(timeoutUs) || timeoutUs < 1)
    throw new RangeError(`timeoutUs ${timeoutUs}: expected at least 1`);
  const drain = (flush: Flush) => {
    for (const domain of flush.pendingDomains()) flush.domain(domain);
    flush.wait();
  };
  return {
    name: 'deferred',
    summary: `gather removals per CPU, one domain-wide invalidation per ${entries} of them or ${timeoutUs / 1000} ms`,
    releases: ['onReturn', 'afterFlush'],
    onReuse: 'flush',
    promise: (release) => (release === 'afterFlush' ? { kind: 'strict' } : { kind: 'bounded', staleUsMax: timeoutUs }),
    timerUs: timeoutUs,
    change(change, flush) {
      if (!needsRefresh(change)) return;
      flush.page(change.domain, change.dfn, change.order);
      flush.wait();
    },
    operationEnd(flush) {
      if (flush.pendingCount >= entries) drain(flush);
    },
    tick(flush) {
      if (flush.pendingCount > 0 && flush.pendingAgeUs >= timeoutUs) drain(flush);
    },
  };
}

export const deferred: FlushPolicy = makeDeferred({ entries: 256, timeoutUs: 10_000 });
