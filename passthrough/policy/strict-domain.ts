// Policy strict-domain: one wide invalidation for whatever an operation removed.

import { type FlushPolicy, needsRefresh } from './flush-policy.ts';

/** One domain-selective invalidation at the end of an operation, before anything is released. */
export const strictDomain: FlushPolicy = {
  name: 'strict-domain',
  summary: 'one domain-wide invalidation at the end of each operation',
  releases: ['afterFlush'],
  onReuse: 'flush',
  promise: () => ({ kind: 'strict' }),
  change(change, flush) {
    if (!needsRefresh(change)) return;
    flush.page(change.domain, change.dfn, change.order);
    flush.wait();
  },
  operationEnd(flush) {
    if (flush.pendingCount === 0) return;
    for (const domain of flush.pendingDomains()) flush.domain(domain);
    flush.wait();
  },
};
