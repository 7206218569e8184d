// Policy xen: what Xen submits, descriptor by descriptor.

import type { FlushPolicy } from './flush-policy.ts';

/**
 * Each change on its own, waited for at once. Domain-selective where a large leaf was formed or an emptied table
 * unhooked; else page-selective where a present entry was modified, or an absent one may be cached. xen: vtd/iommu.c
 * iommu_flush_iotlb; flags added, modified and all of iommu_map and iommu_unmap.
 */
export const xen: FlushPolicy = {
  name: 'xen',
  summary: 'as Xen: invalidate each page as it changes, the domain where its tables change, and wait each time',
  releases: ['afterFlush'],
  onReuse: 'flush',
  promise: () => ({ kind: 'strict' }),
  change(change, flush) {
    const { domain, structure } = change;
    if (structure === 'formed' || structure === 'unhooked') flush.domain(domain);
    else if (change.from !== 'none' || structure !== 'none' || change.absentMayBeCached)
      flush.page(domain, change.dfn, change.order);
    else return;
    flush.wait();
  },
};
