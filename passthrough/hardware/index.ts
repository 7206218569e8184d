// The silicon: units, tables, caches, registers. Knows nothing of domains, grants or Xen.

export { Adversary } from './adversary.ts';
export { AdversaryCaches, type MayTranslation } from './adversary-caches.ts';
export type { CacheShape, Replacement } from './associative-cache.ts';
export {
  type Capabilities,
  type CapabilityRegisters,
  decodeCapabilities,
  defaultCapabilities,
  encodeCapabilities,
} from './capabilities.ts';
export { DmaInFlight, type TranslatedAccess } from './dma.ts';
export { FaultLog, type FaultView } from './fault-log.ts';
export { decode, encode, type Field, fieldOf, type Layout, layouts } from './layouts.ts';
export { defaultLruShape, LRU_COUNTERS, LruCaches, type LruCounter, type LruShape } from './lru-caches.ts';
export { Access, FaultReason, faultReasonName, Register } from './registers.ts';
export { addressFrame, type Translation, translate } from './translate.ts';
export type { TranslationCaches, TranslationObserver } from './translation-caches.ts';
export { QUEUE_ENTRIES, UNIT_COUNTERS, type UnitCounter, VtdUnit } from './unit.ts';
