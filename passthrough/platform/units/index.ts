// Platforms: which unit serves which device, and what Xen makes of the table.

export type { FindingCode, FindingEffect, PlatformFinding } from './findings.ts';
export { type MachineParts, machineParts, type PlacedFunction } from './machine-parts.ts';
export type { MemoryRange } from './memory-map.ts';
export type { PciTopologyFunction, PciType } from './pci-topology.ts';
export {
  type AtsAnswer,
  type DeviceAnswer,
  Platform,
  type PlatformOptions,
  type PlatformUnit,
  type RegionAnswer,
  type UnitAnswer,
} from './platform.ts';
