// What to conclude from a comparison, in sentences made from its results.

import type { PolicyRow } from './comparison.ts';

/** Some sentences: who is strict and at what cost, what the cheaper ones leave open, who broke a promise. */
export function conclusions(rows: readonly PolicyRow[]): string[] {
  const clean = rows.filter(isClean);
  const exposed = rows.filter((row) => !isClean(row));
  const broken = rows.filter((row) => !row.promiseHeld);
  return [
    ...(broken.length > 0 ? [`${list(broken.map(rowName))} BROKE the promise of the policy on this trace.`] : []),
    ...(clean.length > 0 ? [cleanSentences(clean, exposed)] : []),
    ...(exposed.length > 0 ? [exposed.map(exposedSentence).join(' ')] : []),
  ];
}

/** `deferred (onReturn)`. */
export const rowName = ({ name, release }: PolicyRow): string => `${name} (${release})`;

/** Whether nothing stays reachable after release. */
export function isClean({ exposure }: PolicyRow): boolean {
  return exposure.excessByteSeconds === 0 && exposure.window.pages === 0;
}

const byUnmapCost = (a: PolicyRow, b: PolicyRow): number => a.cost.cyclesPerUnmap - b.cost.cyclesPerUnmap;

/** Who leaves nothing open; the price of the cheapest that holds no buffer back; who does hold buffers back. */
function cleanSentences(clean: readonly PolicyRow[], exposed: readonly PolicyRow[]): string {
  const sentences = [`Nothing stays reachable after release with ${list(clean.map(rowName))}.`];
  const [prompt] = clean.filter(({ exposure }) => exposure.reusedBeforeRelease === 0).toSorted(byUnmapCost);
  if (prompt) sentences.push(`${priceOf(prompt)}${difference(prompt, exposed)}.`);
  for (const row of clean) {
    const late = row.exposure.reusedBeforeRelease;
    if (late === 0) continue;
    sentences.push(`${priceOf(row)}, but holds buffers back: ${count(late)} maps took one that was not released yet.`);
  }
  return sentences.join(' ');
}

const priceOf = (row: PolicyRow): string => `${rowName(row)} costs ${count(row.cost.cyclesPerUnmap)} cycles per unmap`;

/** Against the cheapest policy that leaves something open, for a limited time if there is such a one. */
function difference(strict: PolicyRow, exposed: readonly PolicyRow[]): string {
  const bounded = exposed.filter(({ promise }) => promise.kind === 'bounded');
  const [bare] = (bounded.length > 0 ? bounded : exposed).toSorted(byUnmapCost);
  if (!bare) return '';
  const extra = strict.cost.cyclesPerUnmap - bare.cost.cyclesPerUnmap;
  if (extra <= 0) return `, no more than ${rowName(bare)}`;
  const times = strict.cost.cyclesPerUnmap / bare.cost.cyclesPerUnmap;
  return `, ${count(extra)} more than ${rowName(bare)} (${times.toFixed(1)}x)`;
}

function exposedSentence(row: PolicyRow): string {
  const { window, harmfulByteSeconds, excessByteSeconds } = row.exposure;
  const share = excessByteSeconds > 0 ? Math.round((harmfulByteSeconds / excessByteSeconds) * 100) : 0;
  const reach = `${rowName(row)} leaves released pages reachable for up to ${time(window.maxUs ?? 0)}`;
  const open = window.open > 0 ? `, ${count(window.open)} of them still at the end` : '';
  return `${reach}${open}; ${share} % of the excess while something else is mapped there.`;
}

/** Microseconds as milliseconds or seconds. */
function time(us: number): string {
  return us >= 1e6 ? `${(us / 1e6).toFixed(2)} s` : `${(us / 1000).toFixed(2)} ms`;
}

/** A whole number with separators, the same in every locale. */
function count(value: number): string {
  return String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, ',');
}

function list(names: readonly string[]): string {
  return names.length < 2 ? names.join('') : `${names.slice(0, -1).join(', ')} and ${names.at(-1)}`;
}
