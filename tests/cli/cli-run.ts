// The command, run in this process; and files for it to read.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll } from 'vitest';
import type { CliIo } from '../../cli/io.ts';
import { runCli } from '../../cli/program.ts';

/** An output that keeps what is written. */
export function capture(colour = false) {
  const written = { stdout: '', stderr: '' };
  const io: CliIo = {
    stdout: (text) => {
      written.stdout += text;
    },
    stderr: (text) => {
      written.stderr += text;
    },
    colour,
  };
  return { io, written };
}

export async function runCommand(argv: readonly string[], colour = false) {
  const { io, written } = capture(colour);
  return { code: await runCli(argv, io), ...written };
}

/** Gives a test file a folder of its own: `pathOf` names a place in it, `fileOf` writes a file there. */
export function scratchFolder() {
  let folder = '';
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'passthrough-test-'));
  });
  afterAll(() => rmSync(folder, { recursive: true }));
  const pathOf = (name: string) => join(folder, name);
  const fileOf = (name: string, content: Uint8Array | string) => {
    writeFileSync(pathOf(name), content);
    return pathOf(name);
  };
  return { pathOf, fileOf };
}
