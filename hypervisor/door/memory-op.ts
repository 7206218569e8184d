// Operations on domains and their memory: domctls, memory_op, PV page tables, p2m, and plain stores.

import type { Wide } from '../../machine/frame-number.ts';
import type { ArgumentPlace } from './grant-op.ts';

/** `[first, last]`, inclusive. */
export type FrameRange = readonly [number, number];

/** A domain's memory frame by frame, as a domain builder leaves it; for machines that repeat a recorded one. */
export interface MemoryLayout {
  /** PV: machine frames of its RAM. */
  readonly ram?: readonly FrameRange[];
  /** PV: which of them are page tables, in the order of the tree's levels from the top, `[frame, level]`. */
  readonly pageTables?: readonly (readonly [number, number])[];
  /** PV: address ranges that have an L1 table. The L1 tables of `pageTables` serve them in order. */
  readonly mapped?: readonly (readonly [Wide, Wide])[];
  /** PV: `[address, frame, count, step, access]`: pages mapped one after the other, frames `step` apart. */
  readonly mappings?: readonly (readonly [Wide, number, number, number, 'rw' | 'ro'])[];
  /** HVM: `[gfn, mfn, count, step]`. */
  readonly p2m?: readonly (readonly [number, number, number, number])[];
  /** Frames of the hypervisor's heap that become the first grant frames. */
  readonly grantFrames?: readonly number[];
  /** PV: pages of the hypervisor's heap that the domain shares, beside its grant table. */
  readonly heapFrames?: readonly number[];
  /** Hardware domain: device frames mapped to themselves beside its RAM, `[first, last, access]`. */
  readonly identity?: readonly (readonly [number, number, 'rw' | 'ro'])[];
}

export type MemoryOp =
  /**
   * A new domain with its grant table, and device tables if `iommu`. Its RAM is `frames` frames, or what `memory` says
   * frame by frame. Device tables hold all of its RAM (`ram`, the default), or nothing until its kernel maps something
   * (`empty`). Limits are at most the machine's, which they are by default.
   */
  | {
      readonly op: 'create_domain';
      readonly domain: number;
      readonly kind: 'pv' | 'hvm';
      readonly frames?: number;
      readonly memory?: MemoryLayout;
      readonly iommu?: boolean;
      readonly deviceTables?: 'ram' | 'empty';
      /** HVM: devices walk the processor's own tables (shared EPT), which are not restructured for their sake. */
      readonly sharedTables?: boolean;
      readonly grantFrames?: number;
      readonly maptrackFrames?: number;
      readonly grantVersion?: 1 | 2;
      /** Frames that it may have. */
      readonly maxPages?: number;
      /** The hardware domain: it is privileged, and gets every device that belongs to nobody. */
      readonly hardware?: boolean;
    }
  /** The domain dies: devices, grant mappings and memory go. -ERESTART while more is to be done. */
  | { readonly op: 'destroy_domain'; readonly vcpu?: number; readonly domain: number }
  /** A PV domain writes a PTE of its own, by the address that it maps. xen: do_update_va_mapping. */
  | {
      readonly op: 'update_va_mapping';
      readonly vcpu?: number;
      readonly domain: number;
      readonly address: Wide;
      readonly entry: Wide;
    }
  /** A privileged PV domain maps another's frame (a gfn if that is HVM), or drops what is there (`frame` null). */
  | {
      readonly op: 'map_foreign';
      readonly vcpu?: number;
      readonly domain: number;
      readonly address: Wide;
      readonly owner: number;
      readonly frame: number | null;
      readonly writable: boolean;
    }
  /** Pins a frame as a page table of a level, or unpins it. xen: do_mmuext_op. */
  | {
      readonly op: 'pin_table';
      readonly vcpu?: number;
      readonly domain: number;
      readonly frame: number;
      readonly level: 1 | 2 | 3 | 4;
    }
  | { readonly op: 'unpin_table'; readonly vcpu?: number; readonly domain: number; readonly frame: number }
  /** Frames are given back. PV: mfns, HVM: gfns. The result counts those that went. */
  | {
      readonly op: 'decrease_reservation';
      readonly vcpu?: number;
      readonly domain: number;
      readonly frames: readonly number[];
      readonly argument?: ArgumentPlace;
    }
  /**
   * 2^order frames more for each of `gfns` (an HVM domain gets them there). `allocate` names the machine frames that
   * the allocator gives; it ends at one that is not free. The result counts extents; `frames` in it are the first
   * frames.
   */
  | {
      readonly op: 'populate_physmap' | 'increase_reservation';
      readonly vcpu?: number;
      readonly domain: number;
      readonly gfns: readonly number[];
      readonly order?: number;
      readonly allocate?: readonly number[];
    }
  /**
   * Puts a grant frame (`space` 1, `index` the frame's number; bit 31: a status frame), or what is at another gfn
   * (`space` 2, `index` that gfn), at a gfn of an HVM domain. Where the table grows for that, `allocate` names the
   * machine frame, a free one.
   */
  | {
      readonly op: 'add_to_physmap';
      readonly vcpu?: number;
      readonly domain: number;
      readonly space: number;
      readonly index: number;
      readonly gfn: number;
      readonly allocate?: number;
    }
  | { readonly op: 'remove_from_physmap'; readonly vcpu?: number; readonly domain: number; readonly gfn: number }
  /** A processor stores bytes (hex) in a frame of memory, or one byte over and over: mfn, offset in it. */
  | {
      readonly op: 'store';
      readonly frame: number;
      readonly offset: number;
      readonly bytes?: string;
      readonly fill?: { readonly byte: number; readonly length: number };
    };

export type CreateDomainOp = Extract<MemoryOp, { readonly op: 'create_domain' }>;
