// A DMAR table as a platform: which unit serves a PCI function, what is reserved for it, whether it may use ATS.

import { parseSbdf, type Sbdf, sbdfText } from '../../../machine/ids.ts';
import type { Hex64 } from '../dmar-layout.ts';
import type { DmarTable } from '../dmar-table.ts';
import { type PlatformFinding, type TableReach, tableFindings } from './findings.ts';
import { mappedFrames } from './mapped-frames.ts';
import type { MemoryRange } from './memory-map.ts';
import { type Bdf, bdfOf, busOf, PciTopology, type PciTopologyFunction, segmentOf } from './pci-topology.ts';
import { mayBe, type ScopeReach, scopeReach, scopeText } from './scope-reach.ts';

export interface PlatformOptions {
  /** Every PCI function of the machine, bridges with their buses. Left out: only what needs no topology is known. */
  readonly functions?: readonly PciTopologyFunction[];
  /** The firmware's memory map. Left out: reserved regions are taken to lie in reserved memory. */
  readonly memory?: readonly MemoryRange[];
}

/** One unit of the platform. Its index is that of the table, which is Xen's, too. */
export interface PlatformUnit {
  readonly segment: number;
  readonly registerBase: Hex64;
  /** Pages of registers. VT-d 8.3: 2^size. */
  readonly registerPages: number;
  readonly includeAll: boolean;
  /** NUMA node by RHSA, null where there is none. */
  readonly proximityDomain: number | null;
}

/** Which unit serves a function, and why. */
export interface UnitAnswer {
  /** Null: none does, or only the topology tells. */
  readonly unit: number | null;
  readonly why: 'explicit' | 'bridge' | 'include-all' | 'none' | 'unknown';
  readonly reason: string;
  /** The units that it may be: one where it is known, none where there is none. Last, the one for all others. */
  readonly candidates: readonly number[];
}

/** A reserved region (RMRR) of a function. */
export interface RegionAnswer {
  /** Index in the table. */
  readonly region: number;
  readonly base: Hex64;
  readonly limit: Hex64;
  readonly firstFrame: number;
  readonly frames: number;
  /** Whether it has several devices: Xen then assigns them to a guest only if told to be relaxed. */
  readonly shared: boolean;
  /** False: only the topology tells whether it is this function's. */
  readonly certain: boolean;
}

/** Whether the platform lets a function use ATS; its unit and Xen's option `ats` have a say as well. */
export interface AtsAnswer {
  /** Null: only the topology tells. */
  readonly allowed: boolean | null;
  readonly why: 'integrated' | 'root-port' | 'all-ports' | 'no-endpoint' | 'not-listed' | 'unknown';
  readonly reason: string;
}

/** All that a platform says of a function. */
export interface DeviceAnswer {
  readonly device: string;
  readonly unit: UnitAnswer & { readonly segment: number; readonly registerBase: Hex64 | null };
  readonly reservedRegions: readonly RegionAnswer[];
  readonly ats: AtsAnswer;
  /** What a SATC says of it; Xen reads it, but goes by it only in its log. */
  readonly satc: { readonly atcRequired: boolean } | null;
}

export class Platform {
  readonly table: DmarTable;
  readonly topology: PciTopology | null;
  readonly units: readonly PlatformUnit[];
  /** What is wrong with the table, and what Xen does about it. */
  readonly findings: readonly PlatformFinding[];
  /** The finding for which Xen turns VT-d off. All questions are answered as if it had not. */
  readonly disabledBy: PlatformFinding | null;
  readonly #reach: TableReach;
  /** Indices of the reserved regions and SATC structures that are in force. */
  readonly #regions: readonly number[];
  readonly #satc: readonly number[];

  /** @throws RangeError for functions that are no PCI addresses, or there twice */
  constructor(table: DmarTable, { functions, memory }: PlatformOptions = {}) {
    this.table = table;
    this.topology = functions ? new PciTopology(functions) : null;
    const reaches = (of: readonly Parameters<typeof reachOf>[0][]) => of.map((one) => reachOf(one, this.topology));
    this.#reach = {
      units: reaches(table.units),
      reservedRegions: reaches(table.reservedRegions),
      rootPorts: reaches(table.rootPorts),
      satc: reaches(table.satc),
    };
    // The first of a unit counts, as in Xen's list.
    const nodes = new Map(table.affinities.toReversed().map((one) => [one.registerBase, one.proximityDomain]));
    this.units = table.units.map(({ segment, registerBase, includeAll, size = 0 }) => ({
      segment,
      registerBase,
      registerPages: 2 ** (size & 15),
      includeAll,
      proximityDomain: nodes.get(registerBase) ?? null,
    }));
    const { findings, regions, satc } = tableFindings(table, this.#reach, this.topology, memory);
    this.findings = findings;
    this.disabledBy = findings.find(({ effect }) => effect === 'disables VT-d') ?? null;
    this.#regions = regions;
    this.#satc = satc;
  }

  /**
   * The unit of a function: the first that names it or a bridge that it is behind; else the one that serves all others
   * of the segment. Units are asked in Xen's order: the last of the table first, those with INCLUDE_ALL at the end.
   * xen: dmar.c acpi_find_matched_drhd_unit
   * @param device `0000:00:1d.0`, or a number
   * @throws RangeError for what is no PCI address
   */
  unitOf(device: Sbdf | string): UnitAnswer {
    const asked = sbdfOf(device);
    const [segment, key] = [segmentOf(asked), this.#keyOf(asked)];
    const ordered = xenOrder(this.#indices(this.table.units, segment), (index) => this.units[index]!.includeAll);
    const maybe: { readonly unit: number; readonly reason: string }[] = [];
    for (const unit of ordered) {
      const claim = claimOf(this.#reach.units[unit]!, key);
      // One that is named counts even after one that may lead to it: sane tables do not name what others lead to.
      if (claim?.why === 'explicit') return { unit, ...claim, candidates: [unit] };
      if (claim?.why === 'bridge' && maybe.length === 0) return { unit, ...claim, candidates: [unit] };
      if (claim) maybe.push({ unit, reason: claim.reason });
    }
    const others = ordered.findLast((unit) => this.units[unit]!.includeAll);
    if (maybe.length > 0) {
      const candidates = [...new Set([...maybe.map(({ unit }) => unit), ...(others === undefined ? [] : [others])])];
      const reason = `${maybe[0]!.reason}${others === undefined ? ', or served by no unit' : ''}`;
      return { unit: null, why: 'unknown', reason: this.#unknown(reason), candidates };
    }
    if (others === undefined) {
      const reason = 'no unit names it, and none of its segment serves all others';
      return { unit: null, why: 'none', reason, candidates: [] };
    }
    const reason = 'no unit names it; this one serves all others of its segment';
    return { unit: others, why: 'include-all', reason, candidates: [others] };
  }

  /**
   * Reserved regions of a function, in the order of the table. Only a function that is named has a region, not those
   * behind a bridge that is. xen: vtd/dmar.h for_each_rmrr_device
   */
  reservedRegionsOf(device: Sbdf | string): RegionAnswer[] {
    const asked = sbdfOf(device);
    const bdf = bdfOf(asked);
    return this.#regions.flatMap((region): RegionAnswer[] => {
      const { segment, base, limit } = this.table.reservedRegions[region]!;
      if (segment !== segmentOf(asked)) return [];
      const { devices, unresolved } = this.#reach.reservedRegions[region]!;
      const certain = untilZero(devices.map((one) => one.bdf)).includes(bdf);
      if (!certain && !unresolved.some((one) => one.devfn !== null && mayBe(one, bdf))) return [];
      const { first: firstFrame, count: frames } = mappedFrames({ base, limit });
      const named = devices.length + unresolved.filter(({ devfn }) => devfn !== null).length;
      return [{ region, base, limit, firstFrame, frames, shared: named > 1, certain }];
    });
  }

  /** Functions of a reserved region, `0000:00:1d.0`, as far as they are known. */
  devicesOfRegion(region: number): string[] {
    const segment = this.table.reservedRegions[region]?.segment ?? 0;
    const named = this.#reach.reservedRegions[region]?.devices.map(({ bdf }) => bdf) ?? [];
    return untilZero(named).map((bdf) => sbdfText((segment * 0x10000 + bdf) as Sbdf));
  }

  /** Indices of the reserved regions in force: those that Xen does not ignore. */
  get regions(): readonly number[] {
    return this.#regions;
  }

  /**
   * ATS needs a PCIe endpoint that is integrated into the root complex, or below a root port of an ATSR.
   * xen: dmar.c acpi_find_matched_atsr_unit, vtd/x86/ats.c ats_device
   */
  atsOf(device: Sbdf | string): AtsAnswer {
    const asked = sbdfOf(device);
    const [segment, bdf] = [segmentOf(asked), bdfOf(asked)];
    const type = this.topology?.find(segment, bdf)?.type ?? 'endpoint';
    if (type !== 'endpoint') return { allowed: false, why: 'no-endpoint', reason: `not a PCIe endpoint, but ${type}` };
    // Bus 0 is always a root bus.
    const isRoot = this.topology ? this.topology.isRootBus(segment, busOf(bdf)) : busOf(bdf) === 0 ? true : null;
    if (isRoot) return { allowed: true, why: 'integrated', reason: 'integrated into the root complex' };
    const maybe: string[] = [];
    for (const index of this.#indices(this.table.rootPorts, segment)) {
      if (this.table.rootPorts[index]!.allPorts) continue;
      const claim = claimOf(this.#reach.rootPorts[index]!, bdf);
      if (claim?.why === 'bridge') return { allowed: true, why: 'root-port', reason: claim.reason };
      if (claim?.why === 'unknown') maybe.push(claim.reason);
    }
    const allPorts = this.table.rootPorts.some((one) => one.segment === segment && one.allPorts);
    if (allPorts) return { allowed: true, why: 'all-ports', reason: 'all root ports of its segment support ATS' };
    if (maybe.length > 0) return { allowed: null, why: 'unknown', reason: this.#unknown(maybe[0]!) };
    if (isRoot === null) {
      const reason = this.#unknown('below no root port with ATS; it may be integrated into the root complex');
      return { allowed: null, why: 'unknown', reason };
    }
    return { allowed: false, why: 'not-listed', reason: 'below no root port with ATS' };
  }

  /** What the SATC structures say of a function. */
  satcOf(device: Sbdf | string): { readonly atcRequired: boolean } | null {
    const asked = sbdfOf(device);
    const found = this.#satc.find(
      (index) =>
        this.table.satc[index]!.segment === segmentOf(asked) &&
        this.#reach.satc[index]!.devices.some(({ bdf }) => bdf === bdfOf(asked)),
    );
    return found === undefined ? null : { atcRequired: this.table.satc[found]!.atcRequired };
  }

  /** All of that, as plain JSON data. */
  describe(device: Sbdf | string): DeviceAnswer {
    const asked = sbdfOf(device);
    const unit = this.unitOf(asked);
    const registerBase = unit.unit === null ? null : this.units[unit.unit]!.registerBase;
    return {
      device: sbdfText(asked),
      unit: { ...unit, segment: segmentOf(asked), registerBase },
      reservedRegions: this.reservedRegionsOf(asked),
      ats: this.atsOf(asked),
      satc: this.satcOf(asked),
    };
  }

  /** The function that scopes name for it: a virtual one's owner, function 0 for an extended one. */
  #keyOf(device: Sbdf): Bdf {
    const { physicalFunction, extended } = this.topology?.find(segmentOf(device), bdfOf(device)) ?? {};
    const owner = physicalFunction === undefined ? device : parseSbdf(physicalFunction);
    return extended ? busOf(owner) * 0x100 : bdfOf(owner);
  }

  #indices(structures: readonly { readonly segment: number }[], segment: number): number[] {
    return [...structures.keys()].filter((index) => structures[index]!.segment === segment);
  }

  #unknown(reason: string): string {
    return this.topology ? reason : `${reason} (only the PCI topology tells)`;
  }
}

const sbdfOf = (device: Sbdf | string): Sbdf => (typeof device === 'string' ? parseSbdf(device) : device);

const reachOf = (
  { segment, scopes }: { readonly segment: number; readonly scopes: Parameters<typeof scopeReach>[1] },
  topology: PciTopology | null,
): ScopeReach => scopeReach(segment, scopes, topology);

/** xen: dmar.c acpi_register_drhd_unit */
function xenOrder(indices: readonly number[], isLast: (index: number) => boolean): number[] {
  return [...indices.filter((index) => !isLast(index)).reverse(), ...indices.filter(isLast)];
}

/** How the scopes of a structure come to a function: by name, by its bus, or maybe. */
function claimOf(
  { devices, buses, unresolved }: ScopeReach,
  bdf: Bdf,
): { readonly why: 'explicit' | 'bridge' | 'unknown'; readonly reason: string } | null {
  const named = devices.find((one) => one.bdf === bdf);
  if (named) return { why: 'explicit', reason: `named by the unit: ${scopeText(named.scope)}` };
  const behind = buses.find(({ range }) => range[0] <= busOf(bdf) && busOf(bdf) <= range[1]);
  if (behind) return { why: 'bridge', reason: `behind ${scopeText(behind.scope)}` };
  const maybe = unresolved.find((one) => mayBe(one, bdf));
  if (!maybe) return null;
  return { why: 'unknown', reason: `${maybe.devfn === null ? 'may be behind' : 'may be'} ${scopeText(maybe.scope)}` };
}

/** Xen's walk over a region's devices ends at 00:00.0. */
function untilZero(devices: readonly Bdf[]): Bdf[] {
  const zero = devices.indexOf(0);
  return zero < 0 ? [...devices] : devices.slice(0, zero);
}
