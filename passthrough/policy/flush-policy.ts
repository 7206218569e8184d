// The contract of a flush policy: when stale translations are invalidated, and when that is waited for.
//
// A policy sees changes of device access and the ends of elements, operations and timer ticks; it answers with
// invalidations and waits. It never sees a cache, keeps no state of its own (what is pending is told to it, and lies
// in the heap), and so rolls back with the machine.

import type { Dfn } from '../../machine/frame-number.ts';
import type { Domid, Vcpu } from '../../machine/ids.ts';

/** Rights of a device to a frame. */
export type Rights = 'none' | 'ro' | 'rw';

/**
 * What a change of access did to the tables besides.
 * - `split`: a large leaf became a table that says the same, but for what changed;
 * - `replaced`: a table within the range that changed is gone, for a large leaf or for nothing;
 * - `unhooked`: a table that reaches beyond the range became empty and was taken out;
 * - `formed`: a table that reaches beyond the range became one large leaf.
 *
 * What leads to a table that is gone may be cached, and its page is not freed before an invalidation has reached that:
 * one of the domain, or of any page that the table mapped, upper-level entries included.
 */
export type Structure = 'none' | 'split' | 'replaced' | 'unhooked' | 'formed';

/** One change of device access. The object is reused: read it, do not keep it. */
export interface AccessChange {
  readonly domain: Domid;
  /** First of 2^order aligned device frames that change in the same way. */
  readonly dfn: Dfn;
  readonly order: number;
  readonly from: Rights;
  readonly to: Rights;
  /** The frame behind a present entry is another one now: a removal of the old frame. */
  readonly frameChanged: boolean;
  readonly structure: Structure;
  /** A removal of some of these device frames has not been flushed yet. */
  readonly pendingRemoval: boolean;
  /** Some unit that serves the domain may have cached that there was no entry (caching mode). */
  readonly absentMayBeCached: boolean;
}

/** Whether a change takes a right away, so that a cached translation is too strong. */
export function isRemoval(change: AccessChange): boolean {
  return change.frameChanged || change.to === 'none' || (change.from === 'rw' && change.to === 'ro');
}

/** Whether the change took a table out, which is held until what leads to it is invalidated. */
export function isUnhooking(change: AccessChange): boolean {
  return change.structure !== 'none' && change.structure !== 'split';
}

/** Whether a change that takes nothing away must reach the units all the same: a stronger entry, a cached absence. */
export function needsRefresh(change: AccessChange): boolean {
  return !isRemoval(change) && (change.from !== 'none' || change.absentMayBeCached);
}

/** What a policy may ask for. Invalidations go to every unit that serves the domain, by that unit's own did. */
export interface Flush {
  /**
   * Page-selective, of 2^order aligned pages. Units that cannot do it get a domain-selective one. With `leavesOnly`
   * (the invalidation hint) entries above the leaves stay cached, and nothing is covered while a table that is gone
   * waits.
   */
  page(domain: Domid, dfn: Dfn, order: number, options?: { readonly leavesOnly?: boolean }): void;
  domain(domain: Domid): void;
  global(): void;
  /**
   * Wait until everything that this CPU submitted is complete. Removals that it covers are flushed then, and what was
   * held back for them is released.
   */
  wait(): void;
  /** Removals on this CPU that nothing submitted covers yet. */
  readonly pendingCount: number;
  /** How long ago the oldest of them was made, in microseconds; 0 when there is none. */
  readonly pendingAgeUs: number;
  /** The domains that they belong to. */
  pendingDomains(): readonly Domid[];
  /** Whether invalidations were submitted on this CPU that no wait has covered yet. */
  readonly unwaited: boolean;
  readonly vcpu: Vcpu;
}

/**
 * When what was mapped becomes reusable: a frame, a grant's pin and usage bits.
 * - `onReturn`: when the operation returns, flushed or not;
 * - `afterFlush`: when a wait has covered its removal.
 */
export type Release = 'onReturn' | 'afterFlush';

/** What happens when device frames are mapped again while a removal of them is pending. */
export type OnReuse = 'flush' | 'refuse' | 'allow';

export interface FlushPolicy {
  readonly name: string;
  /** One line for tables and help. */
  readonly summary: string;
  /** The releases that make sense with it, the default first. */
  readonly releases: readonly [Release, ...Release[]];
  readonly onReuse: OnReuse;
  /**
   * What it promises of stale rights, counted from release.
   * `strict`: none. `bounded`: for no longer than `staleUsMax`. `none`: nothing.
   */
  readonly promise: (release: Release) => StalePromise;
  /** Device access changed. */
  change(change: AccessChange, flush: Flush): void;
  /** An element of a batch ends. */
  elementEnd?(flush: Flush): void;
  /** An operation, or a batch of 32 elements of one, ends: before anything is released. */
  operationEnd?(flush: Flush): void;
  /** The timer of this CPU. */
  tick?(flush: Flush): void;
  /** Microseconds after which the timer is due when something is pending; none: no timer. */
  readonly timerUs?: number;
}

/** A promise about stale rights. */
export type StalePromise =
  | { readonly kind: 'strict' | 'none' }
  | { readonly kind: 'bounded'; readonly staleUsMax: number };
