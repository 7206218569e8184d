// The machine's frames: who owns each, how many references hold it, what type it is put to, and what it contains.
//
// xen: struct page_info (arch/x86/include/asm/mm.h). Contents are kept for frames
// that were written: frame m's are block m of the heap.

import { HypervisorBug } from './errors.ts';
import { FRAME_MAX, type Mfn, PAGE_WORDS } from './frame-number.ts';
import { FreeSet } from './heap/free-set.ts';
import type { Heap } from './heap/heap.ts';
import type { Domid } from './ids.ts';

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
const TYPE_COUNT_MASK = (1 << 27) - 1;
const TYPE_SHIFT = 28;

/**
 * Told of writes to the frames that it watches: the hardware, of frames that it may read as tables.
 * `word` and `words` name the 32-bit words of the frame that are about to change, or have just changed, at once.
 */
export interface FrameWatcher {
  beforeWrite(frame: Mfn, word: number, words: number): void;
  afterWrite(frame: Mfn, word: number, words: number): void;
}

export class FrameTable {
  /** Number of frames of RAM. */
  readonly frames: number;
  readonly #heap: Heap;
  readonly #records: number;
  readonly #free: FreeSet;
  #watcher: FrameWatcher | null = null;

  constructor(
    heap: Heap,
    options: {
      readonly frames: number;
      /** How many private frames will be added. */
      readonly privateFrames: number;
    },
  ) {
    const { frames, privateFrames } = options;
    if (!Number.isInteger(frames) || frames < 1 || frames > FRAME_MAX)
      throw new RangeError(`frames ${frames}: expected at least 1`);
    this.frames = frames;
    this.#heap = heap;
    this.#records = heap.reserve('frames', (frames + privateFrames) * RECORD_WORDS).base;
    this.#free = new FreeSet(heap, 'frames in use', frames);
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
   * @returns -1 when memory is exhausted.
   */
  allocate(owner: Domid, options?: { readonly xenHeap?: boolean }): Mfn | -1 {
    const frame = this.#free.takeLowest();
    if (frame < 0) return -1;
    const record = this.#records + frame * RECORD_WORDS;
    this.#heap.write(record + OWNER, owner | ALLOCATED | (options?.xenHeap ? XEN_HEAP : 0));
    this.#heap.write(record + REFERENCES, 1);
    return frame as Mfn;
  }

  isAllocated(frame: number): boolean {
    return frame < this.frames && (this.#heap.words[this.#records + frame * RECORD_WORDS]! & ALLOCATED) !== 0;
  }

  isXenHeap(frame: Mfn): boolean {
    return (this.#heap.words[this.#records + frame * RECORD_WORDS]! & XEN_HEAP) !== 0;
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
   * none taken, when it has another type whose count is not 0. xen: get_page, get_page_type.
   */
  takeReferences(frame: Mfn, pages: number, types: number): boolean {
    const { words } = this.#heap;
    const record = this.#records + frame * RECORD_WORDS;
    const word = words[record + TYPE]!;
    if (types !== 0 && word >>> TYPE_SHIFT !== FrameType.writable && (word & TYPE_COUNT_MASK) !== 0) return false;
    const type = types === 0 ? word : (FrameType.writable << TYPE_SHIFT) | ((word & TYPE_COUNT_MASK) + types);
    this.#heap.write2(record + REFERENCES, words[record + REFERENCES]! + pages, type);
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

  /** Returns a frame without references to the free ones, cleared. */
  free(frame: Mfn): void {
    const record = this.#records + frame * RECORD_WORDS;
    if (this.#heap.words[record + REFERENCES] !== 0)
      throw new HypervisorBug('P1', `frame ${frame} freed while referenced`);
    // The watcher's word stays: hardware may still walk the frame through a stale entry.
    for (let word = 0; word < WATCH; word += 1) this.#heap.write(record + word, 0);
    this.clearContents(frame);
    this.#free.put(frame);
  }

  clearContents(frame: Mfn): void {
    const words = this.#heap.blocks[frame]!;
    for (let word = 0; word < PAGE_WORDS; word += 2) {
      if ((words[word]! | words[word + 1]!) !== 0) this.writeEntry(frame, word >>> 1, 0, 0);
    }
  }

  /** Who is told of writes to watched frames. */
  watchWith(watcher: FrameWatcher): void {
    this.#watcher = watcher;
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

  writeWord(frame: Mfn, word: number, value: number): void {
    const watched = this.watchWord(frame) !== 0;
    if (watched) this.#watcher?.beforeWrite(frame, word, 1);
    this.#heap.writeBlock(frame, word, value);
    if (watched) this.#watcher?.afterWrite(frame, word, 1);
  }

  /** Writes 64-bit entry `entry` (0..511) at once. */
  writeEntry(frame: Mfn, entry: number, low: number, high: number): void {
    const watched = this.watchWord(frame) !== 0;
    if (watched) this.#watcher?.beforeWrite(frame, entry * 2, 2);
    this.#heap.writeBlock2(frame, entry * 2, low, high);
    if (watched) this.#watcher?.afterWrite(frame, entry * 2, 2);
  }

  /** Writes 128-bit entry `entry` (0..255) at once, lowest word first. */
  writeWideEntry(frame: Mfn, entry: number, w0: number, w1: number, w2: number, w3: number): void {
    const watched = this.watchWord(frame) !== 0;
    if (watched) this.#watcher?.beforeWrite(frame, entry * 4, 4);
    this.#heap.writeBlock2(frame, entry * 4, w0, w1);
    this.#heap.writeBlock2(frame, entry * 4 + 2, w2, w3);
    if (watched) this.#watcher?.afterWrite(frame, entry * 4, 4);
  }
}
