// The PCI functions of a machine and the buses behind its bridges, as far as the way to a device depends on them.

import { parseSbdf, type Sbdf, sbdfText } from '../../../machine/ids.ts';

/** xen: enum pdev_type. `pci-endpoint` is conventional PCI. */
export type PciType = 'endpoint' | 'pci-endpoint' | 'host-bridge' | 'root-port' | 'pcie-to-pci-bridge' | 'pci-bridge';

export interface PciTopologyFunction {
  /** `0000:03:00.0`. */
  readonly device: string;
  /** An endpoint by default. */
  readonly type?: PciType;
  /** Bridges: the first and last bus behind it. */
  readonly secondary?: number;
  readonly subordinate?: number;
  /** Whether it has a device TLB (ATS). */
  readonly ats?: boolean;
  /** Virtual functions: the function that they belong to. */
  readonly physicalFunction?: string;
  /** Function 8 or higher of an ARI device, so that it looks like another device of its bus. */
  readonly extended?: boolean;
}

/** Bus, device, function: 8 + 5 + 3 bits. */
export type Bdf = number;
export type BusRange = readonly [first: number, last: number];

/** What configuration space reads as where there is no function. */
const NO_BUS = 0xff;

const isBus = (of: unknown): of is number => Number.isInteger(of) && (of as number) >= 0 && (of as number) <= 0xff;

export const segmentOf = (of: Sbdf): number => Math.floor(of / 0x10000);
export const bdfOf = (of: Sbdf): Bdf => of % 0x10000;
export const busOf = (of: Sbdf | Bdf): number => (of >>> 8) & 0xff;

/** All functions of a machine: what is not among them does not exist. */
export class PciTopology {
  readonly functions: readonly PciTopologyFunction[];
  readonly #bySbdf: ReadonlyMap<number, PciTopologyFunction>;
  readonly #segments: ReadonlySet<number>;
  readonly #behindBridges: ReadonlySet<number>;

  /** @throws RangeError for what is no PCI address or bus, and for a function that is there twice */
  constructor(functions: readonly PciTopologyFunction[]) {
    const bySbdf = new Map<number, PciTopologyFunction>();
    for (const one of functions) {
      const at = parseSbdf(one.device);
      if (bySbdf.has(at)) throw new RangeError(`PCI function ${one.device}: expected each function once`);
      bySbdf.set(at, one);
    }
    this.functions = functions;
    this.#bySbdf = bySbdf;
    this.#segments = new Set([...bySbdf.keys()].map((at) => segmentOf(at as Sbdf)));
    const behind = new Set<number>();
    for (const [at, { secondary, subordinate = secondary }] of bySbdf) {
      if (secondary === undefined) continue;
      if (!isBus(secondary) || !isBus(subordinate)) {
        throw new RangeError(
          `PCI function ${sbdfText(at as Sbdf)}: buses ${secondary} to ${subordinate}: expected 0 to 255`,
        );
      }
      for (let bus = secondary; bus <= subordinate; bus++) behind.add(segmentOf(at as Sbdf) * 0x100 + bus);
    }
    this.#behindBridges = behind;
  }

  find(segment: number, bdf: Bdf): PciTopologyFunction | undefined {
    return this.#bySbdf.get(segment * 0x10000 + bdf);
  }

  /** Whether any function of the segment is known. xen: pci_known_segment */
  hasSegment(segment: number): boolean {
    return this.#segments.has(segment);
  }

  /** Whether a bus hangs from the root complex itself, and not from a bridge. */
  isRootBus(segment: number, bus: number): boolean {
    return !this.#behindBridges.has(segment * 0x100 + bus);
  }

  /**
   * The buses behind a bridge: none for what is listed and is no bridge. What does not exist reads as all ones, so that
   * Xen takes it for a bridge to bus 0xff.
   */
  busesBehind(segment: number, bdf: Bdf): BusRange | null {
    const found = this.find(segment, bdf);
    if (!found) return [NO_BUS, NO_BUS];
    const { secondary, subordinate = secondary } = found;
    return secondary === undefined ? null : [secondary, subordinate!];
  }
}
