// What the handlers of records work with.

import type { Hypervisor, Op, OpResult } from '../../../hypervisor/index.ts';
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
  /** Where dom0's last window into foreign memory lies: windows follow one another. */
  windowAt: number;
  /** What each device has in its own buffer, as hex, and what the processor had stored for it to read. */
  readonly deviceBuffers: Map<string, { readonly bytes: string; readonly stored: string }>;
  step(op: Op): Outcome;
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
