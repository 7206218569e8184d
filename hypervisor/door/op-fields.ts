// The fields that each operation has, and what each may hold. The types in `op.ts` say the same: a field that is there
// and not here, or the other way round, does not compile.

import {
  device,
  domid,
  type Fields,
  flag,
  half,
  index,
  integer,
  list,
  listOf,
  oneOf,
  optional,
  place,
  record,
  text,
  tuple,
  wide,
  word,
} from './field-checks.ts';
import type { CopyEnd, GrantBatchOp } from './grant-op.ts';
import type { MemoryLayout } from './memory-op.ts';
import type { Op } from './op.ts';

type Named<Name, Of = Op> = Of extends { readonly op: infer Names } ? (Name extends Names ? Of : never) : never;
type OpFields = { readonly [Name in Op['op']]: Fields<Omit<Named<Name>, 'op'>> };

const words = listOf(word);
const access = oneOf('rw', 'ro');
const vcpu = optional(index);
const call = { vcpu, domain: domid, argument: optional(place) } as const;
const batch = {
  ...call,
  elements: list,
  unreadableFrom: optional(index),
  unwritableFrom: optional(index),
  preemptAfter: optional(index),
} as const;
const single = { ...call, count: optional(word) } as const;
const extents = { vcpu, domain: domid, gfns: words, order: optional(index), allocate: optional(words) } as const;
const dma = {
  device,
  requester: optional(device),
  address: wide,
  access: oneOf('read', 'write'),
  value: optional(word),
  bytes: optional(text),
  length: optional(index),
  choose: optional(index),
} as const;

const memory: Fields<MemoryLayout> = {
  ram: optional(listOf(tuple(word, word))),
  pageTables: optional(listOf(tuple(word, oneOf(1, 2, 3, 4)))),
  mapped: optional(listOf(tuple(wide, wide))),
  mappings: optional(listOf(tuple(wide, word, word, integer, access))),
  p2m: optional(listOf(tuple(word, word, word, integer))),
  grantFrames: optional(words),
  heapFrames: optional(words),
  identity: optional(listOf(tuple(word, word, access))),
};

export const OP_FIELDS: OpFields = {
  // What the elements of these hold is looked at as they are placed, once.
  map_grant_ref: batch,
  unmap_grant_ref: batch,
  unmap_and_replace: batch,
  copy: batch,
  transfer: batch,
  swap_grant_ref: { ...batch, elements: listOf(record({ a: word, b: word })) },
  cache_flush: {
    ...batch,
    elements: listOf(record({ address: wide, offset: half, length: half, operation: word })),
  },
  setup_table: {
    ...single,
    target: domid,
    frames: word,
    list: optional(place),
    allocate: optional(words),
    allocateStatus: optional(words),
  },
  query_size: { ...single, target: domid },
  get_status_frames: { ...single, target: domid, frames: word, list: optional(place) },
  set_version: { ...single, version: word, allocate: optional(words) },
  get_version: { ...single, target: domid },
  grant_table_op: { ...call, command: word, count: word },
  grant_write: {
    domain: domid,
    ref: word,
    layout: optional(oneOf(1, 2)),
    flags: half,
    grantee: domid,
    frame: optional(wide),
    subPage: optional(record({ offset: half, length: half })),
    transitive: optional(record({ domain: domid, ref: word })),
  },
  create_domain: {
    domain: domid,
    kind: oneOf('pv', 'hvm'),
    frames: optional(word),
    memory: optional(record(memory)),
    iommu: optional(flag),
    deviceTables: optional(oneOf('ram', 'empty')),
    sharedTables: optional(flag),
    grantFrames: optional(word),
    maptrackFrames: optional(word),
    grantVersion: optional(oneOf(1, 2)),
    maxPages: optional(word),
    hardware: optional(flag),
  },
  destroy_domain: { vcpu, domain: domid },
  update_va_mapping: { vcpu, domain: domid, address: wide, entry: wide },
  map_foreign: {
    vcpu,
    domain: domid,
    address: wide,
    owner: domid,
    frame: (value, name) => value === null || word(value, name),
    writable: flag,
  },
  pin_table: { vcpu, domain: domid, frame: word, level: oneOf(1, 2, 3, 4) },
  unpin_table: { vcpu, domain: domid, frame: word },
  decrease_reservation: { vcpu, domain: domid, frames: words, argument: optional(place) },
  populate_physmap: extents,
  increase_reservation: extents,
  add_to_physmap: { vcpu, domain: domid, space: word, index: word, gfn: word, allocate: optional(word) },
  remove_from_physmap: { vcpu, domain: domid, gfn: word },
  store: {
    frame: word,
    offset: word,
    bytes: optional(text),
    fill: optional(record({ byte: index, length: index })),
  },
  assign_device: { vcpu, device, domain: domid, relaxed: optional(flag), flags: optional(word) },
  test_assign_device: { device, domain: optional(domid), flags: optional(word) },
  remove_device: { vcpu, device },
  add_device: { vcpu, device },
  remove_unit: { vcpu, unit: index },
  handle_faults: {},
  set_bus_master: { device, on: flag },
  deassign_device: { vcpu, device, domain: optional(domid), flags: optional(word) },
  dma_map: { vcpu, domain: domid, dfn: index, frame: word, pages: index, access: oneOf('r', 'rw') },
  dma_unmap: { vcpu, domain: domid, dfn: index, pages: index },
  dma,
  dma_translate: dma,
  dma_perform: { slot: index },
  hardware: { unit: index },
  device_tlb: { device, answers: flag },
  tick: { vcpu, nowUs: index },
};

/** The fields of the elements that are checked as they are placed. */
type ElementOf<Name> = Named<Name> extends { readonly elements: readonly (infer Element)[] } ? Element : never;
export const ELEMENT_FIELDS: { readonly [Name in GrantBatchOp['op']]: readonly (keyof ElementOf<Name>)[] } = {
  map_grant_ref: ['hostAddress', 'flags', 'ref', 'domain'],
  unmap_grant_ref: ['hostAddress', 'busAddress', 'handle'],
  unmap_and_replace: ['hostAddress', 'newAddress', 'handle'],
  copy: ['source', 'destination', 'length', 'flags'],
  transfer: ['frame', 'domain', 'ref'],
};
export const END_FIELDS: readonly (keyof CopyEnd)[] = ['ref', 'frame', 'domain', 'offset'];
