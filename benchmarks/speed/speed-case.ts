// What a benchmark of the model's own speed is.

/** A benchmark made ready: `run` does `items` of what is measured. */
export interface PreparedCase {
  readonly run: () => void | Promise<void>;
  /** Bytes that each item costs to keep, where that is the question. */
  readonly bytesPerItem?: number;
}

export interface SpeedCase {
  /** Name on the command line and in reports: `what/size`. */
  readonly name: string;
  /** What one operation is, and under which conditions. */
  readonly note: string;
  /** What it should reach on a quiet machine, and at most cost. */
  readonly target?: { readonly opsPerSecond?: number; readonly bytesPerItem?: number };
  /** Operations per call of `run`. */
  readonly items: number;
  readonly prepare: () => Promise<PreparedCase> | PreparedCase;
}

/** One line of the report. */
export interface SpeedResult {
  readonly name: string;
  readonly opsPerSecond: number;
  readonly nsPerOp: number;
  readonly bytesPerItem?: number;
  readonly target?: NonNullable<SpeedCase['target']>;
  readonly note: string;
}

/** Figures that are counted, not timed: a table of the report. */
export interface FigureTable {
  readonly name: string;
  readonly note: string;
  /** Row by row, the same columns in each. */
  readonly rows: () => readonly Readonly<Record<string, number>>[];
}
