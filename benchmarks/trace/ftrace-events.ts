// Every event that the importer knows: how its payload reads, and what the importer does with it.
//
// Formats: Linux include/trace/events/{iommu,dma,intel_iommu}.h and drivers/iommu/intel/trace.h. The probe events are
// kprobes on the DMA API, the driver's callbacks and the address allocator, under the names that the recordings gave
// them. An event may have several forms, because kernels changed them and because two probes may share a name; the
// first that fits the whole payload counts. A payload of the kernel's own events that fits none is a torn line. The
// name of a probe is whatever its author liked: a payload that fits none is another probe's, unless it is one of the
// forms cut short.

import { type PayloadForm, payloadForm } from './payload-form.ts';

/**
 * What an event means to the importer.
 * - `map`, `unmap`: an access. Its payload must be readable.
 * - `mapProbe`, `unmapProbe`: names the address space of the access that follows on the same CPU.
 * - `invalidation`: a descriptor that was handed to a unit. `mark`: a note of the person who recorded.
 * - `other`: counted; a `device` field adds to the devices that the trace names.
 */
export type EventRole = 'map' | 'unmap' | 'mapProbe' | 'unmapProbe' | 'invalidation' | 'mark' | 'other';

interface EventRow {
  readonly role: EventRole;
  readonly forms: readonly string[];
  /** A kprobe's name, which other probes may have too. */
  readonly probe?: true;
}

const other = (...forms: string[]): EventRow => ({ role: 'other', forms });
const probe = (...forms: string[]): EventRow => ({ role: 'other', forms, probe: true });

const dmaMapping = other('{device:word} dir={:word} dma_addr={:bare} size={:dec} phys_addr={:bare} attrs={:flags}');
const dmaUnmapping = other('{device:word} dir={:word} dma_addr={:bare} size={:dec} attrs={:flags}');
const dmaAllocation = other(
  '{device:word} dma_addr={:bare} size={:dec} virt_addr={:word} flags={:flags} attrs={:flags}',
  '{device:word} dir={:word} dma_addr={:bare} size={:dec} virt_addr={:word} flags={:flags} attrs={:flags}',
);
const dmaRelease = other(
  '{device:word} dma_addr={:bare} size={:dec} virt_addr={:word} attrs={:flags}',
  '{device:word} dir={:word} dma_addr={:bare} size={:dec} virt_addr={:word} attrs={:flags}',
);
const dmaSync = other('{device:word} dir={:word} dma_addr={:bare} size={:dec}');
const dmaLists = other('{device:word} dir={:word} {:pairs}');
const flushRange = other(
  '{:label} {device:name}[{:int}] type {:word} did {:int} [{:hex}-{:hex}] addr {:hex} pages {:hex} mask {:hex}',
);
const cacheTag = other('{:label}/{device:word} type {:word} did {:int} pasid {:int} ref {:int}');
const groupMember = other('IOMMU: groupID={:int} device={device:word}');
const attachment = other('IOMMU: device={device:word}');
const oldMapping = 'dev={device:word} dev_addr={:hex} phys_addr={:hex} size={:dec}';
const oldListEntry = 'dev={device:word} [{:dec}/{:dec}] dev_addr={:hex} phys_addr={:hex} size={:dec}';
const oldUnmapping = 'dev={device:word} dev_addr={:hex} size={:dec}';
const attachProbe = probe(
  '{:where} domain={:hex} dev={device:name}',
  '{:where} dev={device:name}',
  '{:where} domain={:hex}',
);
const flushProbe = probe('{:where} did={:dec} addr={:hex} order={:dec} type={:hex}');
const contextProbe = probe('{:where} did={:dec} sid={:hex} fm={:hex} type={:hex}');
const probeReturn = (value: string): EventRow => probe(`{:where} ${value}`);

/** The table. A new event is a new row. */
export const FTRACE_EVENTS: Readonly<Record<string, EventRow>> = {
  // Notes written to trace_marker.
  tracing_mark_write: { role: 'mark', forms: ['{text:rest}'] },

  // Group iommu. The range was added to map and unmap in 2021; a patch that never went in printed the device.
  map: {
    role: 'map',
    forms: [
      'IOMMU: iova={iova:hex} - {end:hex} paddr={paddr:hex} size={size:dec}',
      'IOMMU: iova={iova:hex} paddr={paddr:hex} size={size:dec}',
      'IOMMU: dev={device:word} iova={iova:hex} paddr={paddr:hex} size={size:dec}',
    ],
  },
  unmap: {
    role: 'unmap',
    forms: [
      'IOMMU: iova={iova:hex} - {end:hex} size={size:dec} unmapped_size={unmapped:dec}',
      'IOMMU: iova={iova:hex} size={size:dec} unmapped_size={unmapped:dec}',
      'IOMMU: dev={device:word} iova={iova:hex} size={size:dec} unmapped_size={unmapped:dec}',
    ],
  },
  io_page_fault: other('IOMMU:{:word} {device:word} iova={:hex} flags={:hex}'),
  attach_device_to_domain: attachment,
  detach_device_from_domain: attachment,
  add_device_to_group: groupMember,
  remove_device_from_group: groupMember,

  // Group intel_iommu.
  qi_submit: {
    role: 'invalidation',
    forms: ['{type:word} {unit:label}: {word0:hex} {word1:hex} {word2:hex} {word3:hex}'],
  },
  prq_report: other('{:label}/{device:word} seq# {:int}: {:rest}'),
  cache_tag_assign: cacheTag,
  cache_tag_unassign: cacheTag,
  cache_tag_flush_all: cacheTag,
  cache_tag_flush_range: flushRange,
  cache_tag_flush_range_np: flushRange,
  map_single: other(oldMapping),
  bounce_map_single: other(oldMapping),
  bounce_map_sg: other(oldListEntry),
  unmap_single: other(oldUnmapping),
  bounce_unmap_single: other(oldUnmapping),

  // Group dma, Linux 6.12 and later.
  dma_map_page: dmaMapping,
  dma_map_phys: dmaMapping,
  dma_map_resource: dmaMapping,
  dma_unmap_page: dmaUnmapping,
  dma_unmap_phys: dmaUnmapping,
  dma_unmap_resource: dmaUnmapping,
  dma_alloc: dmaAllocation,
  dma_alloc_pages: dmaAllocation,
  dma_alloc_sgt: dmaLists,
  dma_alloc_sgt_err: dmaAllocation,
  dma_free: dmaRelease,
  dma_free_pages: dmaRelease,
  dma_free_sgt: dmaLists,
  dma_map_sg: dmaLists,
  dma_map_sg_err: dmaLists,
  dma_unmap_sg: dmaLists,
  dma_sync_single_for_cpu: dmaSync,
  dma_sync_single_for_device: dmaSync,
  dma_sync_sg_for_cpu: dmaLists,
  dma_sync_sg_for_device: dmaLists,

  // Probes on the DMA API. Two probes are called `alloc` and two `free`: coherent buffers, and I/O virtual addresses.
  map_page: probe('{:where} dev={device:name} off={:hex} size={:dec} dir={:int}'),
  map_page_ret: probeReturn('iova={:hex}'),
  unmap_page: probe('{:where} dev={device:name} iova={:hex} size={:dec} dir={:int}'),
  map_sg: probe('{:where} dev={device:name} nents={:int} dir={:int}', oldListEntry),
  map_sg_ret: probeReturn('n={:int}'),
  unmap_sg: probe('{:where} dev={device:name} iova={:hex} len0={:dec} nents={:int} dir={:int}', oldUnmapping),
  alloc: probe(
    '{:where} dev={device:name} size={:dec}',
    '{:where} iovad={:hex} pages={:dec} limit_pfn={:hex} flush={:dec}',
  ),
  alloc_ret: probeReturn('pfn={:hex}'),
  alloc_tree: probe('{:where} iovad={:hex} pages={:dec} limit_pfn={:hex} align={:dec}'),
  free: probe('{:where} dev={device:name} size={:dec} iova={:hex}', '{:where} iovad={:hex} pfn={:hex} pages={:dec}'),
  free_tree: probe('{:where} iovad={:hex} pfn={:hex}'),
  queue: probe('{:where} pfn={:hex} pages={:dec}'),
  fq_timeout: probe('{:where}'),

  // Probes on the driver's callbacks and on its flushes. Protection bits: 1 read, 2 write, 4 cache.
  map_pages: {
    role: 'mapProbe',
    probe: true,
    forms: [
      '{:where} domain={space:word} iova={iova:hex} paddr={:hex} ' +
        'pgsize={pageSize:hex} pgcount={pageCount:dec} prot={prot:hex}',
    ],
  },
  unmap_pages: {
    role: 'unmapProbe',
    probe: true,
    forms: ['{:where} domain={space:word} iova={iova:hex} pgsize={pageSize:hex} pgcount={pageCount:dec}'],
  },
  tlb_sync: probe('{:where} domain={:hex} start={:hex} end={:hex} pgsize={:hex}'),
  flush_all: probe('{:where} domain={:hex}'),
  attach: attachProbe,
  detach: attachProbe,
  qi_flush_iotlb: flushProbe,
  reg_flush_iotlb: flushProbe,
  qi_flush_context: contextProbe,
  reg_flush_context: contextProbe,
};

/** A row of the table, compiled. */
export interface FtraceEvent {
  readonly name: string;
  /** Position in the table. */
  readonly index: number;
  readonly role: EventRole;
  readonly forms: readonly PayloadForm[];
  /** Other probes may have the same name. */
  readonly probe: boolean;
}

/** The table, compiled, by the event's name. */
export const ftraceEvents: ReadonlyMap<string, FtraceEvent> = new Map(
  Object.entries(FTRACE_EVENTS).map(([name, row], index) => [
    name,
    { name, index, role: row.role, forms: row.forms.map(payloadForm), probe: row.probe === true },
  ]),
);
