import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { ExitCode } from '../../cli/exit-code.ts';
import { fromOptions, OptionError, reportFailure } from '../../cli/failure.ts';
import { styled } from '../../cli/io.ts';
import { startProgress } from '../../cli/progress.ts';
import { HypervisorBug, InputError } from '../../machine/errors.ts';
import { capture, runCommand } from './cli-run.ts';

const passthrough = (...argv: string[]) => runCommand(argv);

describe('help and version go to stdout', () => {
  test('--help shows examples and every exit code', async () => {
    const { code, stdout, stderr } = await passthrough('--help');
    expect([code, stderr]).toEqual([0, '']);
    expect(stdout).toContain('Examples:\n  $ passthrough dmar ');
    for (const value of Object.values(ExitCode)) expect(stdout).toMatch(new RegExp(`^ {2}${value} {2}\\w`, 'm'));
  });

  test.each(['dmar', 'compare'])('%s --help shows examples', async (command) => {
    const { code, stdout } = await passthrough(command, '--help');
    expect(code).toBe(0);
    expect(stdout).toContain(`Examples:\n  $ passthrough ${command}`);
  });

  test('--version is that of the package', async () => {
    const manifest = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'));
    expect(await passthrough('--version')).toEqual({ code: 0, stdout: `${manifest.version}\n`, stderr: '' });
  });
});

describe('a wrong command line is one line with a hint, exit 2', () => {
  test.each([
    [['frob'], "unknown command 'frob'", 'passthrough --help'],
    [['dmra'], 'Did you mean dmar?', 'passthrough --help'],
    [['dmar'], "missing required argument 'file'", 'passthrough dmar --help'],
    [['dmar', 'a', 'b'], 'too many arguments', 'passthrough dmar --help'],
    [['dmar', 'a', '--jsn'], 'Did you mean --json?', 'passthrough dmar --help'],
    [['compare', '--seed', '-1'], 'Expected a whole number', 'passthrough compare --help'],
    [['compare', '--seed', '1e3'], 'Expected a whole number', 'passthrough compare --help'],
    [['compare', '--policies', 'xen,,never'], 'Expected names', 'passthrough compare --help'],
  ])('%j', async (argv, message, hint) => {
    const { code, stdout, stderr } = await passthrough(...argv);
    expect([code, stdout]).toEqual([2, '']);
    expect(stderr).toMatch(/^passthrough: [^\n]*\n$/);
    expect(stderr).toContain(message);
    expect(stderr).toContain(`(see: ${hint})`);
  });

  test('no command at all shows the help on stderr', async () => {
    const { code, stdout, stderr } = await passthrough();
    expect([code, stdout]).toEqual([2, '']);
    expect(stderr).toContain('Usage: passthrough');
  });
});

describe('from an error to an exit code', () => {
  const noAccess = Object.assign(new Error('EACCES: permission denied'), { code: 'EACCES', syscall: 'open' });
  test.each([
    [new InputError('TRACE_LINE', { file: 'trace.txt', line: 7 }, 'bad'), 'passthrough: trace.txt:7: bad\n'],
    [new OptionError('no policy\nof that name'), 'passthrough: no policy\\x0aof that name\n'],
    [noAccess, 'passthrough: EACCES: permission denied\n'],
  ])('%s is the input', (error, line) => {
    const { io, written } = capture();
    expect(reportFailure(error, io)).toBe(ExitCode.badInput);
    expect(written).toEqual({ stdout: '', stderr: line });
  });

  test.each([
    [new HypervisorBug('G8', 'pin below zero'), 'HypervisorBug: G8: pin below zero'],
    [new TypeError('x is undefined'), 'TypeError: x is undefined'],
    ['a string', 'a string'],
  ])('%s is a bug, with its stack', (error, text) => {
    const { io, written } = capture();
    expect(reportFailure(error, io)).toBe(ExitCode.bug);
    expect(written.stderr).toContain(text);
    if (error instanceof Error) expect(written.stderr).toMatch(/\n +at /);
  });

  test('what the library says about an option is the user’s', () => {
    const refuse = (error: Error) => () =>
      fromOptions(() => {
        throw error;
      });
    expect(refuse(new RangeError('seed -1'))).toThrow(OptionError);
    expect(refuse(new TypeError('seed x'))).toThrow(OptionError);
    expect(refuse(new HypervisorBug('G8', 'no'))).toThrow(HypervisorBug);
    expect(fromOptions(() => 7)).toBe(7);
  });
});

test('styles are left out where there are no colours', () => {
  expect(styled(capture(false).io, 'bold', 'x')).toBe('x');
  expect(styled(capture(true).io, 'bold', 'x')).toBe('\x1b[1mx\x1b[22m');
});

describe('progress', () => {
  /** As much of a terminal as ora needs. */
  function terminal(columns = 80) {
    const shown: string[] = [];
    const stream = {
      isTTY: true,
      columns,
      hasColors: () => false,
      write: (text: string) => shown.push(text) > 0,
      cursorTo: () => true,
      clearLine: () => true,
      moveCursor: () => true,
    };
    return { shown, terminal: stream as unknown as NodeJS.WriteStream };
  }

  test('shows nothing in the first second, then the line', async () => {
    const { shown, terminal: stream } = terminal();
    let now = 0;
    const progress = startProgress({ ...capture().io, terminal: stream }, () => now);
    now = 999;
    await progress.report('early');
    expect(shown.join('')).toBe('');
    now = 1000;
    await progress.report('10 of 20');
    now = 1050;
    await progress.report('too soon after it');
    progress.stop();
    await progress.report('after the end');
    expect(shown.join('')).toContain('10 of 20');
    expect(shown.join('')).not.toMatch(/early|too soon|after the end/);
  });

  test('shows nothing on a terminal without columns', async () => {
    const { shown, terminal: stream } = terminal(0);
    let now = 0;
    const progress = startProgress({ ...capture().io, terminal: stream }, () => now);
    now = 2000;
    await progress.report('10 of 20');
    progress.stop();
    expect(shown).toEqual([]);
  });

  test('shows nothing where there is no terminal', async () => {
    const { io, written } = capture();
    const progress = startProgress(io, () => 1e9);
    await progress.report('10 of 20');
    progress.stop();
    expect(written.stderr).toBe('');
  });
});
