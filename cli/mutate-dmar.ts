// `npm run mutate-dmar [-- FILE... --count N --seed N]`: many broken DMAR tables, none of which may break the reader.

import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { Command, CommanderError } from 'commander';
import { dmarBytes, encodeDmar } from '../passthrough/index.ts';
import { checkDmar } from '../verify/mutations/dmar-check.ts';
import { dmarMutant } from '../verify/mutations/dmar-mutations.ts';
import { randomSource } from '../verify/mutations/random.ts';
import { ExitCode } from './exit-code.ts';
import { reportFailure } from './failure.ts';
import { readInputFile } from './input-file.ts';
import { type CliIo, processIo } from './io.ts';
import { reportUsageErrors, wholeNumber } from './program.ts';
import { startProgress } from './progress.ts';

const FILE_LIMIT_BYTES = 1024 * 1024;
/** Failures shown before giving up. */
const FAILURES_MAX = 5;
const REPORT_EVERY = 250;

/** One of each structure, paths through bridges, and types that nobody knows. */
const ONE_OF_EACH = encodeDmar({
  units: [
    {
      segment: 0,
      registerBase: '0xfed90000',
      includeAll: false,
      scopes: [
        { type: 1, enumerationId: 0, startBus: 0, path: [[2, 0]] },
        {
          type: 2,
          enumerationId: 0,
          startBus: 0,
          path: [
            [0x1c, 0],
            [0, 0],
            [1, 0],
          ],
        },
      ],
    },
    { segment: 1, registerBase: '0x1fed91000', includeAll: true, size: 1, scopes: [] },
    {
      segment: 0,
      registerBase: '0xfed92000',
      includeAll: true,
      scopes: [{ type: 3, enumerationId: 2, startBus: 0xf0, path: [[0x1f, 0]] }],
    },
  ],
  reservedRegions: [
    {
      segment: 0,
      base: '0x89db1000',
      limit: '0x89dd0fff',
      scopes: [{ type: 1, enumerationId: 0, startBus: 0, path: [[0x14, 0]] }],
    },
  ],
  rootPorts: [
    { segment: 0, allPorts: false, scopes: [{ type: 2, enumerationId: 0, startBus: 0, path: [[0x1c, 0]] }] },
    { segment: 1, allPorts: true, scopes: [] },
  ],
  affinities: [{ registerBase: '0xfed92000', proximityDomain: 1, rest: '0000' }],
  namespaceDevices: [{ deviceNumber: 1, name: '\\_SB.PCI0.I2C0', rest: '000000' }],
  satc: [{ segment: 0, atcRequired: true, scopes: [{ type: 1, enumerationId: 0, startBus: 0, path: [[2, 0]] }] }],
  sidp: [{ segment: 0, scopes: [{ type: 1, enumerationId: 0, startBus: 0, path: [[2, 0]], flags: 1 }] }],
  unknown: [{ type: 9, body: '0102030405' }],
});

interface Flags {
  readonly count: number;
  readonly seed: number;
}

/** @returns the exit code: 1 when a mutant broke the reader */
export async function runMutateDmar(argv: readonly string[], io: CliIo): Promise<ExitCode> {
  const command = new Command('npm run mutate-dmar --')
    .description('read many broken DMAR tables: each must give an error with its place, or a consistent platform')
    .argument('[file...]', 'tables to mutate, beside the two that are built in')
    .option('--count <n>', 'mutants', wholeNumber, 100_000)
    .option('--seed <n>', 'seed of everything random', wholeNumber, 1);
  reportUsageErrors(command, io);
  try {
    command.parse(argv, { from: 'user' });
    return await mutate(command.args, command.opts<Flags>(), io);
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? ExitCode.held : ExitCode.badInput;
    return reportFailure(error, io);
  }
}

async function mutate(files: readonly string[], { count, seed }: Flags, io: CliIo): Promise<ExitCode> {
  const tables = await Promise.all([exampleFile(), ...files].map(readTable));
  tables.push(ONE_OF_EACH);
  const outcomes = new Map<string, number>();
  const progress = startProgress(io);
  const started = performance.now();
  let [failures, slowestMs, slowest, done] = [0, 0, 0, 0];
  for (; done < count && failures < FAILURES_MAX; done++) {
    if (done % REPORT_EVERY === 0) await progress.report(`${grouped(done)} of ${grouped(count)} mutants`);
    const { content, mutations } = dmarMutant(tables, randomSource(seed, done));
    const before = performance.now();
    try {
      const outcome = checkDmar(content);
      const of = outcome.kind === 'refused' ? `refused, ${outcome.code}` : platformText(outcome.disabledBy);
      outcomes.set(of, (outcomes.get(of) ?? 0) + 1);
    } catch (error) {
      failures += 1;
      progress.stop();
      const hex = Buffer.from(content).toString('hex');
      const trace = error instanceof Error ? error.stack : String(error);
      io.stderr(`mutant ${done} of seed ${seed} (${mutations.join(', ')}): ${trace}\n${hex}\n`);
    }
    const tookMs = performance.now() - before;
    if (tookMs > slowestMs) [slowestMs, slowest] = [tookMs, done];
  }
  progress.stop();
  const seconds = (performance.now() - started) / 1000;
  io.stdout(`${grouped(done)} mutants of ${tables.length} tables, seed ${seed}, ${seconds.toFixed(1)} s\n`);
  for (const [of, times] of [...outcomes].sort(([a], [b]) => (a < b ? -1 : 1))) {
    io.stdout(`${grouped(times).padStart(9)}  ${of}\n`);
  }
  io.stdout(`${grouped(failures).padStart(9)}  failures\n`);
  io.stdout(`slowest: mutant ${slowest}, ${slowestMs.toFixed(1)} ms\n`);
  return failures === 0 ? ExitCode.held : ExitCode.violated;
}

const platformText = (disabledBy: string | null): string =>
  disabledBy === null ? 'platform' : `platform that Xen refuses, ${disabledBy}`;

const grouped = (value: number): string => value.toLocaleString('en-US');

async function readTable(file: string): Promise<Uint8Array> {
  return dmarBytes(await readInputFile(file, FILE_LIMIT_BYTES), file);
}

/** Found by the package's name: the path to it differs between the sources and the build. */
function exampleFile(): string {
  const manifest = createRequire(import.meta.url).resolve('xen-passthrough-model/package.json');
  return join(dirname(manifest), 'examples', 'data', 'q35.DMAR.bin');
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  process.exitCode = await runMutateDmar(process.argv.slice(2), processIo());
}
