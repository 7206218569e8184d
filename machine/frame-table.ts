// The machine's frames: who owns each, how many references hold it, what type it is put to, and what it contains.
//
// xen: struct page_info (arch/x86/include/asm/mm.h). Contents are kept for frames
// that were written: frame m's are block m of the heap.

import { HypervisorBug } from './errors.ts';
import { FRAME_MAX, type Mfn, PAGE_WORDS } from './frame-number.ts';
import { FreeSet } from './heap/free-set.ts';
import type { Heap } from './heap/heap.ts';
import { DOMID_XEN, type Domid } from './ids.ts';

/** What a frame is used for. While the type count is not 0, the type cannot change. xen: PGT_*. */
export const FrameType = {
  none: 0,
  l1PageTable: 1,
  l2PageTable: 2,
  l3PageTable: 3,
  l4PageTable: 4,
  segmentDescriptor: 5,
  shared: 6,
  writable: 7,
} as const;
export type FrameType = (typeof FrameType)[keyof typeof FrameType];

const RECORD_WORDS = 4;
const OWNER = 0;
const REFERENCES = 1;
const TYPE = 2;
/** Word of the watcher: while it is not 0, the watcher is told of every write to the frame. */
const WATCH = 3;

const ALLOCATED = 1 << 16;
/** A Xen-heap page: a page of the hypervisor's, perhaps shared with a domain, never in a domain's RAM. */
const XEN_HEAP = 1 << 17;
/** Pinned as a page table: one reference, of page and type, that only unpinning drops. xen: PGT_pinned. */
const PINNED = 1 << 18;
/** The reference of the allocation itself is there: the owner has not given the frame back. xen: PGC_allocated. */
const HELD = 1 << 19;
const TYPE_COUNT_MASK = (1 << 27) - 1;
const TYPE_SHIFT = 28;

const zeros = new Uint32Array(PAGE_WORDS);
/** For fills; nothing of it is kept. */
const filling = new Uint32Array(PAGE_WORDS);

/**
 * Told of writes to the frames that it watches: the hardware, of frames that it may read as tables.
 * `word` and `words` name the 32-bit words of the frame that are about to change, or have just changed, at once.
 */
export interface FrameWatcher {
  beforeWrite(frame: Mfn, word: number, words: number): void;
  afterWrite(frame: Mfn, word: number, words: number): void;
}

/**
 * Memory that hardware sees later than it is written. Told of what the hypervisor does to frames of its own, before it
 * is done: an entry is written (`now`: its new words), a page is cleared, what was written goes out of the cache.
 */
export interface LateMemory {
  written(frame: Mfn, word: number, words: number, now: readonly number[]): void;
  cleared(frame: Mfn): void;
  writeBack(frame: Mfn, word: number, words: number): void;
  forget(frame: Mfn): void;
}

/** How a frame is allocated. `at`: this frame, not the lowest free one. */
export interface AllocateOptions {
  readonly xenHeap?: boolean;
  readonly at?: number | undefined;
}

export class FrameTable {
  /** Number of frames of memory: RAM, then the hypervisor's own. */
  readonly frames: number;
  /** Number of frames of RAM alone. */
  readonly ram: number;
  readonly #heap: Heap;
  readonly #records: number;
  readonly #free: FreeSet;
  /** Frames behind the RAM, of which the hypervisor takes its own; null: it takes them from RAM. */
  readonly #own: FreeSet | null;
  /** Per domain: frames of RAM that it owns. xen: tot_pages. */
  readonly #owned: number;
  readonly #domains: number;
  readonly #keepsFreed: boolean;
  #watcher: FrameWatcher | null = null;
  #late: LateMemory | null = null;

  constructor(
    heap: Heap,
    options: {
      /** Frames of RAM. */
      readonly frames: number;
      /** Frames behind them for the hypervisor's own use; 0: it shares the RAM with domains. */
      readonly hypervisorFrames?: number;
      /** How many private frames will be added. */
      readonly privateFrames: number;
      /** Domains whose frames are counted: ids below this. */
      readonly domains?: number;
      /** Whether frames that a living domain gives back keep what they held. */
      readonly keepsFreed?: boolean;
    },
  ) {
    const { frames: ram, privateFrames, hypervisorFrames = 0, domains = 0 } = options;
    const frames = ram + hypervisorFrames;
    if (!Number.isInteger(frames) || ram < 1 || frames > FRAME_MAX)
      throw new RangeError(`frames ${ram}: expected at least 1`);
    this.frames = frames;
    this.ram = ram;
    this.#heap = heap;
    this.#records = heap.reserve('frames', (frames + privateFrames) * RECORD_WORDS).base;
    this.#free = new FreeSet(heap, 'frames in use', ram);
    this.#own = hypervisorFrames > 0 ? new FreeSet(heap, "hypervisor's frames in use", hypervisorFrames) : null;
    this.#domains = domains;
    this.#keepsFreed = options.keepsFreed ?? false;
    this.#owned = heap.reserve('frames owned', Math.max(1, domains)).base;
    heap.reserveBlocks('contents', frames);
  }

  /** Makes 1024 words that somebody keeps the content of the next private frame. */
  addPrivate(words: Uint32Array): Mfn {
    return this.#heap.adoptBlock(words) as Mfn;
  }

  /** Whether reads and writes of this frame reach memory: RAM or the hypervisor's own frames. */
  isMemory(frame: number): boolean {
    return frame >= 0 && frame < this.frames;
  }

  /**
   * Takes the lowest free frame for an owner, with one reference (the allocation's own) and type none.
   * @returns -1 when memory is exhausted, or the frame asked for is not free.
   */
  allocate(owner: Domid, options?: AllocateOptions): Mfn | -1 {
    const frame = this.#take(options?.xenHeap ?? false, options?.at);
    if (frame < 0) return -1;
    const record = this.#records + frame * RECORD_WORDS;
    this.#heap.write(record + OWNER, owner | ALLOCATED | HELD | (options?.xenHeap ? XEN_HEAP : 0));
    this.#heap.write(record + REFERENCES, 1);
    if (!options?.xenHeap) this.#countOwned(owner, 1);
    // Its own pages the hypervisor clears when they are given back.
    else if (this.#keepsFreed && frame < this.ram) this.clearContents(frame as Mfn);
    if (owner === DOMID_XEN) this.#late?.cleared(frame as Mfn);
    return frame as Mfn;
  }

  #take(xenHeap: boolean, at: number | undefined): number {
    if (at === undefined) {
      if (!xenHeap || !this.#own) return this.#free.takeLowest();
      const own = this.#own.takeLowest();
      return own < 0 ? -1 : this.ram + own;
    }
    if (!Number.isInteger(at) || at < 0 || at >= this.ram || this.#free.has(at)) return -1;
    this.#free.take(at);
    return at;
  }

  /**
   * Takes 2^order frames in one aligned block: the lowest free one, or the one asked for.
   * @returns the first frame; -1 when there is no such block.
   */
  allocateBlock(owner: Domid, order: number, at?: number): Mfn | -1 {
    if (order === 0) return this.allocate(owner, { at });
    const count = 2 ** order;
    const isFree = (first: number) => {
      if (first % count !== 0 || first + count > this.ram) return false;
      for (let frame = first; frame < first + count; frame += 1) if (this.#free.has(frame)) return false;
      return true;
    };
    let first = at ?? 0;
    if (at === undefined) while (first < this.ram && !isFree(first)) first += count;
    if (!isFree(first)) return -1;
    for (let frame = first; frame < first + count; frame += 1) this.allocate(owner, { at: frame });
    return first as Mfn;
  }

  #countOwned(owner: number, by: 1 | -1): void {
    if (owner >= this.#domains) return;
    this.#heap.write(this.#owned + owner, this.#heap.words[this.#owned + owner]! + by);
  }

  /** Frames of RAM that a domain owns. xen: tot_pages. */
  owned(domain: Domid): number {
    return domain < this.#domains ? this.#heap.words[this.#owned + domain]! : 0;
  }

  /** A frame of RAM goes to another owner. xen: steal_page, assign_pages. */
  changeOwner(frame: Mfn, owner: Domid): void {
    const address = this.#records + frame * RECORD_WORDS + OWNER;
    const word = this.#heap.words[address]!;
    this.#countOwned(word & 0xffff, -1);
    this.#countOwned(owner, 1);
    this.#heap.write(address, (word & ~0xffff) | owner);
  }

  #flag(frame: Mfn, flag: number): boolean {
    return (this.#heap.words[this.#records + frame * RECORD_WORDS]! & flag) !== 0;
  }

  #setFlag(frame: Mfn, flag: number, on: boolean): void {
    const address = this.#records + frame * RECORD_WORDS;
    const word = this.#heap.words[address]!;
    this.#heap.write(address, on ? word | flag : word & ~flag);
  }

  /** Whether the owner has not given the frame back. xen: PGC_allocated. */
  isHeld(frame: Mfn): boolean {
    return this.#flag(frame, HELD);
  }

  /** The owner gives the frame back; the reference that stands for this is the caller's to drop. */
  unhold(frame: Mfn): void {
    this.#setFlag(frame, HELD, false);
  }

  /** Whether anybody refers to the frame beside the owner that has not given it back. */
  isReferred(frame: Mfn): boolean {
    return this.references(frame) > (this.isHeld(frame) ? 1 : 0);
  }

  isPinned(frame: Mfn): boolean {
    return this.#flag(frame, PINNED);
  }

  setPinned(frame: Mfn, pinned: boolean): void {
    this.#setFlag(frame, PINNED, pinned);
  }

  isAllocated(frame: number): boolean {
    return frame < this.frames && (this.#heap.words[this.#records + frame * RECORD_WORDS]! & ALLOCATED) !== 0;
  }

  isXenHeap(frame: Mfn): boolean {
    return this.#flag(frame, XEN_HEAP);
  }

  /** The next frame at or after `from` that an owner has; -1 when there is none below `end`. */
  nextOwned(owner: Domid, from: number, end: number): Mfn | -1 {
    const { words } = this.#heap;
    const wanted = owner | ALLOCATED;
    for (let frame = from, at = this.#records + from * RECORD_WORDS; frame < end; frame += 1, at += RECORD_WORDS) {
      if ((words[at]! & (ALLOCATED | 0xffff)) === wanted) return frame as Mfn;
    }
    return -1;
  }

  /** The owner of an allocated frame. */
  owner(frame: Mfn): Domid {
    return (this.#heap.words[this.#records + frame * RECORD_WORDS]! & 0xffff) as Domid;
  }

  references(frame: Mfn): number {
    return this.#heap.words[this.#records + frame * RECORD_WORDS + REFERENCES]!;
  }

  type(frame: Mfn): FrameType {
    return (this.#heap.words[this.#records + frame * RECORD_WORDS + TYPE]! >>> TYPE_SHIFT) as FrameType;
  }

  typeCount(frame: Mfn): number {
    return this.#heap.words[this.#records + frame * RECORD_WORDS + TYPE]! & TYPE_COUNT_MASK;
  }

  /**
   * Takes a reference to the frame's type. False when it has another type whose count is not 0.
   * A change of type from or to `writable` obliges the caller to change the owner's IOMMU entry (xen: _get_page_type).
   */
  getType(frame: Mfn, type: FrameType): boolean {
    const address = this.#records + frame * RECORD_WORDS + TYPE;
    const word = this.#heap.words[address]!;
    const count = word & TYPE_COUNT_MASK;
    if (word >>> TYPE_SHIFT !== type && count !== 0) return false;
    this.#heap.write(address, ((type << TYPE_SHIFT) | (count + 1)) >>> 0);
    return true;
  }

  putType(frame: Mfn): void {
    const address = this.#records + frame * RECORD_WORDS + TYPE;
    const word = this.#heap.words[address]!;
    if ((word & TYPE_COUNT_MASK) === 0)
      throw new HypervisorBug('P3', `frame ${frame}: type reference dropped below zero`);
    this.#heap.write(address, word - 1);
  }

  /**
   * Takes `pages` references to a frame that is known to be allocated, and `types` to its writable type. False, and
   * none taken, when it has another type, or no reference is left of it. xen: get_page, get_page_type.
   */
  takeReferences(frame: Mfn, pages: number, types: number): boolean {
    const { words } = this.#heap;
    const record = this.#records + frame * RECORD_WORDS;
    const word = words[record + TYPE]!;
    const count = words[record + REFERENCES]!;
    if (count === 0 || (types !== 0 && word >>> TYPE_SHIFT !== FrameType.writable)) return false;
    this.#heap.write2(record + REFERENCES, count + pages, word + types);
    return true;
  }

  /**
   * Drops references. True when the frame has none left: the caller removes what maps it, then calls {@link free}.
   * xen: put_page, put_page_type.
   */
  dropReferences(frame: Mfn, pages: number, types: number): boolean {
    const { words } = this.#heap;
    const record = this.#records + frame * RECORD_WORDS;
    const count = words[record + REFERENCES]!;
    const type = words[record + TYPE]!;
    if (count < pages) throw new HypervisorBug('P1', `frame ${frame}: reference dropped below zero`);
    if ((type & TYPE_COUNT_MASK) < types)
      throw new HypervisorBug('P3', `frame ${frame}: type reference dropped below zero`);
    this.#heap.write2(record + REFERENCES, count - pages, type - types);
    return pages > 0 && count === pages;
  }

  /** The frame has this type, and nothing that needs it. xen: type_info = 0, or what a last type reference leaves. */
  resetType(frame: Mfn, type: FrameType): void {
    this.#heap.write(this.#records + frame * RECORD_WORDS + TYPE, (type << TYPE_SHIFT) >>> 0);
  }

  /**
   * Returns a frame without references to the free ones, cleared; or with what it held, if it was a living domain's and
   * such frames keep that. xen: free_domheap_pages.
   */
  free(frame: Mfn, isOwnerLiving = false): void {
    const record = this.#records + frame * RECORD_WORDS;
    if (this.#heap.words[record + REFERENCES] !== 0)
      throw new HypervisorBug('P1', `frame ${frame} freed while referenced`);
    const word = this.#heap.words[record + OWNER]!;
    if ((word & 0xffff) === DOMID_XEN) this.#late?.forget(frame);
    if ((word & XEN_HEAP) === 0) this.#countOwned(word & 0xffff, -1);
    // The watcher's word stays: hardware may still walk the frame through a stale entry.
    for (let word = 0; word < WATCH; word += 1) this.#heap.write(record + word, 0);
    if (!this.#keepsFreed || !isOwnerLiving || (word & XEN_HEAP) !== 0) this.clearContents(frame);
    if (frame < this.ram) this.#free.put(frame);
    else this.#own!.put(frame - this.ram);
  }

  clearContents(frame: Mfn): void {
    if (this.#heap.isBlank(frame)) return;
    if (this.watchWord(frame) === 0) return this.#heap.writeBlockWords(frame, 0, zeros, 0, PAGE_WORDS);
    const words = this.#heap.blocks[frame]!;
    for (let word = 0; word < PAGE_WORDS; word += 2) {
      if ((words[word]! | words[word + 1]!) !== 0) this.writeEntry(frame, word >>> 1, 0, 0);
    }
  }

  /** Who is told of writes to watched frames. */
  watchWith(watcher: FrameWatcher): void {
    this.#watcher = watcher;
  }

  /** Who is told of writes to the hypervisor's frames, as hardware sees them late. */
  delayWith(late: LateMemory): void {
    this.#late = late;
  }

  /** Writes the cache lines of a frame's words back to memory, for hardware that does not look into the cache. */
  writeBack(frame: Mfn, word: number, words: number): void {
    if (this.#late !== null) this.#late.writeBack(frame, word, words);
  }

  /** The watcher's own word about a frame; 0 when the frame is not watched. */
  watchWord(frame: number): number {
    return this.#heap.words[this.#records + frame * RECORD_WORDS + WATCH]!;
  }

  setWatchWord(frame: Mfn, value: number): void {
    this.#heap.write(this.#records + frame * RECORD_WORDS + WATCH, value);
  }

  /** Word `word` (0..1023) of a frame's content. */
  readWord(frame: number, word: number): number {
    return this.#heap.blocks[frame]![word]!;
  }

  /** Fills `into` (1024 words) with a frame's content. */
  readFrame(frame: number, into: Uint32Array): void {
    into.set(this.#heap.blocks[frame]!);
  }

  /** Bytes of a frame's content, from an offset on. */
  readBytes(frame: number, offset: number, length: number): Uint8Array {
    const words = this.#heap.blocks[frame]!;
    const bytes = new Uint8Array(length);
    for (let at = 0, byte = offset; at < length; at += 1, byte += 1)
      bytes[at] = words[byte >>> 2]! >>> ((byte & 3) * 8);
    return bytes;
  }

  /** Writes one byte over and over within a frame. */
  fillBytes(frame: Mfn, offset: number, length: number, byte: number): void {
    if ((offset | length) & 3) return this.writeBytes(frame, offset, new Uint8Array(length).fill(byte));
    const words = length >>> 2;
    this.writeWords(frame, offset >>> 2, filling.fill((byte * 0x01010101) >>> 0, 0, words), 0, words);
  }

  /** Writes bytes within a frame. */
  writeBytes(frame: Mfn, offset: number, bytes: Uint8Array): void {
    for (let word = offset >>> 2; word << 2 < offset + bytes.length; word += 1) {
      const first = word * 4 - offset;
      if (first >= 0 && first + 4 <= bytes.length) {
        const high = (bytes[first + 3]! << 24) | (bytes[first + 2]! << 16);
        this.writeWord(frame, word, (high | (bytes[first + 1]! << 8) | bytes[first]!) >>> 0);
        continue;
      }
      let value = this.readWord(frame, word);
      for (let byte = 0; byte < 4; byte += 1) {
        const at = word * 4 + byte - offset;
        if (at < 0 || at >= bytes.length) continue;
        value = (value & ~(0xff << (byte * 8))) | (bytes[at]! << (byte * 8));
      }
      this.writeWord(frame, word, value >>> 0);
    }
  }

  /** Writes `count` words from `word` on: those of `values` from `from` on. */
  writeWords(frame: Mfn, word: number, values: Uint32Array, from: number, count: number): void {
    if (this.watchWord(frame) === 0) return this.#heap.writeBlockWords(frame, word, values, from, count);
    for (let index = 0; index < count; index += 1) this.writeWord(frame, word + index, values[from + index]!);
  }

  writeWord(frame: Mfn, word: number, value: number): void {
    const watched = this.watchWord(frame) !== 0;
    if (watched) this.#watcher?.beforeWrite(frame, word, 1);
    this.#heap.writeBlock(frame, word, value);
    if (watched) this.#watcher?.afterWrite(frame, word, 1);
  }

  /** Writes 64-bit entry `entry` (0..511) at once. */
  writeEntry(frame: Mfn, entry: number, low: number, high: number): void {
    if (this.#late !== null && this.owner(frame) === DOMID_XEN) this.#late.written(frame, entry * 2, 2, [low, high]);
    const watched = this.watchWord(frame) !== 0;
    if (watched) this.#watcher?.beforeWrite(frame, entry * 2, 2);
    this.#heap.writeBlock2(frame, entry * 2, low, high);
    if (watched) this.#watcher?.afterWrite(frame, entry * 2, 2);
  }

  /** Writes 128-bit entry `entry` (0..255) at once, lowest word first. */
  writeWideEntry(frame: Mfn, entry: number, w0: number, w1: number, w2: number, w3: number): void {
    if (this.#late !== null && this.owner(frame) === DOMID_XEN)
      this.#late.written(frame, entry * 4, 4, [w0, w1, w2, w3]);
    const watched = this.watchWord(frame) !== 0;
    if (watched) this.#watcher?.beforeWrite(frame, entry * 4, 4);
    this.#heap.writeBlock2(frame, entry * 4, w0, w1);
    this.#heap.writeBlock2(frame, entry * 4 + 2, w2, w3);
    if (watched) this.#watcher?.afterWrite(frame, entry * 4, 4);
  }
}
