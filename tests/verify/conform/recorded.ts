// The recordings that belong to the project.

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';
import { recordingFromBytes } from '../../../verify/files/recording-file.ts';

/**
 * Scripted and random hypercalls of PV guests, HVM, copy batches; under caching mode 2 MiB and own memory, large unmap
 * batches with entries rewritten in use, gfn maps that change under grants, and page tables of every level; sub-pages.
 */
export const RECORDED = [
  'scen-417-cm0',
  'rand1-417-cm0',
  'scen3-417-cm0',
  'scen4-417-cm0',
  'scen2-417-cm1',
  'scen5-417-cm1',
  'scen6-417-cm1',
  'scen9-417-cm1',
  'scen10-417-cm1',
  'scen14-417-cm0',
] as const;

export const recordedFile = (name: string): string =>
  fileURLToPath(new URL(`../../data/xen/${name}.jsonl.gz`, import.meta.url));

export const recordedBytes = (name: string): Uint8Array => readFileSync(recordedFile(name));

export const recordedText = (name: string): string => gunzipSync(recordedBytes(name)).toString();

export const recorded = (name: string) => recordingFromBytes(recordedBytes(name), `${name}.jsonl.gz`);
