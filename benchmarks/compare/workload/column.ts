// Columns of numbers that grow: what a long list of events is kept in.

/** A list of whole numbers from 0 to 2^53 - 1. */
export class Column {
  #values = new Float64Array(1024);
  #length = 0;

  get length(): number {
    return this.#length;
  }

  push(value: number): void {
    if (this.#length === this.#values.length) {
      const longer = new Float64Array(this.#length * 2);
      longer.set(this.#values);
      this.#values = longer;
    }
    this.#values[this.#length] = value;
    this.#length += 1;
  }

  at(index: number): number {
    return this.#values[index]!;
  }

  /** The values, cut to length. */
  numbers(): Float64Array {
    return this.#values.slice(0, this.#length);
  }

  words(): Uint32Array {
    return Uint32Array.from(this.#values.subarray(0, this.#length));
  }

  bytes(): Uint8Array {
    return Uint8Array.from(this.#values.subarray(0, this.#length));
  }
}
