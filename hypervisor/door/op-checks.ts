// What the door looks at before an operation begins: that every field is there and can be what it says. Elements of
// batches that run in micro-steps are checked as they are placed, once.

import {
  device,
  domid,
  flag,
  half,
  index,
  list,
  listOf,
  object,
  oneOf,
  optional,
  place,
  text,
  tuple,
  wide,
  word,
} from './field-checks.ts';
import type { GrantOp } from './grant-op.ts';
import type { CreateDomainOp, MemoryLayout } from './memory-op.ts';
import type { Op } from './op.ts';

type Of<Name extends Op['op']> = Extract<Op, { readonly op: Name }>;
type Batch = Extract<GrantOp, { readonly elements: readonly unknown[] }>;
type Single = Extract<GrantOp, { readonly count?: number }>;

const words = listOf(word);
const access = oneOf('rw', 'ro');
const integer = (value: unknown, name: string): void => {
  if (!Number.isSafeInteger(value)) throw new TypeError(`${name} ${String(value)}: expected an integer`);
};

// These are on the way of every grant operation: what is left out costs one comparison.
function batch(op: Batch): void {
  domid(op.domain, 'domain');
  list(op.elements, 'elements');
  if (op.argument !== undefined) place(op.argument, 'argument');
  if (op.unreadableFrom !== undefined) index(op.unreadableFrom, 'unreadableFrom');
  if (op.unwritableFrom !== undefined) index(op.unwritableFrom, 'unwritableFrom');
  if (op.preemptAfter !== undefined) index(op.preemptAfter, 'preemptAfter');
}

function single(op: Single): void {
  domid(op.domain, 'domain');
  if (op.argument !== undefined) place(op.argument, 'argument');
  if (op.count !== undefined) word(op.count, 'count');
}

function each<Element>(elements: readonly Element[], check: (element: Element) => void): void {
  for (const [at, element] of elements.entries()) {
    object(element, `elements[${at}]`);
    check(element);
  }
}

function dma(op: Of<'dma' | 'dma_translate'>): void {
  device(op.device, 'device');
  wide(op.address, 'address');
  oneOf('read', 'write')(op.access, 'access');
  if (op.value !== undefined) word(op.value, 'value');
  if (op.choose !== undefined) index(op.choose, 'choose');
  if (op.bytes !== undefined) text(op.bytes, 'bytes');
  if (op.length !== undefined) index(op.length, 'length');
}

function extents(op: Of<'populate_physmap' | 'increase_reservation'>): void {
  domid(op.domain, 'domain');
  words(op.gfns, 'gfns');
  optional(index)(op.order, 'order');
  optional(words)(op.allocate, 'allocate');
}

function grantWrite(op: Of<'grant_write'>): void {
  domid(op.domain, 'domain');
  word(op.ref, 'ref');
  half(op.flags, 'flags');
  domid(op.grantee, 'grantee');
  optional(oneOf(1, 2))(op.layout, 'layout');
  optional((op.layout ?? 1) === 1 ? word : wide)(op.frame, 'frame');
  if (op.subPage !== undefined) {
    object(op.subPage, 'subPage');
    half(op.subPage.offset, 'subPage.offset');
    half(op.subPage.length, 'subPage.length');
  }
  if (op.transitive !== undefined) {
    object(op.transitive, 'transitive');
    domid(op.transitive.domain, 'transitive.domain');
    word(op.transitive.ref, 'transitive.ref');
  }
}

function createDomain(op: CreateDomainOp): void {
  domid(op.domain, 'domain');
  oneOf('pv', 'hvm')(op.kind, 'kind');
  for (const name of ['iommu', 'hardware', 'sharedTables'] as const) optional(flag)(op[name], name);
  for (const name of ['frames', 'grantFrames', 'maptrackFrames', 'maxPages'] as const) optional(word)(op[name], name);
  optional(oneOf('ram', 'empty'))(op.deviceTables, 'deviceTables');
  optional(oneOf(1, 2))(op.grantVersion, 'grantVersion');
  if (op.memory !== undefined) memory(op.memory);
}

function memory(layout: MemoryLayout): void {
  object(layout, 'memory');
  const check = (name: keyof MemoryLayout, of: Parameters<typeof listOf>[0]) =>
    optional(listOf(of))(layout[name], `memory.${name}`);
  check('ram', tuple(word, word));
  check('pageTables', tuple(word, oneOf(1, 2, 3, 4)));
  check('mapped', tuple(wide, wide));
  check('mappings', tuple(wide, word, word, integer, access));
  check('p2m', tuple(word, word, word, integer));
  check('grantFrames', word);
  check('heapFrames', word);
  check('identity', tuple(word, word, access));
}

function store(op: Of<'store'>): void {
  word(op.frame, 'frame');
  word(op.offset, 'offset');
  if ((op.bytes === undefined) === (op.fill === undefined)) throw new TypeError('bytes, fill: expected one of the two');
  optional(text)(op.bytes, 'bytes');
  optional(object)(op.fill, 'fill');
}

const CHECKS: { readonly [Name in Op['op']]: (op: Of<Name>) => void } = {
  map_grant_ref: batch,
  unmap_grant_ref: batch,
  unmap_and_replace: batch,
  copy: batch,
  transfer: batch,
  swap_grant_ref: (op) => {
    batch(op);
    each(op.elements, ({ a, b }) => {
      word(a, 'a');
      word(b, 'b');
    });
  },
  cache_flush: (op) => {
    batch(op);
    each(op.elements, ({ address, offset, length, operation }) => {
      wide(address, 'address');
      half(offset, 'offset');
      half(length, 'length');
      word(operation, 'operation');
    });
  },
  setup_table: (op) => {
    single(op);
    domid(op.target, 'target');
    word(op.frames, 'frames');
    optional(place)(op.list, 'list');
    optional(words)(op.allocate, 'allocate');
    optional(words)(op.allocateStatus, 'allocateStatus');
  },
  query_size: (op) => {
    single(op);
    domid(op.target, 'target');
  },
  get_status_frames: (op) => {
    single(op);
    domid(op.target, 'target');
    word(op.frames, 'frames');
    optional(place)(op.list, 'list');
  },
  set_version: (op) => {
    single(op);
    word(op.version, 'version');
    optional(words)(op.allocate, 'allocate');
  },
  get_version: (op) => {
    single(op);
    domid(op.target, 'target');
  },
  grant_table_op: (op) => {
    single(op);
    word(op.command, 'command');
    word(op.count, 'count');
  },
  grant_write: grantWrite,
  create_domain: createDomain,
  destroy_domain: (op) => domid(op.domain, 'domain'),
  update_va_mapping: (op) => {
    domid(op.domain, 'domain');
    wide(op.address, 'address');
    wide(op.entry, 'entry');
  },
  map_foreign: (op) => {
    domid(op.domain, 'domain');
    wide(op.address, 'address');
    domid(op.owner, 'owner');
    if (op.frame !== null) word(op.frame, 'frame');
    flag(op.writable, 'writable');
  },
  pin_table: (op) => {
    domid(op.domain, 'domain');
    word(op.frame, 'frame');
    oneOf(1, 2, 3, 4)(op.level, 'level');
  },
  unpin_table: (op) => {
    domid(op.domain, 'domain');
    word(op.frame, 'frame');
  },
  decrease_reservation: (op) => {
    domid(op.domain, 'domain');
    words(op.frames, 'frames');
    optional(place)(op.argument, 'argument');
  },
  populate_physmap: extents,
  increase_reservation: extents,
  add_to_physmap: (op) => {
    domid(op.domain, 'domain');
    word(op.space, 'space');
    word(op.index, 'index');
    word(op.gfn, 'gfn');
  },
  remove_from_physmap: (op) => {
    domid(op.domain, 'domain');
    word(op.gfn, 'gfn');
  },
  store,
  assign_device: (op) => {
    device(op.device, 'device');
    domid(op.domain, 'domain');
  },
  deassign_device: (op) => {
    device(op.device, 'device');
    optional(domid)(op.domain, 'domain');
  },
  dma_map: (op) => {
    domid(op.domain, 'domain');
    index(op.dfn, 'dfn');
    word(op.frame, 'frame');
    index(op.pages, 'pages');
    if (op.access !== 'r' && op.access !== 'rw') oneOf('r', 'rw')(op.access, 'access');
  },
  dma_unmap: (op) => {
    domid(op.domain, 'domain');
    index(op.dfn, 'dfn');
    index(op.pages, 'pages');
  },
  dma,
  dma_translate: dma,
  dma_perform: (op) => index(op.slot, 'slot'),
  hardware: (op) => index(op.unit, 'unit'),
  tick: (op) => index(op.nowUs, 'nowUs'),
};

/**
 * Checks what an operation holds; that it can be done is for others to say.
 * @throws TypeError, RangeError naming the field.
 */
export function checkOp(op: Op, vcpus: number): void {
  const name: unknown = op?.op;
  if (typeof name !== 'string' || !Object.hasOwn(CHECKS, name))
    throw new TypeError(`unknown operation ${JSON.stringify(name)}`);
  const vcpu = 'vcpu' in op ? op.vcpu : undefined;
  if (vcpu !== undefined) {
    index(vcpu, 'vcpu');
    if (vcpu >= vcpus) throw new RangeError(`vcpu ${vcpu}: expected 0 to ${vcpus - 1}`);
  }
  (CHECKS[op.op] as (op: Op) => void)(op);
}
