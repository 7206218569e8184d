import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import type { Comparison } from '../../benchmarks/index.ts';
import { line, MAP, SMALL, UNMAP } from '../benchmarks/trace/ftrace-text.ts';
import { runCommand, scratchFolder } from './cli-run.ts';

const example = (name: string) => fileURLToPath(new URL(`../../examples/data/${name}`, import.meta.url));
const TRACE = example('nvme-randread-4k-qd32.strict.txt.gz');
const Q35 = example('q35.DMAR.bin');

const { pathOf, fileOf } = scratchFolder();

/** Runs the command in this process. */
const compare = (argv: readonly string[], colour = false) => runCommand(['compare', ...argv], colour);

const NAMES = ['strict-page', 'strict-domain', 'queued', 'deferred', 'deferred', 'never'];

describe('passthrough compare', () => {
  test('without arguments: a table of the example trace, and what to conclude', async () => {
    const { code, stdout, stderr } = await compare([]);
    expect([code, stderr]).toEqual([0, '']);
    const lines = stdout.split('\n');
    expect(lines[0]).toMatch(/^Trace: .*nvme-randread.*: 16384 maps and 16384 unmaps in 1\.73 s on 1 CPU$/);
    expect(lines[1]).toMatch(/^Platform: q35\.DMAR\.bin, 1 VT-d unit; 0000:01:00\.0 \(assumed\) behind unit 0/);
    const head = lines.findIndex((text) => text.startsWith('policy'));
    const rows = lines.slice(head + 1, head + 7).map((text) => text.split(/ {2,}/));
    expect(rows.map(([name]) => name)).toEqual(NAMES);
    expect(stdout).toMatch(/=> Nothing stays reachable after release with strict-page \(afterFlush\)/);
    expect(stdout).toMatch(/=> deferred \(onReturn\) leaves released pages reachable for up to 10\.00 ms/);
    expect(Math.max(...lines.map((text) => text.length))).toBeLessThanOrEqual(120);
    expect(stdout).not.toMatch(/[ \t]$/m);
    expect(stdout).not.toContain('\x1b');
  });

  test('--json prints the comparison, the same bytes for the same seed', async () => {
    const trace = fileOf('small.txt', SMALL);
    const argv = ['--trace', trace, '--platform', Q35, '--policies', 'strict-page,never', '--seed', '7', '--json'];
    const { code, stdout, stderr } = await compare(argv);
    expect([code, stderr]).toEqual([0, '']);
    const comparison = JSON.parse(stdout) as Comparison;
    expect(comparison).toMatchObject({
      trace: { file: trace },
      input: { events: 4, maps: 1, unmaps: 1, unmapsWithoutMap: 0, unknownLines: 0, eventsByKind: { map: 1 } },
      platform: { file: Q35, units: 1, devices: [{ device: '0000:01:00.0', unit: 0, named: false }] },
      seed: 7,
    });
    expect(comparison.policies.map(({ name, release }) => [name, release])).toEqual([
      ['strict-page', 'afterFlush'],
      ['never', 'onReturn'],
    ]);
    for (const { cost, exposure, estimate, invalidations, iotlb } of comparison.policies) {
      expect(cost.cyclesPerUnmap).toBeGreaterThan(cost.parts.unmap.tables);
      expect(cost.parameters.every(({ source }) => source.length > 0)).toBe(true);
      expect(exposure).toMatchObject({ kind: 'bound', pagesReleased: 1, excess: {}, window: {}, staleAccesses: 0 });
      expect(estimate.kind).toBe('estimate');
      expect(Object.keys(invalidations)).toEqual(['context', 'global', 'domain', 'page', 'waits', 'per1000Unmaps']);
      expect(iotlb).toEqual({ hits: 0, misses: 1, missRatio: 1, walkReads: expect.any(Number), evictions: 0 });
      expect(iotlb.walkReads).toBeGreaterThan(0);
    }
    expect((await compare(argv)).stdout).toBe(stdout);
  });

  test('one release of a policy', async () => {
    const { stdout } = await compare([
      '--trace',
      fileOf('one.txt', SMALL),
      '--policies',
      'deferred:afterFlush',
      '--json',
    ]);
    expect(JSON.parse(stdout).policies).toMatchObject([{ name: 'deferred', release: 'afterFlush' }]);
  });

  test('colours where they are wanted, in lines as long as without', async () => {
    const argv = ['--trace', fileOf('colour.txt', SMALL), '--policies', 'strict-page'];
    const [plain, coloured] = [(await compare(argv)).stdout, (await compare(argv, true)).stdout];
    expect(coloured).toContain('\x1b[');
    // biome-ignore lint/suspicious/noControlCharactersInRegex: escape sequences are what is taken away
    expect(coloured.replace(/\x1b\[\d+m/g, '')).toBe(plain);
  });

  test('a name in a trace cannot drive the terminal', async () => {
    const { stdout } = await compare(['--trace', fileOf('a\x1b[2Jb.txt', SMALL), '--policies', 'never']);
    expect(stdout).not.toContain('\x1b');
  });
});

describe('bad input is one line on stderr, nothing on stdout, exit 2', () => {
  const torn = [line(MAP), line(UNMAP).slice(0, 90), line(MAP)].join('\n');
  const lost = [line(MAP), 'CPU:1 [LOST 17 EVENTS]', line(UNMAP)].join('\n');
  const cases: readonly [name: string, argv: () => string[], message: RegExp][] = [
    ['an unknown policy', () => ['--policies', 'strict-page,frob'], /unknown policy "frob": expected strict-page, /],
    [
      'a release that is none',
      () => ['--policies', 'never:afterFlush'],
      /never with release "afterFlush": expected onReturn/,
    ],
    ['a missing trace', () => ['--trace', pathOf('missing.txt')], /missing\.txt.*ENOENT/],
    [
      'a truncated .gz',
      () => ['--trace', fileOf('cut.gz', readFileSync(TRACE).subarray(0, 9000))],
      /cut\.gz:\d+: .*cut short/,
    ],
    ['a torn line', () => ['--trace', fileOf('torn.txt', torn)], /torn\.txt:2: torn line: expected/],
    ['lost events', () => ['--trace', fileOf('lost.txt', lost)], /lost\.txt:2: CPU 1 lost 17 events/],
    ['not a trace', () => ['--trace', Q35], /q35\.DMAR\.bin:1: not ftrace text/],
    [
      'a trace without maps',
      () => ['--trace', fileOf('none.txt', `${line('tracing_mark_write: x')}\n`)],
      /none\.txt: no map/,
    ],
    ['a missing table', () => ['--platform', pathOf('no.bin')], /no\.bin: no such file/],
    [
      'a truncated table',
      () => ['--platform', fileOf('cut.bin', readFileSync(Q35).subarray(0, 100))],
      /cut\.bin: byte 4 \(0x4\)/,
    ],
  ];

  test.each(cases)('%s', async (_name, argv, message) => {
    for (const flags of [[], ['--json']]) {
      const { code, stdout, stderr } = await compare([...argv(), ...flags]);
      expect([code, stdout]).toEqual([2, '']);
      expect(stderr).toMatch(/^passthrough: [^\n]*\n$/);
      expect(stderr).toMatch(message);
    }
  });
});
