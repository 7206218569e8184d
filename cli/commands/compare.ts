// `passthrough compare`: a trace under several flush policies, cost beside exposure.

import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { type Comparison, comparePolicies, importTrace, policyChoices } from '../../benchmarks/index.ts';
import { type DmarTable, dmarBytes, parseDmar, policies } from '../../passthrough/index.ts';
import { ExitCode } from '../exit-code.ts';
import { fromOptions, OptionError } from '../failure.ts';
import { readInputFile } from '../input-file.ts';
import type { CliIo } from '../io.ts';
import { startProgress } from '../progress.ts';
import { compareReport } from './compare-table.ts';

/** Real tables have some hundreds of bytes. */
const PLATFORM_LIMIT_BYTES = 1024 * 1024;
const DEFAULT_TRACE = 'nvme-randread-4k-qd32.strict.txt.gz';
const DEFAULT_PLATFORM = 'q35.DMAR.bin';

export interface CompareCommandOptions {
  /** Files; the package's examples by default. */
  readonly trace?: string;
  readonly platform?: string;
  /** Names, or `name:release`. */
  readonly policies?: readonly string[];
  readonly seed?: number;
  /** Print the `Comparison` instead of a table. */
  readonly json?: boolean;
}

/**
 * @returns `violated` when a policy broke its own promise on this trace.
 * @throws InputError, OptionError; nothing has been printed then.
 */
export async function runCompare(options: CompareCommandOptions, io: CliIo): Promise<number> {
  const choices = fromOptions(() => policyChoices(options.policies ?? policies));
  const platformFile = options.platform ?? exampleFile(DEFAULT_PLATFORM);
  const platform = await readPlatform(platformFile);
  const progress = startProgress(io);
  let comparison: Comparison;
  try {
    const traceFile = options.trace ?? exampleFile(DEFAULT_TRACE);
    await progress.report(`reading ${traceFile}`);
    const trace = await importTrace(traceFile);
    comparison = await comparePolicies({
      trace,
      platform,
      platformFile,
      policies: choices,
      ...(options.seed !== undefined && { seed: options.seed }),
      onProgress: (text) => progress.report(text),
    });
  } catch (error) {
    // What a trace or a platform asks for may be more than a machine can be.
    if (error instanceof RangeError) throw new OptionError(error.message, { cause: error });
    throw error;
  } finally {
    progress.stop();
  }
  io.stdout(options.json ? `${JSON.stringify(comparison, null, 2)}\n` : compareReport(comparison, io));
  return comparison.policies.every(({ promiseHeld }) => promiseHeld) ? ExitCode.held : ExitCode.violated;
}

async function readPlatform(file: string): Promise<DmarTable> {
  const content = await readInputFile(file, PLATFORM_LIMIT_BYTES);
  const bytes = dmarBytes(content, file);
  return parseDmar(bytes, bytes === content ? file : `${file} (decoded)`);
}

/** A file of `examples/data`, found by the package's name: the path to it differs between the sources and the build. */
function exampleFile(name: string): string {
  const manifest = createRequire(import.meta.url).resolve('xen-passthrough-model/package.json');
  return join(dirname(manifest), 'examples', 'data', name);
}
