// `passthrough dmar FILE`: what a DMAR table says.

import { parseDmar } from '../../passthrough/platform/dmar.ts';
import { dmarBytes } from '../../passthrough/platform/dmar-bytes.ts';
import { ExitCode } from '../exit-code.ts';
import { readInputFile } from '../input-file.ts';
import { type CliIo, printable, styled } from '../io.ts';
import { dmarListing } from './dmar-listing.ts';

/** Real tables have some hundreds of bytes. */
const FILE_LIMIT_BYTES = 1024 * 1024;

export interface DmarCommandOptions {
  readonly file: string;
  /** Print the `DmarTable` instead of a listing; its warnings are in it. */
  readonly json?: boolean;
  /** Warn about a wrong checksum. */
  readonly ignoreChecksum?: boolean;
}

/** @throws InputError when the file or the table in it cannot be read; nothing has been printed then */
export async function runDmar(options: DmarCommandOptions, io: CliIo): Promise<number> {
  const { file } = options;
  const content = await readInputFile(file, FILE_LIMIT_BYTES);
  const bytes = dmarBytes(content, file);
  // Offsets below count bytes of the table, which are not those of a text file.
  const source = bytes === content ? file : `${file} (decoded)`;
  const table = parseDmar(bytes, source, { checksum: options.ignoreChecksum ? 'warn' : 'require' });
  if (options.json) {
    io.stdout(`${JSON.stringify(table, null, 2)}\n`);
    return ExitCode.held;
  }
  io.stdout(dmarListing(table, (title) => styled(io, 'bold', title)));
  for (const { offset, message } of table.warnings) {
    io.stderr(printable(`passthrough: warning: ${source}: byte ${offset} (0x${offset.toString(16)}): ${message}`));
    io.stderr('\n');
  }
  return ExitCode.held;
}
