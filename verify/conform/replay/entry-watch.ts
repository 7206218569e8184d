// Which grant entries an operation changed: flags and status words, as the recorder of real Xen saw them.

import type { MachineProbe } from './machine-probe.ts';

/** Refs that the recorder looks at. */
const REFS = 1024;
const PAGE_WORDS = 1024;

type Change = readonly [domain: number, ref: number, flags: number, status: number];

interface Watched {
  readonly domain: number;
  /** Frames of the table that are looked at, and where they and those of its statuses are now. */
  readonly frames: number;
  shared: readonly number[];
  status: readonly number[];
  /** The address at which the recorder has a window to the statuses; without one they are 0 to it. */
  statusWindow: number | null;
  refsPerFrame: number;
  /** As seen last, by ref: flags, and status above them. */
  readonly seen: Uint32Array;
  /** Refs that may have changed; or any may have. */
  readonly touched: Set<number>;
  isAnyTouched: boolean;
}

/** What a frame is to whom: its first ref, and how many refs a word of it has (or a ref words, below 1). */
interface TableFrame {
  readonly watched: Watched;
  readonly firstRef: number;
  readonly refsPerWord: number;
}

export class EntryWatch {
  readonly #probe: MachineProbe;
  readonly #watched = new Map<number, Watched>();
  readonly #tableFrames = new Map<number, TableFrame>();

  constructor(probe: MachineProbe) {
    this.#probe = probe;
  }

  /** From now on the entries in the first `frames` frames of a domain's table are watched. */
  watch(domain: number, frames: number): void {
    const watched: Watched = {
      domain,
      frames,
      shared: [],
      status: [],
      statusWindow: null,
      refsPerFrame: 0,
      seen: new Uint32Array(REFS),
      touched: new Set(),
      isAnyTouched: true,
    };
    this.#watched.set(domain, watched);
    this.tablesChanged(domain);
    this.#changesOf(watched);
  }

  /** The domain is dying: nobody looks any more. */
  forget(domain: number): void {
    this.#watched.delete(domain);
  }

  /** A domain's table may have other frames, or another version, now. */
  tablesChanged(domain: number): void {
    const watched = this.#watched.get(domain);
    if (!watched) return;
    const { shared, status } = this.#probe.tableFrames(domain);
    const perFrame = this.#probe.refsPerFrame(domain);
    watched.shared = shared.slice(0, watched.frames);
    watched.status = status;
    watched.refsPerFrame = perFrame;
    for (const [index, frame] of watched.shared.entries()) {
      this.#tableFrames.set(frame, { watched, firstRef: index * perFrame, refsPerWord: perFrame / PAGE_WORDS });
    }
    for (const [index, frame] of status.entries()) {
      this.#tableFrames.set(frame, { watched, firstRef: index * PAGE_WORDS * 2, refsPerWord: 2 });
    }
    watched.isAnyTouched = true;
  }

  /** The recorder maps a domain's frame at an address, or drops what is there. */
  windowMoved(address: number, domain: number, frame: number | null): void {
    for (const watched of this.#watched.values()) {
      const isStatus = watched.domain === domain && frame !== null && watched.status.includes(frame);
      if (!isStatus && watched.statusWindow !== address) continue;
      watched.statusWindow = isStatus ? address : null;
      watched.isAnyTouched = true;
    }
  }

  /** Whether the recorder has a window to a domain's statuses, or need not have one: version 1. */
  seesStatus(domain: number): boolean {
    const watched = this.#watched.get(domain);
    return watched === undefined || watched.statusWindow !== null || watched.refsPerFrame === PAGE_WORDS / 2;
  }

  /** Something was written to these words of a frame. */
  noteWrite(frame: number, first: number, last: number): void {
    const table = this.#tableFrames.get(frame);
    if (table === undefined) return;
    const { watched, firstRef, refsPerWord } = table;
    const end = firstRef + Math.ceil((last + 1) * refsPerWord);
    for (let ref = firstRef + Math.floor(first * refsPerWord); ref < end; ref += 1) watched.touched.add(ref);
  }

  /** The guest wrote an entry's flags itself, which does not count as a change. */
  guestWrote(domain: number, ref: number): void {
    const watched = this.#watched.get(domain);
    const flags = this.#probe.entry(domain, ref)?.flags;
    if (watched && flags !== undefined && ref < REFS)
      watched.seen[ref] = ((watched.seen[ref]! & 0xffff0000) | flags) >>> 0;
  }

  /** Entries that differ from what they were when this was asked last. */
  changes(): Change[] {
    const changes: Change[] = [];
    for (const watched of this.#watched.values()) {
      if (watched.isAnyTouched || watched.touched.size > 0) changes.push(...this.#changesOf(watched));
    }
    return changes;
  }

  #changesOf(watched: Watched): Change[] {
    const { domain, shared, refsPerFrame, seen } = watched;
    const status = watched.statusWindow === null ? [] : watched.status;
    const refs = Math.min(REFS, shared.length * refsPerFrame);
    const changes: Change[] = [];
    for (const ref of watched.isAnyTouched ? Array(refs).keys() : watched.touched) {
      if (ref >= refs) continue;
      const frame = shared[Math.floor(ref / refsPerFrame)]!;
      const flags = this.#probe.words(frame)[(ref % refsPerFrame) * (PAGE_WORDS / refsPerFrame)]! & 0xffff;
      const state = refsPerFrame === PAGE_WORDS / 2 ? 0 : this.#probe.statusOf(status, ref);
      if (seen[ref] === ((state << 16) | flags) >>> 0) continue;
      seen[ref] = (state << 16) | flags;
      changes.push([domain, ref, flags, state]);
    }
    watched.touched.clear();
    watched.isAnyTouched = false;
    return changes;
  }
}
