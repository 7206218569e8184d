// Small traces, written down as events, imported as the recordings are.

import { FtraceReader, type ImportedTrace, WorkloadBuilder } from '../../../benchmarks/index.ts';
import { line } from '../trace/ftrace-text.ts';

const hex = (frame: number) => `0x${(frame * 4096).toString(16).padStart(16, '0')}`;

export const mapLine = (us: number, dfn: number, frame: number, pages = 1, cpu = 0): string =>
  line(
    `map: IOMMU: iova=${hex(dfn)} - ${hex(dfn + pages)} paddr=${hex(frame)} size=${pages * 4096}`,
    1_000_000 + us,
    cpu,
  );

export const unmapLine = (us: number, dfn: number, pages = 1, cpu = 0): string =>
  line(
    `unmap: IOMMU: iova=${hex(dfn)} - ${hex(dfn + pages)} size=${pages * 4096} unmapped_size=${pages * 4096}`,
    1_000_000 + us,
    cpu,
  );

/** The end of the observation. */
export const endLine = (us: number, cpu = 0): string => line('tracing_mark_write: END', 1_000_000 + us, cpu);

export function traceOf(lines: readonly string[]): ImportedTrace {
  const builder = new WorkloadBuilder();
  const reader = new FtraceReader('test.txt', builder);
  reader.push(Buffer.from(`${lines.join('\n')}\n`));
  return builder.build(reader.end());
}
