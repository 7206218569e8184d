// The subpath `xen-passthrough-model/verify`: what to hold a machine against.

export { opArbitrary, smallMachine, tickAfter } from './arbitraries.ts';
export * from './conform/index.ts';
export { type Invariant, invariants, type Reach, reachOf, type Violation, violations } from './invariants.ts';
