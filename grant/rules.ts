// What of the grant tables changed over time. Presets: hypervisor/rules.ts.

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
  /** When a frame of a domain other than the caller is refused: with that domain, or where the end is claimed. */
  readonly copyFrameCheck: 'before-lookup' | 'at-claim';
  /** GNTTABOP_cache_flush on x86. */
  readonly cacheFlush: 'done' | 'absent';
}
