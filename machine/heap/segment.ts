// What a segment of the heap is, and how its words count towards the identity of a state.

import { joinWords } from '../wide.ts';

/**
 * How a segment's words count towards the identity of a state.
 * - `exact`: each word counts at its address.
 * - `slots`: records that count at their place, but only while their first word is not 0.
 * - `ring`: only the live window counts, relative to its head.
 * - `pool`: live records count as a set, whichever slot they are in.
 * - `unhashed`: nothing counts (statistics, indexes that other segments determine).
 */
export type SegmentIdentity =
  | { readonly kind: 'exact' }
  | { readonly kind: 'unhashed' }
  | { readonly kind: 'slots'; readonly recordWords: number }
  | {
      readonly kind: 'ring';
      readonly rings: number;
      /** Words of one ring's storage, and of one record in it. */
      readonly ringWords: number;
      readonly recordWords: number;
      /** Head and number of live records of ring `ring`, in records. */
      readonly window: (ring: number) => { readonly head: number; readonly count: number };
      /** Offset in a record of a lo/hi time that counts relative to `now`, if there is one. */
      readonly time?: { readonly offset: number; readonly now: () => number };
    }
  | {
      readonly kind: 'pool';
      readonly recordWords: number;
      /** The first words of a record that count; the rest are links. */
      readonly countedWords: number;
      /** Number of slots that were ever in use. A record whose word 0 is 0 is free. */
      readonly slots: () => number;
      /** One more word that counts, where a fact about the record is relative to something else. */
      readonly extra?: (record: number) => number;
    };

export interface Segment {
  readonly name: string;
  /** Its number in the order of reservation. */
  readonly index: number;
  /** Where its words lie: in the heap's words, in its blocks, or in a transient array. */
  readonly array: 'words' | 'blocks' | Uint32Array;
  /** Place of the first word in the array; in blocks 1024 times the block plus the word in it. */
  readonly base: number;
  readonly words: number;
  readonly identity: SegmentIdentity;
}

/** A word that fingerprints and diffs see: its place within a segment, and its value. */
export type CountedWord = (segment: Segment, place: number, value: number) => void;

/** What counting needs to see of a segment. */
export interface SegmentReader {
  /** Word `place` of the segment. */
  readonly read: (place: number) => number;
  /** The first place at or after one that may hold something else than 0. */
  readonly next: (place: number) => number;
}

/** Calls `visit` for every non-zero word of a segment that counts, in the order of places. */
export function countSegment(segment: Segment, words: SegmentReader, visit: CountedWord): void {
  const { identity } = segment;
  if (identity.kind === 'exact') countExact(segment, words, visit);
  else if (identity.kind === 'slots') countSlots(segment, identity.recordWords, words, visit);
  else if (identity.kind === 'ring') countRings(segment, identity, words, visit);
  else if (identity.kind === 'pool') countPool(segment, identity, words, visit);
}

function countExact(segment: Segment, { read, next }: SegmentReader, visit: CountedWord): void {
  for (let place = next(0); place < segment.words; place = next(place + 1)) {
    const value = read(place);
    if (value !== 0) visit(segment, place, value);
  }
}

function countSlots(segment: Segment, recordWords: number, { read }: SegmentReader, visit: CountedWord): void {
  for (let record = 0; record + recordWords <= segment.words; record += recordWords) {
    if (read(record) === 0) continue;
    for (let place = record; place < record + recordWords; place += 1) {
      const value = read(place);
      if (value !== 0) visit(segment, place, value);
    }
  }
}

type RingIdentity = Extract<SegmentIdentity, { kind: 'ring' }>;

function countRings(segment: Segment, ring: RingIdentity, { read }: SegmentReader, visit: CountedWord): void {
  const { ringWords, recordWords, time } = ring;
  const capacity = Math.floor(ringWords / recordWords);
  const now = time ? time.now() : 0;
  for (let r = 0; r < ring.rings; r += 1) {
    const { head, count } = ring.window(r);
    for (let i = 0; i < count; i += 1) {
      const record = r * ringWords + ((head + i) % capacity) * recordWords;
      const place = r * ringWords + i * recordWords;
      // A live record of zeros is not the same as no record.
      visit(segment, segment.words + r * capacity + i, 1);
      for (let w = 0; w < recordWords; w += 1) {
        if (time && (w === time.offset || w === time.offset + 1)) continue;
        const value = read(record + w);
        if (value !== 0) visit(segment, place + w, value);
      }
      if (time) {
        const at = joinWords(read(record + time.offset), read(record + time.offset + 1));
        visit(segment, place + time.offset, (now - at) >>> 0);
      }
    }
  }
}

type PoolIdentity = Extract<SegmentIdentity, { kind: 'pool' }>;

function countPool(segment: Segment, pool: PoolIdentity, { read }: SegmentReader, visit: CountedWord): void {
  const records: number[][] = [];
  for (let slot = 0; slot < pool.slots(); slot += 1) {
    const at = slot * pool.recordWords;
    if (read(at) === 0) continue;
    const words = Array.from({ length: pool.countedWords }, (_, w) => read(at + w));
    if (pool.extra) words.push(pool.extra(segment.base + at));
    records.push(words);
  }
  records.sort(compareWords);
  const stride = pool.countedWords + (pool.extra ? 1 : 0);
  for (const [i, words] of records.entries()) {
    for (const [w, value] of words.entries()) if (value !== 0) visit(segment, i * stride + w, value);
  }
}

function compareWords(a: readonly number[], b: readonly number[]): number {
  for (let i = 0; i < a.length; i += 1) if (a[i] !== b[i]) return a[i]! - b[i]!;
  return 0;
}
