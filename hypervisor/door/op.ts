// Operations: plain JSON data, the one way to make a machine do anything; and what comes back.

import type { Wide } from '../../machine/frame-number.ts';

/** Element of a map_grant_ref batch. Flags are GNTMAP bits. */
export interface MapElementInput {
  readonly hostAddress?: Wide;
  readonly flags: number;
  readonly ref: number;
  readonly domain: number;
}

/** Element of an unmap_grant_ref batch. An address of 0 leaves that half alone. */
export interface UnmapElementInput {
  readonly hostAddress?: Wide;
  readonly busAddress?: Wide;
  readonly handle: number;
}

export type Op =
  /**
   * A new domain with `frames` frames of RAM, its grant table, and device tables if `iommu`. These hold all of its RAM
   * (`ram`, the default), or nothing until its kernel maps something (`empty`).
   */
  | {
      readonly op: 'create_domain';
      readonly domain: number;
      readonly kind: 'pv' | 'hvm';
      readonly frames: number;
      readonly iommu?: boolean;
      readonly deviceTables?: 'ram' | 'empty';
    }
  /** Gives a device, with all of its DMA, to a domain. */
  | { readonly op: 'assign_device'; readonly vcpu?: number; readonly device: string; readonly domain: number }
  /** Takes a device away from its domain: flushed, then blocked. */
  | { readonly op: 'deassign_device'; readonly vcpu?: number; readonly device: string }
  /** A guest writes one of its grant entries (version 1). `frame` is an mfn for PV, a gfn for HVM. */
  | {
      readonly op: 'grant_write';
      readonly domain: number;
      readonly ref: number;
      readonly flags: number;
      readonly grantee: number;
      readonly frame: number;
    }
  | {
      readonly op: 'map_grant_ref';
      readonly vcpu?: number;
      readonly domain: number;
      readonly elements: readonly MapElementInput[];
    }
  | {
      readonly op: 'unmap_grant_ref';
      readonly vcpu?: number;
      readonly domain: number;
      readonly elements: readonly UnmapElementInput[];
    }
  /** A domain's kernel lets its devices reach `pages` of its own frames at device frame `dfn` (a DMA API). */
  | {
      readonly op: 'dma_map';
      readonly vcpu?: number;
      readonly domain: number;
      readonly dfn: number;
      readonly frame: number;
      readonly pages: number;
      readonly access: 'r' | 'rw';
    }
  /** The opposite. Pages without access are passed over. */
  | {
      readonly op: 'dma_unmap';
      readonly vcpu?: number;
      readonly domain: number;
      readonly dfn: number;
      readonly pages: number;
    }
  /**
   * A device access, translated and performed. `choose` picks among what an adversarial unit may answer (0: the
   * tables).
   */
  | DmaOp<'dma'>
  /** The first half of an access: translated, and held until `dma_perform`. */
  | DmaOp<'dma_translate'>
  | { readonly op: 'dma_perform'; readonly slot: number }
  /** One step of a unit's own: fetch or complete an invalidation. */
  | { readonly op: 'hardware'; readonly unit: number }
  /** Time passes, and a virtual CPU's flush timer is looked at. */
  | { readonly op: 'tick'; readonly vcpu?: number; readonly nowUs: number };

interface DmaOp<Name extends string> {
  readonly op: Name;
  readonly device: string;
  readonly address: Wide;
  readonly access: 'read' | 'write';
  /** Word that a write stores, at the address rounded down to 4 bytes. */
  readonly value?: number;
  readonly choose?: number;
}

/** What a map element came to. Handle and bus address only on success. */
export interface MapElementResult {
  readonly status: number;
  readonly handle?: number;
  readonly busAddress?: Wide;
}

export interface DmaResult {
  /** The machine frame reached, or the fault. */
  readonly frame?: number;
  readonly fault?: { readonly reason: number; readonly name: string };
  /** What a read found. */
  readonly value?: number;
  /** Where `dma_translate` holds the access. */
  readonly slot?: number;
}

export interface OpResult {
  /** Return value: 0 or a count, or a negative errno. */
  readonly result: number;
  readonly elements?: readonly MapElementResult[];
  readonly dma?: DmaResult;
  /** Domains that the operation crashed, and why. */
  readonly crashed?: readonly { readonly domain: number; readonly reason: string }[];
}
