// A recording of real Xen replayed and compared, from its bytes to the result.

import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { conformRecording } from '../../verify/conform/index.ts';
import { recordingFromBytes } from '../../verify/files/recording-file.ts';
import type { SpeedCase } from './speed-case.ts';

/** From the compiled file and from the source alike: the package's root lies above `benchmarks` or `dist`. */
const here = fileURLToPath(new URL('.', import.meta.url));
const root = here.slice(0, here.search(/(dist[\\/])?benchmarks[\\/]speed[\\/]?$/));
/** Recordings, and their records: a long script, random batches, and a short script on a machine as large. */
const RECORDINGS = [
  { name: 'scen', file: 'scen-417-cm0', records: 5549 },
  { name: 'rand', file: 'rand1-417-cm0', records: 2561 },
  { name: 'scen2', file: 'scen2-417-cm1', records: 1200 },
] as const;

export const conforms: readonly SpeedCase[] = RECORDINGS.map(({ name, file, records }) => ({
  name: `conform/${name}`,
  note: 'records of a recording: unpacked, read, its machine built, replayed and compared',
  target: { opsPerSecond: 1e5 },
  items: records,
  async prepare() {
    const path = `${root}tests/data/xen/${file}.jsonl.gz`;
    const bytes = await readFile(path);
    return {
      async run() {
        const { conformance } = await conformRecording(await recordingFromBytes(bytes, path));
        if (conformance.records !== records) throw new RangeError(`conform/${name}: ${conformance.records} records`);
      },
    };
  },
}));
