// What the hypervisor does to its units.

export { Clock } from './clock.ts';
export { Contexts, type DeviceTlb } from './contexts.ts';
export {
  type DidsExhausted,
  type DomainIdSpaces,
  DomainIds,
  isQuarantine,
  PseudoDomids,
  quarantineDomid,
  quarantineIndex,
} from './domain-ids.ts';
export { FlushEngine } from './flush/flush-engine.ts';
export { COMPLETION_ARGUMENTS, FlushLedger } from './flush/flush-ledger.ts';
export { type BeyondReach, IommuDriver, type IommuDriverOptions } from './iommu-driver.ts';
export { DeviceTables } from './tables/device-tables.ts';
