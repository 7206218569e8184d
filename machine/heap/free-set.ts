// A set of small integers that hands out its lowest free member: frames, domain ids, handles.
//
// Kept as a bitmap of used members with summary levels above it (a bit says "this word is full"), so that taking and
// giving back cost O(log32 size) and the next member depends on nothing but which are used.

import { HypervisorBug } from '../errors.ts';
import type { Heap } from './heap.ts';

export class FreeSet {
  readonly size: number;
  readonly #heap: Heap;
  /** Address of each level's first word, the bitmap of members first. */
  readonly #levels: readonly number[];
  readonly #name: string;

  constructor(heap: Heap, name: string, size: number) {
    this.size = size;
    this.#heap = heap;
    this.#name = name;
    const widths: number[] = [];
    for (let width = Math.max(1, size); ; ) {
      width = Math.ceil(width / 32);
      widths.push(width);
      if (width === 1) break;
    }
    const segment = heap.reserve(
      name,
      widths.reduce((sum, width) => sum + width, 0),
    );
    let base = segment.base;
    this.#levels = widths.map((width) => {
      base += width;
      return base - width;
    });
  }

  /** Whether a member is in use. */
  has(member: number): boolean {
    return (this.#heap.words[this.#levels[0]! + (member >>> 5)]! & (1 << (member & 31))) !== 0;
  }

  /** The lowest free member; -1 when there is none. */
  lowestFree(): number {
    let word = 0;
    for (let level = this.#levels.length - 1; level >= 0; level -= 1) {
      const free = ~this.#heap.words[this.#levels[level]! + word]!;
      if (free === 0) return -1;
      word = word * 32 + 31 - Math.clz32(free & -free);
      if (level > 0 && word >= this.#levels[level]! - this.#levels[level - 1]!) return -1;
    }
    return word < this.size ? word : -1;
  }

  /** The lowest free member, now used; -1 when there is none. */
  takeLowest(): number {
    const member = this.lowestFree();
    if (member >= 0) this.#set(member);
    return member;
  }

  /** Takes a given member. */
  take(member: number): void {
    if (member >= this.size || this.has(member)) throw new HypervisorBug('SET', `${this.#name}: ${member} taken twice`);
    this.#set(member);
  }

  #set(member: number): void {
    let bit = member;
    for (const level of this.#levels) {
      const address = level + (bit >>> 5);
      const word = (this.#heap.words[address]! | (1 << (bit & 31))) >>> 0;
      this.#heap.write(address, word);
      if (word !== 0xffffffff) return;
      bit >>>= 5;
    }
  }

  /** Gives a member back. */
  put(member: number): void {
    if (!this.has(member)) throw new HypervisorBug('SET', `${this.#name}: ${member} given back while free`);
    let bit = member;
    for (const level of this.#levels) {
      const address = level + (bit >>> 5);
      const word = this.#heap.words[address]!;
      this.#heap.write(address, word & ~(1 << (bit & 31)));
      if (word !== 0xffffffff) return;
      bit >>>= 5;
    }
  }

  /** Number of used members. O(size). */
  count(): number {
    let used = 0;
    for (let member = 0; member < this.size; member += 1) if (this.has(member)) used += 1;
    return used;
  }
}
