// The `passthrough` command: its sub-commands and options, and from their outcome to an exit code.

import { createRequire } from 'node:module';
import { Command, CommanderError, InvalidArgumentError } from 'commander';
import { parseSbdf, sbdfText } from '../machine/ids.ts';
import { ExitCode } from './exit-code.ts';
import { reportFailure } from './failure.ts';
import { type CliIo, printable } from './io.ts';

/** What a file of `commands/` exports. Loaded when its command runs, so that `--help` starts fast. */
type CommandRun<Options> = (options: Options, io: CliIo) => Promise<number>;

/** Called by a command's action with what it wants done. */
type Perform = <Options>(load: () => Promise<CommandRun<Options>>, options: Options) => Promise<void>;

const EXIT_CODES = `
Exit status:
  ${ExitCode.held}  every property held, or the command did its work
  ${ExitCode.violated}  a property was violated
  ${ExitCode.badInput}  bad command line or bad input: one line on stderr
  ${ExitCode.bug}  a bug in the model: please report it
  ${ExitCode.budget}  the budget ran out before there was an answer
`;

const EXAMPLES = `
Examples:
  $ passthrough dmar /sys/firmware/acpi/tables/DMAR    the VT-d units of this machine
  $ passthrough dmar DMAR.bin --device 0000:00:1d.0    the unit, reserved regions and ATS of a device
  $ passthrough compare --policies queued,deferred     two flush policies on the example trace
  $ passthrough conform recording.jsonl.gz             the model against a recording of real Xen
  $ passthrough dmar --help                            more about one command
`;

const DMAR_HELP = `
FILE is a raw table, its bytes as hex digits, or a dump by acpidump, xxd or iasl.

With --device it answers for that PCI function, as Xen would: which unit (DRHD) translates its DMA and why (explicit:
the unit names it; bridge: it is behind a bridge that the unit names; include-all: the unit serves all that no other
names), which reserved regions (RMRR) are mapped for it, and whether the platform lets it use ATS. A table does not say
which buses are behind a bridge: where that matters the answer is "unknown", with the units that it may be.

Examples:
  $ passthrough dmar /sys/firmware/acpi/tables/DMAR
  $ passthrough dmar DMAR.hex --device 0000:00:1d.0 --device 00:02.0
  $ passthrough dmar DMAR.hex --device 00:02.0 --json | jq '.devices[].unit'
  $ passthrough dmar DMAR.hex --json | jq '.units[].registerBase'
  $ passthrough dmar old-board.bin --ignore-checksum
`;

const COMPARE_HELP = `
Examples:
  $ passthrough compare
  $ passthrough compare --policies strict-page,queued,deferred:afterFlush --json
  $ passthrough compare --trace dma.txt --platform DMAR.bin --seed 7
`;

const CONFORM_HELP = `
FILE is a recording of real Xen, .jsonl or .jsonl.gz: one JSON record per hypercall, device access or guest write, with
what came of it. The model is built as the file's first records say, does every operation again, and each thing that
the recording shows (return values, statuses, handles, grant entries, copied bytes, DMA, invalidations in order) is
compared. After a disagreement the model goes on from its own state, so that the first one matters most.

Examples:
  $ passthrough conform tests/data/xen/*.jsonl.gz
  $ passthrough conform scen.jsonl --first 3 --explain
  $ passthrough conform scen.jsonl --json | jq '.files[].disagreements[0]'
`;

/**
 * Runs one command line.
 * @param argv the arguments after the program's name
 * @returns the exit code; errors have been reported on `io.stderr`, nothing is thrown
 */
export async function runCli(argv: readonly string[], io: CliIo): Promise<ExitCode> {
  let code: ExitCode = ExitCode.held;
  const perform: Perform = async (load, options) => {
    const run = await load();
    code = (await run(options, io)) as ExitCode;
  };
  try {
    await createProgram(io, perform).parseAsync(argv, { from: 'user' });
    return code;
  } catch (error) {
    // Commander has printed its message by now, or the help that was asked for.
    if (error instanceof CommanderError) return error.exitCode === 0 ? ExitCode.held : ExitCode.badInput;
    return reportFailure(error, io);
  }
}

function createProgram(io: CliIo, perform: Perform): Command {
  const program = new Command('passthrough')
    .description('Check, compare and replay IOTLB flush policies on a model of a hypervisor with device passthrough.')
    .version(packageVersion())
    .addHelpText('after', `${EXAMPLES}${EXIT_CODES}`);
  reportUsageErrors(program, io);
  reportUsageErrors(addDmar(program, perform), io);
  reportUsageErrors(addCompare(program, perform), io);
  reportUsageErrors(addConform(program, perform), io);
  return program;
}

function addDmar(program: Command, perform: Perform): Command {
  return program
    .command('dmar')
    .description('show the VT-d units, reserved regions and device scopes of an ACPI DMAR table')
    .argument('<file>', 'the table: raw, hex or a dump')
    .option('--device <sbdf>', 'answer for this PCI function, as 0000:00:1d.0 (repeatable)', pciAddresses)
    .option('--json', 'print the decoded table, or the answers, as JSON')
    .option('--ignore-checksum', 'warn about a wrong checksum instead of refusing the table')
    .addHelpText('after', DMAR_HELP)
    .action((file: string, options: { device?: readonly string[]; json?: true; ignoreChecksum?: true }) =>
      perform(async () => (await import('./commands/dmar.ts')).runDmar, { ...options, file }),
    );
}

function addCompare(program: Command, perform: Perform): Command {
  interface CompareFlags {
    trace?: string;
    platform?: string;
    policies?: readonly string[];
    seed?: number;
    json?: true;
  }
  return program
    .command('compare')
    .description('run a trace under several flush policies and show cost beside exposure')
    .option('--trace <file>', 'the DMA trace (default: the example shipped with the package)')
    .option('--platform <dmar-file>', 'the DMAR table of the machine (default: the example shipped with the package)')
    .option('--policies <a,b>', 'the flush policies to compare', policyList)
    .option('--seed <n>', 'seed of everything random', wholeNumber)
    .option('--json', 'print the result as JSON')
    .addHelpText('after', COMPARE_HELP)
    .action((options: CompareFlags) =>
      perform(async () => (await import('./commands/compare.ts')).runCompare, options),
    );
}

function addConform(program: Command, perform: Perform): Command {
  interface ConformFlags {
    json?: true;
    first?: number;
    explain?: true;
  }
  return program
    .command('conform')
    .description('replay recordings of real Xen and compare everything that they show')
    .argument('<file...>', 'recordings: .jsonl or .jsonl.gz')
    .option('--json', 'print the result as JSON')
    .option(
      '--first <n>',
      'list at most so many disagreements of each file (default: 10; with --json: all)',
      wholeNumber,
    )
    .option('--explain', "show the model's state around each disagreement that is listed")
    .addHelpText('after', CONFORM_HELP)
    .action((files: string[], options: ConformFlags) =>
      perform(async () => (await import('./commands/conform.ts')).runConform, { ...options, files }),
    );
}

/** One line on stderr with a hint, and a thrown {@link CommanderError} instead of an exit. */
export function reportUsageErrors(command: Command, io: CliIo): void {
  const full = command.parent ? `${command.parent.name()} ${command.name()}` : command.name();
  command.exitOverride().configureOutput({
    writeOut: io.stdout,
    writeErr: io.stderr,
    outputError: (message) => {
      const line = printable(
        message
          .trim()
          .replace(/^error: /, '')
          .replace(/\n+/g, ' '),
      );
      io.stderr(`passthrough: ${line} (see: ${full} --help)\n`);
    },
  });
}

/** Each use of the option adds to those before. */
function pciAddresses(text: string, before: readonly string[] = []): readonly string[] {
  try {
    return [...before, sbdfText(parseSbdf(text))];
  } catch {
    throw new InvalidArgumentError('Expected segment:bus:device.function in hex, as in 0000:00:1d.0.');
  }
}

function policyList(text: string): readonly string[] {
  const names = text.split(',').map((name) => name.trim());
  if (names.includes(''))
    throw new InvalidArgumentError('Expected names with commas between them, as in queued,deferred.');
  return names;
}

export function wholeNumber(text: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value)) {
    throw new InvalidArgumentError('Expected a whole number from 0 to 2^53-1.');
  }
  return value;
}

/** The package's own `package.json`, found by name: the path to it differs between the sources and the build. */
function packageVersion(): string {
  const manifest: { version: string } = createRequire(import.meta.url)('xen-passthrough-model/package.json');
  return manifest.version;
}
