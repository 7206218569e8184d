// A line on stderr that says how far long work has come. Shown on a terminal only, and only after the first second.

import type { Ora } from 'ora';
import type { CliIo } from './io.ts';

/** Work shorter than this shows nothing. */
const QUIET_MS = 1000;
/** Least time between two redraws. */
const REDRAW_MS = 100;

export interface Progress {
  /** Says what is going on now, as `trace.txt: 40,000 of 120,000 events`. Cheap: call it as often as you like. */
  report(text: string): Promise<void>;
  /** Removes the line. Call it before anything is printed, also when the work failed. */
  stop(): void;
}

/** @param now milliseconds from anywhere, never running backwards */
export function startProgress(io: CliIo, now: () => number = () => performance.now()): Progress {
  const { terminal } = io;
  if (!terminal) return { report: async () => {}, stop: () => {} };
  let line: Ora | undefined;
  let stopped = false;
  let drawAt = now() + QUIET_MS;
  return {
    async report(text) {
      if (stopped || now() < drawAt || !hasWidth(terminal)) return;
      drawAt = now() + REDRAW_MS;
      line ??= await createLine(terminal);
      if (stopped) return;
      line.text = text;
      // The work keeps the event loop busy, so that ora's own timer would never fire.
      line.render();
    },
    stop() {
      stopped = true;
      line?.stop();
    },
  };
}

/**
 * Pseudo-terminals without a window say 0 columns; ora 9.4 would count infinitely many lines and clear them for ever.
 */
const hasWidth = (terminal: NodeJS.WriteStream): boolean => terminal.columns !== 0;

/** `ora` is loaded when first needed, so that short commands and `--help` start fast. */
async function createLine(terminal: NodeJS.WriteStream): Promise<Ora> {
  const { default: ora } = await import('ora');
  const color = terminal.hasColors() ? ('cyan' as const) : (false as const);
  return ora({ stream: terminal, isEnabled: true, color, discardStdin: false, hideCursor: false });
}
