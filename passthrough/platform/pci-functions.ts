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
  /**
   * Requester ids that its DMA may carry: its own; behind a conventional bridge the bridge's too, and for PCIe to PCI
   * that of device 0 on the bridge's secondary bus. None for bridges: their entries follow the devices behind them.
   */
  readonly requesters: readonly Sbdf[];
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

/** xen: vtd/iommu.c domain_context_mapping. */
function requestersOf(of: PciDescription, all: readonly PciDescription[]): Sbdf[] {
  if (isBridge(of)) return [];
  const own = parseSbdf(of.device);
  const bridge = of.type === 'pci-endpoint' ? upstreamBridge(of, all) : null;
  if (!bridge) return [own];
  const above = parseSbdf(bridge.device);
  if (bridge.type === 'pci-bridge') return [own, above];
  const alias = (above - (above % 0x10000) + bridge.secondary! * 0x100) as Sbdf;
  return alias === own ? [own, above] : [own, above, alias];
}

/**
 * The functions of the slot that are one stride, two, ... beyond. Where the first of them is a real function, the
 * stride is doubled. Conventional PCI has none. xen: pci_add_device.
 */
function phantomsOf({ device, type, phantomStride = 0 }: PciDescription, all: readonly PciDescription[]): Sbdf[] {
  if (phantomStride === 0 || (type ?? 'endpoint') !== 'endpoint') return [];
  const own = parseSbdf(device);
  const isReal = (sbdf: number) => all.some((other) => parseSbdf(other.device) === sbdf);
  let stride = phantomStride;
  while (stride < 8 && isReal(own + stride)) stride *= 2;
  const count = Math.floor((7 - (own & 7)) / stride);
  return Array.from({ length: count }, (_, at) => (own + (at + 1) * stride) as Sbdf);
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
      requesters: requestersOf(one, descriptions),
      phantoms: phantomsOf(one, descriptions),
      bridge: bridgeIndex(one, descriptions),
      endpointIndex: isBridge(one) ? -1 : endpoints.indexOf(sbdf),
      regions: regions
        .flatMap(({ devices }, at) => (devices.some((of) => parseSbdf(of) === sbdf) ? [at] : []))
        .reverse(),
    };
  });
}
