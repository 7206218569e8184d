// Transient arrays: words that change all the time and are few, so that a copy of them costs less than a log.

import type { SegmentIdentity } from './segment.ts';

/** A part of a transient array. */
export interface TransientPart {
  readonly name: string;
  readonly words: number;
  /** `exact` where none is given. */
  readonly identity?: SegmentIdentity;
}

/** A transient array; the first `extent()` words of it are in use, the others never read before they are written. */
interface Transient {
  readonly words: Uint32Array;
  readonly extent: () => number;
}

/** The transient arrays of a heap, with a stack of copies of what was in use. */
export class Transients {
  readonly #all: Transient[] = [];
  /** Copy after copy: of each array its extent, then so many words. */
  #copies = new Uint32Array(1 << 8);
  #copied = 0;

  /** @returns a zeroed array that its owner writes directly. */
  reserve(words: number, extent?: (words: Uint32Array) => number): Uint32Array {
    const array = new Uint32Array(words);
    this.#all.push({ words: array, extent: extent ? () => extent(array) : () => array.length });
    return array;
  }

  /** Copies what is in use. @returns the copy's position. */
  capture(): number {
    const position = this.#copied;
    for (const { words, extent } of this.#all) this.#copy(words, extent());
    return position;
  }

  #copy(words: Uint32Array, extent: number): void {
    const at = this.#copied + 1;
    this.#copied = at + extent;
    if (this.#copied > this.#copies.length) {
      const longer = new Uint32Array(Math.max(this.#copied, this.#copies.length * 2));
      longer.set(this.#copies);
      this.#copies = longer;
    }
    const copies = this.#copies;
    copies[at - 1] = extent;
    for (let word = 0; word < extent; word += 1) copies[at + word] = words[word]!;
  }

  /** Puts back what a copy holds, and drops the copies made after it. What came into use since reads as zeros. */
  restore(position: number): void {
    let at = position;
    for (const { words, extent } of this.#all) {
      const kept = this.#copies[at]!;
      const now = extent();
      if (now > kept) words.fill(0, kept, now);
      for (let word = 0; word < kept; word += 1) words[word] = this.#copies[at + 1 + word]!;
      at += 1 + kept;
    }
    this.#copied = at;
  }

  /** Drops a copy and those made after it. */
  release(position: number): void {
    this.#copied = position;
  }

  /** Visits the words of each array that differ from a copy; what is out of use then or now counts as zeros. */
  eachDifference(position: number, visit: (words: Uint32Array, word: number) => void): void {
    let at = position;
    for (const { words, extent } of this.#all) {
      const kept = this.#copies[at]!;
      const now = extent();
      for (let word = 0; word < Math.max(kept, now); word += 1) {
        const before = word < kept ? this.#copies[at + 1 + word]! : 0;
        if ((word < now ? words[word]! : 0) !== before) visit(words, word);
      }
      at += 1 + kept;
    }
  }

  /** Makes all words equal to those of another heap's, and drops every copy. */
  copyFrom(other: Transients): void {
    for (const [at, { words }] of this.#all.entries()) words.set(other.#all[at]!.words);
    this.#copied = 0;
  }
}
