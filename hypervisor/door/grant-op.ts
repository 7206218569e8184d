// Operations on grant tables. Hypercalls have the names, fields and numbers of xen: public/grant_table.h.

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

/** Element of an unmap_and_replace batch. A new address of 0 replaces by nothing. */
export interface ReplaceElementInput {
  readonly hostAddress?: Wide;
  readonly newAddress?: Wide;
  readonly handle: number;
}

/** One end of a copy: a ref of the domain's table, or a frame of the caller's own (`DOMID_SELF`). Offset in bytes. */
export interface CopyEnd {
  readonly ref?: number;
  readonly frame?: Wide;
  readonly domain: number;
  readonly offset: number;
}

/** Element of a copy batch. Flags: bit 0 the source is a ref, bit 1 the destination is. Length in bytes. */
export interface CopyElementInput {
  readonly source: CopyEnd;
  readonly destination: CopyEnd;
  readonly length: number;
  readonly flags: number;
}

export interface TransferElementInput {
  readonly frame: Wide;
  readonly domain: number;
  readonly ref: number;
}

export interface SwapElementInput {
  readonly a: number;
  readonly b: number;
}

export interface CacheFlushElementInput {
  readonly address: Wide;
  readonly offset: number;
  readonly length: number;
  /** Bit 0 clean, bit 1 invalidate; bit 31: `address` is a ref. */
  readonly operation: number;
}

/**
 * Where the argument of a hypercall lies: in memory of the guest's; at an address that it may use but where nothing is
 * mapped; at one that no guest may name (the hypervisor's own, or not canonical).
 */
export type ArgumentPlace = 'mapped' | 'unmapped' | 'forbidden';

/** What every grant hypercall has. */
interface GrantCall<Name extends string> {
  readonly op: Name;
  readonly vcpu?: number;
  /** The domain that calls. */
  readonly domain: number;
  readonly argument?: ArgumentPlace;
}

/** A hypercall on a batch. */
interface BatchCall<Name extends string, Element> extends GrantCall<Name> {
  readonly elements: readonly Element[];
  /** The first element that cannot be read, or not be written: the buffer goes on into a page that is not there. */
  readonly unreadableFrom?: number;
  readonly unwritableFrom?: number;
  /**
   * Where the hypervisor looks whether something more urgent waits, it finds so once this many elements are done: the
   * result then holds the continuation, the call that the guest's processor repeats by itself.
   */
  readonly preemptAfter?: number;
}

/** A hypercall with one structure; a `count` other than 1 is refused by those that look at it. */
interface SingleCall<Name extends string> extends GrantCall<Name> {
  readonly count?: number;
}

export type GrantOp =
  | BatchCall<'map_grant_ref', MapElementInput>
  | BatchCall<'unmap_grant_ref', UnmapElementInput>
  | BatchCall<'unmap_and_replace', ReplaceElementInput>
  | BatchCall<'copy', CopyElementInput>
  | BatchCall<'transfer', TransferElementInput>
  | BatchCall<'swap_grant_ref', SwapElementInput>
  | BatchCall<'cache_flush', CacheFlushElementInput>
  /**
   * `frames` of the target's shared table at least, and their numbers. `allocate` names the machine frames that the
   * hypervisor's allocator gives, in order, where the table grows; the lowest free ones by default. `allocateStatus`:
   * those for the status frames that come with them. All of them must be free.
   */
  | (SingleCall<'setup_table'> & {
      readonly target: number;
      readonly frames: number;
      readonly list?: ArgumentPlace;
      readonly allocate?: readonly number[];
      readonly allocateStatus?: readonly number[];
    })
  | (SingleCall<'query_size'> & { readonly target: number })
  | (SingleCall<'get_status_frames'> & {
      readonly target: number;
      readonly frames: number;
      readonly list?: ArgumentPlace;
    })
  /** `allocate` names the machine frames, free ones, that become status frames. */
  | (SingleCall<'set_version'> & { readonly version: number; readonly allocate?: readonly number[] })
  | (SingleCall<'get_version'> & { readonly target: number })
  /** Any command number, with an argument that is not looked into: what hypercall entry says of it. */
  | (GrantCall<'grant_table_op'> & { readonly command: number; readonly count: number })
  /**
   * A guest writes one of its grant entries; nothing is checked. `frame` is an mfn for PV, a gfn for HVM. `layout` is
   * the version of the table that it has in mind. In version 2 `subPage` and `transitive` choose the overlay, and bytes
   * that the overlay does not have stay as they are.
   */
  | {
      readonly op: 'grant_write';
      readonly domain: number;
      readonly ref: number;
      readonly layout?: 1 | 2;
      readonly flags: number;
      readonly grantee: number;
      readonly frame?: Wide;
      readonly subPage?: { readonly offset: number; readonly length: number };
      readonly transitive?: { readonly domain: number; readonly ref: number };
    };

/** Grant hypercalls on a batch that run in micro-steps. */
export type GrantBatchOp = Extract<
  GrantOp,
  { op: 'map_grant_ref' | 'unmap_grant_ref' | 'unmap_and_replace' | 'copy' | 'transfer' }
>;
/** One on a single structure that does, too. */
export type SetVersionOp = Extract<GrantOp, { op: 'set_version' }>;
/** Those that are done at once. */
export type GrantSingleOp = Exclude<GrantOp, GrantBatchOp | SetVersionOp>;

/** What an element of a batch came to. Handle and bus address only of a successful map. */
export interface ElementResult {
  readonly status: number;
  readonly handle?: number;
  readonly busAddress?: Wide;
}
