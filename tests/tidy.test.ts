// What keeps the house tidy, checked over all files: no clocks in the model, headers, sizes, a README in each folder.

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';

const root = fileURLToPath(new URL('../', import.meta.url));
const MODEL = ['machine', 'grant', 'passthrough', 'hypervisor', 'verify'];
const SOURCES = [...MODEL, 'benchmarks', 'cli', 'viewer', 'examples'];
const COLUMNS_MAX = 120;
const LINES_MAX = 450;

interface SourceFile {
  readonly path: string;
  readonly text: string;
  /** The text without comments, line by line as it was. */
  readonly code: string;
}

function filesOf(folders: readonly string[]): SourceFile[] {
  return folders
    .filter((folder) => existsSync(`${root}${folder}`))
    .flatMap((folder) =>
      readdirSync(`${root}${folder}`, { recursive: true, encoding: 'utf8' })
        .map((file) => `${folder}/${file.replaceAll('\\', '/')}`)
        .filter((path) => path.endsWith('.ts'))
        .sort()
        .map((path) => {
          const text = readFileSync(`${root}${path}`, 'utf8');
          return { path, text, code: withoutComments(text) };
        }),
    );
}

function withoutComments(text: string): string {
  return text
    .replace(/\/\*[\s\S]*?\*\//g, (comment) => comment.replace(/[^\n]/g, ' '))
    .replace(/(^|\s)\/\/.*$/gm, '$1');
}

/** `path:line: text` of every line that a pattern matches. */
function linesThat(files: readonly SourceFile[], part: 'text' | 'code', matches: (line: string) => boolean): string[] {
  return files.flatMap((file) =>
    file[part].split('\n').flatMap((line, at) => (matches(line) ? [`${file.path}:${at + 1}: ${line.trim()}`] : [])),
  );
}

const model = filesOf(MODEL);
const sources = filesOf(SOURCES);
const all = [...sources, ...filesOf(['tests'])];

test('there is something to look at', () => {
  expect(model.length).toBeGreaterThan(60);
  expect(sources.length).toBeGreaterThan(model.length);
});

describe('the model', () => {
  test('knows no clock, timer or randomness', () => {
    const forbidden = /Date\.now|new Date|Math\.random|setTimeout|setInterval|performance\.now|process\.hrtime/;
    expect(linesThat(model, 'code', (line) => forbidden.test(line))).toEqual([]);
  });

  test('imports nothing of Node, but where it reads files', () => {
    const inside = model.filter(({ path }) => !path.startsWith('verify/files/'));
    expect(linesThat(inside, 'code', (line) => /['"]node:/.test(line))).toEqual([]);
  });
});

describe('sources', () => {
  test('have names that say something', () => {
    const vague = /(^|[/.-])(utils?|common|helpers?)([/.-]|$)/;
    expect(all.map(({ path }) => path).filter((path) => vague.test(path))).toEqual([]);
  });

  test('open with a comment that says what they are', () => {
    const bare = sources.filter(({ text }) => !/^(#!.*\n)?(\/\/|\/\*)/.test(text));
    expect(bare.map(({ path }) => path)).toEqual([]);
  });

  test(`have fewer than ${LINES_MAX} lines`, () => {
    const long = sources.map(({ path, text }) => ({ path, lines: text.split('\n').length - 1 }));
    expect(long.filter(({ lines }) => lines >= LINES_MAX)).toEqual([]);
  });

  test(`have lines of at most ${COLUMNS_MAX} columns`, () => {
    expect(linesThat(sources, 'text', (line) => line.length > COLUMNS_MAX)).toEqual([]);
  });

  test('never give a type up', () => {
    expect(linesThat(all, 'code', (line) => /(:|\bas|<|\|)\s*any\b(?!\s*[:'"`])/.test(line))).toEqual([]);
  });

  test('lie in folders with a README.md', () => {
    const folders = [...new Set(sources.map(({ path }) => dirname(path))), 'docs', 'tests'];
    const bare = folders.filter((folder) => !existsSync(`${root}${folder}/README.md`));
    expect(bare).toEqual([]);
  });
});
