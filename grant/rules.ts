// What of the grant tables changed over time. Presets: hypervisor/rules.ts.

import { GrantStatus } from './status.ts';

/** Decisions of a version of Xen about grants. */
export interface GrantRules {
  /**
   * What lets a PV mapper's devices at a granted frame: its live handles on the frame, each by its rights; or, as in
   * 2008, the writable pins of one entry, all or nothing. xen: 680e96b343, 84d7979493.
   */
  readonly deviceRights: 'live-handles' | 'writable-pins';
  /** Which full pin counters refuse a use: those that it would count up, or any. xen: 8cec5d065c. */
  readonly pinLimit: 'incremented' | 'any';
  /** A copy of no bytes: done without a look, or checked like any other. xen: a4a790f432. */
  readonly copyZeroLength: 'done' | 'checked';
  /**
   * When a frame of a domain other than the caller is refused: before any domain is looked up, before that end's is,
   * or where that end is claimed.
   */
  readonly copyFrameCheck: 'both-first' | 'before-lookup' | 'at-claim';
  /** When a copy that leaves its page is refused: before anything else, or once both ends are claimed. */
  readonly copyPageBorder: 'first' | 'claimed';
  /** The status of a map or copy of a frame that the granter, or the copier, does not have. */
  readonly badFrame: 'bad_page' | 'general_error';
  /** GNTTABOP_cache_flush on x86. */
  readonly cacheFlush: 'done' | 'absent';
}

/** What is said of a frame that cannot be had. */
export function badFrameStatus(rules: GrantRules): GrantStatus {
  return rules.badFrame === 'bad_page' ? GrantStatus.bad_page : GrantStatus.general_error;
}
