// PCI functions as their unit sees them: which requester ids stand for each, and so which context entries it needs.

import { parseSbdf, type Sbdf } from '../../machine/ids.ts';

/** What a function is, as far as its context entries depend on it. xen: enum pdev_type. */
export interface PciDescription {
  readonly device: string;
  readonly unit: number;
  readonly type?: string;
  readonly secondary?: number;
  readonly subordinate?: number;
  /** Distance of the functions of its slot whose ids it uses besides its own: 1, 2 or 4. */
  readonly phantomStride?: number;
}

/** A range that firmware wants mapped for devices, one to one. ACPI: RMRR. */
export interface ReservedRegion {
  readonly firstFrame: number;
  readonly frames: number;
  readonly devices: readonly string[];
}

export interface PciFunction {
  readonly sbdf: Sbdf;
  readonly unit: number;
  readonly isHostBridge: boolean;
  /** There is no such function, though a kernel may say so. */
  readonly isUnknown: boolean;
  /**
   * Requester ids that its DMA may carry: its own; behind a conventional bridge the bridge's too, and for PCIe to PCI
   * that of device 0 on the bridge's secondary bus. None for bridges: their entries follow the devices behind them.
   */
  readonly requesters: readonly Sbdf[];
  /** The one of these that its DMA carries: behind a bridge it is the bridge that asks. */
  readonly requester: Sbdf;
  /** Place of the bridge whose ids are among these; -1: there is none. While it is not there, its ids do not count. */
  readonly bridge: number;
  /** Ids of its phantom functions, which it uses as well. xen: phantom_stride. */
  readonly phantoms: readonly Sbdf[];
  /** Place among the functions that are no bridges, by address; -1 for bridges. */
  readonly endpointIndex: number;
  /** The reserved regions that are for it, by their places: the last comes first, as Xen has them in its list. */
  readonly regions: readonly number[];
}

function isBridge(description: PciDescription): boolean {
  return !['endpoint', 'pci-endpoint'].includes(description.type ?? 'endpoint');
}

/** The conventional bridge nearest to the root that a function is behind. xen: find_upstream_bridge. */
function upstreamBridge(of: PciDescription, all: readonly PciDescription[]): PciDescription | null {
  const sbdf = parseSbdf(of.device);
  const bus = (sbdf >>> 8) & 0xff;
  const above = all.filter(
    ({ device, type, secondary, subordinate }) =>
      (type === 'pcie-to-pci-bridge' || type === 'pci-bridge') &&
      parseSbdf(device) >>> 16 === sbdf >>> 16 &&
      secondary !== undefined &&
      secondary <= bus &&
      bus <= (subordinate ?? secondary),
  );
  return above.sort((a, b) => a.secondary! - b.secondary!)[0] ?? null;
}

function bridgeIndex(of: PciDescription, all: readonly PciDescription[]): number {
  const bridge = of.type === 'pci-endpoint' ? upstreamBridge(of, all) : null;
  return bridge ? all.indexOf(bridge) : -1;
}

/** The id that a bridge asks by: for PCIe to PCI that of device 0 on the bus behind it. PCIe to PCI Bridge 1.0, 2.3. */
function aliasOf(bridge: PciDescription): Sbdf {
  const own = parseSbdf(bridge.device);
  return bridge.type === 'pci-bridge' ? own : ((own - (own % 0x10000) + bridge.secondary! * 0x100) as Sbdf);
}

/** xen: vtd/iommu.c domain_context_mapping. */
function requestersOf(of: PciDescription, all: readonly PciDescription[]): Sbdf[] {
  if (isBridge(of)) return [];
  const own = parseSbdf(of.device);
  const bridge = of.type === 'pci-endpoint' ? upstreamBridge(of, all) : null;
  return bridge ? [...new Set([own, parseSbdf(bridge.device), aliasOf(bridge)])] : [own];
}

function requesterOf(of: PciDescription, all: readonly PciDescription[]): Sbdf {
  const bridge = of.type === 'pci-endpoint' ? upstreamBridge(of, all) : null;
  return bridge ? aliasOf(bridge) : parseSbdf(of.device);
}

/**
 * The functions of the slot that are one stride, two, ... beyond. As long as one of them is a real function, the stride
 * is doubled. Conventional PCI has none. xen: pci_add_device.
 */
function phantomsOf({ device, type, phantomStride = 0 }: PciDescription, all: readonly PciDescription[]): Sbdf[] {
  const own = parseSbdf(device);
  if (phantomStride <= (own & 7) || (type ?? 'endpoint') !== 'endpoint') return [];
  const beyond = (stride: number) =>
    Array.from({ length: Math.floor((7 - (own & 7)) / stride) }, (_, at) => (own + (at + 1) * stride) as Sbdf);
  const isReal = (sbdf: number) =>
    all.some(({ device: name, type: of }) => of !== 'unknown' && parseSbdf(name) === sbdf);
  let stride = phantomStride;
  while (beyond(stride).some(isReal)) stride *= 2;
  return beyond(stride);
}

/** What the descriptions say of each function, in their order. */
export function pciFunctions(
  descriptions: readonly PciDescription[],
  regions: readonly ReservedRegion[] = [],
): PciFunction[] {
  const endpoints = descriptions
    .filter((one) => !isBridge(one))
    .map(({ device }) => parseSbdf(device))
    .sort((a, b) => a - b);
  return descriptions.map((one) => {
    const sbdf = parseSbdf(one.device);
    return {
      sbdf,
      unit: one.unit,
      isHostBridge: one.type === 'host-bridge',
      isUnknown: one.type === 'unknown',
      requesters: requestersOf(one, descriptions),
      requester: requesterOf(one, descriptions),
      phantoms: phantomsOf(one, descriptions),
      bridge: bridgeIndex(one, descriptions),
      endpointIndex: isBridge(one) ? -1 : endpoints.indexOf(sbdf),
      regions: regions
        .flatMap(({ devices }, at) => (devices.some((of) => parseSbdf(of) === sbdf) ? [at] : []))
        .reverse(),
    };
  });
}
