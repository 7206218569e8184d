// What copies did to the data frames of domains, as the recorder of real Xen saw it.

import { bytesHex } from '../../../machine/hex.ts';
import type { RecordOf } from '../recording/record-fields.ts';
import { contentHash } from './content-hash.ts';
import type { MachineProbe } from './machine-probe.ts';

type Content = RecordOf<'copy'>['mem'] extends readonly (infer Entry)[] | undefined ? Entry : never;

/** Bytes of a change that a recording shows. */
const SHOWN_BYTES = 16;

interface WatchedFrame {
  readonly domain: number;
  /** By the name that the domain has for it: an mfn, or a gfn when it was first looked at. */
  readonly name: string;
  readonly frame: number;
  readonly before: Uint32Array;
  isChanged: boolean;
}

/** A model's memory, as far as it can be written here. */
export type StoreBytes = (frame: number, offset: number, bytes: string) => void;

export class ContentWatch {
  readonly #probe: MachineProbe;
  readonly #watched = new Map<number, WatchedFrame>();
  /** Frames whose contents follow from the records. */
  readonly #known = new Set<number>();

  constructor(probe: MachineProbe) {
    this.#probe = probe;
  }

  /** The contents of a frame are as in the recording. */
  know(frame: number): void {
    this.#known.add(frame);
  }

  /** What is in a frame that was handed out again is what some domain left there: the model clears what it frees. */
  forget(frame: number): void {
    this.#known.delete(frame);
  }

  isKnown(frame: number): boolean {
    return this.#known.has(frame);
  }

  watch(domain: number, name: string, frame: number): void {
    const before = this.#probe.words(frame).slice();
    this.#watched.set(frame, { domain, name, frame, before, isChanged: false });
  }

  noteWrite(frame: number): void {
    const watched = this.#watched.get(frame);
    if (watched) watched.isChanged = true;
  }

  /** What a device or a processor stored in a frame does not count as a change by the next copy. */
  accept(frame: number): void {
    const watched = this.#watched.get(frame);
    if (!watched) return;
    watched.before.set(this.#probe.words(frame));
    watched.isChanged = false;
  }

  /** The watched frames whose contents differ from what they were when this was asked last. */
  changes(): Content[] {
    const changes: Content[] = [];
    for (const watched of this.#watched.values()) {
      if (!watched.isChanged) continue;
      watched.isChanged = false;
      const change = this.#changeOf(watched);
      if (change && this.#known.has(watched.frame)) changes.push(change);
    }
    return changes;
  }

  #changeOf(watched: WatchedFrame): Content | null {
    const changed = this.#changedBytes(watched);
    if (changed === null) return null;
    const { domain, name, frame, before } = watched;
    const [first, last] = changed;
    const words = this.#probe.words(frame);
    before.set(words);
    const shown = bytesHex(this.#probe.bytes(frame), first, Math.min(last + 1, first + SHOWN_BYTES));
    return [domain, name, first, last, shown, contentHash(words)];
  }

  /** First and last byte that differ from what was there before; null: none do. */
  #changedBytes({ frame, before }: WatchedFrame): readonly [first: number, last: number] | null {
    const words = this.#probe.words(frame);
    let from = 0;
    while (from < words.length && words[from] === before[from]) from += 1;
    if (from === words.length) return null;
    let to = words.length - 1;
    while (words[to] === before[to]) to -= 1;
    const bytes = this.#probe.bytes(frame);
    const old = new Uint8Array(before.buffer);
    let [first, last] = [from * 4, to * 4 + 3];
    while (bytes[first] === old[first]) first += 1;
    while (bytes[last] === old[last]) last -= 1;
    return [first, last];
  }

  /**
   * Frames that got bytes from a frame whose contents nobody knows (a page table, a grant table). The bytes are adopted
   * where the record shows all of them; otherwise these frames are not known from here on.
   * @returns the record without what is adopted or unknown
   */
  adopt(recorded: readonly Content[], frames: ReadonlySet<number>, store: StoreBytes): readonly Content[] {
    const compared: Content[] = [];
    const shown = new Map<number, Content>();
    for (const entry of recorded) {
      const watched = this.#find(entry[0], entry[1]);
      if (watched && frames.has(watched.frame)) shown.set(watched.frame, entry);
      else if (watched && !this.#known.has(watched.frame)) continue;
      else compared.push(entry);
    }
    for (const frame of frames) {
      const entry = shown.get(frame);
      const isWhole = this.#adoptFrame(frame, entry, store);
      // With these bytes the frame is not what the recording says: some other byte is wrong.
      if (entry && isWhole && contentHash(this.#probe.words(frame)) !== entry[5]) compared.push(entry);
    }
    return compared;
  }

  /** @returns whether all bytes of the frame are known now */
  #adoptFrame(frame: number, entry: Content | undefined, store: StoreBytes): boolean {
    const watched = this.#watched.get(frame);
    if (!watched || (entry && entry[3] - entry[2] >= SHOWN_BYTES)) {
      this.#known.delete(frame);
      return false;
    }
    const changed = this.#changedBytes(watched);
    if (changed) store(frame, changed[0], bytesHex(new Uint8Array(watched.before.buffer), changed[0], changed[1] + 1));
    if (entry) store(frame, entry[2], entry[4]);
    this.accept(frame);
    return this.#known.has(frame);
  }

  #find(domain: number, name: string): WatchedFrame | undefined {
    for (const watched of this.#watched.values()) {
      if (watched.domain === domain && watched.name === name) return watched;
    }
    return undefined;
  }
}
