// Fingerprints: 64 bits that stand for a state's identity. Not cryptographic.

import type { Heap } from './heap.ts';

/** Murmur3's finaliser: every input bit reaches every output bit. */
export function mix32(value: number): number {
  let h = value | 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/**
 * Sixteen hex digits for the counted words of a heap plus a text (the control state in canonical form).
 * Words combine by exclusive or of a hash of (segment, place, value), so that an incremental version can agree with it.
 */
export function fingerprint(heap: Heap, text: string): string {
  let low = 0;
  let high = 0;
  heap.counted((segment, place, value) => {
    const where = mix32(place ^ Math.imul(segment.index + 1, 0x9e3779b1));
    low ^= mix32(value ^ where);
    high ^= mix32(Math.imul(value, 0x27d4eb2f) + where);
  });
  for (let i = 0; i < text.length; i += 1) {
    low = mix32(low ^ text.charCodeAt(i));
    high = mix32(high + Math.imul(text.charCodeAt(i), 0x165667b1));
  }
  const hex = (word: number) => (word >>> 0).toString(16).padStart(8, '0');
  return hex(high) + hex(low);
}
