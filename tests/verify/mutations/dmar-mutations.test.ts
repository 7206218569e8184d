// Goal: no bytes given as a DMAR table break the reader, the platform or the encoder. Method: some hundred of the mutants
// that `npm run mutate-dmar` makes by the hundred thousand; and readers with a planted mistake, which are found out.

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { runMutateDmar } from '../../../cli/mutate-dmar.ts';
import { InputError } from '../../../machine/errors.ts';
import { dmarBytes, parseDmar } from '../../../passthrough/index.ts';
import { checkDmar } from '../../../verify/mutations/dmar-check.ts';
import { dmarMutant } from '../../../verify/mutations/dmar-mutations.ts';
import { randomSource } from '../../../verify/mutations/random.ts';
import { capture, scratchFolder } from '../../cli/cli-run.ts';
import { FULL_TABLE } from '../../passthrough/platform/dmar-fixtures.ts';

const MUTANTS = 600;
const folder = process.env.PASSTHROUGH_DATA && join(process.env.PASSTHROUGH_DATA, 'dmar');
const firmware =
  folder && existsSync(folder)
    ? readdirSync(folder)
        .filter((file) => /^DMAR-.*\.hex$/.test(file))
        .map((file) => dmarBytes(readFileSync(join(folder, file)), file))
    : [];
if (firmware.length === 0) {
  process.stderr.write('dmar-mutations: firmware tables skipped, PASSTHROUGH_DATA names no directory with them\n');
}

/** Outcomes of mutants of these tables, by kind or code. */
function outcomes(tables: readonly Uint8Array[], parse?: typeof parseDmar): Map<string, number> {
  const found = new Map<string, number>();
  for (let mutant = 0; mutant < MUTANTS; mutant++) {
    const outcome = checkDmar(dmarMutant(tables, randomSource(1, mutant)).content, parse);
    const of = outcome.kind === 'refused' ? outcome.code : outcome.kind;
    found.set(of, (found.get(of) ?? 0) + 1);
  }
  return found;
}

describe('mutants', () => {
  test('of a table with one of everything are refused with a place, or are platforms', () => {
    const found = outcomes([FULL_TABLE]);
    const kinds = ['DMAR_ENCODING', 'DMAR_LENGTH', 'DMAR_SCOPE', 'DMAR_SHORT', 'DMAR_STRUCTURE', 'platform'];
    expect([...found.keys()].sort()).toEqual(expect.arrayContaining(kinds));
    expect(found.get('platform')).toBeGreaterThan(MUTANTS / 20);
  });

  test.skipIf(firmware.length === 0)('of firmware tables are, too', () => {
    expect(outcomes(firmware).get('platform')).toBeGreaterThan(MUTANTS / 20);
  });

  test('are the same for the same seed, and leave the tables as they are', () => {
    const table = Buffer.from(FULL_TABLE);
    const of = (stream: number) => dmarMutant([table], randomSource(7, stream));
    expect(of(3)).toEqual(of(3));
    expect(of(3)).not.toEqual(of(4));
    for (let stream = 0; stream < 50; stream++) of(stream);
    expect([...table]).toEqual([...FULL_TABLE]);
  });
});

describe('a reader with a mistake is found out', () => {
  test.each<[name: string, parse: typeof parseDmar, message: RegExp]>([
    [
      'an error of another kind',
      (...of) => {
        try {
          return parseDmar(...of);
        } catch {
          throw new RangeError('Offset is outside the bounds of the DataView');
        }
      },
      /Offset is outside/,
    ],
    [
      'an error without its place',
      (bytes, file, options) => {
        try {
          return parseDmar(bytes, file, options);
        } catch {
          throw new InputError('DMAR_LENGTH', { file }, 'something is wrong');
        }
      },
      /error DMAR_LENGTH at undefined/,
    ],
    ['structures out of order', (...of) => ({ ...parseDmar(...of), order: [] }), /encoded as/],
    [
      'unknown structures forgotten',
      (...of) => {
        const table = parseDmar(...of);
        return of[1] === 'encoded' ? { ...table, unknown: [] } : table;
      },
      /encoded as/,
    ],
  ])('%s', (_, parse, message) => {
    expect(() => outcomes([FULL_TABLE], parse)).toThrow(message);
  });
});

describe('npm run mutate-dmar', () => {
  const { fileOf } = scratchFolder();

  test('prints what came of how many', async () => {
    const { io, written } = capture();
    const code = await runMutateDmar(['--count', '60', '--seed', '5', fileOf('full.bin', FULL_TABLE)], io);
    expect([code, written.stderr]).toEqual([0, '']);
    expect(written.stdout).toMatch(/^60 mutants of 3 tables, seed 5, [\d.]+ s\n/);
    expect(written.stdout).toMatch(/\n +\d+ {2}platform\n[\s\S]*\n +0 {2}failures\nslowest: mutant \d+, [\d.]+ ms\n$/);
  });

  test.each([
    [['--count', 'many'], 'Expected a whole number'],
    [['missing.bin'], 'missing.bin: no such file'],
  ])('%j: one line, exit 2', async (argv, message) => {
    const { io, written } = capture();
    expect([await runMutateDmar(argv, io), written.stdout]).toEqual([2, '']);
    expect(written.stderr).toMatch(/^passthrough: [^\n]*\n$/);
    expect(written.stderr).toContain(message);
  });
});
