// Importer for Linux ftrace text: `cat /sys/kernel/tracing/trace`, plain or compressed with gzip.

import { InputError } from '../../machine/errors.ts';
import { type FtraceOptions, FtraceReader } from './ftrace-reader.ts';
import { GzipFailure, textSource } from './text-source.ts';
import type { TraceConsumer, TraceSummary } from './trace-event.ts';

export { type FtraceOptions, FtraceReader, LINE_MAX } from './ftrace-reader.ts';
export type {
  TraceConsumer,
  TraceEvent,
  TraceInvalidation,
  TraceMap,
  TraceMark,
  TraceOther,
  TraceRights,
  TraceSummary,
  TraceUnmap,
  UnknownLine,
} from './trace-event.ts';

/**
 * Reads a trace file and pushes its events to a consumer, in the order of the file. Streams: the memory it takes does
 * not grow with the file, only with the mappings that are live.
 *
 * @returns what the trace held.
 * @throws InputError with the file and the line: `FILE` (cannot be read), `GZIP` (cut short or damaged), and the codes
 *   of {@link FtraceReader}. What the consumer throws passes through unchanged.
 */
export async function importFtrace(
  file: string,
  consumer: TraceConsumer = {},
  options: FtraceOptions = {},
): Promise<TraceSummary> {
  const reader = new FtraceReader(file, consumer, options);
  const source = textSource(file);
  let bytes = 0;
  for (;;) {
    const next = await nextChunk();
    if (next.done) return reader.end();
    bytes += next.value.length;
    try {
      reader.push(next.value);
    } catch (error) {
      // Damaged data may still decompress, to nonsense; that it is damaged shows at its end.
      while (source.compressed && error instanceof InputError && !(await nextChunk()).done);
      await source.chunks.return();
      throw error;
    }
  }

  async function nextChunk(): Promise<IteratorResult<Uint8Array, void>> {
    try {
      return await source.chunks.next();
    } catch (error) {
      if (!(error instanceof GzipFailure)) throw error;
      const reached = `${error.message} after ${bytes} bytes of text`;
      throw new InputError(
        'GZIP',
        { file, line: reader.lines + 1 },
        `the compressed data is cut short or damaged (${reached}); expected a whole .gz file`,
      );
    }
  }
}
