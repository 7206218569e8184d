// The flush policies, one file each, and the contract that they share.

import { deferred } from './deferred.ts';
import type { FlushPolicy } from './flush-policy.ts';
import { never } from './never.ts';
import { queued } from './queued.ts';
import { strictDomain } from './strict-domain.ts';
import { strictPage } from './strict-page.ts';
import { xen } from './xen.ts';

/** The policies that are compared unless others are named, in the order of reports. */
export const policies: readonly FlushPolicy[] = [strictPage, strictDomain, queued, deferred, never];

const named: readonly FlushPolicy[] = [...policies, xen];

/**
 * A shipped policy by name.
 * @throws RangeError naming the policies that there are.
 */
export function policyNamed(name: string): FlushPolicy {
  const found = named.find((policy) => policy.name === name);
  if (!found)
    throw new RangeError(`unknown policy ${JSON.stringify(name)}: expected ${named.map((p) => p.name).join(', ')}`);
  return found;
}

export { deferred, makeDeferred } from './deferred.ts';
export {
  type AccessChange,
  type Flush,
  type FlushPolicy,
  isRemoval,
  isUnhooking,
  needsRefresh,
  type OnReuse,
  type Release,
  type Rights,
  type StalePromise,
  type Structure,
} from './flush-policy.ts';
export { never } from './never.ts';
export { queued } from './queued.ts';
export { strictDomain } from './strict-domain.ts';
export { strictPage } from './strict-page.ts';
export { xen } from './xen.ts';
