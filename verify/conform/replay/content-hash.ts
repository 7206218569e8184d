// FNV-1a over 64 bits, of words in memory: in halves of 32 bits, since a number holds no product of 64 bits exactly.

/** Offset basis cbf29ce484222325; prime 100000001b3, which is 2^40 + 0x1b3. */
const BASIS_HIGH = 0xcbf29ce4;
const BASIS_LOW = 0x84222325;
const PRIME_LOW = 0x1b3;
const PRIME_SHIFT = 8;

/** Hash of the bytes of little-endian words, as 16 hex digits. */
export function contentHash(words: Uint32Array): string {
  let high = BASIS_HIGH | 0;
  let low = BASIS_LOW | 0;
  for (let at = 0; at < words.length; at += 1) {
    const word = words[at]!;
    for (let shift = 0; shift < 32; shift += 8) {
      low ^= (word >>> shift) & 0xff;
      // What the low half's product carries into the high one, and the low half shifted by 40.
      const carry = ((low >>> 16) * PRIME_LOW + (((low & 0xffff) * PRIME_LOW) >>> 16)) >>> 16;
      high = (Math.imul(high, PRIME_LOW) + carry + (low << PRIME_SHIFT)) | 0;
      low = Math.imul(low, PRIME_LOW);
    }
  }
  return [high, low].map((half) => (half >>> 0).toString(16).padStart(8, '0')).join('');
}
