// The grant tables of all domains: shared entries in frames that the guest writes, status words, active entries with
// their pins, maptrack, and per mapper the number of live mappings of each frame.

import { Errno } from '../machine/errno.ts';
import { HypervisorBug } from '../machine/errors.ts';
import type { Mfn } from '../machine/frame-number.ts';
import { type FrameTable, FrameType } from '../machine/frame-table.ts';
import type { Heap } from '../machine/heap/heap.ts';
import type { Domid } from '../machine/ids.ts';
import {
  ENTRY_WORDS_SHIFT,
  entriesShift,
  GTF,
  hasWritePins,
  pinsUnderflow,
  STATUS_PER_FRAME_SHIFT,
  statusFramesOf,
} from './layouts.ts';
import { Maptrack, type MaptrackOrder } from './maptrack.ts';

const { reading: READING, writing: WRITING, readonly: READONLY } = GTF;
const { permit_access: PERMIT_ACCESS, transitive: TRANSITIVE, type_mask: TYPE } = GTF;
const KIND = TYPE | GTF.sub_page;

// Words of a domain's record.
const VERSION = 0;
const FRAMES = 1;
const STATUS_FRAMES = 2;
const FRAMES_MAX = 3;
const VERSION_MAX = 4;
/** Entries with a sub-page or transitive use in progress. xen: nr_v2_ops. */
const V2_USES = 5;
const RECORD_WORDS = 6;

// Words of an active entry. Pins 0: nothing else counts.
const PINS = 0;
const MAPPER = 1;
const FRAME = 2;
/** Bytes of the frame that may be copied: bit 31 set, length (30:15), offset (14:0). 0: the whole frame. */
const RANGE = 3;
/** Whose the frame is, if it came by way of a transitive entry: bit 31 set, the next domain. 0: the granter's own. */
const SOURCE = 4;
const SOURCE_REF = 5;
const ACTIVE_SHIFT = 3;
const GIVEN = 0x80000000;

const READERS = 0;
const WRITERS = 1;

/** What one domain may have. */
export interface GrantLimits {
  /** Frames of the shared table, and of maptrack. */
  readonly grantFrames: number;
  readonly maptrackFrames: number;
}

/** Bytes of a frame: first, and how many. */
export interface ByteRange {
  readonly offset: number;
  readonly length: number;
}

interface DomainTable {
  readonly maptrack: Maptrack;
  readonly record: number;
  /** Addresses of the lists of shared frames and of status frames. */
  readonly frames: number;
  readonly statuses: number;
  readonly active: number;
}

export class GrantTables {
  readonly #heap: Heap;
  readonly #frames: FrameTable;
  readonly #tables: readonly DomainTable[];
  readonly #limits: GrantLimits;
  /** Per (mapper, frame): read-only and read-write handles on it. xen: maptrack_tree. */
  readonly #counts: number;

  constructor(
    heap: Heap,
    frames: FrameTable,
    options: {
      readonly domains: number;
      readonly limits: GrantLimits;
      readonly order: MaptrackOrder;
      readonly vcpus: number;
    },
  ) {
    const { limits, domains, order, vcpus } = options;
    this.#heap = heap;
    this.#frames = frames;
    this.#limits = limits;
    this.#tables = Array.from({ length: domains }, (_, domain) => ({
      maptrack: new Maptrack(heap, { domain: domain as Domid, frames: limits.maptrackFrames, order, vcpus }),
      record: heap.reserve(`domain ${domain} grant table`, RECORD_WORDS).base,
      frames: heap.reserve(`domain ${domain} grant frames`, limits.grantFrames).base,
      statuses: heap.reserve(`domain ${domain} status frames`, statusFramesOf(limits.grantFrames)).base,
      active: heap.reserve(`domain ${domain} active grants`, limits.grantFrames << (entriesShift(1) + ACTIVE_SHIFT))
        .base,
    }));
    this.#counts = heap.reserve('frames mapped by grant', domains * frames.frames * 2).base;
  }

  /**
   * Gives a domain its table: version 1, one shared frame at least. xen: grant_table_init.
   * @returns 0; -EINVAL for limits beyond the machine's; -ENOMEM.
   */
  create(
    domain: Domid,
    limits: GrantLimits & { readonly version: 1 | 2; readonly allocate?: readonly number[] },
  ): number {
    const { record, maptrack } = this.#tables[domain]!;
    if (limits.grantFrames < 1 || limits.grantFrames > this.#limits.grantFrames) return Errno.EINVAL;
    if (limits.maptrackFrames > this.#limits.maptrackFrames) return Errno.EINVAL;
    this.#heap.write(record + VERSION, 1);
    this.#heap.write(record + FRAMES_MAX, limits.grantFrames);
    this.#heap.write(record + VERSION_MAX, limits.version);
    maptrack.allow(limits.maptrackFrames);
    return this.grow(domain, Math.max(1, limits.allocate?.length ?? 1), limits.allocate);
  }

  // A mapper whose PTE was overwritten may still have a handle: it is of nobody from now on, whoever gets the id next.
  /** The domain's table is no more; its frames are the caller's to free. */
  destroy(domain: Domid): void {
    const { record, frames, statuses, maptrack, active } = this.#tables[domain]!;
    for (const other of this.#tables) other.maptrack.orphan(domain);
    this.#clear(active, this.framesMax(domain) << (entriesShift(1) + ACTIVE_SHIFT));
    this.#clear(this.#count(domain, 0 as Mfn), this.#frames.frames * 2);
    this.#clear(frames, this.frameCount(domain));
    this.#clear(statuses, this.statusFrameCount(domain));
    this.#clear(record, RECORD_WORDS);
    maptrack.clear();
  }

  #clear(first: number, words: number): void {
    for (let at = first; at < first + words; at += 1) if (this.#heap.words[at] !== 0) this.#heap.write(at, 0);
  }

  #record(domain: Domid, word: number): number {
    return this.#heap.words[this.#tables[domain]!.record + word]!;
  }

  /** Version in force: 1 or 2. */
  version(domain: Domid): number {
    return this.#record(domain, VERSION);
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
    return this.#heap.words[this.#tables[domain]!.frames + index]! as Mfn;
  }

  statusFrame(domain: Domid, index: number): Mfn {
    return this.#heap.words[this.#tables[domain]!.statuses + index]! as Mfn;
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

  #allOrNothing(act: () => number): number {
    const mark = this.#heap.mark();
    const errno = act();
    if (errno !== 0) this.#heap.rollback(mark);
    this.#heap.release(mark);
    return errno;
  }

  #growShared(domain: Domid, frames: number, allocate: readonly number[]): number {
    const { record, frames: list } = this.#tables[domain]!;
    const has = this.frameCount(domain);
    for (let index = has; index < frames; index += 1) {
      const frame = this.#allocateShared(domain, allocate[index - has]);
      if (frame < 0) return Errno.ENOMEM;
      this.#heap.write(list + index, frame);
      this.#heap.write(record + FRAMES, index + 1);
    }
    return 0;
  }

  /** A page of the hypervisor's that a guest may write. xen: share_xen_page_with_guest. */
  #allocateShared(domain: Domid, at: number | undefined): Mfn | -1 {
    const frame = this.#frames.allocate(domain, { xenHeap: true, at });
    if (frame >= 0) this.#frames.getType(frame as Mfn, FrameType.writable);
    return frame;
  }

  #growStatus(domain: Domid, allocate: readonly number[]): number {
    const { record, statuses } = this.#tables[domain]!;
    const has = this.statusFrameCount(domain);
    for (let index = has; index < statusFramesOf(this.frameCount(domain)); index += 1) {
      const frame = this.#allocateShared(domain, allocate[index - has]);
      if (frame < 0) return Errno.ENOMEM;
      this.#heap.write(statuses + index, frame);
      this.#heap.write(record + STATUS_FRAMES, index + 1);
    }
    return 0;
  }

  /** Puts a version in force. Status frames and entries are the caller's. */
  setVersion(domain: Domid, version: 1 | 2): void {
    this.#heap.write(this.#tables[domain]!.record + VERSION, version);
  }

  /** The status frames go: their numbers, for the caller to free. */
  takeStatusFrames(domain: Domid): Mfn[] {
    const { record, statuses } = this.#tables[domain]!;
    const frames = Array.from({ length: this.statusFrameCount(domain) }, (_, index) => this.statusFrame(domain, index));
    for (const index of frames.keys()) this.#heap.write(statuses + index, 0);
    this.#heap.write(record + STATUS_FRAMES, 0);
    return frames;
  }

  maptrack(domain: Domid): Maptrack {
    return this.#tables[domain]!.maptrack;
  }

  /** Refs that a domain's table has now. */
  entries(domain: Domid): number {
    const { words } = this.#heap;
    const { record } = this.#tables[domain]!;
    return words[record + FRAMES]! << entriesShift(words[record + VERSION]!);
  }

  /** The shared frame that holds a ref, in a layout. */
  sharedFrame(domain: Domid, ref: number, layout = this.version(domain)): Mfn {
    return this.#heap.words[this.#tables[domain]!.frames + (ref >>> entriesShift(layout))]! as Mfn;
  }

  /** Place of a ref's entry in its frame, in words. */
  sharedWord(ref: number, layout: number): number {
    const perFrame = entriesShift(layout);
    return (ref & ((1 << perFrame) - 1)) << (ENTRY_WORDS_SHIFT - perFrame);
  }

  /** A word of a shared entry. Word 0: flags, and the grantee above them. */
  shared(domain: Domid, ref: number, word: number): number {
    const { words, blocks } = this.#heap;
    const table = this.#tables[domain]!;
    const perFrame = entriesShift(words[table.record + VERSION]!);
    const frame = words[table.frames + (ref >>> perFrame)]!;
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
    this.#frames.writeWord(this.sharedFrame(domain, ref, version), this.sharedWord(ref, version) + word, value);
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
    return (this.#heap.blocks[frame]![at >>> 1]! >>> ((at & 1) << 4)) & 0xffff;
  }

  setStatusWord(domain: Domid, ref: number, value: number): void {
    const at = ref & ((1 << STATUS_PER_FRAME_SHIFT) - 1);
    const shift = (at & 1) << 4;
    const frame = this.statusFrame(domain, ref >>> STATUS_PER_FRAME_SHIFT);
    const word = this.#frames.readWord(frame, at >>> 1);
    this.#frames.writeWord(frame, at >>> 1, ((word & ~(0xffff << shift)) | (value << shift)) >>> 0);
  }

  markUsage(domain: Domid, ref: number, bits: number): void {
    if (this.version(domain) === 2) this.setStatusWord(domain, ref, this.statusWord(domain, ref) | bits);
    else this.writeShared(domain, ref, 0, (this.sharedFlags(domain, ref) | bits) >>> 0);
  }

  #active(domain: Domid, ref: number): number {
    return this.#tables[domain]!.active + (ref << ACTIVE_SHIFT);
  }

  pins(domain: Domid, ref: number): number {
    return this.#heap.words[this.#active(domain, ref) + PINS]!;
  }

  /** The one domain that has an entry pinned. */
  activeMapper(domain: Domid, ref: number): Domid {
    return this.#heap.words[this.#active(domain, ref) + MAPPER]! as Domid;
  }

  /** Whether a domain has an entry pinned. A handle can outlast the table that it is of, and meet the next one. */
  isHeldBy(mapper: Domid, domain: Domid, ref: number): boolean {
    return this.pins(domain, ref) !== 0 && this.activeMapper(domain, ref) === mapper;
  }

  activeFrame(domain: Domid, ref: number): Mfn {
    return this.#heap.words[this.#active(domain, ref) + FRAME]! as Mfn;
  }

  /** The bytes that an entry in use grants; null: the whole frame. */
  activeRange(domain: Domid, ref: number): ByteRange | null {
    const range = this.#heap.words[this.#active(domain, ref) + RANGE]!;
    return range === 0 ? null : { offset: range & 0x7fff, length: (range >>> 15) & 0xffff };
  }

  /** The next domain and ref of a transitive entry in use; null: its own domain grants. */
  activeSource(domain: Domid, ref: number): { readonly domain: Domid; readonly ref: number } | null {
    const active = this.#active(domain, ref);
    const source = this.#heap.words[active + SOURCE]!;
    return source === 0 ? null : { domain: (source & 0xffff) as Domid, ref: this.#heap.words[active + SOURCE_REF]! };
  }

  /** Whether an entry in use is one of version 2 that only copies may use. xen: act->is_sub_page. */
  isPartial(domain: Domid, ref: number): boolean {
    const active = this.#active(domain, ref);
    return (this.#heap.words[active + RANGE]! | this.#heap.words[active + SOURCE]!) !== 0;
  }

  /** Writes an active entry: pins, mapper, frame. */
  activate(domain: Domid, ref: number, pins: number, mapper: Domid, frame: Mfn): void {
    this.#heap.write3(this.#active(domain, ref), pins, mapper, frame);
  }

  /** Limits an active entry to what its sub-page or transitive entry says. */
  limit(
    domain: Domid,
    ref: number,
    range: ByteRange | null,
    source: { readonly domain: Domid; readonly ref: number } | null,
  ): void {
    const active = this.#active(domain, ref);
    const bytes = range ? (GIVEN | (range.length << 15) | (range.offset & 0x7fff)) >>> 0 : 0;
    this.#heap.write3(active + RANGE, bytes, source ? (GIVEN | source.domain) >>> 0 : 0, source?.ref ?? 0);
    const uses = this.#tables[domain]!.record + V2_USES;
    if (range || source) this.#heap.write(uses, this.#heap.words[uses]! + 1);
  }

  /** Drops pins, then clears the usage bits that no pin stands behind. xen: reduce_status_for_pin. */
  dropPins(domain: Domid, ref: number, decrement: number, readOnly: boolean): void {
    const active = this.#active(domain, ref);
    const pins = this.#heap.words[active + PINS]!;
    if (pinsUnderflow(pins, decrement)) throw new HypervisorBug('G3', `domain ${domain} ref ${ref}: pin below zero`);
    if (pins === decrement) this.#deactivate(domain, ref);
    else this.#heap.write(active + PINS, pins - decrement);
    this.reduceStatus(domain, ref, readOnly);
  }

  #deactivate(domain: Domid, ref: number): void {
    const active = this.#active(domain, ref);
    if (this.isPartial(domain, ref)) {
      const uses = this.#tables[domain]!.record + V2_USES;
      this.#heap.write(uses, this.#heap.words[uses]! - 1);
      this.#heap.write3(active + RANGE, 0, 0, 0);
    }
    this.#heap.write3(active, 0, 0, 0);
  }

  reduceStatus(domain: Domid, ref: number, readOnly: boolean): void {
    const pins = this.pins(domain, ref);
    let clear = pins === 0 ? READING : 0;
    if (!readOnly && !hasWritePins(pins)) clear |= WRITING;
    if (clear === 0) return;
    if (this.version(domain) === 2) {
      this.setStatusWord(domain, ref, this.statusWord(domain, ref) & ~clear);
      return;
    }
    const frame = this.#frameOfV1(domain, ref);
    const at = (ref & 511) << 1;
    this.#frames.writeWord(frame, at, this.#heap.blocks[frame]![at]! & ~clear);
  }

  /** The frame of a version 1 table that holds a ref. */
  #frameOfV1(domain: Domid, ref: number): Mfn {
    return this.#heap.words[this.#tables[domain]!.frames + (ref >>> 9)]! as Mfn;
  }

  /**
   * Marks an entry as in use, if it permits this use. A copy may use sub-page and transitive entries of version 2, too.
   * xen: _set_status_v1, _set_status_v2. What compares and exchanges there is one micro-step here, so that the five
   * attempts of version 1 and the second look of version 2 find nothing new.
   */
  setStatus(domain: Domid, ref: number, mapper: Domid, readOnly: boolean, isCopy = false): boolean {
    if (this.version(domain) === 1) return this.#setStatusV1(domain, ref, mapper, readOnly, isCopy ? TYPE : KIND);
    const word = this.sharedFlags(domain, ref);
    if (this.pins(domain, ref) === 0) {
      const kind = word & (isCopy ? TYPE : KIND);
      const fits = kind === PERMIT_ACCESS || (isCopy && kind === TRANSITIVE);
      if (!fits || word >>> 16 !== mapper) return false;
    }
    if (!readOnly && (word & READONLY) !== 0) return false;
    this.markUsage(domain, ref, readOnly ? READING : READING | WRITING);
    return true;
  }

  #setStatusV1(domain: Domid, ref: number, mapper: Domid, readOnly: boolean, kind: number): boolean {
    const frame = this.#frameOfV1(domain, ref);
    const at = (ref & 511) << 1;
    const word = this.#heap.blocks[frame]![at]!;
    const fits = (word & kind) === PERMIT_ACCESS && word >>> 16 === mapper;
    if (!fits && this.pins(domain, ref) === 0) return false;
    if (!readOnly && (word & READONLY) !== 0) return false;
    this.#frames.writeWord(frame, at, word | (readOnly ? READING : READING | WRITING));
    return true;
  }

  #count(mapper: Domid, frame: Mfn): number {
    return this.#counts + (mapper * this.#frames.frames + frame) * 2;
  }

  readers(mapper: Domid, frame: Mfn): number {
    return this.#heap.words[this.#count(mapper, frame) + READERS]!;
  }

  writers(mapper: Domid, frame: Mfn): number {
    return this.#heap.words[this.#count(mapper, frame) + WRITERS]!;
  }

  /** Changes the number of handles of one kind that a mapper has on a frame. */
  countHandle(mapper: Domid, frame: Mfn, readOnly: boolean, by: 1 | -1): void {
    const address = this.#count(mapper, frame) + (readOnly ? READERS : WRITERS);
    const count = this.#heap.words[address]! + by;
    if (count < 0) throw new HypervisorBug('M3', `domain ${mapper}, frame ${frame}: fewer than no handles`);
    this.#heap.write(address, count);
  }
}
