// What the exit status of `passthrough` means, for scripts. Printed by `passthrough --help`.

export const ExitCode = {
  /** Every property held; or there was none to check and the command did its work. */
  held: 0,
  /** A property was violated; the counterexample is on stdout. */
  violated: 1,
  /** The command line or an input file cannot be used; one line on stderr says why. */
  badInput: 2,
  /** The model broke its own invariant or failed in an unexpected way: a defect to report. */
  bug: 3,
  /** The budget of states or time ran out before there was an answer. */
  budget: 4,
} as const;

export type ExitCode = (typeof ExitCode)[keyof typeof ExitCode];
