// What agreed and what did not: counts by field, and each disagreement with its place.

/** A value of a recording or of the model, as plain JSON. `null`: there was none. */
export type Observed = number | string | boolean | null | readonly Observed[] | { readonly [key: string]: Observed };

export interface Disagreement {
  /** Line of the recording, from 1. */
  readonly line: number;
  /** Kind of the record. */
  readonly op: string;
  /** `rc`, `ops[2].st`, `iommu[0]`, `gt[1,8]`, `mem[1,0x3ff50]`, `faults`, ... */
  readonly field: string;
  readonly expected: Observed;
  readonly got: Observed;
}

/** One file, compared. */
export interface FileConformance {
  readonly file: string;
  readonly records: number;
  /** Fields compared, and how many of them agreed. */
  readonly compared: number;
  readonly agreed: number;
  /** The same by `kind.field`: `[agreed, compared]`. */
  readonly byField: Readonly<Record<string, readonly [agreed: number, compared: number]>>;
  /** Records of kinds of which nothing is compared, and `kind.field` for single fields left out. */
  readonly notCompared: Readonly<Record<string, number>>;
  readonly disagreements: readonly Disagreement[];
}

interface FieldCount {
  agreed: number;
  compared: number;
}

/** Counts one file's comparisons. */
export class Tally {
  readonly disagreements: Disagreement[] = [];
  readonly #fields = new Map<string, FieldCount>();
  readonly #notCompared = new Map<string, number>();

  /** The counter of a field, to be kept by whoever compares it often. */
  counter(name: string): FieldCount {
    let counter = this.#fields.get(name);
    if (!counter) {
      counter = { agreed: 0, compared: 0 };
      this.#fields.set(name, counter);
    }
    return counter;
  }

  agree(name: string): void {
    const counter = this.counter(name);
    counter.compared += 1;
    counter.agreed += 1;
  }

  /** @param name of the field, for counting; `disagreement.field` may be more exact. */
  disagree(name: string, disagreement: Disagreement): void {
    this.counter(name).compared += 1;
    this.disagreements.push(disagreement);
  }

  skip(name: string, count = 1): void {
    this.#notCompared.set(name, (this.#notCompared.get(name) ?? 0) + count);
  }

  result(file: string, records: number): FileConformance {
    let compared = 0;
    let agreed = 0;
    const byField: Record<string, readonly [number, number]> = {};
    for (const [name, counter] of this.#fields) {
      if (counter.compared === 0) continue;
      compared += counter.compared;
      agreed += counter.agreed;
      byField[name] = [counter.agreed, counter.compared];
    }
    const notCompared = Object.fromEntries(this.#notCompared);
    return { file, records, compared, agreed, byField, notCompared, disagreements: this.disagreements };
  }
}
