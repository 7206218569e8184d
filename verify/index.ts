// The subpath `xen-passthrough-model/verify`: what to hold a machine against.

export { type Draw, type DrawKind, drawArbitrary, opOf } from './arbitraries/draw.ts';
export {
  MIXED_DOMAINS,
  type MixedOptions,
  type MixedVariant,
  mixedMachine,
  mixedVariants,
} from './arbitraries/mixed-machine.ts';
export { opArbitrary, tickAfter } from './arbitraries/op-arbitrary.ts';
export { capabilitiesArbitrary, platformArbitrary } from './arbitraries/platforms.ts';
export { smallMachine } from './arbitraries/small-machine.ts';
export * from './conform/index.ts';
export { type Invariant, isConfined, type Reach, reachOf, type Violation } from './invariants/invariant.ts';
export { exemptions, invariants, violations } from './invariants/list.ts';
