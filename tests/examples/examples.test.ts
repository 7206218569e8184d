// The examples do what they say, and the README shows them as they are.

import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { main as shareAPage } from '../../examples/01-share-a-page.ts';
import { batched, check, main as ownPolicy } from '../../examples/02-own-policy.ts';

const text = (path: string) => readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8');

test('01: DMA reaches the granted frame while it is mapped, and faults afterwards', () => {
  const lines = shareAPage();
  expect(lines).toHaveLength(3);
  expect(lines[0]).toMatch(/^while mapped: the write reaches frame (\d+), which domain 1 granted as \1$/);
  expect(lines[1]).toBe('after unmap:  fault 5, writeNotPermitted');
  expect(lines[2]).toBe('the unit carried out 1 page-selective invalidation');
});

describe('02: an own policy', () => {
  test('keeps its promise when completions wait for the flush', () => {
    expect(batched.promise('afterFlush').kind).toBe('strict');
    expect(check('afterFlush')).toEqual(['all invariants hold']);
  });

  test('leaves a stale entry when they do not', () => {
    expect(check('onReturn')).toEqual([
      expect.stringMatching(/^F1: 0000:01:00\.0 may still write frame (\d+) at dfn \1$/),
      expect.stringMatching(/^M1: 0000:01:00\.0 of domain 0 may write frame (\d+) at dfn \1 by a cached entry$/),
    ]);
    expect(ownPolicy()).toHaveLength(3);
    // As README.md shows it.
    for (const line of ownPolicy()) expect(text('README.md')).toContain(line);
  });
});

describe('README.md shows', () => {
  /** A file as the README has it: imports by the package's name, no header, no printing at the end. */
  const shown = (path: string) =>
    text(path)
      .replace(/^(\/\/.*\n)+\n/, '')
      .replaceAll("'../hypervisor/index.ts'", "'xen-passthrough-model'")
      .replace(/'\.\.\/(\w+)\/index\.ts'/g, "'xen-passthrough-model/$1'")
      .replace(/\nif \(process\.argv[\s\S]*$/, '')
      .trim();

  test.each(['examples/01-share-a-page.ts', 'examples/02-own-policy.ts'])('%s', (path) => {
    const blocks = [...text('README.md').matchAll(/```ts\n([\s\S]*?)```/g)].map(([, block]) => block!.trim());
    expect(blocks).toContain(shown(path));
  });
});
