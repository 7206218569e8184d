// `npm run bench [-- NAME... --json]`: the speed of the model itself, by tinybench.

import { Bench } from 'tinybench';
import { baselines } from './baseline.bench.ts';
import { conforms } from './conform.bench.ts';
import { domainIdCases, domainIdTables } from './domain-ids.bench.ts';
import { grantPairs } from './grant-pair.bench.ts';
import { maps } from './map.bench.ts';
import { replays } from './replay.bench.ts';
import type { FigureTable, SpeedCase, SpeedResult } from './speed-case.ts';
import { translations } from './translate.bench.ts';

const cases: readonly SpeedCase[] = [
  ...baselines,
  ...grantPairs,
  ...translations,
  ...replays,
  ...maps,
  ...conforms,
  ...domainIdCases,
];
/** What is counted, once, comes after what is timed. */
const tables: readonly FigureTable[] = domainIdTables;

async function measure(of: SpeedCase): Promise<SpeedResult> {
  const { run, bytesPerItem } = await of.prepare();
  const bench = new Bench({ time: 1500, warmupTime: 2000, iterations: 3, warmupIterations: 2 });
  bench.add(of.name, run);
  const [task] = await bench.run();
  const result = task?.result;
  if (!result || !('latency' in result)) throw new Error(`${of.name}: no measurement`);
  // The median: this is often run where something else runs too.
  const nsPerOp = (result.latency.p50 * 1e6) / of.items;
  return {
    name: of.name,
    opsPerSecond: Math.round(1e9 / nsPerOp),
    nsPerOp: Number(nsPerOp.toFixed(2)),
    ...(bytesPerItem === undefined ? {} : { bytesPerItem: Number(bytesPerItem.toFixed(2)) }),
    ...(of.target ? { target: of.target } : {}),
    note: of.note,
  };
}

/** What a prototype of the baseline's shape reached where the targets were set: the scaled share is an estimate. */
const BASELINE_OPS = 26e6;

/** `slower`: by how much the baseline is slower here than that prototype was there. */
function line({ name, opsPerSecond, nsPerOp, bytesPerItem, target, note }: SpeedResult, slower: number): string {
  const bytes = bytesPerItem === undefined ? '' : `  ${bytesPerItem.toFixed(2)} B/item`;
  const ops = opsPerSecond.toLocaleString('en-US').padStart(13);
  const share = target?.opsPerSecond ? opsPerSecond / target.opsPerSecond : 0;
  const scaled = slower > 1 ? ` (${(share * slower).toFixed(2)} by the baseline)` : '';
  const goal = share > 0 ? ` ${share.toFixed(2)} of target${scaled}` : '';
  return `${name.padEnd(26)}${ops} ops/s  ${nsPerOp.toFixed(1).padStart(9)} ns/op${goal.padEnd(38)}${bytes}  ${note}\n`;
}

/** A table as text, columns to the right. */
function tableText({ name, note }: FigureTable, rows: ReturnType<FigureTable['rows']>): string {
  const heads = Object.keys(rows[0] ?? {});
  const lines = [heads, ...rows.map((row) => heads.map((head) => row[head]!.toLocaleString('en-US')))];
  const text = lines.map((cells) => cells.map((cell) => cell.padStart(12)).join('')).join('\n');
  return `\n${name}  ${note}\n${text}\n`;
}

/** Those of a list that were asked for; all when nothing was. */
function chosenOf<Named extends { readonly name: string }>(all: readonly Named[], names: readonly string[]): Named[] {
  const isAskedFor = (one: Named) => names.some((name) => one.name === name || one.name.startsWith(`${name}/`));
  return all.filter((one) => names.length === 0 || isAskedFor(one));
}

async function main(argv: readonly string[]): Promise<void> {
  const json = argv.includes('--json');
  const names = argv.filter((argument) => !argument.startsWith('--'));
  const all = [...cases, ...tables];
  const unknown = names.find((name) => chosenOf(all, [name]).length === 0);
  if (unknown !== undefined) {
    process.stderr.write(
      `bench: unknown name ${unknown}: expected ${all.map((of) => of.name).join(', ')}, or the part before a slash\n`,
    );
    process.exitCode = 2;
    return;
  }
  const results: SpeedResult[] = [];
  for (const of of chosenOf(cases, names)) {
    const result = await measure(of);
    results.push(result);
    const baseline = results.find((one) => one.name === 'baseline/grant-words');
    if (!json) process.stdout.write(line(result, baseline ? BASELINE_OPS / baseline.opsPerSecond : 0));
  }
  const counted = chosenOf(tables, names).map((table) => ({ table, rows: table.rows() }));
  if (!json) for (const { table, rows } of counted) process.stdout.write(tableText(table, rows));
  const figures = counted.map(({ table: { name, note }, rows }) => ({ name, note, rows }));
  if (json) process.stdout.write(`${JSON.stringify([...results, ...figures], null, 2)}\n`);
}

await main(process.argv.slice(2));
