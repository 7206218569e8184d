// A trace as the model replays it: maps and unmaps in columns, everything in it named densely.

import type { TraceSummary } from '../../trace/ftrace.ts';

export const EventKind = { map: 0, unmap: 1 } as const;

/**
 * An address group: the device frames of mappings that share an unmap, as those of a scatter-gather list do. An address
 * allocator hands them out and takes them back together.
 */
export interface AddressGroups {
  /** First device frame, and how many frames up to the last. */
  readonly first: Float64Array;
  readonly pages: Float64Array;
}

/** The events of a trace, as columns of equal length, in the order of the file. */
export interface WorkloadEvents {
  readonly count: number;
  /** Microseconds since the recording clock's zero, never running backwards. */
  readonly timeUs: Float64Array;
  /** The virtual CPU that stands for the recorded one. */
  readonly vcpu: Uint8Array;
  /** One of {@link EventKind}. */
  readonly kind: Uint8Array;
  /** The domain that stands for the recorded address space. */
  readonly domain: Uint8Array;
  readonly dfn: Float64Array;
  readonly pages: Uint32Array;
  /** Of a map: first frame, counted within its domain. Frames that were neighbours still are. */
  readonly frame: Uint32Array;
  /** Of a map: bit 0 read, bit 1 write. */
  readonly rights: Uint8Array;
  /** Index of the address group. */
  readonly group: Uint32Array;
}

/** What the replay makes of the trace's events, which it counts page by page. */
export interface WorkloadCounts {
  readonly maps: number;
  readonly unmaps: number;
  readonly mappedPages: number;
  readonly unmappedPages: number;
  /** Unmaps of which no page was mapped in the trace: left out, not an access. */
  readonly unmapsLeftOut: number;
  /** Unmaps put in because a map takes device frames that are mapped. Counted in `unmaps` too. */
  readonly remaps: number;
  /** Maps that the trace says a device may only write: modelled as read and write. */
  readonly writeOnlyMaps: number;
}

/** What a domain of the model stands for. */
export interface WorkloadDomain {
  /** The recorded address space; null where the trace names none. */
  readonly space: string | null;
  /** Frames that it maps. */
  readonly frames: number;
  /** Recorded frames, each once, by the domain's frame: two domains may share some. */
  readonly physical: Uint32Array;
  /** Lowest device frame mapped, and how many frames up to the highest. */
  readonly firstDfn: number;
  readonly spanPages: number;
  /** Regions of 512 device frames that are mapped at some time: leaf tables needed. */
  readonly leafTables: number;
}

/** A trace, ready for replay. */
export interface ImportedTrace {
  readonly summary: TraceSummary;
  readonly events: WorkloadEvents;
  readonly groups: AddressGroups;
  readonly domains: readonly WorkloadDomain[];
  readonly counts: WorkloadCounts;
  /** Virtual CPUs. */
  readonly cpus: number;
  /** Different recorded frames. */
  readonly physicalFrames: number;
  /** Most records that one unmap puts into a flush queue. */
  readonly unmapPiecesMax: number;
}
