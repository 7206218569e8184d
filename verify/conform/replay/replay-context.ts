// What the handlers of records work with.

import type { Hypervisor, Op, OpResult } from '../../../hypervisor/index.ts';
import type { Wide } from '../../../machine/frame-number.ts';
import type { Observation } from '../comparison.ts';
import type { RecordKind, RecordOf } from '../recording/record-fields.ts';
import type { Recording } from '../recording/recording.ts';
import type { Tally } from '../tally.ts';
import type { ContentWatch } from './content-watch.ts';
import type { EntryWatch } from './entry-watch.ts';
import type { MachineProbe } from './machine-probe.ts';

/** What an operation came to; where the model has no such operation or argument, `result` says so. */
export type Outcome = Omit<OpResult, 'result'> & { readonly result: number | string };

export interface ReplayContext {
  readonly machine: Hypervisor;
  readonly probe: MachineProbe;
  readonly recording: Recording;
  /** The first `domain` record of each domain. */
  readonly domains: Map<number, RecordOf<'domain'>>;
  readonly entries: EntryWatch;
  readonly contents: ContentWatch;
  readonly tally: Tally;
  readonly adopted: AdoptedFrames;
  /** The frame behind the window that dom0 has to a place of a domain, as it was when it was opened. */
  readonly windows: Map<string, number>;
  /** Where dom0's last window into foreign memory lies: windows follow one another. */
  windowAt: number;
  /** What each device has in a place of its own memory, as hex, and what the processor had stored for it to read. */
  readonly deviceBuffers: Map<string, { readonly bytes: string; readonly stored: string }>;
  step(op: Op): Outcome;
  /** Does what only prepares and has no result in the record; where it cannot be done, that is a disagreement. */
  prepare(op: Op): Outcome;
  /** The record asks for what cannot be done. */
  fail(why: string): void;
}

/** Frames that the model took over from records: where these show them, nothing is compared. */
export class AdoptedFrames {
  readonly #shown = new Set<string>();

  /** @param at place of the record that shows it */
  note(at: number, frame: Wide): void {
    this.#shown.add(`${at} ${frame}`);
  }

  has(at: number, frame: Wide): boolean {
    return this.#shown.has(`${at} ${frame}`);
  }
}

/** A frame that a record shows, and the record's place. */
export interface ShownFrame {
  readonly at: number;
  readonly frame: number;
}

/** What a record was replayed to. */
export interface Replayed {
  /** The model's side, in the form of the record; what is left out is not compared. */
  readonly observed: Observation;
  /** Where part of what was recorded was adopted: the rest of it. */
  readonly recorded?: Observation;
}

/** Replays one kind of record. `at` is its place in the recording. */
export type Handler<Kind extends RecordKind> = (
  context: ReplayContext,
  record: RecordOf<Kind>,
  at: number,
) => Replayed | undefined;

export type Handlers = { readonly [Kind in RecordKind]?: Handler<Kind> };
