// Bytes of a text file, decompressed where it is a .gz, chunk by chunk.

import { createReadStream } from 'node:fs';
import { Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { InputError } from '../../machine/errors.ts';

/** Bytes read, and decompressed, at a time. */
const CHUNK_BYTES = 256 * 1024;

/** A failure of the decompressor, as opposed to one of the file system. */
export class GzipFailure extends Error {
  override readonly name = 'GzipFailure';
}

/** The text of a file. */
export interface TextSource {
  /**
   * Its bytes, decompressed. Throws InputError `FILE` when the file cannot be read, {@link GzipFailure} when the
   * compressed data is damaged.
   */
  readonly chunks: AsyncGenerator<Uint8Array, void, undefined>;
  /** Whether the file is a .gz. Known once the first chunk is there. */
  readonly compressed: boolean;
}

/** Opens a file. Whether it is a .gz is told from its first two bytes, not from its name; pipes work. */
export function textSource(path: string): TextSource {
  let compressed = false;
  async function* chunks(): AsyncGenerator<Uint8Array, void, undefined> {
    const bytes = fileChunks(path);
    const first = await firstBytes(bytes, 2);
    compressed = first[0] === 0x1f && first[1] === 0x8b;
    yield* compressed ? inflated(followedBy(first, bytes)) : followedBy(first, bytes);
  }
  return {
    chunks: chunks(),
    get compressed() {
      return compressed;
    },
  };
}

/** At least `count` bytes, unless there are fewer. */
async function firstBytes(bytes: AsyncGenerator<Buffer>, count: number): Promise<Buffer> {
  let first = Buffer.alloc(0);
  while (first.length < count) {
    const next = await bytes.next();
    if (next.done) break;
    first = Buffer.concat([first, next.value]);
  }
  return first;
}

async function* followedBy(first: Buffer, rest: AsyncGenerator<Buffer>): AsyncGenerator<Buffer, void, undefined> {
  if (first.length > 0) yield first;
  yield* rest;
}

async function* fileChunks(path: string): AsyncGenerator<Buffer, void, undefined> {
  try {
    for await (const chunk of createReadStream(path, { highWaterMark: CHUNK_BYTES })) yield chunk as Buffer;
  } catch (error) {
    throw new InputError('FILE', { file: path }, `cannot be read (${reason(error)}); expected a readable file`);
  }
}

async function* inflated(bytes: AsyncGenerator<Buffer>): AsyncGenerator<Buffer, void, undefined> {
  const source = Readable.from(bytes, { objectMode: false, highWaterMark: CHUNK_BYTES });
  const gunzip = createGunzip({ chunkSize: CHUNK_BYTES });
  source.on('error', (error) => gunzip.destroy(error));
  source.pipe(gunzip);
  try {
    for await (const chunk of gunzip) yield chunk as Buffer;
  } catch (error) {
    if (error instanceof InputError) throw error;
    throw new GzipFailure(reason(error));
  } finally {
    source.destroy();
  }
}

function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
