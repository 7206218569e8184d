// Recorded traces below PASSTHROUGH_DATA, with what another program counted in each when it was recorded.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

export interface ReferenceCounts {
  readonly events: Readonly<Record<string, number>>;
  readonly map_bytes: number;
  readonly unmap_bytes: number;
  readonly left_live_bytes: number;
  readonly unmap_without_map_in_trace: number;
  readonly unmap_partial: number;
  readonly unparsed: number;
  readonly qi_types: Readonly<Record<string, number>>;
  readonly seconds: number;
}

export interface RecordedTrace {
  /** Configuration and workload. */
  readonly name: string;
  readonly file: string;
  /** Undefined where summary.json has no row. */
  readonly counts: ReferenceCounts | undefined;
}

/** All of them; null, and `who` told on stderr, where the variable is not set. */
export function recordedTraces(who: string): readonly RecordedTrace[] | null {
  const data = process.env.PASSTHROUGH_DATA;
  if (data === undefined) {
    process.stderr.write(`${who}: PASSTHROUGH_DATA is not set, only the shipped traces are compared\n`);
    return null;
  }
  const traces = join(data, 'linux', 'traces');
  const reference: Record<string, Record<string, ReferenceCounts>> = JSON.parse(
    readFileSync(join(traces, 'summary.json'), 'utf8'),
  );
  return Object.entries(reference).flatMap(([config, workloads]) =>
    readdirSync(join(traces, config))
      .filter((name) => name.endsWith('.txt.gz'))
      .map((name) => {
        const workload = name.replace('.txt.gz', '');
        return { name: `${config}/${workload}`, file: join(traces, config, name), counts: workloads[workload] };
      }),
  );
}
