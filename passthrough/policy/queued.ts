// Policy queued: the invalidation queue used as a queue.

import { type FlushPolicy, isUnhooking } from './flush-policy.ts';

/** Page-selective invalidations submitted as the changes happen, waited for once at the end of the operation. */
export const queued: FlushPolicy = {
  name: 'queued',
  summary: 'submit an invalidation for each page, wait once at the end of each operation',
  releases: ['afterFlush'],
  onReuse: 'flush',
  promise: () => ({ kind: 'strict' }),
  change(change, flush) {
    if (change.from !== 'none' || change.absentMayBeCached || isUnhooking(change))
      flush.page(change.domain, change.dfn, change.order);
  },
  operationEnd(flush) {
    if (flush.unwaited) flush.wait();
  },
};
