// The journaled heap: all hot or large state of a machine, as 32-bit words.
//
// Segments of fixed size lie one after another in `words`. What grows, the contents of frames, lies in `blocks` of
// 1024 words each; a block that was never written is the shared block of zeros. Reads go straight to the arrays; every
// write goes through `write` and its like, which log the old word while a mark is outstanding.
//
// What is small and changes all the time (operations in flight, caches, counters) lies in transient arrays: their
// owners write them directly, and a mark keeps a copy of as much of them as is in use.
//
// A segment declares how its words count towards the identity of a state.

import { type CountedWord, countSegment, type Segment, type SegmentIdentity, type SegmentReader } from './segment.ts';
import { type TransientPart, Transients } from './transients.ts';

const BLOCK_SHIFT = 10;
const BLOCK_WORDS = 1 << BLOCK_SHIFT;
const BLOCK_MASK = BLOCK_WORDS - 1;
/** A machine has fewer words than this of either kind, so that every address is a small integer of the engine. */
const WORDS_MAX = 2 ** 31;
/** Blocks that may come before the list of them has to grow. */
const BLOCKS_ROOM = 64;
/** In the undo log: the word lies in a block. */
const IN_BLOCK = 0x80000000 | 0;

/** A moment in the undo log. Valid until it, or a mark before it, is released or rolled back past. */
export type Mark = number & { readonly [markKind]: true };
declare const markKind: unique symbol;

const zeros = new Uint32Array(BLOCK_WORDS);

export class Heap {
  /** The words of all fixed segments. For reading; replaced by a longer one when a segment is reserved. */
  words: Uint32Array;
  /** The words of what grows, by block. For reading. */
  readonly blocks: Uint32Array[] = [];
  /** Counts rollbacks and copies: a memo of what the heap holds is good only while this stands still. */
  jumps = 0;
  #size = 0;
  /** Blocks that are reserved or adopted; there may be room for more. */
  #blockCount = 0;
  #segments: Segment[] = [];
  #log = new Int32Array(1 << 12);
  #logged = 0;
  /** Outstanding marks, oldest first, and where the log stood at each. */
  #marks: Mark[] = [];
  #positions: number[] = [];
  readonly #transients = new Transients();
  /** Blocks that are part of a transient array. */
  readonly #adopted = new Set<number>();
  /** Where the copy of the transient arrays lies that belongs to each mark. */
  #copies: number[] = [];
  #nextMark = 1;
  #logging = false;

  /** @param capacity words of fixed segments to make room for from the start; more come with what is reserved */
  constructor(capacity = 1 << 12) {
    this.words = new Uint32Array(capacity);
    // Address 0 belongs to nobody, so that 0 can mean "none" wherever an address is kept.
    this.reserve('nobody', 1, { kind: 'unhashed' });
  }

  /**
   * Reserves a range of zeroed words.
   * @throws RangeError when the machine's segments together pass 2^31 words.
   */
  reserve(name: string, count: number, identity: SegmentIdentity = { kind: 'exact' }): Segment {
    const base = this.#size;
    if (!(count >= 0 && base + count < WORDS_MAX))
      throw new RangeError(`machine too large: segment ${name} of ${count} words does not fit`);
    // A count made by a power comes as a boxed double; every address after it would be one, too.
    const words = count | 0;
    this.#size += words;
    if (this.#size > this.words.length) {
      const longer = new Uint32Array(Math.max(this.#size, this.words.length * 2));
      longer.set(this.words);
      this.words = longer;
    }
    return this.#add({ name, index: this.#segments.length, array: 'words', base, words, identity });
  }

  /** Reserves blocks of 1024 words that cost memory only once they are written. Block numbers go on from the last. */
  reserveBlocks(name: string, blocks: number, identity: SegmentIdentity = { kind: 'exact' }): Segment {
    const base = this.#blockCount * BLOCK_WORDS;
    if (base + blocks * BLOCK_WORDS > WORDS_MAX)
      throw new RangeError(`machine too large: ${blocks} blocks of ${name} do not fit`);
    this.#blockCount += blocks;
    const from = this.blocks.length;
    if (this.#blockCount > from) {
      // Grown at once, with room behind them for blocks that come later.
      this.blocks.length = this.#blockCount + BLOCKS_ROOM;
      this.blocks.fill(zeros, from);
    }
    return this.#add({
      name,
      index: this.#segments.length,
      array: 'blocks',
      base,
      words: blocks * BLOCK_WORDS,
      identity,
    });
  }

  /** Whether a block was never written. */
  isBlank(block: number): boolean {
    return this.blocks[block] === zeros;
  }

  /**
   * Reserves a zeroed array that its owner writes directly, its parts one after another. A mark copies its first
   * `extent()` words, which may depend on nothing but the array.
   */
  reserveTransient(parts: readonly TransientPart[], extent?: (words: Uint32Array) => number): Uint32Array {
    const total = parts.reduce((sum, part) => sum + part.words, 0);
    const array = this.#transients.reserve(total, extent);
    let base = 0;
    for (const { name, words, identity } of parts) {
      this.#add({
        name,
        index: this.#segments.length,
        array,
        base,
        words: words | 0,
        identity: identity ?? { kind: 'exact' },
      });
      base += words;
    }
    return array;
  }

  /** Makes 1024 words of a transient array the next block. @returns its number. */
  adoptBlock(words: Uint32Array): number {
    if (words.length !== BLOCK_WORDS) throw new RangeError(`a block of ${words.length} words: expected ${BLOCK_WORDS}`);
    const block = this.#blockCount;
    this.#blockCount += 1;
    this.#adopted.add(block);
    this.blocks[block] = words;
    return block;
  }

  #add(segment: Segment): Segment {
    this.#segments.push(Object.freeze(segment));
    return segment;
  }

  get segments(): readonly Segment[] {
    return this.#segments;
  }

  /** Word `place` of a segment of any kind. */
  read(segment: Segment, place: number): number {
    const { array } = segment;
    const at = segment.base + place;
    if (array === 'words') return this.words[at]!;
    return array === 'blocks' ? this.blocks[at >>> BLOCK_SHIFT]![at & BLOCK_MASK]! : array[at]!;
  }

  /** Writes a word of a fixed segment. `value` is taken modulo 2^32. */
  write(address: number, value: number): void {
    const { words } = this;
    const old = words[address]! | 0;
    if (old === (value | 0)) return;
    if (this.#logging === true) {
      const at = this.#logged;
      const log = at < this.#log.length ? this.#log : this.#growLog();
      log[at] = address | 0;
      log[at + 1] = old;
      this.#logged = (at + 2) | 0;
    }
    words[address] = value;
  }

  /** Writes two words that follow one another. */
  write2(address: number, first: number, second: number): void {
    const { words } = this;
    const next = (address + 1) | 0;
    if (this.#logging === true) {
      const at = this.#logged;
      const log = at + 4 <= this.#log.length ? this.#log : this.#growLog();
      log[at] = address | 0;
      log[at + 1] = words[address]!;
      log[at + 2] = next;
      log[at + 3] = words[next]!;
      this.#logged = (at + 4) | 0;
    }
    words[address] = first;
    words[next] = second;
  }

  /** Writes three words that follow one another. */
  write3(address: number, first: number, second: number, third: number): void {
    this.write(address, first);
    this.write2(address + 1, second, third);
  }

  /** Writes a word of a block. */
  writeBlock(block: number, word: number, value: number): void {
    const words = this.blocks[block]!;
    const old = words[word]! | 0;
    if (old === (value | 0)) return;
    if (this.#logging === true) {
      const at = this.#logged;
      const log = at < this.#log.length ? this.#log : this.#growLog();
      log[at] = IN_BLOCK | (block << BLOCK_SHIFT) | word;
      log[at + 1] = old;
      this.#logged = (at + 2) | 0;
    }
    if (words === zeros) this.#ownBlock(block)[word] = value;
    else words[word] = value;
  }

  /** Writes two words of a block that follow one another. */
  writeBlock2(block: number, word: number, first: number, second: number): void {
    const words = this.blocks[block]!;
    const next = (word + 1) | 0;
    if ((words[word]! | 0) === (first | 0) && (words[next]! | 0) === (second | 0)) return;
    if (this.#logging === true) {
      const at = this.#logged;
      const log = at + 4 <= this.#log.length ? this.#log : this.#growLog();
      const address = IN_BLOCK | (block << BLOCK_SHIFT) | word;
      log[at] = address;
      log[at + 1] = words[word]!;
      log[at + 2] = address + 1;
      log[at + 3] = words[next]!;
      this.#logged = (at + 4) | 0;
    }
    const own = words === zeros ? this.#ownBlock(block) : words;
    own[word] = first;
    own[next] = second;
  }

  /** Writes `count` words of a block that follow one another, from `word` on: those of `values` from `from` on. */
  writeBlockWords(block: number, word: number, values: Uint32Array, from: number, count: number): void {
    let words = this.blocks[block]!;
    const logging = this.#logging;
    const log = logging && this.#logged + count * 2 > this.#log.length ? this.#growLog(count * 2) : this.#log;
    const address = IN_BLOCK | (block << BLOCK_SHIFT);
    let at = this.#logged;
    for (let index = 0; index < count; index += 1) {
      const place = word + index;
      const old = words[place]!;
      const value = values[from + index]!;
      if (old === value) continue;
      if (logging) {
        log[at] = address | place;
        log[at + 1] = old;
        at += 2;
      }
      if (words === zeros) words = this.#ownBlock(block);
      words[place] = value;
    }
    this.#logged = at;
  }

  #ownBlock(block: number): Uint32Array {
    const words = new Uint32Array(BLOCK_WORDS);
    this.blocks[block] = words;
    return words;
  }

  #growLog(words = 0): Int32Array {
    const grown = new Int32Array(this.#log.length * 2 + words);
    grown.set(this.#log);
    this.#log = grown;
    return grown;
  }

  /**
   * Remembers this moment, in time that depends on what is in flight only. From now on old words are logged, until
   * every mark is released.
   */
  mark(): Mark {
    const mark = this.#nextMark as Mark;
    this.#nextMark += 1;
    this.#marks.push(mark);
    this.#positions.push(this.#logged);
    this.#copies.push(this.#transients.capture());
    this.#logging = true;
    return mark;
  }

  /** Undoes every write since the mark, which stays valid. Marks taken after it are gone. O(words written since). */
  rollback(mark: Mark): void {
    const index = this.#dropMarksAfter(mark);
    const position = this.#positions[index]!;
    this.jumps += 1;
    this.#undo(position);
    this.#logged = position;
    // Last: words of a block that is part of a transient array may be in the log, too.
    this.#transients.restore(this.#copies[index]!);
  }

  /** A function of its own, so that the engine makes good code of the loop whatever comes after it. */
  #undo(position: number): void {
    const log = this.#log;
    for (let at = this.#logged - 2; at >= position; at -= 2) {
      const address = log[at]!;
      if ((address & IN_BLOCK) === 0) this.words[address] = log[at + 1]!;
      else this.blocks[(address & ~IN_BLOCK) >>> BLOCK_SHIFT]![address & BLOCK_MASK] = log[at + 1]!;
    }
  }

  /** Gives up the mark and those after it: the writes since stay, and can only be undone through an earlier mark. */
  release(mark: Mark): void {
    const index = this.#dropMarksAfter(mark);
    this.#transients.release(this.#copies[index]!);
    this.#marks.pop();
    this.#positions.pop();
    this.#copies.pop();
    if (this.#marks.length > 0) return;
    this.#logging = false;
    this.#logged = 0;
  }

  /** @returns the mark's place among those outstanding. */
  #dropMarksAfter(mark: Mark): number {
    const index = this.#marks.indexOf(mark);
    if (index < 0) throw new TypeError('this mark was released, or rolled back past');
    this.#marks.length = index + 1;
    this.#positions.length = index + 1;
    this.#copies.length = index + 1;
    return index;
  }

  /** Words written since the mark, those of transient arrays aside (each entry of the undo log is one). */
  wordsSince(mark: Mark): number {
    return (this.#logged - this.#positions[this.#marks.indexOf(mark)]!) / 2;
  }

  /**
   * Calls `visit` with block, first and last word of each write to a block since the mark, in order, words that follow
   * one another at once; writes that owners of transient arrays make there may be missing.
   * @param from where to go on: what the last call returned
   */
  eachBlockWriteSince(mark: Mark, visit: (block: number, first: number, last: number) => void, from = 0): number {
    const log = this.#log;
    const end = this.#logged;
    const position = this.#positions[this.#marks.indexOf(mark)]!;
    for (let at = position + from; at < end; ) {
      const address = log[at]!;
      at += 2;
      if ((address & IN_BLOCK) === 0) continue;
      let last = address;
      for (; at < end && log[at] === last + 1 && (last & BLOCK_MASK) !== BLOCK_MASK; at += 2) last += 1;
      visit((address & ~IN_BLOCK) >>> BLOCK_SHIFT, address & BLOCK_MASK, last & BLOCK_MASK);
    }
    return end - position;
  }

  /** Names of the segments in which words were written since the mark; of transient ones, those that differ from it. */
  segmentsSince(mark: Mark): ReadonlySet<string> {
    const names = new Set<string>();
    for (let at = this.#positions[this.#marks.indexOf(mark)]!; at < this.#logged; at += 2) {
      const inBlocks = (this.#log[at]! & IN_BLOCK) !== 0;
      const address = this.#log[at]! & ~IN_BLOCK;
      const segment = this.#segments.find(
        (of) => of.array === (inBlocks ? 'blocks' : 'words') && address >= of.base && address < of.base + of.words,
      );
      if (segment) names.add(segment.name);
    }
    this.#transients.eachDifference(this.#copies[this.#marks.indexOf(mark)]!, (words, word) => {
      const segment = this.#segments.find((of) => of.array === words && word >= of.base && word < of.base + of.words);
      if (segment) names.add(segment.name);
    });
    return names;
  }

  /** Makes this heap's content equal to another's with the same segments. Marks are not copied. */
  copyFrom(other: Heap): void {
    if (other.#size !== this.#size || other.blocks.length !== this.blocks.length) {
      throw new TypeError('heaps of different machines');
    }
    this.jumps += 1;
    this.words.set(other.words.subarray(0, other.#size));
    for (const [block, words] of other.blocks.entries()) {
      if (!this.#adopted.has(block)) this.blocks[block] = words === zeros ? zeros : words.slice();
    }
    this.#transients.copyFrom(other.#transients);
    this.#marks = [];
    this.#positions = [];
    this.#copies = [];
    this.#logging = false;
    this.#logged = 0;
  }

  /** Bytes of the fixed segments, and of the blocks that were ever written. */
  get residentBytes(): number {
    let count = 0;
    for (const block of this.blocks) if (block !== zeros) count += 1;
    return this.#size * 4 + count * BLOCK_WORDS * 4;
  }

  /** Calls `visit` for every non-zero word that counts towards the state's identity, segment after segment. */
  counted(visit: CountedWord): void {
    for (const segment of this.#segments) countSegment(segment, this.#readerOf(segment), visit);
  }

  #readerOf(segment: Segment): SegmentReader {
    const read = (place: number) => this.read(segment, place);
    if (segment.array !== 'blocks') return { read, next: (place) => place };
    // Blocks that were never written are passed over.
    const next = (place: number) => {
      let at = place;
      while (at < segment.words && this.blocks[(segment.base + at) >>> BLOCK_SHIFT] === zeros) {
        at = (at | BLOCK_MASK) + 1;
      }
      return at;
    };
    return { read, next };
  }
}
