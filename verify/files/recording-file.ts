// Recordings in files: plain text or gzip, told apart by content.

import { createGunzip, gunzipSync } from 'node:zlib';
import { parseRecording, type Recording } from '../conform/recording/recording.ts';

/** Bytes that a compressed recording may grow to. */
const TEXT_LIMIT_BYTES = 400 * 1024 * 1024;

/**
 * The recording in a file's bytes.
 * @throws InputError with file and line, also where compressed data ends too early or is damaged
 */
export async function recordingFromBytes(bytes: Uint8Array, file: string): Promise<Recording> {
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return parseRecording(decode(bytes), file);
  const whole = inflateWhole(bytes);
  if (whole !== null) return parseRecording(decode(whole), file);
  const { text, ending } = await inflate(bytes);
  return parseRecording(text, file, ending);
}

/** All of it at once, which is the fast way; null when that fails. */
function inflateWhole(bytes: Uint8Array): Uint8Array | null {
  try {
    return gunzipSync(bytes, { maxOutputLength: TEXT_LIMIT_BYTES });
  } catch {
    return null;
  }
}

const decode = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);

/** The text as far as it can be had, and why it ends there if that is too early. */
async function inflate(bytes: Uint8Array): Promise<{ readonly text: string; readonly ending?: string }> {
  const gunzip = createGunzip({ chunkSize: 256 * 1024 });
  gunzip.end(bytes);
  const chunks: Uint8Array[] = [];
  let total = 0;
  try {
    for await (const chunk of gunzip as AsyncIterable<Uint8Array>) {
      chunks.push(chunk);
      total += chunk.length;
      if (total > TEXT_LIMIT_BYTES) return { text: '', ending: `more than ${TEXT_LIMIT_BYTES} bytes when unpacked` };
    }
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    return { text: decode(Buffer.concat(chunks)), ending: `the compressed data is truncated or damaged here (${why})` };
  }
  return { text: decode(Buffer.concat(chunks)) };
}
