// The subpath `xen-passthrough-model/grant`: what guests share.

export { CopyClaims } from './copy-claims.ts';
export { GrantTables } from './grant-tables.ts';
export {
  CopyElement,
  CopyEndWords,
  GNTCOPY,
  GNTMAP,
  GTF,
  hasWritePins,
  INVALID_HANDLE,
  MapElement,
  Pin,
  pageReferences,
  pinIncrement,
  pinsAreFull,
  RESERVED_ENTRIES,
  TransferElement,
  typeReferences,
  UnmapElement,
} from './layouts.ts';
export { HANDLES_PER_FRAME, Maptrack, type MaptrackOrder } from './maptrack.ts';
export { cacheFlush } from './operations/cache-flush.ts';
export type { GrantContext, GrantOptions } from './operations/context.ts';
export { stepCopy } from './operations/copy.ts';
export { completeAll, flushThen, settleThen } from './operations/flush-steps.ts';
export { stepMapGrantRef } from './operations/map-grant-ref.ts';
export { SetVersionScratch, stepSetVersion } from './operations/set-version.ts';
export {
  getVersion,
  querySize,
  setupTable,
  statusFrames,
  swapEntries,
} from './operations/table-calls.ts';
export { stepTransfer } from './operations/transfer.ts';
export { completeGrant, REPLACES, stepUnmapGrantRef } from './operations/unmap-grant-ref.ts';
export {
  type DeviceAccess,
  type DomainView,
  type HostMappings,
  type PageMoves,
  type PageReferences,
  Reuse,
} from './ports.ts';
export type { GrantRules } from './rules.ts';
export type { GrantLimits } from './shared-tables.ts';
export { GrantStatus, grantStatusName } from './status.ts';
export { UNMAP_BATCH, UnmapBatches } from './unmap-batch.ts';
