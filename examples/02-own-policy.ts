// A flush policy of one's own, and a check whether it leaves a device anything that it no longer may have.
//
// Outside of this repository the imports are `from 'xen-passthrough-model'`, `/passthrough` and `/verify`.

import { type FlushPolicy, GNTMAP, PV_WINDOW_BASE, type Release } from '../hypervisor/index.ts';
import { needsRefresh } from '../passthrough/index.ts';
import { smallMachine, violations } from '../verify/index.ts';

/** Gathers removals; at 16 of them on a CPU, one domain-selective invalidation covers all. */
export const batched: FlushPolicy = {
  name: 'batched',
  summary: 'one domain-wide invalidation per 16 removals',
  releases: ['afterFlush', 'onReturn'],
  onReuse: 'flush',
  promise: (release) => ({ kind: release === 'afterFlush' ? 'strict' : 'none' }),
  change(change, flush) {
    if (!needsRefresh(change)) return;
    flush.page(change.domain, change.dfn, change.order);
    flush.wait();
  },
  operationEnd(flush) {
    if (flush.pendingCount < 16) return;
    for (const domain of flush.pendingDomains()) flush.domain(domain);
    flush.wait();
  },
};

/** Domain 0 of a small machine maps a page of domain 1 and gives it back. What is wrong then? */
export function check(release: Release): string[] {
  const machine = smallMachine(batched, { release });
  const element = { hostAddress: PV_WINDOW_BASE, flags: GNTMAP.host_map, ref: 8, domain: 1 };
  machine.step({ op: 'map_grant_ref', domain: 0, elements: [element] });
  machine.step({ op: 'unmap_grant_ref', domain: 0, elements: [{ handle: 0, hostAddress: PV_WINDOW_BASE }] });
  const broken = violations(machine).map(({ invariant, message }) => `${invariant}: ${message}`);
  return broken.length > 0 ? broken : ['all invariants hold'];
}

export function main(): string[] {
  return batched.releases.flatMap((release) => check(release).map((line) => `${release}: ${line}`));
}

if (process.argv[1]?.includes('02-own-policy')) process.stdout.write(`${main().join('\n')}\n`);
