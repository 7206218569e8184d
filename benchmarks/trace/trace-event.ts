// What an imported trace consists of: events, pushed one by one to a consumer, and a summary at the end.

import type { Dfn, Mfn, Wide } from '../../machine/frame-number.ts';

interface TraceMoment {
  /** Microseconds since the recording clock's zero; an integer. */
  readonly timeUs: number;
  /** The processor that the event happened on. */
  readonly cpu: number;
}

/** What a device may do through a mapping. `rw` also where the trace does not say. */
export type TraceRights = 'r' | 'w' | 'rw';

/** Contiguous frames became reachable. A scatter-gather list gives several of these and one unmap. */
export interface TraceMap extends TraceMoment {
  readonly kind: 'map';
  /** First device frame. */
  readonly dfn: Dfn;
  /** Frames of 4096 bytes, at least one. */
  readonly pages: number;
  /** First machine frame. */
  readonly mfn: Mfn;
  readonly bytes: number;
  readonly rights: TraceRights;
  /** Address space: the driver's domain pointer, where a probe names it; otherwise null. */
  readonly space: string | null;
  /** A mapping that starts at this frame was live already (another address space, or an unmap before the trace). */
  readonly remap: boolean;
}

/** A range stopped being reachable. */
export interface TraceUnmap extends TraceMoment {
  readonly kind: 'unmap';
  readonly dfn: Dfn;
  /** Frames asked for, at least one. */
  readonly pages: number;
  /** Frames that the page tables really held. */
  readonly unmappedPages: number;
  readonly space: string | null;
  /**
   * How much of the range this trace has mapped before: `none` is an unmap without a map (the mapping is older than
   * the trace), and not an access.
   */
  readonly mapped: 'all' | 'part' | 'none';
}

/** A descriptor went into a unit's invalidation queue. */
export interface TraceInvalidation extends TraceMoment {
  readonly kind: 'invalidation';
  /** As the kernel names it, for example `iotlb_inv`. */
  readonly type: string;
  /** The unit, for example `dmar0`. */
  readonly unit: string;
  /** The four 64-bit words of the descriptor. */
  readonly words: readonly [Wide, Wide, Wide, Wide];
}

/** A note that the person who recorded wrote into the trace. */
export interface TraceMark extends TraceMoment {
  readonly kind: 'mark';
  readonly text: string;
}

/** Any other event of the table, but for the probes that only give an access its space. */
export interface TraceOther extends TraceMoment {
  readonly kind: 'other';
  readonly name: string;
  /** The device that the event names, if any. */
  readonly device: string | null;
}

export type TraceEvent = TraceMap | TraceUnmap | TraceInvalidation | TraceMark | TraceOther;

/** Receives events in the order of the file. Kinds without a method are counted, and no object is made for them. */
export interface TraceConsumer {
  map?(event: TraceMap): void;
  unmap?(event: TraceUnmap): void;
  invalidation?(event: TraceInvalidation): void;
  mark?(event: TraceMark): void;
  other?(event: TraceOther): void;
}

/** An event line whose event, or whose payload, the importer does not know. */
export interface UnknownLine {
  /** Line in the file, from 1. */
  readonly line: number;
  /** The event's name; empty where the line has none. */
  readonly name: string;
  /** The payload, shortened. */
  readonly text: string;
}

/** What a trace held. */
export interface TraceSummary {
  readonly file: string;
  /** Lines of the file, comments and blank lines included. */
  readonly lines: number;
  /** Event lines. */
  readonly events: number;
  readonly eventsByKind: Readonly<Record<string, number>>;
  readonly maps: number;
  readonly unmaps: number;
  /** Unmaps at whose start nothing was live: mapped before the trace began. Not accesses. */
  readonly unmapsWithoutMap: number;
  /** Unmaps that met live mappings at their start, but not up to their end. */
  readonly unmapsPartial: number;
  /** Maps whose first frame was the start of a live mapping. */
  readonly remaps: number;
  readonly mapBytes: number;
  readonly unmapBytes: number;
  /** Bytes mapped in the trace and not unmapped in it. A mapping that a remap replaced is among them. */
  readonly leftLiveBytes: number;
  /** Accesses whose address space a probe names, and the number of such spaces. */
  readonly mapsWithSpace: number;
  readonly unmapsWithSpace: number;
  readonly spaces: number;
  /** Event lines that the table does not cover, and the first few of them. */
  readonly unknownLines: number;
  readonly unknownExamples: readonly UnknownLine[];
  /** Events that the ring buffer lost. Not 0 only where the caller asked to go on regardless. */
  readonly lostEvents: number;
  /** What the header says the buffer held; null without such a header. */
  readonly entriesInBuffer: number | null;
  readonly firstTimeUs: number;
  readonly lastTimeUs: number;
  /** Events that are earlier than the line before them (of another CPU; on one CPU that is an error). */
  readonly clockStepsBack: number;
  /** Invalidation descriptors by type. */
  readonly qiByType: Readonly<Record<string, number>>;
  /** Devices that the trace names, sorted. */
  readonly devices: readonly string[];
}
