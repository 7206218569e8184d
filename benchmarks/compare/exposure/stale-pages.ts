// For how long stale entries reach each frame: page-microseconds, for reads and for writes apart.

/** Page-microseconds by kind of access; `any` counts a moment once, whichever access it is. */
export interface AccessTime {
  read: number;
  write: number;
  any: number;
}

/** Read and write, and their bits in rights. */
const ACCESSES = [0, 1] as const;

// Counters of a frame, per access: stale entries; those whose own device frame maps this frame (with fewer rights);
// those whose own device frame maps another frame; live mappings of this frame by the same domain with that access.
const STALE = 0;
const HERE = 1;
const TAKEN = 2;
const HELD = 3;
const ACCESS_WORDS = 4;
const FRAME_WORDS = ACCESS_WORDS * 2;

/** Where the device frame of a stale entry leads to now. */
export const DfnUse = { none: 0, sameFrame: 1, otherFrame: 2 } as const;
export type DfnUse = (typeof DfnUse)[keyof typeof DfnUse];

/**
 * Sums, frame by frame, the time that stale entries reach it. A frame that several stale entries reach counts once.
 * Whoever calls has moved the clock first ({@link nowUs}); time before it is summed with the state before the call.
 */
export class StalePages {
  nowUs = 0;
  /** Some stale entry reaches the frame. */
  readonly excess: AccessTime = { read: 0, write: 0, any: 0 };
  /** ... while the frame, or the entry's device frame, is in use for something else. */
  readonly harmful: AccessTime = { read: 0, write: 0, any: 0 };
  /** ... while its domain holds no mapping of the frame with that access at all. */
  readonly unheld: AccessTime = { read: 0, write: 0, any: 0 };
  readonly #counters: Int32Array;
  readonly #sinceUs: Float64Array;
  /** Recorded frame of each frame; live mappings of each recorded frame, whichever domain's. */
  readonly #physical: Uint32Array;
  readonly #live: Int32Array;
  /** Frames that stand for a recorded frame, where that is more than one. */
  readonly #aliases = new Map<number, number[]>();

  /** @param physical the recorded frame that each frame stands for */
  constructor(physical: Uint32Array) {
    this.#counters = new Int32Array(physical.length * FRAME_WORDS);
    this.#sinceUs = new Float64Array(physical.length);
    this.#physical = physical;
    const first = new Map<number, number>();
    let last = 0;
    for (const [frame, recorded] of physical.entries()) {
      last = Math.max(last, recorded);
      const before = first.get(recorded);
      if (before === undefined) first.set(recorded, frame);
      else this.#aliases.set(recorded, [...(this.#aliases.get(recorded) ?? [before]), frame]);
    }
    this.#live = new Int32Array(last + 1);
  }

  /** A mapping of the frame begins (`by` 1) or ends (-1). */
  hold(frame: number, rights: number, by: 1 | -1): void {
    const recorded = this.#physical[frame]!;
    for (const alias of this.#aliases.get(recorded) ?? [frame]) this.settle(alias);
    this.#live[recorded]! += by;
    for (const access of ACCESSES) {
      if ((rights & (1 << access)) !== 0) this.#counters[frame * FRAME_WORDS + access * ACCESS_WORDS + HELD]! += by;
    }
  }

  /** An entry comes to reach the frame with these rights beyond what is held (`by` 1), or no longer does (-1). */
  stale(frame: number, rights: number, use: DfnUse, by: 1 | -1): void {
    this.settle(frame);
    for (const access of ACCESSES) {
      if ((rights & (1 << access)) === 0) continue;
      const at = frame * FRAME_WORDS + access * ACCESS_WORDS;
      this.#counters[at + STALE]! += by;
      if (use === DfnUse.sameFrame) this.#counters[at + HERE]! += by;
      if (use === DfnUse.otherFrame) this.#counters[at + TAKEN]! += by;
    }
  }

  /** Whether some stale entry reaches the frame, or one that stands for the same recorded frame. */
  isStale(frame: number): boolean {
    const of = (at: number) => this.#counters[at + STALE]! + this.#counters[at + ACCESS_WORDS + STALE]! > 0;
    const aliases = this.#aliases.get(this.#physical[frame]!);
    return aliases ? aliases.some((alias) => of(alias * FRAME_WORDS)) : of(frame * FRAME_WORDS);
  }

  /** Sums the time of a frame up to now. */
  settle(frame: number): void {
    const time = this.nowUs - this.#sinceUs[frame]!;
    if (time === 0) return;
    this.#sinceUs[frame] = this.nowUs;
    const live = this.#live[this.#physical[frame]!]!;
    const at = frame * FRAME_WORDS;
    this.#add(this.excess, time, this.#isStale(at), this.#isStale(at + ACCESS_WORDS));
    this.#add(this.harmful, time, this.#isHarmful(at, live), this.#isHarmful(at + ACCESS_WORDS, live));
    this.#add(this.unheld, time, this.#isUnheld(at), this.#isUnheld(at + ACCESS_WORDS));
  }

  /** Sums the time of all frames up to now. */
  settleAll(): void {
    for (let frame = 0; frame < this.#sinceUs.length; frame += 1) this.settle(frame);
  }

  #add(sum: AccessTime, time: number, read: boolean, write: boolean): void {
    if (read) sum.read += time;
    if (write) sum.write += time;
    if (read || write) sum.any += time;
  }

  #isStale(at: number): boolean {
    return this.#counters[at + STALE]! > 0;
  }

  #isUnheld(at: number): boolean {
    return this.#counters[at + STALE]! > 0 && this.#counters[at + HELD] === 0;
  }

  /** Some stale entry's device frame was taken for another frame, or some mapping elsewhere has the frame. */
  #isHarmful(at: number, live: number): boolean {
    const stale = this.#counters[at + STALE]!;
    if (stale === 0) return false;
    const here = this.#counters[at + HERE]!;
    return this.#counters[at + TAKEN]! > 0 || (stale > here && live > 0) || (here > 0 && live > 1);
  }
}
