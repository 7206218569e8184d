// The machine's time, in microseconds. It moves only when an operation says so.

import type { Heap } from '../../machine/heap/heap.ts';
import { highWord, joinWords } from '../../machine/wide.ts';

export class Clock {
  readonly #heap: Heap;
  readonly #at: number;

  constructor(heap: Heap) {
    this.#heap = heap;
    this.#at = heap.reserve('clock', 2, { kind: 'unhashed' }).base;
  }

  get nowUs(): number {
    return joinWords(this.#heap.words[this.#at]!, this.#heap.words[this.#at + 1]!);
  }

  /** @throws RangeError when time would go back. */
  advanceTo(us: number): void {
    if (!Number.isSafeInteger(us) || us < this.nowUs)
      throw new RangeError(`time ${us} us: expected at least ${this.nowUs}`);
    this.#heap.write(this.#at, us);
    this.#heap.write(this.#at + 1, highWord(us));
  }
}
