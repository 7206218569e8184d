// FNV-1a over 64 bits, of words in memory: in 16-bit pieces, since a number holds no product of 64 bits exactly.

/** Offset basis cbf29ce484222325 and prime 100000001b3, lowest piece first. */
const BASIS = [0x2325, 0x8422, 0x9ce4, 0xcbf2] as const;
const PRIME_LOW = 0x1b3;
const PRIME_SHIFT = 8;

/** Hash of the bytes of little-endian words, as 16 hex digits. */
export function contentHash(words: Uint32Array): string {
  let [a, b, c, d]: [number, number, number, number] = [...BASIS];
  for (let at = 0; at < words.length; at += 1) {
    const word = words[at]!;
    for (let shift = 0; shift < 32; shift += 8) {
      a ^= (word >>> shift) & 0xff;
      // Times the prime, which is 2^40 + 0x1b3: the pieces by the low part, and the two lowest 40 bits higher.
      const p0 = a * PRIME_LOW;
      const p1 = b * PRIME_LOW + (p0 >>> 16);
      const p2 = c * PRIME_LOW + ((a << PRIME_SHIFT) & 0xffffff) + (p1 >>> 16);
      const p3 = d * PRIME_LOW + ((b << PRIME_SHIFT) & 0xffffff) + (p2 >>> 16);
      a = p0 & 0xffff;
      b = p1 & 0xffff;
      c = p2 & 0xffff;
      d = p3 & 0xffff;
    }
  }
  return [d, c, b, a].map((piece) => piece.toString(16).padStart(4, '0')).join('');
}
