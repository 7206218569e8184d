// An operation of each kind, as the machine of GuestScene accepts it, and what each of its fields may be: for tests
// that spoil them one by one.

import type { Op } from '../../../hypervisor/index.ts';
import { A, B, DEV, type GuestScene, H, HW, page, SELF } from '../../grant/guest-scene.ts';

/** What a field may hold; `?` behind it: it may be left out. */
export type Kind =
  | 'domid'
  | 'domain'
  | 'word'
  | 'word or null'
  | 'half'
  | 'wide'
  | 'index'
  | 'vcpu'
  | 'flag'
  | 'place'
  | 'list'
  | 'bytes'
  | 'device'
  | `one of ${string}`;
export type Fields = Readonly<Record<string, Kind | `${Kind}?`>>;

export interface Sample {
  readonly make: (s: GuestScene) => Op;
  /** Fields by path: `elements.0.flags`. */
  readonly fields: Fields;
}

const vcpu = { vcpu: 'vcpu?' } as const;
const call = { ...vcpu, domain: 'domain', argument: 'place?' } as const;
const batch = {
  ...call,
  elements: 'list',
  unreadableFrom: 'index?',
  unwritableFrom: 'index?',
  preemptAfter: 'index?',
} as const;
const single = { ...call, count: 'word?' } as const;
const reservation = {
  ...vcpu,
  domain: 'domain',
  gfns: 'list',
  'gfns.0': 'word',
  order: 'index?',
  allocate: 'list?',
} as const;

export const samples: Readonly<Record<Op['op'], Sample>> = {
  map_grant_ref: {
    make: () => ({
      op: 'map_grant_ref',
      domain: A,
      elements: [{ flags: 2, ref: 8, domain: B, hostAddress: page(0) }],
    }),
    fields: {
      ...batch,
      'elements.0.flags': 'word',
      'elements.0.ref': 'word',
      'elements.0.domain': 'domid',
      'elements.0.hostAddress': 'wide?',
    },
  },
  unmap_grant_ref: {
    make: () => ({ op: 'unmap_grant_ref', domain: A, elements: [{ handle: 0, hostAddress: page(0) }] }),
    fields: {
      ...batch,
      'elements.0.handle': 'word',
      'elements.0.hostAddress': 'wide?',
      'elements.0.busAddress': 'wide?',
    },
  },
  unmap_and_replace: {
    make: () => ({ op: 'unmap_and_replace', domain: A, elements: [{ handle: 0, hostAddress: page(0) }] }),
    fields: {
      ...batch,
      'elements.0.handle': 'word',
      'elements.0.hostAddress': 'wide?',
      'elements.0.newAddress': 'wide?',
    },
  },
  copy: {
    make: (s) => ({
      op: 'copy',
      domain: A,
      elements: [
        {
          source: { ref: 8, domain: B, offset: 0 },
          destination: { frame: s.frame(A), domain: SELF, offset: 0 },
          length: 8,
          flags: 1,
        },
      ],
    }),
    fields: {
      ...batch,
      'elements.0.source.ref': 'word',
      'elements.0.source.domain': 'domid',
      'elements.0.source.offset': 'half',
      'elements.0.destination.frame': 'wide',
      'elements.0.destination.domain': 'domid',
      'elements.0.destination.offset': 'half',
      'elements.0.length': 'half',
      'elements.0.flags': 'half',
    },
  },
  transfer: {
    make: (s) => ({ op: 'transfer', domain: A, elements: [{ frame: s.frame(A), domain: B, ref: 9 }] }),
    fields: { ...batch, 'elements.0.frame': 'wide', 'elements.0.domain': 'domid', 'elements.0.ref': 'word' },
  },
  swap_grant_ref: {
    make: () => ({ op: 'swap_grant_ref', domain: A, elements: [{ a: 8, b: 9 }] }),
    fields: { ...batch, 'elements.0.a': 'word', 'elements.0.b': 'word' },
  },
  cache_flush: {
    make: (s) => ({
      op: 'cache_flush',
      domain: A,
      elements: [{ address: s.frame(A) * 4096, offset: 0, length: 64, operation: 1 }],
    }),
    fields: {
      ...batch,
      'elements.0.address': 'wide',
      'elements.0.offset': 'half',
      'elements.0.length': 'half',
      'elements.0.operation': 'word',
    },
  },
  setup_table: {
    make: () => ({ op: 'setup_table', domain: A, target: SELF, frames: 1 }),
    fields: { ...single, target: 'domid', frames: 'word', list: 'place?', allocate: 'list?', allocateStatus: 'list?' },
  },
  query_size: {
    make: () => ({ op: 'query_size', domain: A, target: SELF }),
    fields: { ...single, target: 'domid' },
  },
  get_status_frames: {
    make: () => ({ op: 'get_status_frames', domain: A, target: SELF, frames: 0 }),
    fields: { ...single, target: 'domid', frames: 'word', list: 'place?' },
  },
  set_version: {
    make: () => ({ op: 'set_version', domain: A, version: 2 }),
    fields: { ...single, version: 'word', allocate: 'list?' },
  },
  get_version: {
    make: () => ({ op: 'get_version', domain: A, target: SELF }),
    fields: { ...single, target: 'domid' },
  },
  grant_table_op: {
    make: () => ({ op: 'grant_table_op', domain: A, command: 3, count: 1 }),
    fields: { ...call, command: 'word', count: 'word' },
  },
  grant_write: {
    make: (s) => ({ op: 'grant_write', domain: B, ref: 8, flags: 1, grantee: A, frame: s.frame(B) + 1 }),
    fields: {
      domain: 'domain',
      ref: 'word',
      flags: 'half',
      grantee: 'domid',
      frame: 'wide?',
      layout: 'one of 1 and 2?' as Kind,
    },
  },
  create_domain: {
    make: () => ({ op: 'create_domain', domain: 4, kind: 'pv', frames: 2 }),
    fields: {
      domain: 'index',
      kind: 'one of pv and hvm',
      frames: 'index?',
      iommu: 'flag?',
      hardware: 'flag?',
      sharedTables: 'flag?',
      deviceTables: 'one of ram and empty?' as Kind,
      grantFrames: 'index?',
      maptrackFrames: 'index?',
      grantVersion: 'one of 1 and 2?' as Kind,
      maxPages: 'index?',
    },
  },
  destroy_domain: { make: () => ({ op: 'destroy_domain', domain: B }), fields: { ...vcpu, domain: 'domain' } },
  update_va_mapping: {
    make: (s) => ({ op: 'update_va_mapping', domain: A, address: page(1), entry: s.frame(A) * 4096 + 3 }),
    fields: { ...vcpu, domain: 'domain', address: 'wide', entry: 'wide' },
  },
  map_foreign: {
    make: (s) => ({
      op: 'map_foreign',
      domain: HW,
      address: page(1),
      owner: B,
      frame: s.frame(B),
      writable: true,
    }),
    fields: { ...vcpu, domain: 'domain', address: 'wide', owner: 'domid', frame: 'word or null', writable: 'flag' },
  },
  pin_table: {
    make: (s) => ({ op: 'pin_table', domain: A, frame: s.frame(A), level: 1 }),
    fields: { ...vcpu, domain: 'domain', frame: 'word', level: 'one of 1 to 4' },
  },
  unpin_table: {
    make: (s) => ({ op: 'unpin_table', domain: A, frame: s.frame(A) }),
    fields: { ...vcpu, domain: 'domain', frame: 'word' },
  },
  decrease_reservation: {
    make: (s) => ({ op: 'decrease_reservation', domain: A, frames: [s.frame(A)] }),
    fields: { ...vcpu, domain: 'domain', frames: 'list', 'frames.0': 'word', argument: 'place?' },
  },
  populate_physmap: {
    make: () => ({ op: 'populate_physmap', domain: A, gfns: [0] }),
    fields: reservation,
  },
  increase_reservation: {
    make: () => ({ op: 'increase_reservation', domain: A, gfns: [0] }),
    fields: reservation,
  },
  add_to_physmap: {
    make: () => ({ op: 'add_to_physmap', domain: H, space: 1, index: 0, gfn: 20 }),
    fields: {
      ...vcpu,
      domain: 'domain',
      space: 'one of 1',
      index: 'word',
      gfn: 'word',
      allocate: 'word?',
    },
  },
  remove_from_physmap: {
    make: () => ({ op: 'remove_from_physmap', domain: H, gfn: 2 }),
    fields: { ...vcpu, domain: 'domain', gfn: 'word' },
  },
  store: {
    make: (s) => ({ op: 'store', frame: s.frame(A), offset: 8, bytes: 'aabb' }),
    fields: { frame: 'index', offset: 'index', bytes: 'bytes' },
  },
  assign_device: {
    make: () => ({ op: 'assign_device', device: '0000:04:00.0', domain: A }),
    fields: { ...vcpu, device: 'device', domain: 'domid', relaxed: 'flag?', flags: 'word?' },
  },
  test_assign_device: {
    make: () => ({ op: 'test_assign_device', device: DEV }),
    fields: { device: 'device', domain: 'domid?', flags: 'word?' },
  },
  remove_device: { make: () => ({ op: 'remove_device', device: DEV }), fields: { ...vcpu, device: 'device' } },
  add_device: { make: () => ({ op: 'add_device', device: DEV }), fields: { ...vcpu, device: 'device' } },
  remove_unit: { make: () => ({ op: 'remove_unit', unit: 0 }), fields: { ...vcpu, unit: 'index' } },
  handle_faults: { make: () => ({ op: 'handle_faults' }), fields: {} },
  set_bus_master: {
    make: () => ({ op: 'set_bus_master', device: DEV, on: false }),
    fields: { device: 'device', on: 'flag' },
  },
  deassign_device: {
    make: () => ({ op: 'deassign_device', device: DEV }),
    fields: { ...vcpu, device: 'device', domain: 'domid?', flags: 'word?' },
  },
  dma_map: {
    make: (s) => ({ op: 'dma_map', domain: 4, dfn: 5, frame: s.frame(4), pages: 1, access: 'r' }),
    fields: {
      ...vcpu,
      domain: 'domain',
      dfn: 'index',
      frame: 'word',
      pages: 'index',
      access: 'one of r and rw',
    },
  },
  dma_unmap: {
    make: () => ({ op: 'dma_unmap', domain: 4, dfn: 5, pages: 1 }),
    fields: { ...vcpu, domain: 'domain', dfn: 'index', pages: 'index' },
  },
  dma: {
    make: (s) => ({ op: 'dma', device: DEV, address: s.frame(A) * 4096, access: 'write', value: 7 }),
    fields: {
      device: 'device',
      address: 'wide',
      access: 'one of read and write',
      value: 'word?',
      choose: 'index?',
      requester: 'device?',
      bytes: 'bytes?' as Kind,
      length: 'index?',
    },
  },
  dma_translate: {
    make: (s) => ({ op: 'dma_translate', device: DEV, address: s.frame(A) * 4096, access: 'write', value: 7 }),
    fields: {
      device: 'device',
      address: 'wide',
      access: 'one of read and write',
      value: 'word?',
      choose: 'index?',
      requester: 'device?',
    },
  },
  dma_perform: { make: () => ({ op: 'dma_perform', slot: 0 }), fields: { slot: 'index' } },
  device_tlb: {
    make: () => ({ op: 'device_tlb', device: '0000:03:00.0', answers: false }),
    fields: { device: 'device', answers: 'flag' },
  },
  hardware: { make: () => ({ op: 'hardware', unit: 0 }), fields: { unit: 'index' } },
  tick: { make: () => ({ op: 'tick', nowUs: 5 }), fields: { ...vcpu, nowUs: 'index' } },
};

/** Values that a field of a kind may not have. */
export const WRONG: Readonly<Record<string, readonly unknown[]>> = {
  number: [null, 'x', '5', true, {}, [], Number.NaN, Number.POSITIVE_INFINITY, -1, 1.5],
  domid: [0x10000],
  domain: [0x10000],
  half: [0x10000],
  word: [2 ** 32],
  index: [2 ** 53],
  vcpu: [64],
  wide: ['0x', '0xzz', '0x10000000000000000', 2 ** 53],
  flag: [null, 0, 1, 'yes', {}],
  place: [null, 'x', 0, true, 'Mapped'],
  list: [null, 'x', 5, {}, { length: 1 }],
  bytes: [null, 5, 'a', 'xx', ['aa']],
  device: [null, 5, 'x', {}, '0000:03:00.8'],
  'one of': [null, 'x', 0, {}, []],
};
