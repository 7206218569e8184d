// What a domain and the hypervisor share: the frames of a grant table with its entries, under version 2 the status
// frames too, and the record of how many of each a domain has and may have.

import { Errno } from '../machine/errno.ts';
import type { Mfn } from '../machine/frame-number.ts';
import { type FrameTable, FrameType } from '../machine/frame-table.ts';
import type { Heap } from '../machine/heap/heap.ts';
import type { Domid } from '../machine/ids.ts';
import { ENTRY_WORDS_SHIFT, entriesShift, GTF, STATUS_PER_FRAME_SHIFT, statusFramesOf } from './layouts.ts';

const { reading: READING, writing: WRITING } = GTF;

// Words of a domain's record.
const VERSION = 0;
const FRAMES = 1;
const STATUS_FRAMES = 2;
const FRAMES_MAX = 3;
const VERSION_MAX = 4;
/** Entries with a sub-page or transitive use in progress. xen: nr_v2_ops. */
const V2_USES = 5;
const RECORD_WORDS = 6;

/** What one domain may have. */
export interface GrantLimits {
  /** Frames of the shared table, and of maptrack. */
  readonly grantFrames: number;
  readonly maptrackFrames: number;
}

export class SharedTables {
  protected readonly heap: Heap;
  protected readonly memory: FrameTable;
  // By domain: where its record lies, and the lists of its shared and of its status frames.
  readonly #records: readonly number[];
  readonly #frameLists: readonly number[];
  readonly #statusLists: readonly number[];
  readonly #limits: GrantLimits;

  constructor(heap: Heap, memory: FrameTable, domains: number, limits: GrantLimits) {
    this.heap = heap;
    this.memory = memory;
    this.#limits = limits;
    const records: number[] = [];
    const frameLists: number[] = [];
    const statusLists: number[] = [];
    for (let domain = 0; domain < domains; domain += 1) {
      records.push(heap.reserve(`domain ${domain} grant table`, RECORD_WORDS).base);
      frameLists.push(heap.reserve(`domain ${domain} grant frames`, limits.grantFrames).base);
      statusLists.push(heap.reserve(`domain ${domain} status frames`, statusFramesOf(limits.grantFrames)).base);
    }
    this.#records = records;
    this.#frameLists = frameLists;
    this.#statusLists = statusLists;
  }

  /**
   * Gives a domain its table: version 1, one shared frame at least. xen: grant_table_init.
   * @returns 0; -EINVAL for limits beyond the machine's; -ENOMEM.
   */
  create(
    domain: Domid,
    limits: GrantLimits & { readonly version: 1 | 2; readonly allocate?: readonly number[] },
  ): number {
    const record = this.#records[domain]!;
    if (limits.grantFrames < 1 || limits.grantFrames > this.#limits.grantFrames) return Errno.EINVAL;
    if (limits.maptrackFrames > this.#limits.maptrackFrames) return Errno.EINVAL;
    this.heap.write(record + VERSION, 1);
    this.heap.write(record + FRAMES_MAX, limits.grantFrames);
    this.heap.write(record + VERSION_MAX, limits.version);
    return this.grow(domain, Math.max(1, limits.allocate?.length ?? 1), limits.allocate);
  }

  /** The domain's table is no more; its frames are the caller's to free. */
  destroy(domain: Domid): void {
    this.clearWords(this.#frameLists[domain]!, this.frameCount(domain));
    this.clearWords(this.#statusLists[domain]!, this.statusFrameCount(domain));
    this.clearWords(this.#records[domain]!, RECORD_WORDS);
  }

  protected clearWords(first: number, words: number): void {
    for (let at = first; at < first + words; at += 1) if (this.heap.words[at] !== 0) this.heap.write(at, 0);
  }

  #record(domain: Domid, word: number): number {
    return this.heap.words[this.#records[domain]! + word]!;
  }

  /** Version in force: 1 or 2. */
  version(domain: Domid): number {
    return this.heap.words[this.#records[domain]! + VERSION]!;
  }

  versionMax(domain: Domid): number {
    return this.#record(domain, VERSION_MAX);
  }

  /** Shared frames that a domain has, and may have. */
  frameCount(domain: Domid): number {
    return this.#record(domain, FRAMES);
  }

  framesMax(domain: Domid): number {
    return this.#record(domain, FRAMES_MAX);
  }

  statusFrameCount(domain: Domid): number {
    return this.#record(domain, STATUS_FRAMES);
  }

  frame(domain: Domid, index: number): Mfn {
    return this.heap.words[this.#frameLists[domain]! + index]! as Mfn;
  }

  statusFrame(domain: Domid, index: number): Mfn {
    return this.heap.words[this.#statusLists[domain]! + index]! as Mfn;
  }

  /** Whether a sub-page or transitive use is in progress. */
  hasV2Uses(domain: Domid): boolean {
    return this.#record(domain, V2_USES) !== 0;
  }

  /**
   * Lets a domain have `frames` shared frames at least, and the status frames that go with them.
   * @param allocate machine frames to take, in order; the lowest free ones after them. Likewise for status frames.
   * @returns -ENOMEM when memory is exhausted, -EINVAL beyond the limit.
   */
  grow(
    domain: Domid,
    frames: number,
    allocate: readonly number[] = [],
    allocateStatus: readonly number[] = [],
  ): number {
    if (frames > this.framesMax(domain)) return Errno.EINVAL;
    return this.#allOrNothing(() => {
      const grown = this.#growShared(domain, frames, allocate);
      return grown !== 0 || this.version(domain) === 1 ? grown : this.#growStatus(domain, allocateStatus);
    });
  }

  /** The status frames that a table needs under version 2. -ENOMEM. */
  addStatusFrames(domain: Domid, allocate: readonly number[]): number {
    return this.#allOrNothing(() => this.#growStatus(domain, allocate));
  }

  /**
   * Without memory nothing is left of what was taken before it ran out, neither frames nor a change of entries (xen:
   * gnttab_grow_table, gnttab_populate_status_frames, which gnttab_set_version calls before it clears anything; seen of
   * 4.17.7 with its memory exhausted).
   */
  #allOrNothing(act: () => number): number {
    const mark = this.heap.mark();
    const errno = act();
    if (errno !== 0) this.heap.rollback(mark);
    this.heap.release(mark);
    return errno;
  }

  #growShared(domain: Domid, frames: number, allocate: readonly number[]): number {
    const record = this.#records[domain]!;
    const list = this.#frameLists[domain]!;
    const has = this.frameCount(domain);
    for (let index = has; index < frames; index += 1) {
      const frame = this.#allocateShared(domain, allocate[index - has]);
      if (frame < 0) return Errno.ENOMEM;
      this.heap.write(list + index, frame);
      this.heap.write(record + FRAMES, index + 1);
    }
    return 0;
  }

  /** A page of the hypervisor's that a guest may write. xen: share_xen_page_with_guest. */
  #allocateShared(domain: Domid, at: number | undefined): Mfn | -1 {
    const frame = this.memory.allocate(domain, { xenHeap: true, at });
    if (frame >= 0) this.memory.getType(frame as Mfn, FrameType.writable);
    return frame;
  }

  #growStatus(domain: Domid, allocate: readonly number[]): number {
    const record = this.#records[domain]!;
    const statuses = this.#statusLists[domain]!;
    const has = this.statusFrameCount(domain);
    for (let index = has; index < statusFramesOf(this.frameCount(domain)); index += 1) {
      const frame = this.#allocateShared(domain, allocate[index - has]);
      if (frame < 0) return Errno.ENOMEM;
      this.heap.write(statuses + index, frame);
      this.heap.write(record + STATUS_FRAMES, index + 1);
    }
    return 0;
  }

  /** Puts a version in force. Status frames and entries are the caller's. */
  setVersion(domain: Domid, version: 1 | 2): void {
    this.heap.write(this.#records[domain]! + VERSION, version);
  }

  /** The status frames go: their numbers, for the caller to free. */
  takeStatusFrames(domain: Domid): Mfn[] {
    const record = this.#records[domain]!;
    const statuses = this.#statusLists[domain]!;
    const frames = Array.from({ length: this.statusFrameCount(domain) }, (_, index) => this.statusFrame(domain, index));
    for (const index of frames.keys()) this.heap.write(statuses + index, 0);
    this.heap.write(record + STATUS_FRAMES, 0);
    return frames;
  }

  /** A sub-page or transitive use begins (1), or ends (-1). */
  protected countV2Use(domain: Domid, by: 1 | -1): void {
    const at = this.#records[domain]! + V2_USES;
    this.heap.write(at, this.heap.words[at]! + by);
  }

  /** Refs that a domain's table has now. */
  entries(domain: Domid): number {
    const { words } = this.heap;
    const record = this.#records[domain]!;
    return words[record + FRAMES]! << entriesShift(words[record + VERSION]!);
  }

  /** The shared frame that holds a ref, in a layout. */
  sharedFrame(domain: Domid, ref: number, layout = this.version(domain)): Mfn {
    return this.heap.words[this.#frameLists[domain]! + (ref >>> entriesShift(layout))]! as Mfn;
  }

  /** Place of a ref's entry in its frame, in words. */
  sharedWord(ref: number, layout: number): number {
    const perFrame = entriesShift(layout);
    return (ref & ((1 << perFrame) - 1)) << (ENTRY_WORDS_SHIFT - perFrame);
  }

  /** A word of a shared entry. Word 0: flags, and the grantee above them. */
  shared(domain: Domid, ref: number, word: number): number {
    const { words, blocks } = this.heap;
    const perFrame = entriesShift(words[this.#records[domain]! + VERSION]!);
    const frame = words[this.#frameLists[domain]! + (ref >>> perFrame)]!;
    return blocks[frame]![((ref & ((1 << perFrame) - 1)) << (ENTRY_WORDS_SHIFT - perFrame)) + word]!;
  }

  sharedFlags(domain: Domid, ref: number): number {
    return this.shared(domain, ref, 0);
  }

  /** Low and high word of the frame that an entry names. Version 1 has 32 bits of it. */
  sharedGfn(domain: Domid, ref: number): number {
    return this.shared(domain, ref, this.version(domain) === 2 ? 2 : 1);
  }

  sharedGfnHigh(domain: Domid, ref: number): number {
    return this.version(domain) === 2 ? this.shared(domain, ref, 3) : 0;
  }

  writeShared(domain: Domid, ref: number, word: number, value: number): void {
    const version = this.version(domain);
    this.memory.writeWord(this.sharedFrame(domain, ref, version), this.sharedWord(ref, version) + word, value);
  }

  /** Usage bits of a ref: in the flags (version 1), or in its status word (version 2). */
  usage(domain: Domid, ref: number): number {
    const word = this.version(domain) === 1 ? this.sharedFlags(domain, ref) : this.statusWord(domain, ref);
    return word & (READING | WRITING);
  }

  /** The status word of a ref; version 2 only. */
  statusWord(domain: Domid, ref: number): number {
    const at = ref & ((1 << STATUS_PER_FRAME_SHIFT) - 1);
    const frame = this.statusFrame(domain, ref >>> STATUS_PER_FRAME_SHIFT);
    return (this.heap.blocks[frame]![at >>> 1]! >>> ((at & 1) << 4)) & 0xffff;
  }

  setStatusWord(domain: Domid, ref: number, value: number): void {
    const at = ref & ((1 << STATUS_PER_FRAME_SHIFT) - 1);
    const shift = (at & 1) << 4;
    const frame = this.statusFrame(domain, ref >>> STATUS_PER_FRAME_SHIFT);
    const word = this.memory.readWord(frame, at >>> 1);
    this.memory.writeWord(frame, at >>> 1, ((word & ~(0xffff << shift)) | (value << shift)) >>> 0);
  }

  markUsage(domain: Domid, ref: number, bits: number): void {
    if (this.version(domain) === 2) this.setStatusWord(domain, ref, this.statusWord(domain, ref) | bits);
    else this.writeShared(domain, ref, 0, (this.sharedFlags(domain, ref) | bits) >>> 0);
  }

  /** The frame of a version 1 table that holds a ref. */
  protected frameOfV1(domain: Domid, ref: number): Mfn {
    return this.heap.words[this.#frameLists[domain]! + (ref >>> 9)]! as Mfn;
  }
}
