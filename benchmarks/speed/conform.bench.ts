// A recording of real Xen replayed and compared, from its bytes to the result.

import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { conformRecording } from '../../verify/conform/index.ts';
import { recordingFromBytes } from '../../verify/files/recording-file.ts';
import type { SpeedCase } from './speed-case.ts';

/** From the compiled file and from the source alike: the package's root lies above `benchmarks` or `dist`. */
const here = fileURLToPath(new URL('.', import.meta.url));
const root = here.slice(0, here.search(/(dist[\\/])?benchmarks[\\/]speed[\\/]?$/));
const FILE = `${root}tests/data/xen/scen-417-cm0.jsonl.gz`;
const RECORDS = 5549;

export const conforms: readonly SpeedCase[] = [
  {
    name: 'conform/scen',
    note: 'records of a recording: unpacked, read, its machine built, replayed and compared',
    target: { opsPerSecond: 1e5 },
    items: RECORDS,
    async prepare() {
      const bytes = await readFile(FILE);
      return {
        async run() {
          const { conformance } = await conformRecording(await recordingFromBytes(bytes, FILE));
          if (conformance.records !== RECORDS) throw new RangeError(`conform/scen: ${conformance.records} records`);
        },
      };
    },
  },
];
