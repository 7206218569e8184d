// Which policies to compare, each with one of the releases that make sense with it.

import { type FlushPolicy, policies, policyNamed, type Release } from '../../hypervisor/index.ts';

/** A row of a comparison. */
export interface PolicyChoice {
  readonly policy: FlushPolicy;
  readonly release: Release;
}

/** A policy by name or itself, with all of its releases; or one of them: `deferred:afterFlush`. */
export type PolicySelection = string | FlushPolicy | PolicyChoice;

/** Every shipped policy with each of its releases. */
export const allPolicies: readonly PolicySelection[] = policies;

/**
 * The rows that a selection asks for, in its order, each once.
 * @throws RangeError for an unknown policy, or a release that the policy does not have.
 */
export function policyChoices(selections: readonly PolicySelection[]): PolicyChoice[] {
  const rows = new Map<string, PolicyChoice>();
  for (const selection of selections) {
    for (const choice of choicesOf(selection)) rows.set(`${choice.policy.name}:${choice.release}`, choice);
  }
  if (rows.size === 0) throw new RangeError('policies: expected at least one');
  return [...rows.values()];
}

function choicesOf(selection: PolicySelection): readonly PolicyChoice[] {
  if (typeof selection !== 'string') {
    if ('policy' in selection) return [checked(selection.policy, selection.release)];
    return selection.releases.map((release) => ({ policy: selection, release }));
  }
  const [name, release, ...rest] = selection.split(':');
  const policy = policyNamed(name!);
  if (rest.length > 0) throw new RangeError(`policy ${JSON.stringify(selection)}: expected name or name:release`);
  if (release === undefined) return policy.releases.map((of) => ({ policy, release: of }));
  return [checked(policy, release)];
}

function checked(policy: FlushPolicy, release: string): PolicyChoice {
  const found = policy.releases.find((of) => of === release);
  if (found) return { policy, release: found };
  const expected = policy.releases.join(' or ');
  throw new RangeError(`policy ${policy.name} with release ${JSON.stringify(release)}: expected ${expected}`);
}
