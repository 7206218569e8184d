// From a thrown error to an exit code and a message.

import { HypervisorBug, InputError } from '../machine/errors.ts';
import { ExitCode } from './exit-code.ts';
import { type CliIo, printable } from './io.ts';

/** A value given on the command line that cannot be used. */
export class OptionError extends Error {
  override readonly name = 'OptionError';
}

/**
 * Runs `use`, which hands a user's options to the library. A `RangeError` or `TypeError` from there is the user's, and
 * becomes an {@link OptionError}; anywhere else it counts as a defect.
 */
export function fromOptions<T>(use: () => T): T {
  try {
    return use();
  } catch (error) {
    if (error instanceof RangeError || error instanceof TypeError) {
      throw new OptionError(error.message, { cause: error });
    }
    throw error;
  }
}

/** Reports what a command threw on stderr: one line for bad input, everything there is for a defect. */
export function reportFailure(error: unknown, io: CliIo): ExitCode {
  if (error instanceof InputError || error instanceof OptionError || isSystemError(error)) {
    io.stderr(`passthrough: ${printable(error.message)}\n`);
    return ExitCode.badInput;
  }
  const what = error instanceof HypervisorBug ? 'the model broke its own invariant' : 'unexpected failure';
  const detail = error instanceof Error ? (error.stack ?? error.message) : String(error);
  io.stderr(`passthrough: ${what}; please report this with the command and its input\n${detail}\n`);
  return ExitCode.bug;
}

/** An error of the operating system (a file that is not there, not readable, ...), as Node throws it. */
export function isSystemError(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' && 'syscall' in error;
}
