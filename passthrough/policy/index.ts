// The flush policies, one file each, and the contract that they share.

import { deferred } from './deferred.ts';
import type { FlushPolicy } from './flush-policy.ts';
import { never } from './never.ts';
import { queued } from './queued.ts';
import { strictDomain } from './strict-domain.ts';
import { strictPage } from './strict-page.ts';

/** The policies that ship, in the order of reports. */
export const policies: readonly FlushPolicy[] = [strictPage, strictDomain, queued, deferred, never];

/**
 * A shipped policy by name.
 * @throws RangeError naming the policies that there are.
 */
export function policyNamed(name: string): FlushPolicy {
  const found = policies.find((policy) => policy.name === name);
  if (!found)
    throw new RangeError(`unknown policy ${JSON.stringify(name)}: expected ${policies.map((p) => p.name).join(', ')}`);
  return found;
}

export { deferred, makeDeferred } from './deferred.ts';
export {
  type AccessChange,
  type Flush,
  type FlushPolicy,
  isRemoval,
  needsRefresh,
  type OnReuse,
  type Release,
  type Rights,
  type StalePromise,
} from './flush-policy.ts';
export { never } from './never.ts';
export { queued } from './queued.ts';
export { strictDomain } from './strict-domain.ts';
export { strictPage } from './strict-page.ts';
