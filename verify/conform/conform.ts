// Recordings of real Xen held against the model.

import { Comparison } from './comparison.ts';
import { explain } from './explanation.ts';
import type { Recording } from './recording/recording.ts';
import { Replay } from './replay/replay.ts';
import { type Disagreement, type FileConformance, Tally } from './tally.ts';

/** Several files, compared. */
export interface Conformance {
  /** Share of the fields compared that agreed; 1 where nothing was compared. */
  readonly agreement: number;
  readonly compared: number;
  readonly files: readonly FileConformance[];
}

export interface ConformOptions {
  /** For the first so many disagreements, the state around them is explained. */
  readonly explain?: number;
  /** Called now and then with the number of records done. */
  readonly onProgress?: (records: number) => Promise<void> | void;
}

/** One file's result, and lines about the state in which disagreements were found. */
export interface ConformedRecording {
  readonly conformance: FileConformance;
  readonly explanations: ReadonlyMap<Disagreement, readonly string[]>;
}

/** Records between two calls of `onProgress`. */
const PROGRESS_RECORDS = 4096;

/**
 * Replays a recording on the machine that it describes and compares every field that can be. Compared fields are never
 * adopted: after a disagreement the replay goes on from the model's own state.
 * @throws InputError when the recording describes no machine that can be built
 */
export async function conformRecording(
  recording: Recording,
  options: ConformOptions = {},
): Promise<ConformedRecording> {
  const { records, file } = recording;
  const tally = new Tally();
  const explanations = new Map<Disagreement, readonly string[]>();
  let at = 0;
  const comparison = new Comparison(tally, (disagreement) => {
    if (explanations.size >= (options.explain ?? 0)) return;
    explanations.set(disagreement, explain(replay.probe, records[at]!, disagreement));
  });
  const replay = new Replay(recording, tally, comparison);
  for (; at < records.length; at += 1) {
    if (at % PROGRESS_RECORDS === 0) await options.onProgress?.(at);
    replay.replayAt(at);
  }
  return { conformance: tally.result(file, records.length), explanations };
}

/** Sums up files. */
export function conformanceOf(files: readonly FileConformance[]): Conformance {
  const compared = files.reduce((sum, file) => sum + file.compared, 0);
  const agreed = files.reduce((sum, file) => sum + file.agreed, 0);
  return { agreement: compared === 0 ? 1 : agreed / compared, compared, files };
}
