// The invariants that there are, by the ids of docs/invariants.md, and what a state breaks of them.

import type { Hypervisor } from '../../hypervisor/index.ts';
import {
  bridgesTakeEntriesAlong,
  entriesFitUnits,
  entriesLeadToOwners,
  phantomsFollow,
  quarantineReachesNothing,
  quarantinesAreApart,
  regionsAreThere,
  regionsFollowDevices,
  tablesOutliveEntries,
} from './assignment-invariants.ts';
import {
  didsAreNotShared,
  didsFollowDevices,
  didZeroIsNobodys,
  entriesFollowOwners,
  unitsFollowDevices,
} from './domain-id-invariants.ts';
import { contextsAreFlushed, nothingStaleIsForgotten } from './flush-invariants.ts';
import {
  countsAreHandles,
  handlesAreLiveOrFree,
  pinnedFramesAreOwned,
  pinsAreLimited,
  pinsAreLiveHalves,
  usageFollowsPins,
} from './grant-invariants.ts';
import { type Invariant, isConfined, type Reach, reachOf, type Violation } from './invariant.ts';
import {
  devicesSeeTheP2m,
  ownFramesFollowTypes,
  pvDeviceFramesAreMachineFrames,
  referencesAreHeld,
  waysBackAgree,
} from './memory-invariants.ts';
import {
  freeFramesAreUnreachable,
  mappingsAreNotOverwritten,
  reachIsAuthorised,
  tablesAreBeyondDevices,
} from './reach-invariants.ts';
import { completionsAreTaken, deviceTlbsFollowTheirUnit, writesAreSeen } from './unit-invariants.ts';

/** In the order of their ids. */
export const invariants: readonly Invariant[] = [
  entriesLeadToOwners,
  quarantineReachesNothing,
  quarantinesAreApart,
  phantomsFollow,
  regionsAreThere,
  tablesOutliveEntries,
  didsFollowDevices,
  didsAreNotShared,
  didZeroIsNobodys,
  entriesFollowOwners,
  unitsFollowDevices,
  nothingStaleIsForgotten,
  completionsAreTaken,
  contextsAreFlushed,
  deviceTlbsFollowTheirUnit,
  pinsAreLiveHalves,
  usageFollowsPins,
  pinnedFramesAreOwned,
  handlesAreLiveOrFree,
  pinsAreLimited,
  reachIsAuthorised,
  ownFramesFollowTypes,
  countsAreHandles,
  devicesSeeTheP2m,
  regionsFollowDevices,
  pvDeviceFramesAreMachineFrames,
  freeFramesAreUnreachable,
  tablesAreBeyondDevices,
  referencesAreHeld,
  waysBackAgree,
  writesAreSeen,
  entriesFitUnits,
];

/** What should hold and in Xen does not: `violations(machine, exemptions)` reports it. */
export const exemptions: readonly Invariant[] = [mappingsAreNotOverwritten, bridgesTakeEntriesAlong];

/** What is broken in a state at rest; nothing when all invariants hold. */
export function violations(machine: Hypervisor, of: readonly Invariant[] = invariants): Violation[] {
  let known: Reach[] | null = null;
  const reach = () => {
    known ??= reachOf(machine).filter(({ owner }) => isConfined(machine, owner));
    return known;
  };
  return of.flatMap(({ id, check }) => check(machine, reach).map((message) => ({ invariant: id, message })));
}
