// Maptrack: each mapper's table of live mappings, indexed by the handles that the guest holds.
//
// A handle is live while its flags name a half. xen: struct grant_mapping; common/grant_table.c get_maptrack_handle.

import { HypervisorBug } from '../machine/errors.ts';
import { FreeSet } from '../machine/heap/free-set.ts';
import type { Heap } from '../machine/heap/heap.ts';
import { DOMID_INVALID, type Domid, type MaptrackHandle } from '../machine/ids.ts';

const REF = 0;
const FLAGS = 1;
const DOMAIN_VCPU = 2;
const NEXT = 3;
const RECORD_WORDS = 4;
export const HANDLES_PER_FRAME = 256;

/** Order in which freed handles are used again: `fifo` as Xen, `lowest-free` to keep state spaces finite. */
export type MaptrackOrder = 'fifo' | 'lowest-free';

export class Maptrack {
  /** Handles that there may be: 256 per frame, one of which Xen keeps as the end of its free list. */
  readonly capacity: number;
  readonly #heap: Heap;
  readonly #entries: number;
  /** Frames that the domain may have. */
  readonly #limit: number;
  readonly #free: FreeSet | FifoHandles;

  constructor(
    heap: Heap,
    options: { readonly domain: Domid; readonly frames: number; readonly order: MaptrackOrder; readonly vcpus: number },
  ) {
    this.capacity = options.frames * HANDLES_PER_FRAME;
    this.#heap = heap;
    const name = `domain ${options.domain} maptrack`;
    this.#entries = heap.reserve(name, Math.max(1, this.capacity) * RECORD_WORDS).base;
    this.#limit = heap.reserve(`${name}: limit`, 1).base;
    this.#free =
      options.order === 'lowest-free'
        ? new FreeSet(heap, `${name}: handles`, Math.max(0, this.capacity - 1))
        : new FifoHandles(heap, name, this.#entries, this.#limit, options.vcpus);
  }

  /** Lets the domain have this many frames of handles, at most those that there are. */
  allow(frames: number): void {
    this.#heap.write(this.#limit, frames);
  }

  /** A free handle; -1 when there is none. It is not live until it is set. */
  take(vcpu: number): MaptrackHandle | -1 {
    const free = this.#free;
    return (free instanceof FreeSet ? this.#takeLowest(free) : free.take(vcpu)) as MaptrackHandle | -1;
  }

  #takeLowest(free: FreeSet): number {
    const handle = this.capacity === 0 ? -1 : free.takeLowest();
    if (handle < 0 || handle < this.#heap.words[this.#limit]! * HANDLES_PER_FRAME - 1) return handle;
    free.put(handle);
    return -1;
  }

  /** Makes a handle live that `vcpu` took. */
  set(handle: MaptrackHandle, vcpu: number, domain: Domid, ref: number, flags: number): void {
    this.#heap.write3(this.#entries + handle * RECORD_WORDS, ref, flags, (vcpu << 16) | domain);
  }

  /** Gives back a handle that was live, to the list of the virtual CPU that took it. */
  put(handle: MaptrackHandle): void {
    const entry = this.#entries + handle * RECORD_WORDS;
    const vcpu = this.#heap.words[entry + DOMAIN_VCPU]! >>> 16;
    this.#heap.write3(entry, 0, 0, 0);
    this.giveBack(handle, vcpu);
  }

  /** Gives back a handle that `vcpu` took and that was never live. */
  giveBack(handle: MaptrackHandle, vcpu: number): void {
    if (this.#free instanceof FreeSet) this.#free.put(handle);
    else this.#free.put(handle, vcpu);
  }

  /** Flags of a handle; 0 when it is not live. */
  flags(handle: number): number {
    return handle < this.capacity ? this.#heap.words[this.#entries + handle * RECORD_WORDS + FLAGS]! : 0;
  }

  setFlags(handle: MaptrackHandle, flags: number): void {
    this.#heap.write(this.#entries + handle * RECORD_WORDS + FLAGS, flags);
  }

  ref(handle: MaptrackHandle): number {
    return this.#heap.words[this.#entries + handle * RECORD_WORDS + REF]!;
  }

  domain(handle: MaptrackHandle): Domid {
    return (this.#heap.words[this.#entries + handle * RECORD_WORDS + DOMAIN_VCPU]! & 0xffff) as Domid;
  }

  /** Live handles on a granter's entries are of nobody any more. */
  orphan(granter: Domid): void {
    for (const handle of this.live()) {
      if (this.domain(handle) !== granter) continue;
      const at = this.#entries + handle * RECORD_WORDS + DOMAIN_VCPU;
      this.#heap.write(at, ((this.#heap.words[at]! & 0xffff0000) | DOMID_INVALID) >>> 0);
    }
  }

  /** Forgets every handle, live or free: the domain is no more. */
  clear(): void {
    for (let handle = 0; handle < this.capacity; handle += 1) {
      const entry = this.#entries + handle * RECORD_WORDS;
      this.#heap.write3(entry, 0, 0, 0);
      this.#heap.write(entry + NEXT, 0);
      if (this.#free instanceof FreeSet && handle < this.#free.size && this.#free.has(handle)) this.#free.put(handle);
    }
    if (!(this.#free instanceof FreeSet)) this.#free.clear();
    this.#heap.write(this.#limit, 0);
  }

  /** Live handles, lowest first. O(capacity). */
  live(): MaptrackHandle[] {
    const found: MaptrackHandle[] = [];
    for (let handle = 0; handle < this.capacity; handle += 1)
      if (this.flags(handle) !== 0) found.push(handle as MaptrackHandle);
    return found;
  }

  /** Free handles, each as often as a list has it: those of frames that are there, the ends of lists included. */
  idle(): number[] {
    const free = this.#free;
    if (!(free instanceof FreeSet)) return free.all();
    const usable = Math.max(0, this.#heap.words[this.#limit]! * HANDLES_PER_FRAME - 1);
    return Array.from({ length: usable }, (_, handle) => handle).filter((handle) => !free.has(handle));
  }

  /** Handles that there are by now, live or free. */
  get made(): number {
    if (this.#free instanceof FreeSet) return Math.max(0, this.#heap.words[this.#limit]! * HANDLES_PER_FRAME - 1);
    return this.#free.made;
  }
}

/**
 * Xen's free lists: one per virtual CPU, first in first out, the last entry kept as its end; a new frame when a list
 * runs dry: its first handle is returned, the others go in front of what is left. When no frame can be added, handles
 * come from the lists of others. xen: get_maptrack_handle, steal_maptrack_handle.
 */
class FifoHandles {
  readonly #heap: Heap;
  readonly #entries: number;
  readonly #limit: number;
  readonly #vcpus: number;
  /** Per virtual CPU: head + 1, tail + 1. Last word: frames in use. */
  readonly #lists: number;
  readonly #frames: number;

  constructor(heap: Heap, name: string, entries: number, limit: number, vcpus: number) {
    this.#heap = heap;
    this.#entries = entries;
    this.#limit = limit;
    this.#vcpus = vcpus;
    this.#lists = heap.reserve(`${name}: free lists`, vcpus * 2 + 1).base;
    this.#frames = this.#lists + vcpus * 2;
  }

  clear(): void {
    for (let word = this.#lists; word <= this.#frames; word += 1) this.#heap.write(word, 0);
  }

  #next(handle: number): number {
    return this.#entries + handle * RECORD_WORDS + NEXT;
  }

  get made(): number {
    return this.#heap.words[this.#frames]! * HANDLES_PER_FRAME;
  }

  /** Every list from its head to its end; one that runs in a circle ends when no handle can be new. */
  all(): number[] {
    const found: number[] = [];
    for (let vcpu = 0; vcpu < this.#vcpus; vcpu += 1) {
      let next = this.#heap.words[this.#lists + vcpu * 2]!;
      for (; next !== 0 && found.length <= this.made; next = this.#heap.words[this.#next(next - 1)]!) {
        found.push(next - 1);
      }
    }
    return found;
  }

  take(vcpu: number): number {
    const own = this.#takeFrom(vcpu);
    if (own >= 0) return own;
    return this.#heap.words[this.#frames] === this.#heap.words[this.#limit] ? this.#steal(vcpu) : this.#addFrame(vcpu);
  }

  /** The head of a list, unless it is its end. */
  #takeFrom(vcpu: number): number {
    const heap = this.#heap;
    const list = this.#lists + vcpu * 2;
    const head = heap.words[list]! - 1;
    if (head < 0 || heap.words[list] === heap.words[list + 1]) return -1;
    heap.write(list, heap.words[this.#next(head)]!);
    heap.write(this.#next(head), 0);
    return head;
  }

  #addFrame(vcpu: number): number {
    const heap = this.#heap;
    const list = this.#lists + vcpu * 2;
    const head = heap.words[list]! - 1;
    const frames = heap.words[this.#frames]!;
    heap.write(this.#frames, frames + 1);
    const first = frames * HANDLES_PER_FRAME;
    const last = first + HANDLES_PER_FRAME - 1;
    for (let handle = first + 1; handle < last; handle += 1) heap.write(this.#next(handle), handle + 2);
    heap.write(this.#next(last), head + 1);
    heap.write(list, first + 2);
    if (head < 0) heap.write(list + 1, last + 1);
    return first;
  }

  /** From any list, and once more for the end of its own if the virtual CPU never had one. */
  #steal(vcpu: number): number {
    const list = this.#lists + vcpu * 2;
    if (this.#heap.words[list] === 0) {
      const end = this.#takeFromAny();
      if (end < 0) return -1;
      this.#heap.write(list, end + 1);
      this.#heap.write(list + 1, end + 1);
    }
    return this.#takeFromAny();
  }

  /** Xen begins at a random virtual CPU; here the lowest comes first. */
  #takeFromAny(): number {
    for (let victim = 0; victim < this.#vcpus; victim += 1) {
      const handle = this.#takeFrom(victim);
      if (handle >= 0) return handle;
    }
    return -1;
  }

  put(handle: number, vcpu: number): void {
    const heap = this.#heap;
    const list = this.#lists + vcpu * 2;
    const tail = heap.words[list + 1]! - 1;
    if (tail < 0) throw new HypervisorBug('G8', `handle ${handle} given back to a virtual CPU that never took one`);
    heap.write(this.#next(handle), 0);
    heap.write(this.#next(tail), handle + 1);
    heap.write(list + 1, handle + 1);
  }
}
