// Policy never: what happens without.

import type { FlushPolicy } from './flush-policy.ts';

/** A deliberate mistake, for comparison: whatever was cached stays until hardware happens to evict it. */
export const never: FlushPolicy = {
  name: 'never',
  summary: 'no invalidation at all: a deliberate mistake, for comparison',
  releases: ['onReturn'],
  onReuse: 'allow',
  promise: () => ({ kind: 'none' }),
  change() {},
};
