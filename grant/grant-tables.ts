// The grant tables of all domains: shared entries in frames that the guest writes, active entries with their pins,
// maptrack, and per mapper the number of live mappings of each frame.

import { Errno } from '../machine/errno.ts';
import { HypervisorBug } from '../machine/errors.ts';
import type { Mfn } from '../machine/frame-number.ts';
import type { FrameTable } from '../machine/frame-table.ts';
import type { Heap } from '../machine/heap/heap.ts';
import type { Domid } from '../machine/ids.ts';
import { GTF, hasWritePins, pinsUnderflow, V1_ENTRIES_PER_FRAME } from './layouts.ts';
import { Maptrack, type MaptrackOrder } from './maptrack.ts';

const { reading: READING, writing: WRITING, readonly: READONLY, permit_access: PERMIT_ACCESS } = GTF;
const KIND = GTF.type_mask | GTF.sub_page;

const PINS = 0;
const MAPPER = 1;
const FRAME = 2;
const ACTIVE_WORDS = 4;

const READERS = 0;
const WRITERS = 1;

/** What one domain may have. */
export interface GrantLimits {
  /** Frames of the shared table, and of maptrack. */
  readonly grantFrames: number;
  readonly maptrackFrames: number;
}

interface DomainTable {
  readonly limits: GrantLimits;
  readonly maptrack: Maptrack;
  /** Address of the list of shared frames; word 0 counts them. */
  readonly frames: number;
  readonly active: number;
}

export class GrantTables {
  readonly #heap: Heap;
  readonly #frames: FrameTable;
  readonly #tables: readonly DomainTable[];
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
    const { limits, domains } = options;
    this.#heap = heap;
    this.#frames = frames;
    this.#tables = Array.from({ length: domains }, (_, domain) => ({
      limits,
      maptrack: new Maptrack(heap, {
        domain: domain as Domid,
        frames: limits.maptrackFrames,
        order: options.order,
        vcpus: options.vcpus,
      }),
      frames: heap.reserve(`domain ${domain} grant frames`, limits.grantFrames + 1).base,
      active: heap.reserve(`domain ${domain} active grants`, limits.grantFrames * V1_ENTRIES_PER_FRAME * ACTIVE_WORDS)
        .base,
    }));
    this.#counts = heap.reserve('frames mapped by grant', domains * frames.frames * 2).base;
  }

  /** Gives a domain its shared frames. -ENOMEM when memory is exhausted. */
  grow(domain: Domid, frames: number): 0 | typeof Errno.ENOMEM | typeof Errno.EINVAL {
    const table = this.#tables[domain]!;
    if (frames > table.limits.grantFrames) return Errno.EINVAL;
    for (let index = this.#heap.words[table.frames]!; index < frames; index += 1) {
      const frame = this.#frames.allocate(domain, { xenHeap: true });
      if (frame < 0) return Errno.ENOMEM;
      this.#heap.write(table.frames + 1 + index, frame);
      this.#heap.write(table.frames, index + 1);
    }
    return 0;
  }

  maptrack(domain: Domid): Maptrack {
    return this.#tables[domain]!.maptrack;
  }

  /** Refs that a domain's table has now. */
  entries(domain: Domid): number {
    return this.#heap.words[this.#tables[domain]!.frames]! * V1_ENTRIES_PER_FRAME;
  }

  /** The shared frame that holds a ref. */
  sharedFrame(domain: Domid, ref: number): Mfn {
    return this.#heap.words[this.#tables[domain]!.frames + 1 + (ref >>> 9)]! as Mfn;
  }

  /** Word 0 of a shared entry: flags, and the grantee above them. */
  sharedFlags(domain: Domid, ref: number): number {
    return this.#frames.readWord(this.sharedFrame(domain, ref), (ref & 511) * 2);
  }

  sharedGfn(domain: Domid, ref: number): number {
    return this.#frames.readWord(this.sharedFrame(domain, ref), (ref & 511) * 2 + 1);
  }

  /** The guest writes one of its entries. It may at any time; nothing is checked. */
  guestWrite(domain: Domid, ref: number, flags: number, grantee: number, frame: number): void {
    this.#frames.writeEntry(this.sharedFrame(domain, ref), ref & 511, ((grantee << 16) | flags) >>> 0, frame);
  }

  #active(domain: Domid, ref: number): number {
    return this.#tables[domain]!.active + ref * ACTIVE_WORDS;
  }

  pins(domain: Domid, ref: number): number {
    return this.#heap.words[this.#active(domain, ref) + PINS]!;
  }

  /** The one domain that has an entry pinned. */
  activeMapper(domain: Domid, ref: number): Domid {
    return this.#heap.words[this.#active(domain, ref) + MAPPER]! as Domid;
  }

  activeFrame(domain: Domid, ref: number): Mfn {
    return this.#heap.words[this.#active(domain, ref) + FRAME]! as Mfn;
  }

  /** Writes the whole active entry. */
  activate(domain: Domid, ref: number, pins: number, mapper: Domid, frame: Mfn): void {
    this.#heap.write3(this.#active(domain, ref), pins, mapper, frame);
  }

  /** Drops pins, then clears the usage bits that no pin stands behind. xen: reduce_status_for_pin. */
  dropPins(domain: Domid, ref: number, decrement: number, readOnly: boolean): void {
    const active = this.#active(domain, ref);
    const pins = this.#heap.words[active + PINS]!;
    if (pinsUnderflow(pins, decrement)) throw new HypervisorBug('G3', `domain ${domain} ref ${ref}: pin below zero`);
    if (pins === decrement) this.#heap.write3(active, 0, 0, 0);
    else this.#heap.write(active + PINS, pins - decrement);
    this.reduceStatus(domain, ref, readOnly);
  }

  reduceStatus(domain: Domid, ref: number, readOnly: boolean): void {
    const pins = this.pins(domain, ref);
    let clear = pins === 0 ? READING : 0;
    if (!readOnly && !hasWritePins(pins)) clear |= WRITING;
    if (clear === 0) return;
    const frame = this.sharedFrame(domain, ref);
    const word = (ref & 511) * 2;
    this.#frames.writeWord(frame, word, this.#frames.readWord(frame, word) & ~clear);
  }

  /**
   * Marks an entry as in use, if it permits this use. xen: _set_status_v1. The compare-exchange of the real thing is
   * one micro-step here, so its five attempts cannot fail.
   */
  setStatus(domain: Domid, ref: number, mapper: Domid, readOnly: boolean): boolean {
    const frame = this.sharedFrame(domain, ref);
    const at = (ref & 511) * 2;
    const word = this.#frames.readWord(frame, at);
    if (this.pins(domain, ref) === 0) {
      if ((word & KIND) !== PERMIT_ACCESS || word >>> 16 !== mapper) return false;
    }
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
