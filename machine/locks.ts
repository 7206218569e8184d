// Locks as words: 0 when free, the holder's virtual CPU plus 1 when taken.

import { HypervisorBug } from './errors.ts';
import type { Heap } from './heap/heap.ts';

export class Locks {
  readonly #holders: Uint32Array;
  readonly #name: string;

  constructor(heap: Heap, name: string, count: number) {
    this.#name = name;
    this.#holders = heap.reserveTransient([{ name, words: count }]);
  }

  /** Takes a lock, or takes note that this virtual CPU has it. False when another has it. */
  take(lock: number, vcpu: number): boolean {
    const holder = this.#holders[lock]!;
    if (holder !== 0) return holder === vcpu + 1;
    this.#holders[lock] = vcpu + 1;
    return true;
  }

  drop(lock: number, vcpu: number): void {
    if (this.#holders[lock] !== vcpu + 1)
      throw new HypervisorBug('C1', `${this.#name} ${lock} dropped by vCPU ${vcpu}, which has it not`);
    this.#holders[lock] = 0;
  }

  /** The virtual CPU that holds a lock; -1 when none does. */
  holder(lock: number): number {
    return this.#holders[lock]! - 1;
  }
}
