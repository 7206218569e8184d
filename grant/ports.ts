// What the grant tables ask of others. The hypervisor answers, with passthrough behind it.

import type { Mfn } from '../machine/frame-number.ts';
import type { Domid, Vcpu } from '../machine/ids.ts';
import type { Progress } from '../machine/pending.ts';
import type { GrantStatus } from './status.ts';

/** What grant operations need to know of a domain. */
export interface DomainView {
  /** PV, or translated (HVM and PVH). */
  readonly kind: 'pv' | 'hvm';
  /** Grants that a PV domain maps must reach its devices. xen: gnttab_need_iommu_mapping. */
  readonly syncDevices: boolean;
  /** Its devices reach its own frames while these are of the type writable. xen: need_iommu_pt_sync, XSA-288. */
  readonly syncOwnFrames: boolean;
  /** May act on any domain's grant table. */
  readonly privileged: boolean;
  /** It was destroyed; what others hold of it remains. */
  readonly dying: boolean;
}

/** References to frames, and what follows from the first and the last of them. */
export interface PageReferences {
  /**
   * Takes references to an allocated frame, and to its writable type. False, and none taken, when it is put to another
   * use or memory for device tables is exhausted. The owner's devices follow the type.
   */
  take(vcpu: Vcpu, frame: Mfn, pages: number, types: number): boolean;
  /**
   * Drops them. A frame without references goes back to the free ones, once nothing cached leads to it: true, and
   * there may be something to flush.
   */
  drop(vcpu: Vcpu, frame: Mfn, pages: number, types: number): boolean;
  /** Frees a page of the hypervisor's that was shared with a guest, and that nobody refers to. */
  freeShared(vcpu: Vcpu, frame: Mfn): void;
}

/** Frames that change hands for good. */
export interface PageMoves {
  /** Takes a frame from its owner, who must be the only one to hold it. The status that refuses it; or okay. */
  steal(vcpu: Vcpu, owner: Domid, low: number, high: number): GrantStatus;
  /** Whether a domain can take one frame more. */
  hasRoom(domain: Domid): boolean;
  /** Gives a stolen frame to a domain. */
  assign(domain: Domid, frame: Mfn): void;
  /** Puts a frame that was given to use; an HVM domain sees it at the gfn. False: it has the frame, but not there. */
  place(vcpu: Vcpu, domain: Domid, frame: Mfn, gfnLow: number, gfnHigh: number): boolean;
  /** A stolen frame that nobody gets goes back to the free ones. */
  discard(vcpu: Vcpu, frame: Mfn): void;
  /** Takes a page of the hypervisor's from the gfn that a translated domain has it at. False when it is at none. */
  withdraw(vcpu: Vcpu, domain: Domid, frame: Mfn): boolean;
}

/** Where host mappings of grants go: PTEs of a PV mapper, p2m entries of an HVM one. */
export interface HostMappings {
  /** Maps a frame at a host address; `flags` as in the operation. False when it cannot be done. */
  create(vcpu: Vcpu, domain: Domid, low: number, high: number, frame: Mfn, flags: number): boolean;
  /** Removes that mapping. False when what is there is not it. */
  destroy(vcpu: Vcpu, domain: Domid, low: number, high: number, frame: Mfn, flags: number): boolean;
  /**
   * Removes it and puts what is mapped at another address in its place. False when it cannot be done; the other
   * address may be empty then all the same.
   */
  replace(
    vcpu: Vcpu,
    domain: Domid,
    low: number,
    high: number,
    newLow: number,
    newHigh: number,
    frame: Mfn,
    flags: number,
  ): boolean;
}

/**
 * What stands between a map and the device frames that it wants: nothing; a flush that was asked for just now; one that
 * this CPU is to carry out; one that another CPU is at; the policy, for good.
 */
export const Reuse = { ready: 0, asked: 1, flushing: 2, waiting: 3, refused: 4 } as const;
export type Reuse = (typeof Reuse)[keyof typeof Reuse];

/** Access of a mapper's devices to the frames that it maps. */
export interface DeviceAccess {
  /** Whether device frames may be mapped again, asked before each map until it says {@link Reuse}.ready or refused. */
  prepare(vcpu: Vcpu, domain: Domid, frame: number): Reuse;
  /**
   * Whether what a domain's devices lost of a frame is flushed, asked until it says {@link Reuse}.ready: before the
   * frame becomes somebody else's, or a table. Where things are reusable on return, that is at once.
   */
  settle(vcpu: Vcpu, domain: Domid, frame: Mfn): Reuse;
  /** Maps a frame 1:1 with rights (1 read, 3 read and write). Not 0: failed. */
  map(vcpu: Vcpu, domain: Domid, frame: Mfn, rights: number): number;
  /** Takes it away again. Not 0: failed, and the domain is crashed. */
  unmap(vcpu: Vcpu, domain: Domid, frame: Mfn): number;
  /** Whether no flush is left to carry out on this CPU. */
  isFlushed(vcpu: Vcpu): boolean;
  /** Carries out one piece of the flush that changes have led to. */
  flush(vcpu: Vcpu): Progress;
  elementEnd(vcpu: Vcpu): void;
  operationEnd(vcpu: Vcpu): void;
  /** Whether something removed on this CPU is not flushed yet, and what ends now must wait for that. */
  holdsBack(vcpu: Vcpu): boolean;
  /** Holds back the end of a grant's use until what was removed before it is flushed. */
  holdGrant(vcpu: Vcpu, granter: Domid, ref: number, halves: number, frame: Mfn, mapper: Domid): void;
  /** Lets one held-back end happen, of this CPU or of an idle one. `done` when none is ready. */
  completeOne(vcpu: Vcpu): Progress;
}
