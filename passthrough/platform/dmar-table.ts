// What a decoded DMAR table looks like: plain JSON data, frozen throughout.

import type { Hex64 } from './dmar-layout.ts';

export type { Hex64 } from './dmar-layout.ts';

/** A device named by the way to it: start bus, then [device, function] through bridges, the last one the device. */
export interface DmarScope {
  /** As in the table: 1 endpoint, 2 bridge and all below it, 3 I/O APIC, 4 HPET, 5 ACPI name-space device. */
  readonly type: number;
  /** I/O APIC id, HPET number or ANDD device number; without meaning for PCI devices. */
  readonly enumerationId: number;
  readonly startBus: number;
  readonly path: readonly (readonly [device: number, fn: number])[];
  /** As in the table, with meaning under a SIDP only; left out: 0. */
  readonly flags?: number;
}

/** DRHD: one VT-d unit. */
export interface DmarUnit {
  readonly segment: number;
  /** Byte address of the registers. */
  readonly registerBase: Hex64;
  /** Serves every device of the segment that no other unit names. */
  readonly includeAll: boolean;
  readonly scopes: readonly DmarScope[];
  /** As in the table: bits 3:0 say that the registers take 2^n pages; left out: 0. */
  readonly size?: number;
}

/** RMRR: memory that firmware has devices access, from byte `base` to byte `limit` inclusive. */
export interface DmarReservedRegion {
  readonly segment: number;
  readonly base: Hex64;
  readonly limit: Hex64;
  readonly scopes: readonly DmarScope[];
}

/** ATSR: root ports that support address translation services. */
export interface DmarRootPorts {
  readonly segment: number;
  readonly allPorts: boolean;
  readonly scopes: readonly DmarScope[];
}

/** RHSA: the NUMA node of the unit with this register base. */
export interface DmarAffinity {
  readonly registerBase: Hex64;
  readonly proximityDomain: number;
  /** Bytes that nobody defined yet, as hex digits; left out when there are none. */
  readonly rest?: string;
}

/** ANDD: the ACPI path of the device that scopes of type 5 call by number. */
export interface DmarNamespaceDevice {
  readonly deviceNumber: number;
  readonly name: string;
  /** Bytes after the NUL that ends the name, as hex digits (firmware pads); left out when there are none. */
  readonly rest?: string;
}

/** SATC: devices of the chip with a translation cache of their own. */
export interface DmarTranslationCaches {
  readonly segment: number;
  /** The operating system must turn the caches on when it uses the unit. */
  readonly atcRequired: boolean;
  readonly scopes: readonly DmarScope[];
}

/** SIDP: devices of the chip with properties (not decoded). */
export interface DmarDeviceProperties {
  readonly segment: number;
  readonly scopes: readonly DmarScope[];
}

/** A structure of a type that is not known here. */
export interface DmarUnknownStructure {
  readonly type: number;
  /** Its bytes after type and length, as hex digits. */
  readonly body: string;
}

/** Something odd that does not stop the table from being used. */
export interface DmarWarning {
  /** Stable, machine-readable reason, for example `DMAR_RMRR_RANGE`. */
  readonly code: string;
  /** Byte of the table. */
  readonly offset: number;
  readonly message: string;
}

/** A DMAR table; each list keeps the order of the table. */
export interface DmarTable {
  readonly header: {
    /** Bytes of the table. */
    readonly length: number;
    readonly revision: number;
    readonly checksumOk: boolean;
    readonly oemId: string;
    readonly oemTableId: string;
    readonly oemRevision: number;
    /** Who compiled the table: `INTL` for iasl. */
    readonly creatorId: string;
    readonly creatorRevision: number;
  };
  /** The raw byte: the width of host addresses in bits is one more. */
  readonly hostAddressWidth: number;
  /** Bit 0 interrupt remapping, 1 x2APIC opt-out, 2 DMA control opt-in. */
  readonly flags: number;
  readonly units: readonly DmarUnit[];
  readonly reservedRegions: readonly DmarReservedRegion[];
  readonly rootPorts: readonly DmarRootPorts[];
  readonly affinities: readonly DmarAffinity[];
  readonly namespaceDevices: readonly DmarNamespaceDevice[];
  readonly satc: readonly DmarTranslationCaches[];
  readonly sidp: readonly DmarDeviceProperties[];
  readonly unknown: readonly DmarUnknownStructure[];
  /** Types of all structures, as they follow one another. VT-d 8.2 wants them in numerical order. */
  readonly order: readonly number[];
  readonly warnings: readonly DmarWarning[];
}
