import { fc, test as property } from '@fast-check/vitest';
import { expect, test } from 'vitest';
import { contentHash } from '../../../verify/conform/replay/content-hash.ts';

/** FNV-1a by its definition. */
function fnv(bytes: Uint8Array): string {
  let hash = 0xcbf29ce484222325n;
  for (const byte of bytes) hash = ((hash ^ BigInt(byte)) * 0x100000001b3n) & 0xffffffffffffffffn;
  return hash.toString(16).padStart(16, '0');
}

test('is what the recorder printed for a page of 0x64', () => {
  expect(contentHash(new Uint32Array(1024).fill(0x64646464))).toBe('cf4344e52583a325');
});

property.prop([fc.uint32Array({ maxLength: 64 })])('is FNV-1a of the bytes', (words) => {
  expect(contentHash(words)).toBe(fnv(new Uint8Array(words.buffer, words.byteOffset, words.byteLength)));
});
