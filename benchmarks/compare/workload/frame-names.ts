// Dense names for recorded frames: frame numbers of a machine with just the frames that a trace touches.

/** Renames frames in order, so that neighbours stay neighbours and a mapping of many frames stays one. */
export class FrameNames {
  /** Disjoint runs of recorded frames, in order: first frame, first name. */
  readonly #starts: Float64Array;
  readonly #names: Float64Array;
  /** Frames in all. */
  readonly count: number;

  /** Ranges of recorded frames, in any order, overlaps and all. */
  constructor(ranges: readonly { readonly first: number; readonly frames: number }[]) {
    const sorted = ranges.toSorted((a, b) => a.first - b.first);
    const starts: number[] = [];
    const names: number[] = [];
    let end = -1;
    let count = 0;
    for (const { first, frames } of sorted) {
      if (first > end || starts.length === 0) {
        starts.push(first);
        names.push(count);
        end = first;
      }
      count += Math.max(0, first + frames - end);
      end = Math.max(end, first + frames);
    }
    this.#starts = Float64Array.from(starts);
    this.#names = Float64Array.from(names);
    this.count = count;
  }

  /** Name of a recorded frame, which lies in one of the ranges. */
  name(frame: number): number {
    let low = 0;
    let high = this.#starts.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >>> 1;
      if (this.#starts[middle]! <= frame) low = middle;
      else high = middle - 1;
    }
    return this.#names[low]! + frame - this.#starts[low]!;
  }

  /** The recorded frames by name. */
  *recorded(): Generator<number> {
    for (let run = 0; run < this.#starts.length; run += 1) {
      const next = run + 1 < this.#names.length ? this.#names[run + 1]! : this.count;
      for (let name = this.#names[run]!; name < next; name += 1) yield this.#starts[run]! + name - this.#names[run]!;
    }
  }
}
