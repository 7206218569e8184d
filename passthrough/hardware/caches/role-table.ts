// Not architectural. Which frames a unit may walk through, and as what: the roles that the adversary keeps.

import { HypervisorBug } from '../../../machine/errors.ts';
import type { Mfn } from '../../../machine/frame-number.ts';
import type { FrameTable } from '../../../machine/frame-table.ts';
import type { Heap } from '../../../machine/heap/heap.ts';
import { Pool } from '../../../machine/heap/pool.ts';
import { highWord, joinWords } from '../../../machine/wide.ts';

const FRAME = 0;
const TAG = 1;
const LEVEL = 2;
const DFN_LOW = 3;
const DFN_HIGH = 4;
const LINKS = 5;
const NEXT = 6;

/** Roles of frames, listed per frame. A frame's watch word is the address of its first role. */
export class RoleTable {
  readonly #heap: Heap;
  readonly #frames: FrameTable;
  readonly #pool: Pool;

  constructor(heap: Heap, frames: FrameTable, capacity: number) {
    this.#heap = heap;
    this.#frames = frames;
    this.#pool = new Pool(heap, 'table roles', { capacity, recordWords: 8, countedWords: 6 });
  }

  /** Address of a frame's first role; 0 when it has none. */
  first(frame: number): number {
    return this.#frames.watchWord(frame);
  }

  next(role: number): number {
    return this.#heap.words[role + NEXT]!;
  }

  /** Whether this address still holds a role of the frame. */
  isRoleOf(role: number, frame: number): boolean {
    return this.#heap.words[role + FRAME]! === frame + 1;
  }

  unit(role: number): number {
    return this.#heap.words[role + TAG]! >>> 16;
  }

  did(role: number): number {
    return this.#heap.words[role + TAG]! & 0xffff;
  }

  level(role: number): number {
    return this.#heap.words[role + LEVEL]!;
  }

  /** First device frame that the table covers in this role. */
  dfn(role: number): number {
    return joinWords(this.#heap.words[role + DFN_LOW]!, this.#heap.words[role + DFN_HIGH]!);
  }

  /** One more way to a frame. True when the role is new. */
  link(frame: Mfn, unit: number, did: number, level: number, dfn: number): boolean {
    const heap = this.#heap;
    const role = this.#find(frame, unit, did, level, dfn);
    if (role !== 0) {
      heap.write(role + LINKS, heap.words[role + LINKS]! + 1);
      return false;
    }
    const fresh = this.#pool.take();
    heap.write(fresh + FRAME, frame + 1);
    heap.write(fresh + TAG, unit * 0x10000 + did);
    heap.write(fresh + LEVEL, level);
    heap.write(fresh + DFN_LOW, dfn);
    heap.write(fresh + DFN_HIGH, highWord(dfn));
    heap.write(fresh + LINKS, 1);
    heap.write(fresh + NEXT, this.first(frame));
    this.#frames.setWatchWord(frame, fresh);
    return true;
  }

  /** One way less to a frame. True when the role is gone. */
  unlink(frame: Mfn, unit: number, did: number, level: number, dfn: number): boolean {
    const heap = this.#heap;
    const role = this.#find(frame, unit, did, level, dfn);
    if (role === 0)
      throw new HypervisorBug('ROLE', `frame ${frame} has no role at level ${level} for did ${did} of unit ${unit}`);
    const links = heap.words[role + LINKS]! - 1;
    heap.write(role + LINKS, links);
    if (links > 0) return false;
    const next = this.next(role);
    if (this.first(frame) === role) this.#frames.setWatchWord(frame, next);
    else {
      let before = this.first(frame);
      while (this.next(before) !== role) before = this.next(before);
      heap.write(before + NEXT, next);
    }
    this.#pool.put(role);
    return true;
  }

  /** Number of entries that lead to a frame in a role. */
  links(frame: Mfn, unit: number, did: number, level: number, dfn: number): number {
    const role = this.#find(frame, unit, did, level, dfn);
    return role === 0 ? 0 : this.#heap.words[role + LINKS]!;
  }

  #find(frame: number, unit: number, did: number, level: number, dfn: number): number {
    const tag = unit * 0x10000 + did;
    for (let role = this.first(frame); role !== 0; role = this.next(role)) {
      if (this.#heap.words[role + TAG]! === tag && this.level(role) === level && this.dfn(role) === dfn) return role;
    }
    return 0;
  }
}
