// Where a command writes. Commands get it handed in, so that tests run them in-process.

import { styleText } from 'node:util';

export interface CliIo {
  readonly stdout: (text: string) => void;
  readonly stderr: (text: string) => void;
  /** Whether stdout takes colours. */
  readonly colour: boolean;
  /** The terminal for progress lines; absent when stderr is not one that redraws. */
  readonly terminal?: NodeJS.WriteStream;
}

/** The streams of this process. Colours need a terminal on stdout and no `NO_COLOR`. */
export function processIo(): CliIo {
  const { stdout, stderr, env } = process;
  return {
    stdout: (text) => void stdout.write(text),
    stderr: (text) => void stderr.write(text),
    colour: stdout.isTTY === true && !env.NO_COLOR && stdout.hasColors(),
    ...(stderr.isTTY === true && env.TERM !== 'dumb' && !env.CI && { terminal: stderr }),
  };
}

/** The text in that style, or plain where there are no colours. */
export function styled(io: CliIo, format: 'bold' | 'dim' | 'red' | 'green' | 'yellow', text: string): string {
  return io.colour ? styleText(format, text, { validateStream: false }) : text;
}

/** The text with line ends and other control characters spelt out (`\x0a`), safe to print on one line. */
export function printable(text: string): string {
  return text.replace(/\p{Cc}/gu, (char) => `\\x${char.charCodeAt(0).toString(16).padStart(2, '0')}`);
}
