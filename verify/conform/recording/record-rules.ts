// What must hold between the fields of a record, beyond the type of each: where two say the same, both are right.

import type { RecordedLine, RecordKind, RecordOf } from './record-fields.ts';

interface RecordRule<Kind extends RecordKind> {
  readonly field: string;
  readonly holds: (record: RecordOf<Kind>) => boolean;
  readonly expected: string;
}
type Batch = 'map' | 'unmap' | 'unmap_and_replace' | 'copy' | 'transfer' | 'swap_grant_ref' | 'cache_flush';
type Single = 'setup_table' | 'get_status_frames' | 'query_size' | 'get_version' | 'set_version';

const PAGE_BYTES = 4096;
const MMUEXT_COMMANDS = 5;
/** xen: XENMEM_increase_reservation, XENMEM_decrease_reservation, XENMEM_populate_physmap. */
const MEMORY_COMMANDS: readonly number[] = [0, 1, 6];
const counted: RecordRule<Batch> = {
  field: 'n',
  holds: ({ n, ops }) => n === ops.length,
  expected: 'the number of ops',
};
/** A call of one element, whatever count it names. */
const alone: RecordRule<Single> = {
  field: 'ops',
  holds: ({ ops }) => ops.length === 1,
  expected: 'a list of one element',
};

const rules: { readonly [Kind in RecordKind]?: readonly RecordRule<Kind>[] } = {
  map: [counted],
  unmap: [counted],
  unmap_and_replace: [counted],
  copy: [
    counted,
    {
      field: 'mem',
      holds: ({ mem }) => (mem ?? []).every(([, , first, last]) => first <= last),
      expected: 'the first byte of each not above its last',
    },
  ],
  transfer: [counted],
  swap_grant_ref: [counted],
  cache_flush: [counted],
  setup_table: [alone],
  get_status_frames: [alone],
  query_size: [alone],
  get_version: [alone],
  set_version: [alone],
  createdomain: [
    {
      field: 'hap',
      holds: ({ hvm, hap }) => hvm !== 1 || hap === 1,
      expected: '1 with hvm: there are no shadow tables here',
    },
    { field: 'gver', holds: ({ gver }) => gver === 1 || gver === 2, expected: '1 or 2' },
  ],
  populate: [
    {
      field: 'n',
      holds: (record) => (record.n === undefined) !== (record.in === undefined),
      expected: 'a number of pages or a list "in", one of the two',
    },
    {
      field: 'mfn',
      holds: (record) => record.mfn === undefined || record.in?.length === 1,
      expected: 'a frame for a list of one only',
    },
  ],
  win: [
    { field: 'dom', holds: ({ frame, dom }) => frame === null || dom !== undefined, expected: 'whose frame it is' },
  ],
  gset: [{ field: 'v', holds: ({ v }) => v === 1 || v === 2, expected: '1 or 2' }],
  mmuext: [{ field: 'cmd', holds: ({ cmd }) => cmd < MMUEXT_COMMANDS, expected: '0 to 4' }],
  memory_op: [
    { field: 'n', holds: (record) => record.n === record.in.length, expected: 'the number of items of "in"' },
    { field: 'cmd', holds: ({ cmd }) => MEMORY_COMMANDS.includes(cmd), expected: '0, 1 or 6' },
  ],
  dma_raw: [{ field: 'len', holds: ({ len }) => len >= 1 && len <= PAGE_BYTES, expected: '1 to 4096' }],
  poke: [
    {
      field: 'val',
      holds: ({ val, byte }) => (val === undefined) !== (byte === undefined),
      expected: 'a value or a byte, one of the two',
    },
    { field: 'len', holds: ({ off, len }) => off + len <= PAGE_BYTES, expected: 'no more than is left of the page' },
    { field: 'len', holds: ({ val, len }) => val === undefined || len <= 8, expected: 'no more than 8 of a value' },
    { field: 'byte', holds: ({ byte }) => byte === undefined || byte <= 0xff, expected: 'at most 255' },
  ],
  peek: [{ field: 'off', holds: ({ off }) => off + 8 <= PAGE_BYTES, expected: 'at most 4088: 8 bytes are read' }],
};

/** A field at odds with others of its record. */
export interface BrokenRule {
  readonly field: string;
  readonly expected: string;
}

/** What is wrong with a record whose fields have the right types. */
export function brokenRule(record: RecordedLine): BrokenRule | undefined {
  const found = rules[record.o] as readonly RecordRule<RecordKind>[] | undefined;
  return found?.find((rule) => !rule.holds(record as RecordOf<RecordKind>));
}
