// `passthrough dmar FILE`: what a DMAR table says, of the machine or of single devices.

import { Platform } from '../../passthrough/index.ts';
import { parseDmar } from '../../passthrough/platform/dmar.ts';
import { dmarBytes } from '../../passthrough/platform/dmar-bytes.ts';
import { ExitCode } from '../exit-code.ts';
import { readInputFile } from '../input-file.ts';
import { type CliIo, printable, styled } from '../io.ts';
import { deviceListing, dmarListing, findingLines } from './dmar-listing.ts';

/** Real tables have some hundreds of bytes. */
const FILE_LIMIT_BYTES = 1024 * 1024;

export interface DmarCommandOptions {
  readonly file: string;
  /** Print the `DmarTable`, or the answers for the devices asked about, instead of a listing; warnings are in it. */
  readonly json?: boolean;
  /** Warn about a wrong checksum. */
  readonly ignoreChecksum?: boolean;
  /** PCI addresses: answer for these only. */
  readonly device?: readonly string[];
}

/** @throws InputError when the file or the table in it cannot be read; nothing has been printed then */
export async function runDmar(options: DmarCommandOptions, io: CliIo): Promise<number> {
  const { file } = options;
  const content = await readInputFile(file, FILE_LIMIT_BYTES);
  const bytes = dmarBytes(content, file);
  // Offsets below count bytes of the table, which are not those of a text file.
  const source = bytes === content ? file : `${file} (decoded)`;
  const table = parseDmar(bytes, source, { checksum: options.ignoreChecksum ? 'warn' : 'require' });
  const platform = new Platform(table);
  const answers = options.device?.map((device) => platform.describe(device));
  const bold = (title: string) => styled(io, 'bold', title);
  if (options.json) {
    const { findings, disabledBy } = platform;
    const shown = answers ? { devices: answers, findings, disabledBy } : table;
    io.stdout(`${JSON.stringify(shown, null, 2)}\n`);
    return ExitCode.held;
  }
  io.stdout(answers ? deviceListing(answers, bold) : dmarListing(table, bold));
  const warnings = [
    ...table.warnings.map(({ offset, message }) => `byte ${offset} (0x${offset.toString(16)}): ${message}`),
    ...(answers ? findingLines(platform) : []),
  ];
  for (const warning of warnings) io.stderr(`${printable(`passthrough: warning: ${source}: ${warning}`)}\n`);
  return ExitCode.held;
}
