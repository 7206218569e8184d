// Locks as words of the heap: 0 when free, the holder's virtual CPU plus 1 when taken.

import { HypervisorBug } from './errors.ts';
import type { Heap } from './heap.ts';

export class Locks {
  readonly #heap: Heap;
  readonly #base: number;
  readonly #name: string;

  constructor(heap: Heap, name: string, count: number) {
    this.#heap = heap;
    this.#name = name;
    this.#base = heap.reserve(name, count).base;
  }

  /** Takes a lock, or takes note that this virtual CPU has it. False when another has it. */
  take(lock: number, vcpu: number): boolean {
    const holder = this.#heap.words[this.#base + lock]!;
    if (holder !== 0) return holder === vcpu + 1;
    this.#heap.write(this.#base + lock, vcpu + 1);
    return true;
  }

  drop(lock: number, vcpu: number): void {
    if (!(this.#heap.words[this.#base + lock]! === vcpu + 1))
      throw new HypervisorBug('C1', `${this.#name} ${lock} dropped by vCPU ${vcpu}, which has it not`);
    this.#heap.write(this.#base + lock, 0);
  }

  /** The virtual CPU that holds a lock; -1 when none does. */
  holder(lock: number): number {
    return this.#heap.words[this.#base + lock]! - 1;
  }
}
