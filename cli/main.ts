#!/usr/bin/env node
// The executable. All it does is tie the command to this process.

import { ExitCode } from './exit-code.ts';
import { reportFailure } from './failure.ts';
import { processIo } from './io.ts';
import { runCli } from './program.ts';

const io = processIo();
let outputFailed = false;

for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    // The reader went away (`passthrough ... | head`): no fault of ours, and the exit code stays that of the work.
    if (error.code === 'EPIPE') return;
    outputFailed = true;
    process.exitCode = reportFailure(error, io);
  });
}

// Node would exit with 1 here, which means "violated".
process.on('uncaughtException', (error) => {
  reportFailure(error, io);
  process.exit(ExitCode.bug);
});

const code = await runCli(process.argv.slice(2), io);
if (!outputFailed) process.exitCode = code;
