// The subpath `xen-passthrough-model/passthrough`: units, driver, policies, platforms.

export * from './driver/index.ts';
export * from './hardware/index.ts';
export { type DmarTable, parseDmar } from './platform/dmar.ts';
export { dmarBytes } from './platform/dmar-bytes.ts';
export { type DmarContents, encodeDmar } from './platform/dmar-encoder.ts';
export type { DmarUnit } from './platform/dmar-table.ts';
export { type PciDescription, type PciFunction, pciFunctions, type ReservedRegion } from './platform/pci-functions.ts';
export * from './platform/units/index.ts';
export * from './policy/index.ts';
