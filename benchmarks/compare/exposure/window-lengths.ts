// Lengths of stale windows, one per released page that stayed reachable.

/** Percentiles over pages, in microseconds. All null when there was no window. */
export interface WindowSummary {
  readonly p50Us: number | null;
  readonly p99Us: number | null;
  readonly maxUs: number | null;
  /** Windows, those still open among them. */
  readonly pages: number;
  /** Windows that nothing had closed when the trace ended. They count with the age that they had then. */
  readonly open: number;
}

export class WindowLengths {
  readonly #pagesOf = new Map<number, number>();
  #pages = 0;
  #open = 0;

  /** A window of one page. Those of no length are none, unless they are open. */
  add(lengthUs: number, isOpen: boolean): void {
    if (lengthUs === 0 && !isOpen) return;
    this.#pages += 1;
    if (isOpen) this.#open += 1;
    this.#pagesOf.set(lengthUs, (this.#pagesOf.get(lengthUs) ?? 0) + 1);
  }

  summary(): WindowSummary {
    const lengths = [...this.#pagesOf].sort(([a], [b]) => a - b);
    return {
      p50Us: this.#percentile(lengths, 0.5),
      p99Us: this.#percentile(lengths, 0.99),
      maxUs: lengths.at(-1)?.[0] ?? null,
      pages: this.#pages,
      open: this.#open,
    };
  }

  /** The shortest length that at least this share of the pages does not pass. */
  #percentile(lengths: readonly (readonly [number, number])[], share: number): number | null {
    const wanted = Math.ceil(this.#pages * share);
    let seen = 0;
    for (const [length, pages] of lengths) {
      seen += pages;
      if (seen >= wanted) return length;
    }
    return null;
  }
}
