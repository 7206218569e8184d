// The recordings that belong to the project.

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';
import { recordingFromBytes } from '../../../verify/files/recording-file.ts';

/**
 * Devices: reserved regions, of guests of both kinds; phantom functions; faults; a hidden one; widths; a scratch page;
 * quarantine by order; what is asked before; removal and addition; device TLBs.
 */
const DEVICES = [
  'dev1-417-cm0',
  'dev1-417-cm1',
  'dev1h-417-cm1',
  'dev2-417-cm1',
  'dev2-417-mf',
  'dev3-417-cm0',
  'dev4-417-cm0',
  'dev5-417-aw39-cm1',
  'dev6-417-scratch-cm1',
  'dev7-417-noquar-cm1',
  'dev8-417-cm0',
  'dev9-417-scratch',
  'dev10-417-ats-cm1',
] as const;

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
  ...DEVICES,
] as const;

export const recordedFile = (name: string): string =>
  fileURLToPath(new URL(`../../data/xen/${name}.jsonl.gz`, import.meta.url));

export const recordedBytes = (name: string): Uint8Array => readFileSync(recordedFile(name));

export const recordedText = (name: string): string => gunzipSync(recordedBytes(name)).toString();

export const recorded = (name: string) => recordingFromBytes(recordedBytes(name), `${name}.jsonl.gz`);
