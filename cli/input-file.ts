// Reading of the files that a user names.

import { type FileHandle, open } from 'node:fs/promises';
import { InputError } from '../machine/errors.ts';
import { isSystemError } from './failure.ts';

const CHUNK_BYTES = 64 * 1024;

const REASONS: Readonly<Record<string, readonly [code: string, message: string]>> = {
  ENOENT: ['INPUT_MISSING', 'no such file'],
  ENOTDIR: ['INPUT_MISSING', 'no such file'],
  EISDIR: ['INPUT_DIRECTORY', 'is a directory, expected a file'],
  EACCES: ['INPUT_ACCESS', 'permission denied'],
  EPERM: ['INPUT_ACCESS', 'permission denied'],
};

/**
 * The whole of a file; pipes and devices work too.
 * @param limitBytes more than that is an error, found before more is read
 * @throws InputError `INPUT_MISSING`, `INPUT_DIRECTORY`, `INPUT_ACCESS`, `INPUT_SIZE`, or `INPUT_READ` for the rest
 */
export async function readInputFile(file: string, limitBytes: number): Promise<Uint8Array> {
  let handle: FileHandle | undefined;
  try {
    handle = await open(file, 'r');
    return await readUpTo(handle, file, limitBytes);
  } catch (error) {
    throw asInputError(error, file);
  } finally {
    await handle?.close();
  }
}

async function readUpTo(handle: FileHandle, file: string, limitBytes: number): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let total = 0;
  for (;;) {
    const chunk = new Uint8Array(CHUNK_BYTES);
    const { bytesRead } = await handle.read(chunk, 0, CHUNK_BYTES);
    if (bytesRead === 0) return Buffer.concat(chunks);
    total += bytesRead;
    if (total > limitBytes) {
      throw new InputError('INPUT_SIZE', { file }, `larger than ${limitBytes} bytes, the most this input may have`);
    }
    chunks.push(chunk.subarray(0, bytesRead));
  }
}

function asInputError(error: unknown, file: string): unknown {
  if (!isSystemError(error)) {
    // Node's own refusal of a path, as one with a NUL in it.
    const isPathRefused = error instanceof TypeError && 'code' in error && error.code === 'ERR_INVALID_ARG_VALUE';
    return isPathRefused ? new InputError('INPUT_MISSING', { file }, 'not a path') : error;
  }
  const [code, message] = REASONS[error.code ?? ''] ?? ['INPUT_READ', error.message];
  return new InputError(code, { file }, message);
}
