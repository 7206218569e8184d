// What Xen makes of tables that are not as they should be. Each finding is data: what, where, what Xen does, source.

import type { Errno } from '../../../machine/errno.ts';
import { type Sbdf, sbdfText } from '../../../machine/ids.ts';
import { ScopeType, StructureType } from '../dmar-layout.ts';
import type { DmarReservedRegion, DmarTable } from '../dmar-table.ts';
import { inTableOrder } from '../structure-order.ts';
import { mappedFrames } from './mapped-frames.ts';
import { type MemoryRange, regionMemory } from './memory-map.ts';
import type { PciTopology } from './pci-topology.ts';
import type { ScopeReach } from './scope-reach.ts';

/** Xen turns VT-d off; it goes on as if the structure were not there; or it goes on with it. */
export type FindingEffect = 'disables VT-d' | 'ignored' | 'kept';

/** What Xen does about each, why, and where it does. Errors end its reading of the table. */
const FACTS = {
  WIDTH_ZERO: ['disables VT-d', 'EINVAL', 'xen: dmar.c acpi_parse_dmar'],
  NO_UNIT: ['disables VT-d', 'ENODEV', 'xen: vtd/iommu.c vtd_setup'],
  UNIT_BASE: ['disables VT-d', 'ENODEV', 'xen: dmar.c acpi_parse_one_drhd'],
  INCLUDE_ALL_TWICE: ['disables VT-d', 'EINVAL', 'xen: dmar.c acpi_parse_one_drhd'],
  INCLUDE_ALL_AGAIN: ['kept', null, 'xen: dmar.c acpi_find_matched_drhd_unit'],
  ALL_PORTS_TWICE: ['disables VT-d', 'EINVAL', 'xen: dmar.c acpi_parse_one_atsr'],
  RMRR_OVERLAP: ['disables VT-d', 'EEXIST', 'xen: dmar.c acpi_parse_one_rmrr'],
  RMRR_IN_RAM: ['disables VT-d', 'EIO', 'xen: x86/iommu.c iommu_unity_region_ok'],
  RMRR_NOT_RESERVED: ['kept', null, 'xen: x86/iommu.c iommu_unity_region_ok'],
  RMRR_NO_DEVICE: ['ignored', null, 'xen: dmar.c acpi_parse_one_rmrr'],
  RMRR_DEVICE_ABSENT: ['ignored', null, 'xen: dmar.c register_one_rmrr'],
  RMRR_REVERSED: ['disables VT-d', 'EFAULT', 'xen: dmar.c register_one_rmrr'],
  RMRR_MAPS_NOTHING: ['kept', null, 'xen: x86/iommu.c iommu_identity_mapping'],
  RMRR_DEVICE_ZERO: ['kept', null, 'xen: vtd/dmar.h for_each_rmrr_device'],
  SATC_DEVICE_ABSENT: ['ignored', null, 'xen: dmar.c register_one_satc'],
  SCOPE_DEVICE_ABSENT: ['kept', null, 'xen: dmar.c acpi_parse_one_drhd'],
  SCOPE_TWICE: ['kept', null, 'xen: dmar.c acpi_find_matched_drhd_unit'],
} as const satisfies Record<string, readonly [FindingEffect, keyof typeof Errno | null, string]>;

export type FindingCode = keyof typeof FACTS;

export interface PlatformFinding {
  readonly code: FindingCode;
  readonly effect: FindingEffect;
  /** Name of the errno with which Xen gives the table up. */
  readonly errno: keyof typeof Errno | null;
  readonly message: string;
  readonly source: string;
}

/** How far the scopes of each structure reach; lists are parallel to those of the table. */
export interface TableReach {
  readonly units: readonly ScopeReach[];
  readonly reservedRegions: readonly ScopeReach[];
  readonly rootPorts: readonly ScopeReach[];
  readonly satc: readonly ScopeReach[];
}

export interface TableFindings {
  readonly findings: readonly PlatformFinding[];
  /** Indices of the reserved regions and SATC structures that are in force. */
  readonly regions: readonly number[];
  readonly satc: readonly number[];
}

/**
 * Looks at a table as Xen reads it, structure by structure. Xen stops at the first finding that disables VT-d; those
 * after it are what it would have met next.
 * @param topology null: whether devices exist is not looked at
 * @param memory left out: whether reserved regions lie in reserved memory is not looked at
 */
export function tableFindings(
  table: DmarTable,
  reach: TableReach,
  topology: PciTopology | null,
  memory?: readonly MemoryRange[],
): TableFindings {
  const reading = new TableReading(table, reach, topology, memory);
  if (table.hostAddressWidth === 0) reading.found('WIDTH_ZERO', 'host address width 0');
  const { DRHD, RMRR, ATSR, SATC } = StructureType;
  const each = (count: number, read: (index: number) => void) =>
    Array.from({ length: count }, (_, index) => () => read(index));
  const reads = inTableOrder(
    [
      [DRHD, each(table.units.length, (index) => reading.unit(index))],
      [RMRR, each(table.reservedRegions.length, (index) => reading.region(index))],
      [ATSR, each(table.rootPorts.length, (index) => reading.ports(index))],
      [SATC, each(table.satc.length, (index) => reading.caches(index))],
    ],
    table.order,
  );
  for (const read of reads) read();
  if (table.units.length === 0) reading.found('NO_UNIT', 'the table defines no unit (DRHD)');
  return { findings: reading.findings, regions: reading.regions, satc: reading.satc };
}

class TableReading {
  readonly findings: PlatformFinding[] = [];
  readonly regions: number[] = [];
  readonly satc: number[] = [];
  readonly #includeAll = new Set<number>();
  #allPorts = false;
  /** Who named a function first: unit by sbdf. */
  readonly #named = new Map<number, number>();
  /** The reserved regions in force by address: they do not overlap. */
  readonly #ranges: { readonly base: bigint; readonly limit: bigint; readonly name: string }[] = [];
  readonly #table: DmarTable;
  readonly #reach: TableReach;
  readonly #topology: PciTopology | null;
  readonly #memory: readonly MemoryRange[] | undefined;

  constructor(
    table: DmarTable,
    reach: TableReach,
    topology: PciTopology | null,
    memory: readonly MemoryRange[] | undefined,
  ) {
    this.#table = table;
    this.#reach = reach;
    this.#topology = topology;
    this.#memory = memory;
  }

  found(code: FindingCode, message: string): void {
    const [effect, errno, source] = FACTS[code];
    this.findings.push({ code, effect, errno, message, source });
  }

  unit(index: number): void {
    const { segment, registerBase, includeAll } = this.#table.units[index]!;
    const name = `unit ${index} (${registerBase})`;
    if (/^0x(0+|f{16})$/i.test(registerBase))
      this.found('UNIT_BASE', `unit ${index} has register base ${registerBase}`);
    if (includeAll) this.#includeAllUnit(segment, name);
    for (const { bdf, scope } of this.#reach.units[index]!.devices) {
      const at = segment * 0x10000 + bdf;
      const first = this.#named.get(at) ?? index;
      this.#named.set(at, first);
      if (first !== index) this.found('SCOPE_TWICE', `${name} names ${textOf(segment, bdf)}, as unit ${first} does`);
      // Xen does not look for I/O APICs and HPETs, nor at all when the unit serves all others anyway.
      const isPci = scope.type === ScopeType.endpoint || scope.type === ScopeType.bridge;
      if (includeAll || !isPci || !this.#isAbsent(segment, bdf)) continue;
      this.found('SCOPE_DEVICE_ABSENT', `${name} names ${textOf(segment, bdf)}, which does not exist`);
    }
  }

  #includeAllUnit(segment: number, name: string): void {
    if (this.#includeAll.has(segment)) {
      const message = `${name} is another INCLUDE_ALL unit of segment ${segment}`;
      if (segment === 0) this.found('INCLUDE_ALL_TWICE', message);
      else this.found('INCLUDE_ALL_AGAIN', `${message}; the last one serves`);
    }
    this.#includeAll.add(segment);
  }

  /** The checks of acpi_parse_one_rmrr, in its order. */
  region(index: number): void {
    const region = this.#table.reservedRegions[index]!;
    const name = `reserved region ${region.base}..${region.limit}`;
    const [base, limit] = [BigInt(region.base), BigInt(region.limit)];
    const place = this.#firstEndingFrom(base);
    const next = this.#ranges[place];
    if (next && next.base <= limit) return this.found('RMRR_OVERLAP', `${name} overlaps ${next.name}`);
    const lies = base <= limit && this.#memory ? regionMemory(region, this.#memory) : 'reserved';
    if (lies === 'ram') return this.found('RMRR_IN_RAM', `${name} is not in reserved memory, but in RAM`);
    if (lies === 'converted') this.found('RMRR_NOT_RESERVED', `${name} is not all in reserved memory`);
    const { devices, unresolved } = this.#reach.reservedRegions[index]!;
    if (devices.length + unresolved.length === 0) return this.found('RMRR_NO_DEVICE', `${name} names no device`);
    if (this.#areAllAbsent(region.segment, this.#reach.reservedRegions[index]!)) {
      return this.found('RMRR_DEVICE_ABSENT', `${name} names no device that exists`);
    }
    if (base > limit) return this.found('RMRR_REVERSED', `${name} ends before it starts`);
    this.regions.push(index);
    this.#ranges.splice(place, 0, { base, limit, name });
    this.#oddRegion(
      region,
      name,
      devices.some(({ bdf }) => bdf === 0),
    );
  }

  /** Index of the first range in force that does not end before `base`. */
  #firstEndingFrom(base: bigint): number {
    let [low, high] = [0, this.#ranges.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#ranges[middle]!.limit < base) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #oddRegion(region: DmarReservedRegion, name: string, hasDeviceZero: boolean): void {
    if (mappedFrames(region).count === 0) {
      this.found('RMRR_MAPS_NOTHING', `${name} maps no page: a limit that starts a page leaves it out`);
    }
    if (!hasDeviceZero) return;
    this.found('RMRR_DEVICE_ZERO', `${name} names 00:00.0: neither it nor what follows in the scope gets the region`);
  }

  ports(index: number): void {
    const { segment, allPorts } = this.#table.rootPorts[index]!;
    if (!allPorts || segment !== 0) return;
    if (this.#allPorts) this.found('ALL_PORTS_TWICE', 'another ATSR for all ports of segment 0');
    this.#allPorts = true;
  }

  caches(index: number): void {
    const { segment } = this.#table.satc[index]!;
    if (this.#areAllAbsent(segment, this.#reach.satc[index]!)) {
      return this.found('SATC_DEVICE_ABSENT', `SATC ${index} names no device that exists`);
    }
    this.satc.push(index);
  }

  #areAllAbsent(segment: number, { devices, unresolved }: ScopeReach): boolean {
    return devices.length > 0 && unresolved.length === 0 && devices.every(({ bdf }) => this.#isAbsent(segment, bdf));
  }

  /** xen: pci_device_detect, which is not asked about segments that are not known yet. */
  #isAbsent(segment: number, bdf: number): boolean {
    return this.#topology?.hasSegment(segment) === true && !this.#topology.find(segment, bdf);
  }
}

const textOf = (segment: number, bdf: number): string => sbdfText((segment * 0x10000 + bdf) as Sbdf);
