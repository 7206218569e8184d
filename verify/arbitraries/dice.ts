// What a draw is decided by: a short row of random choices, all from one seed.

/** Choices that follow from a seed and nothing else. */
export class Dice {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** 0 to `end` - 1. xorshift after a Weyl step: plain, and the same everywhere. */
  below(end: number): number {
    this.#state = (this.#state + 0x9e3779b9) >>> 0;
    let word = this.#state;
    word = Math.imul(word ^ (word >>> 16), 0x85ebca6b);
    word = Math.imul(word ^ (word >>> 13), 0xc2b2ae35);
    return ((word ^ (word >>> 16)) >>> 0) % end;
  }

  percent(chance: number): boolean {
    return this.below(100) < chance;
  }

  /** One of several; `otherwise` of none. */
  of<T>(values: readonly T[], otherwise: T): T {
    return values.length === 0 ? otherwise : values[this.below(values.length)]!;
  }

  /** One of several, of which there is at least one. */
  one<T>(...values: [T, ...T[]]): T {
    return values[this.below(values.length)]!;
  }

  /** One to `max` of what `make` makes. */
  some<T>(max: number, make: () => T): T[] {
    return Array.from({ length: 1 + this.below(max) }, make);
  }
}
