// The grant tables of all domains in use: active entries with their pins, the usage bits that stand for them, maptrack,
// and per mapper the number of live mappings of each frame.

import { HypervisorBug } from '../machine/errors.ts';
import { type Mfn, PAGE_SIZE } from '../machine/frame-number.ts';
import type { FrameTable } from '../machine/frame-table.ts';
import type { Heap } from '../machine/heap/heap.ts';
import type { Domid } from '../machine/ids.ts';
import { entriesShift, GTF, hasWritePins, pinsUnderflow } from './layouts.ts';
import { Maptrack, type MaptrackOrder } from './maptrack.ts';
import { type GrantLimits, SharedTables } from './shared-tables.ts';

const { reading: READING, writing: WRITING, readonly: READONLY } = GTF;
const { permit_access: PERMIT_ACCESS, transitive: TRANSITIVE, type_mask: TYPE } = GTF;
const KIND = TYPE | GTF.sub_page;

// Words of an active entry. Pins 0: nothing else counts.
const PINS = 0;
const MAPPER = 1;
const FRAME = 2;
/** Bytes that may be copied: bit 31 set, length (30:15), offset (14:0: Xen has no more of it). 0: the whole frame. */
const RANGE = 3;
/** Whose the frame is, if it came by way of a transitive entry: bit 31 set, the next domain. 0: the granter's own. */
const SOURCE = 4;
const SOURCE_REF = 5;
const ACTIVE_SHIFT = 3;
const GIVEN = 0x80000000;

const READERS = 0;
const WRITERS = 1;

export class GrantTables extends SharedTables {
  // By domain, in lists of their own: what is looked up at every turn is looked up in one step.
  readonly #maptracks: readonly Maptrack[];
  /** Where its active entries lie. */
  readonly #actives: readonly number[];
  /** Where its counts lie: per frame, the read-only and read-write handles that it has on it. xen: maptrack_tree. */
  readonly #counts: readonly number[];

  constructor(
    heap: Heap,
    memory: FrameTable,
    options: {
      readonly domains: number;
      readonly limits: GrantLimits;
      readonly order: MaptrackOrder;
      readonly vcpus: number;
    },
  ) {
    const { limits, domains, order, vcpus } = options;
    super(heap, memory, domains, limits);
    const activeWords = limits.grantFrames << (entriesShift(1) + ACTIVE_SHIFT);
    const maptracks: Maptrack[] = [];
    const actives: number[] = [];
    for (let domain = 0; domain < domains; domain += 1) {
      maptracks.push(new Maptrack(heap, { domain: domain as Domid, frames: limits.maptrackFrames, order, vcpus }));
      actives.push(heap.reserve(`domain ${domain} active grants`, activeWords).base);
    }
    this.#maptracks = maptracks;
    this.#actives = actives;
    const counts = heap.reserve('frames mapped by grant', domains * memory.frames * 2).base;
    this.#counts = maptracks.map((_, domain) => counts + domain * memory.frames * 2);
  }

  override create(
    domain: Domid,
    limits: GrantLimits & { readonly version: 1 | 2; readonly allocate?: readonly number[] },
  ): number {
    const errno = super.create(domain, limits);
    if (errno === 0) this.maptrack(domain).allow(limits.maptrackFrames);
    return errno;
  }

  /**
   * The domain's table is no more; its frames are the caller's to free. A mapper whose PTE was overwritten may still
   * have a handle: it is of nobody from now on, whoever gets the id next.
   */
  override destroy(domain: Domid): void {
    const maptrack = this.maptrack(domain);
    for (const other of this.#maptracks) other.orphan(domain);
    this.clearWords(this.#actives[domain]!, this.framesMax(domain) << (entriesShift(1) + ACTIVE_SHIFT));
    this.clearWords(this.#count(domain, 0 as Mfn), this.memory.frames * 2);
    maptrack.clear();
    super.destroy(domain);
  }

  maptrack(domain: Domid): Maptrack {
    return this.#maptracks[domain]!;
  }

  #active(domain: Domid, ref: number): number {
    return this.#actives[domain]! + (ref << ACTIVE_SHIFT);
  }

  pins(domain: Domid, ref: number): number {
    return this.heap.words[this.#active(domain, ref) + PINS]!;
  }

  /** The one domain that has an entry pinned. */
  activeMapper(domain: Domid, ref: number): Domid {
    return this.heap.words[this.#active(domain, ref) + MAPPER]! as Domid;
  }

  activeFrame(domain: Domid, ref: number): Mfn {
    return this.heap.words[this.#active(domain, ref) + FRAME]! as Mfn;
  }

  /** The first byte of the frame that an entry in use grants, and how many. */
  activeOffset(domain: Domid, ref: number): number {
    return this.heap.words[this.#active(domain, ref) + RANGE]! & 0x7fff;
  }

  activeLength(domain: Domid, ref: number): number {
    const range = this.heap.words[this.#active(domain, ref) + RANGE]!;
    return range === 0 ? PAGE_SIZE : (range >>> 15) & 0xffff;
  }

  /** The next domain of a transitive entry in use, and the ref there; -1: its own domain grants. */
  sourceDomain(domain: Domid, ref: number): Domid | -1 {
    const source = this.heap.words[this.#active(domain, ref) + SOURCE]!;
    return source === 0 ? -1 : ((source & 0xffff) as Domid);
  }

  sourceRef(domain: Domid, ref: number): number {
    return this.heap.words[this.#active(domain, ref) + SOURCE_REF]!;
  }

  /** Whether an entry in use is one of version 2 that only copies may use. xen: act->is_sub_page. */
  isPartial(domain: Domid, ref: number): boolean {
    const active = this.#active(domain, ref);
    return (this.heap.words[active + RANGE]! | this.heap.words[active + SOURCE]!) !== 0;
  }

  /** Writes an active entry: pins, mapper, frame. */
  activate(domain: Domid, ref: number, pins: number, mapper: Domid, frame: Mfn): void {
    this.heap.write3(this.#active(domain, ref), pins, mapper, frame);
  }

  /** Limits an active entry to the bytes that its sub-page says. */
  limit(domain: Domid, ref: number, offset: number, length: number): void {
    this.heap.write(this.#active(domain, ref) + RANGE, (GIVEN | (length << 15) | (offset & 0x7fff)) >>> 0);
    this.countV2Use(domain, 1);
  }

  /** Limits it to what another domain's entry grants, by way of which it came. */
  limitTo(domain: Domid, ref: number, offset: number, length: number, source: Domid, sourceRef: number): void {
    this.limit(domain, ref, offset, length);
    this.heap.write2(this.#active(domain, ref) + SOURCE, (GIVEN | source) >>> 0, sourceRef);
  }

  /** Drops pins, then clears the usage bits that no pin stands behind. xen: reduce_status_for_pin. */
  dropPins(domain: Domid, ref: number, decrement: number, readOnly: boolean): void {
    const active = this.#active(domain, ref);
    const pins = this.heap.words[active + PINS]!;
    if (pinsUnderflow(pins, decrement)) throw new HypervisorBug('G3', `domain ${domain} ref ${ref}: pin below zero`);
    if (pins === decrement) this.#deactivate(domain, ref);
    else this.heap.write(active + PINS, pins - decrement);
    this.reduceStatus(domain, ref, readOnly);
  }

  #deactivate(domain: Domid, ref: number): void {
    const active = this.#active(domain, ref);
    if (this.isPartial(domain, ref)) {
      this.countV2Use(domain, -1);
      this.heap.write3(active + RANGE, 0, 0, 0);
    }
    this.heap.write3(active, 0, 0, 0);
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
    const frame = this.frameOfV1(domain, ref);
    const at = (ref & 511) << 1;
    this.memory.writeWord(frame, at, this.heap.blocks[frame]![at]! & ~clear);
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
    const frame = this.frameOfV1(domain, ref);
    const at = (ref & 511) << 1;
    const word = this.heap.blocks[frame]![at]!;
    const fits = (word & kind) === PERMIT_ACCESS && word >>> 16 === mapper;
    if (!fits && this.pins(domain, ref) === 0) return false;
    if (!readOnly && (word & READONLY) !== 0) return false;
    this.memory.writeWord(frame, at, word | (readOnly ? READING : READING | WRITING));
    return true;
  }

  #count(mapper: Domid, frame: Mfn): number {
    return this.#counts[mapper]! + frame * 2;
  }

  readers(mapper: Domid, frame: Mfn): number {
    return this.heap.words[this.#count(mapper, frame) + READERS]!;
  }

  writers(mapper: Domid, frame: Mfn): number {
    return this.heap.words[this.#count(mapper, frame) + WRITERS]!;
  }

  /** Changes the number of handles of one kind that a mapper has on a frame. */
  countHandle(mapper: Domid, frame: Mfn, readOnly: boolean, by: 1 | -1): void {
    const address = this.#count(mapper, frame) + (readOnly ? READERS : WRITERS);
    const count = this.heap.words[address]! + by;
    if (count < 0) throw new HypervisorBug('M3', `domain ${mapper}, frame ${frame}: fewer than no handles`);
    this.heap.write(address, count);
  }
}
