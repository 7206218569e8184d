// `passthrough conform`: recordings of real Xen held against the model.

import { basename } from 'node:path';
import { type ConformedRecording, conformanceOf, conformRecording } from '../../verify/conform/index.ts';
import { recordingFromBytes } from '../../verify/files/recording-file.ts';
import { ExitCode } from '../exit-code.ts';
import { readInputFile } from '../input-file.ts';
import type { CliIo } from '../io.ts';
import { startProgress } from '../progress.ts';
import { conformReport } from './conform-table.ts';

const FILE_LIMIT_BYTES = 256 * 1024 * 1024;
/** Disagreements of a file that the table lists. */
const LISTED = 10;

export interface ConformCommandOptions {
  readonly files: readonly string[];
  /** Print the `Conformance` instead of a table. */
  readonly json?: boolean;
  /** At most so many disagreements of each file are listed. */
  readonly first?: number;
  /** Say what the model's state is around each that is listed. */
  readonly explain?: boolean;
}

/**
 * @returns `violated` when anything disagreed.
 * @throws InputError; nothing has been printed then.
 */
export async function runConform(options: ConformCommandOptions, io: CliIo): Promise<number> {
  const first = options.first ?? (options.json ? Number.POSITIVE_INFINITY : LISTED);
  const results: ConformedRecording[] = [];
  const progress = startProgress(io);
  try {
    for (const file of options.files) {
      const name = basename(file);
      await progress.report(`reading ${name}`);
      const recording = await recordingFromBytes(await readInputFile(file, FILE_LIMIT_BYTES), file);
      const total = recording.records.length.toLocaleString('en-US');
      const onProgress = (done: number) =>
        progress.report(`${name}: ${done.toLocaleString('en-US')} of ${total} records`);
      results.push(await conformRecording(recording, { onProgress, explain: options.explain ? first : 0 }));
    }
  } finally {
    progress.stop();
  }
  const conformance = conformanceOf(results.map((result) => result.conformance));
  if (options.json) {
    const files = conformance.files.map((file) => ({ ...file, disagreements: file.disagreements.slice(0, first) }));
    io.stdout(`${JSON.stringify({ ...conformance, files }, null, 2)}\n`);
  } else io.stdout(conformReport(conformance, results, first, io));
  return conformance.files.every(({ agreed, compared }) => agreed === compared) ? ExitCode.held : ExitCode.violated;
}
