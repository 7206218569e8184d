// Comparing flush policies on a trace.

export { type CompareOptions, comparePolicies, TOUCH_RATE_PER_SECOND } from './compare-policies.ts';
export type { ByteSeconds, Comparison, ExposureFigures, LateTouches, PolicyRow } from './comparison.ts';
export { isClean, rowName } from './conclusion.ts';
export type { CycleParts, PolicyCost } from './cpu-cost.ts';
export { type DevicePlacement, unitOf } from './device-placement.ts';
export { type ExposureTally, ExposureTracker } from './exposure/exposure-tracker.ts';
export type { AccessTime } from './exposure/stale-pages.ts';
export type { WindowSummary } from './exposure/window-lengths.ts';
export { type PolicyChoice, type PolicySelection, policyChoices } from './policy-choice.ts';
export type { ImportedTrace, WorkloadCounts } from './workload/workload.ts';
export { importTrace, WorkloadBuilder } from './workload/workload-builder.ts';
