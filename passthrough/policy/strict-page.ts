// Policy strict-page: what Xen does for grants, one page at a time.

import { type FlushPolicy, isUnhooking } from './flush-policy.ts';

/** A page-selective invalidation for every change that a unit could have missed, each waited for. */
export const strictPage: FlushPolicy = {
  name: 'strict-page',
  summary: 'invalidate each page as it changes, and wait each time',
  releases: ['afterFlush'],
  onReuse: 'flush',
  promise: () => ({ kind: 'strict' }),
  change(change, flush) {
    if (change.from === 'none' && !change.absentMayBeCached && !isUnhooking(change)) return;
    flush.page(change.domain, change.dfn, change.order);
    flush.wait();
  },
};
