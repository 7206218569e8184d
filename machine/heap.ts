// The journaled heap: all hot or large state of a machine, as 32-bit words.
//
// Segments of fixed size lie one after another in `words`. What grows, the contents of frames, lies in `blocks` of
// 1024 words each; a block that was never written is the shared block of zeros. Reads go straight to the arrays; every
// write goes through `write` or `writeBlock`, which log the old word while a mark is outstanding. A segment declares
// how its words count towards the identity of a state.

const BLOCK_SHIFT = 10;
const BLOCK_WORDS = 1 << BLOCK_SHIFT;
const BLOCK_MASK = BLOCK_WORDS - 1;
/** Addresses from here on are those of words in blocks. */
const BLOCKS_BASE = 2 ** 31;

/** A moment in the undo log. Valid until it, or a mark before it, is released or rolled back past. */
export type Mark = number & { readonly [markKind]: true };
declare const markKind: unique symbol;

/**
 * How a segment's words count towards the identity of a state.
 * - `exact`: each word counts at its address.
 * - `slots`: records that count at their place, but only while their first word is not 0.
 * - `ring`: only the live window counts, relative to its head.
 * - `pool`: live records count as a set, whichever slot they are in.
 * - `unhashed`: nothing counts (statistics, indexes that other segments determine).
 */
export type SegmentIdentity =
  | { readonly kind: 'exact' }
  | { readonly kind: 'unhashed' }
  | { readonly kind: 'slots'; readonly recordWords: number }
  | {
      readonly kind: 'ring';
      readonly rings: number;
      /** Words of one ring's storage, and of one record in it. */
      readonly ringWords: number;
      readonly recordWords: number;
      /** Head and number of live records of ring `ring`, in records. */
      readonly window: (ring: number) => { readonly head: number; readonly count: number };
      /** Offset in a record of a lo/hi time that counts relative to `now`, if there is one. */
      readonly time?: { readonly offset: number; readonly now: () => number };
    }
  | {
      readonly kind: 'pool';
      readonly recordWords: number;
      /** The first words of a record that count; the rest are links. */
      readonly countedWords: number;
      /** Number of slots that were ever in use. A record whose word 0 is 0 is free. */
      readonly slots: () => number;
      /** One more word that counts, where a fact about the record is relative to something else. */
      readonly extra?: (record: number) => number;
    };

export interface Segment {
  readonly name: string;
  /** Address of the first word. */
  readonly base: number;
  readonly words: number;
  readonly identity: SegmentIdentity;
}

/** A word that fingerprints and diffs see: its place within a segment, and its value. */
export type CountedWord = (segment: Segment, place: number, value: number) => void;

const zeros = new Uint32Array(BLOCK_WORDS);

export class Heap {
  /** The words of all fixed segments. For reading; replaced by a longer one when a segment is reserved. */
  words = new Uint32Array(1 << 12);
  /** The words of what grows, by block. For reading. */
  readonly blocks: Uint32Array[] = [];
  /** Counts rollbacks and copies: a memo of what the heap holds is good only while this stands still. */
  jumps = 0;
  #size = 0;
  #segments: Segment[] = [];
  #log = new Uint32Array(1 << 12);
  #logged = 0;
  /** Outstanding marks, oldest first, and where the log stood at each. */
  #marks: Mark[] = [];
  #positions: number[] = [];
  #nextMark = 1;
  #logging = false;

  constructor() {
    // Address 0 belongs to nobody, so that 0 can mean "none" wherever an address is kept.
    this.reserve('nobody', 1, { kind: 'unhashed' });
  }

  /**
   * Reserves a range of zeroed words.
   * @throws RangeError when the machine's segments together pass 2^31 words.
   */
  reserve(name: string, words: number, identity: SegmentIdentity = { kind: 'exact' }): Segment {
    const base = this.#size;
    this.#size += words;
    if (this.#size > BLOCKS_BASE)
      throw new RangeError(`machine too large: segment ${name} of ${words} words does not fit`);
    if (this.#size > this.words.length) {
      const longer = new Uint32Array(Math.max(this.#size, this.words.length * 2));
      longer.set(this.words);
      this.words = longer;
    }
    return this.#add({ name, base, words, identity });
  }

  /** Reserves blocks of 1024 words that cost memory only once they are written. Block numbers go on from the last. */
  reserveBlocks(name: string, blocks: number, identity: SegmentIdentity = { kind: 'exact' }): Segment {
    const base = BLOCKS_BASE + this.blocks.length * BLOCK_WORDS;
    if (base + blocks * BLOCK_WORDS > 2 * BLOCKS_BASE)
      throw new RangeError(`machine too large: ${blocks} blocks of ${name} do not fit`);
    for (let block = 0; block < blocks; block += 1) this.blocks.push(zeros);
    return this.#add({ name, base, words: blocks * BLOCK_WORDS, identity });
  }

  #add(segment: Segment): Segment {
    this.#segments.push(Object.freeze(segment));
    return segment;
  }

  get segments(): readonly Segment[] {
    return this.#segments;
  }

  /** The word at an address, of either kind. */
  read(address: number): number {
    if (address < BLOCKS_BASE) return this.words[address]!;
    return this.blocks[(address - BLOCKS_BASE) >>> BLOCK_SHIFT]![address & BLOCK_MASK]!;
  }

  /** Writes a word of a fixed segment. `value` is taken modulo 2^32. */
  write(address: number, value: number): void {
    const { words } = this;
    if (this.#logging) {
      const old = words[address]!;
      if (old === value >>> 0) return;
      const at = this.#logged;
      if (at === this.#log.length) this.#growLog();
      this.#log[at] = address;
      this.#log[at + 1] = old;
      this.#logged = at + 2;
    }
    words[address] = value;
  }

  /** Writes a word of a block. */
  writeBlock(block: number, word: number, value: number): void {
    let words = this.blocks[block]!;
    const old = words[word]!;
    if (old === value >>> 0) return;
    if (this.#logging) this.#record(BLOCKS_BASE + block * BLOCK_WORDS + word, old);
    if (words === zeros) {
      words = new Uint32Array(BLOCK_WORDS);
      this.blocks[block] = words;
    }
    words[word] = value;
  }

  #record(address: number, old: number): void {
    const at = this.#logged;
    if (at === this.#log.length) this.#growLog();
    this.#log[at] = address;
    this.#log[at + 1] = old;
    this.#logged = at + 2;
  }

  #growLog(): void {
    const grown = new Uint32Array(this.#log.length * 2);
    grown.set(this.#log);
    this.#log = grown;
  }

  /** Remembers this moment. O(1). From now on old words are logged, until every mark is released. */
  mark(): Mark {
    const mark = this.#nextMark as Mark;
    this.#nextMark += 1;
    this.#marks.push(mark);
    this.#positions.push(this.#logged);
    this.#logging = true;
    return mark;
  }

  /** Undoes every write since the mark, which stays valid. Marks taken after it are gone. O(words written since). */
  rollback(mark: Mark): void {
    const position = this.#dropMarksAfter(mark);
    this.jumps += 1;
    const log = this.#log;
    for (let at = this.#logged - 2; at >= position; at -= 2) {
      const address = log[at]!;
      if (address < BLOCKS_BASE) this.words[address] = log[at + 1]!;
      else this.blocks[(address - BLOCKS_BASE) >>> BLOCK_SHIFT]![address & BLOCK_MASK] = log[at + 1]!;
    }
    this.#logged = position;
  }

  /** Gives up the mark and those after it: the writes since stay, and can only be undone through an earlier mark. */
  release(mark: Mark): void {
    this.#dropMarksAfter(mark);
    this.#marks.pop();
    this.#positions.pop();
    if (this.#marks.length > 0) return;
    this.#logging = false;
    this.#logged = 0;
  }

  /** @returns where the log stood at the mark. */
  #dropMarksAfter(mark: Mark): number {
    const index = this.#marks.indexOf(mark);
    if (index < 0) throw new TypeError('this mark was released, or rolled back past');
    this.#marks.length = index + 1;
    this.#positions.length = index + 1;
    return this.#positions[index]!;
  }

  /** Words written since the mark (each entry of the undo log is one). */
  wordsSince(mark: Mark): number {
    return (this.#logged - this.#positions[this.#marks.indexOf(mark)]!) / 2;
  }

  /** Names of the segments in which words were written since the mark. */
  segmentsSince(mark: Mark): ReadonlySet<string> {
    const names = new Set<string>();
    for (let at = this.#positions[this.#marks.indexOf(mark)]!; at < this.#logged; at += 2) {
      const address = this.#log[at]!;
      const segment = this.#segments.find(({ base, words }) => address >= base && address < base + words);
      if (segment) names.add(segment.name);
    }
    return names;
  }

  /** Makes this heap's content equal to another's with the same segments. Marks are not copied. */
  copyFrom(other: Heap): void {
    if (other.#size !== this.#size || other.blocks.length !== this.blocks.length) {
      throw new TypeError('heaps of different machines');
    }
    this.jumps += 1;
    this.words.set(other.words.subarray(0, other.#size));
    for (const [block, words] of other.blocks.entries()) this.blocks[block] = words === zeros ? zeros : words.slice();
    this.#marks = [];
    this.#positions = [];
    this.#logging = false;
    this.#logged = 0;
  }

  /** Bytes of the fixed segments, and of the blocks that were ever written. */
  get residentBytes(): number {
    let count = 0;
    for (const block of this.blocks) if (block !== zeros) count += 1;
    return this.#size * 4 + count * BLOCK_WORDS * 4;
  }

  /** Calls `visit` for every non-zero word that counts towards the state's identity, in address order. */
  counted(visit: CountedWord): void {
    for (const segment of this.#segments) {
      const { identity } = segment;
      if (identity.kind === 'exact') this.#countExact(segment, visit);
      else if (identity.kind === 'slots') this.#countSlots(segment, identity.recordWords, visit);
      else if (identity.kind === 'ring') this.#countRings(segment, identity, visit);
      else if (identity.kind === 'pool') this.#countPool(segment, identity, visit);
    }
  }

  #countExact(segment: Segment, visit: CountedWord): void {
    if (segment.base < BLOCKS_BASE) {
      for (let place = 0; place < segment.words; place += 1) {
        const value = this.words[segment.base + place]!;
        if (value !== 0) visit(segment, place, value);
      }
      return;
    }
    const first = (segment.base - BLOCKS_BASE) >>> BLOCK_SHIFT;
    for (let block = 0; block < segment.words >>> BLOCK_SHIFT; block += 1) {
      const words = this.blocks[first + block]!;
      if (words === zeros) continue;
      for (let i = 0; i < BLOCK_WORDS; i += 1) if (words[i] !== 0) visit(segment, block * BLOCK_WORDS + i, words[i]!);
    }
  }

  #countSlots(segment: Segment, recordWords: number, visit: CountedWord): void {
    for (let record = 0; record + recordWords <= segment.words; record += recordWords) {
      if (this.words[segment.base + record] === 0) continue;
      for (let w = 0; w < recordWords; w += 1) {
        const value = this.words[segment.base + record + w]!;
        if (value !== 0) visit(segment, record + w, value);
      }
    }
  }

  #countRings(segment: Segment, ring: Extract<SegmentIdentity, { kind: 'ring' }>, visit: CountedWord): void {
    const { ringWords, recordWords, time } = ring;
    const capacity = Math.floor(ringWords / recordWords);
    const now = time ? time.now() : 0;
    for (let r = 0; r < ring.rings; r += 1) {
      const { head, count } = ring.window(r);
      for (let i = 0; i < count; i += 1) {
        const record = segment.base + r * ringWords + ((head + i) % capacity) * recordWords;
        const place = r * ringWords + i * recordWords;
        // A live record of zeros is not the same as no record.
        visit(segment, segment.words + r * capacity + i, 1);
        for (let w = 0; w < recordWords; w += 1) {
          if (time && (w === time.offset || w === time.offset + 1)) continue;
          const value = this.read(record + w);
          if (value !== 0) visit(segment, place + w, value);
        }
        if (time) {
          const at = this.read(record + time.offset) + this.read(record + time.offset + 1) * 0x100000000;
          visit(segment, place + time.offset, (now - at) >>> 0);
        }
      }
    }
  }

  #countPool(segment: Segment, pool: Extract<SegmentIdentity, { kind: 'pool' }>, visit: CountedWord): void {
    const records: number[][] = [];
    for (let slot = 0; slot < pool.slots(); slot += 1) {
      const at = segment.base + slot * pool.recordWords;
      if (this.read(at) === 0) continue;
      const words = Array.from({ length: pool.countedWords }, (_, w) => this.read(at + w));
      if (pool.extra) words.push(pool.extra(at));
      records.push(words);
    }
    records.sort(compareWords);
    const stride = pool.countedWords + (pool.extra ? 1 : 0);
    for (const [i, words] of records.entries()) {
      for (const [w, value] of words.entries()) if (value !== 0) visit(segment, i * stride + w, value);
    }
  }
}

function compareWords(a: readonly number[], b: readonly number[]): number {
  for (let i = 0; i < a.length; i += 1) if (a[i] !== b[i]) return a[i]! - b[i]!;
  return 0;
}
