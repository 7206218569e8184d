// The subpath `xen-passthrough-model/grant`: what guests share.

export { type GrantLimits, GrantTables } from './grant-tables.ts';
export {
  GNTMAP,
  GTF,
  hasWritePins,
  INVALID_HANDLE,
  MapElement,
  Pin,
  pinIncrement,
  pinsAreFull,
  UnmapElement,
  V1_ENTRIES_PER_FRAME,
} from './layouts.ts';
export { HANDLES_PER_FRAME, Maptrack, type MaptrackOrder } from './maptrack.ts';
export type { GrantContext } from './operations/context.ts';
export { completeAll, flushThen } from './operations/flush-steps.ts';
export { stepMapGrantRef } from './operations/map-grant-ref.ts';
export { completeGrant, stepUnmapGrantRef } from './operations/unmap-grant-ref.ts';
export { type DeviceAccess, type DomainView, type HostMappings, Reuse } from './ports.ts';
export { GrantStatus, grantStatusName } from './status.ts';
export { UNMAP_BATCH, UnmapBatches } from './unmap-batch.ts';
