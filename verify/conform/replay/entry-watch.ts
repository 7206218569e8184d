// Which grant entries an operation changed: flags and status words, as the recorder of real Xen saw them.

import type { MachineProbe } from './machine-probe.ts';

/** Refs that the recorder looks at. */
const REFS = 1024;

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
  isChanged: boolean;
}

export class EntryWatch {
  readonly #probe: MachineProbe;
  readonly #watched = new Map<number, Watched>();
  /** Whose table a frame belongs to. */
  readonly #tableOf = new Map<number, Watched>();

  constructor(probe: MachineProbe) {
    this.#probe = probe;
  }

  /** From now on the entries in the first `frames` frames of a domain's table are watched. */
  watch(domain: number, frames: number): void {
    const seen = new Uint32Array(REFS);
    const watched = {
      domain,
      frames,
      shared: [],
      status: [],
      statusWindow: null,
      refsPerFrame: 512,
      seen,
      isChanged: true,
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
    watched.isChanged = true;
    const { shared, status } = this.#probe.tableFrames(domain);
    watched.shared = shared.slice(0, watched.frames);
    watched.status = status;
    watched.refsPerFrame = this.#probe.refsPerFrame(domain);
    for (const frame of [...watched.shared, ...status]) this.#tableOf.set(frame, watched);
  }

  /** The recorder maps a domain's frame at an address, or drops what is there. */
  windowMoved(address: number, domain: number, frame: number | null): void {
    for (const watched of this.#watched.values()) {
      const isStatus = watched.domain === domain && frame !== null && watched.status.includes(frame);
      if (!isStatus && watched.statusWindow !== address) continue;
      watched.statusWindow = isStatus ? address : null;
      watched.isChanged = true;
    }
  }

  /** Something was written to a frame. */
  noteWrite(frame: number): void {
    const watched = this.#tableOf.get(frame);
    if (watched) watched.isChanged = true;
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
      if (watched.isChanged) changes.push(...this.#changesOf(watched));
    }
    return changes;
  }

  #changesOf(watched: Watched): Change[] {
    const { domain, shared, refsPerFrame: perFrame, seen } = watched;
    const status = watched.statusWindow === null ? [] : watched.status;
    const wordsPerEntry = 1024 / perFrame;
    const refs = Math.min(REFS, shared.length * perFrame);
    const changes: Change[] = [];
    watched.isChanged = false;
    for (let first = 0; first < refs; first += perFrame) {
      const words = this.#probe.words(shared[first / perFrame]!);
      const end = Math.min(refs, first + perFrame);
      for (let ref = first, at = 0; ref < end; ref += 1, at += wordsPerEntry) {
        const flags = words[at]! & 0xffff;
        const state = perFrame === 512 ? 0 : this.#probe.statusOf(status, ref);
        if (seen[ref] === ((state << 16) | flags) >>> 0) continue;
        seen[ref] = (state << 16) | flags;
        changes.push([domain, ref, flags, state]);
      }
    }
    return changes;
  }
}
