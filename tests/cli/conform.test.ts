import { gzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import type { Conformance } from '../../verify/conform/index.ts';
import { recordedFile, recordedText } from '../verify/conform/recorded.ts';
import { runCommand, scratchFolder } from './cli-run.ts';

const { fileOf, pathOf } = scratchFolder();
const conform = (argv: readonly string[], colour = false) => runCommand(['conform', ...argv], colour);

const SCEN4 = recordedFile('scen4-417-cm0');
const text = recordedText('scen4-417-cm0');
/** The recording with another return value in its first `createdomain`. */
const altered = text.replace(/("o":"createdomain".*?"rc":)0/, '$1-7');
const alteredLine = text.split('\n').findIndex((line) => line.includes('"o":"createdomain"')) + 1;

describe('passthrough conform', () => {
  test('--json: agreement, denominators, and each disagreement with its place', async () => {
    const file = fileOf('altered.jsonl', altered);
    const { code, stdout, stderr } = await conform([SCEN4, file, '--json']);
    expect([code, stderr]).toEqual([1, '']);
    const { agreement, compared, files, ...rest } = JSON.parse(stdout) as Conformance;
    expect(rest).toEqual({});
    expect(files.map(({ file: name, records }) => [name, records])).toEqual([
      [SCEN4, 86],
      [file, 86],
    ]);
    const [plain, other] = [files[0]!, files[1]!];
    expect(Object.keys(plain).sort()).toEqual(
      ['agreed', 'byField', 'compared', 'disagreements', 'file', 'notCompared', 'records'].sort(),
    );
    expect(compared).toBe(plain.compared + other.compared);
    expect(agreement).toBeCloseTo((plain.agreed + other.agreed) / compared, 12);
    expect(plain.agreed).toBe(plain.compared);
    expect(plain.agreed).toBe(other.agreed + 1);
    expect(plain.byField['createdomain.rc']).toEqual([2, 2]);
    expect(other.byField['createdomain.rc']).toEqual([1, 2]);
    expect(plain.notCompared).toMatchObject({ config: 1, label: 6, gset: 2 });
    const sum = Object.values(other.byField).reduce((total, [, count]) => total + count, 0);
    expect(sum).toBe(other.compared);
    expect(other.disagreements[0]).toEqual({
      line: alteredLine,
      op: 'createdomain',
      field: 'rc',
      expected: -7,
      got: 0,
    });
    expect(other.disagreements).toHaveLength(other.compared - other.agreed);
  });

  test('a table by file and by kind of record, and the first disagreements', async () => {
    const file = fileOf('altered.jsonl', altered);
    const { code, stdout, stderr } = await conform([file, '--first', '1', '--explain']);
    expect([code, stderr]).toEqual([1, '']);
    const lines = stdout.split('\n');
    expect(lines[0]).toMatch(/^recording +fields compared +disagree +agreement +of$/);
    expect(lines[1]).toMatch(/^altered\.jsonl +\d+ +\d+ +\d+\.\d{3} % +86 records$/);
    expect(stdout).toMatch(/^createdomain +2 +1 +50\.000 % +rc 1$/m);
    expect(stdout).toContain(`altered.jsonl:${alteredLine} createdomain rc: Xen -7, model 0\n`);
    expect(stdout).toMatch(/^=> the model agrees with real Xen in \d+\.\d{3} % of \d+ fields of 86 records/m);
    expect(stdout).not.toMatch(/[ \t]$/m);
    expect(stdout).not.toContain('\x1b');
  });

  test('says what of the config is passed over', async () => {
    const file = fileOf('debug.jsonl', text.replace('"debug":false', '"debug":true'));
    const { code, stdout } = await conform([file]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^debug\.jsonl:1 config\.debug: passed over/m);
    expect((await conform([SCEN4])).stdout).not.toContain('passed over');
  });

  test('--first limits the JSON, too', async () => {
    const file = fileOf('altered.jsonl', altered);
    const { stdout } = await conform([file, '--json', '--first', '1']);
    const { files } = JSON.parse(stdout) as Conformance;
    expect(files[0]!.disagreements).toHaveLength(1);
  });

  test('is coloured on a terminal', async () => {
    expect((await conform([SCEN4], true)).stdout).toContain('\x1b[');
  });

  test('--help says what it does', async () => {
    const { code, stdout } = await conform(['--help']);
    expect(code).toBe(0);
    expect(stdout).toMatch(/recording of real Xen/);
  });
});

describe('bad input: one line with file and line, nothing on stdout, exit 2', () => {
  const bad: readonly (readonly [name: string, content: string | Uint8Array, message: RegExp])[] = [
    ['line.jsonl', `${text.slice(0, 5000).split('\n')[0]}\n{"o":"map"\n`, /line\.jsonl:2: no JSON/],
    ['kind.jsonl', `${text.split('\n')[0]}\n{"o":"mop"}\n`, /kind\.jsonl:2: unknown kind of record \("o": "mop"\)/],
    ['cut.jsonl.gz', gzipSync(text).subarray(0, 2500), /cut\.jsonl\.gz:\d+: the compressed data is truncated/],
    ['domain.jsonl', text.split('\n').slice(0, 12).join('\n'), /domain\.jsonl:1: expected a "domain" record/],
    ['count.jsonl', text.replace(/("o":"copy".*?"n":)\d+/, '$199'), /count\.jsonl:\d+: copy\.n is 99; expected the/],
    [
      'frames.jsonl',
      text.replace('"0x3ffdffff","usable"', '"0x3ffdffffff","usable"'),
      /frames\.jsonl:1: no such machine: frames \d+: expected 8 to/,
    ],
  ];

  test.each(bad)('%s', async (name, content, message) => {
    const good = SCEN4;
    const { code, stdout, stderr } = await conform([good, fileOf(name, content)]);
    expect([code, stdout]).toEqual([2, '']);
    expect(stderr).toMatch(message);
    expect(stderr.trimEnd()).not.toContain('\n');
  });

  test('no such file, no file at all, another option', async () => {
    expect(await conform([pathOf('missing')])).toMatchObject({ code: 2, stdout: '' });
    expect(await conform([])).toMatchObject({ code: 2, stdout: '' });
    expect(await conform([SCEN4, '--first', 'x'])).toMatchObject({ code: 2, stdout: '' });
  });
});
