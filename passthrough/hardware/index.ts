// The silicon: units, tables, caches, registers. Knows nothing of domains, grants or Xen.

export { Adversary } from './caches/adversary.ts';
export { AdversaryCaches, type MayTranslation } from './caches/adversary-caches.ts';
export type { CacheShape, Replacement } from './caches/associative-cache.ts';
export { defaultLruShape, LRU_COUNTERS, LruCaches, type LruCounter, type LruShape } from './caches/lru-caches.ts';
export type { TranslationCaches, TranslationObserver } from './caches/translation-caches.ts';
export {
  type Capabilities,
  type CapabilityRegisters,
  capabilitiesWith,
  decodeCapabilities,
  defaultCapabilities,
  encodeCapabilities,
} from './capabilities.ts';
export type { DeviceTlbRange, DeviceTlbs } from './device-tlbs.ts';
export { DmaInFlight, type TranslatedAccess } from './dma.ts';
export { FaultLog, type FaultView } from './fault-log.ts';
export {
  type Invalidation,
  type InvalidationObserver,
  invalidationOf,
  UNIT_COUNTERS,
  type UnitCounter,
} from './invalidation-record.ts';
export { decode, encode, type Field, fieldOf, type Layout, layouts } from './layouts.ts';
export { type LateEntry, MemoryLag, memoryLagOf } from './memory-lag.ts';
export { Access, FaultReason, faultReasonName, Register } from './registers.ts';
export { addressFrame, requestTranslation, type Translation, translate } from './translate.ts';
export { QUEUE_ENTRIES, VtdUnit } from './unit.ts';
export { entryFrame, entryPages, isLeaf, TranslationType } from './walk.ts';
