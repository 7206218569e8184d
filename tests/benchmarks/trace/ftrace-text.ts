// Small traces for tests, and the events that they give.

import {
  type FtraceOptions,
  FtraceReader,
  type TraceEvent,
  type TraceSummary,
} from '../../../benchmarks/trace/ftrace.ts';

export const MAP = 'map: IOMMU: iova=0x00000000fffbe000 - 0x00000000fffbf000 paddr=0x000000011a330000 size=4096';
export const UNMAP = 'unmap: IOMMU: iova=0x00000000fffbe000 - 0x00000000fffbf000 size=4096 unmapped_size=4096';

/** An ftrace line. */
export function line(event: string, timeUs = 17_227_161, cpu = 1): string {
  const time = (timeUs / 1e6).toFixed(6).padStart(12);
  return `${'fio'.padStart(16)}-${'198'.padEnd(7)} [${String(cpu).padStart(3, '0')}] ..... ${time}: ${event}`;
}

/** A trace as the kernel prints it. */
export const SMALL = `# tracer: nop
#
# entries-in-buffer/entries-written: 4/4   #P:2
#
              sh-115     [001] .....    16.470872: tracing_mark_write: BEGIN small
${line(MAP, 17_000_000)}
          <idle>-0       [000] d.h1.    17.000100: ${UNMAP}
          <idle>-0       [000] d.h1.    17.000101: qi_submit: iotlb_inv dmar0: 0xe00f2 0xfffbe000 0x0 0x0
##### CPU 1 buffer started ####
`;

const DOMAIN = 'domain=0xff442691c19541d0';

const MAP_PAGES = `map_pages: (intel_iommu_map_pages+0x0/0xe0) ${DOMAIN}`;

/** What a mapping and its end look like with probes: two chunks, one unmap. */
export const PROBED = [
  'map_sg: (iommu_dma_map_sg+0x0/0x400) dev="0000:01:00.0" nents=2 dir=2',
  `${MAP_PAGES} iova=0xfff60000 paddr=0x115e8b000 pgsize=0x1000 pgcount=1 prot=0x6`,
  'map: IOMMU: iova=0x00000000fff60000 - 0x00000000fff61000 paddr=0x0000000115e8b000 size=4096',
  `${MAP_PAGES} iova=0xfff61000 paddr=0x1153a6000 pgsize=0x1000 pgcount=1 prot=0x5`,
  'map: IOMMU: iova=0x00000000fff61000 - 0x00000000fff62000 paddr=0x00000001153a6000 size=4096',
  'map_sg_ret: (__dma_map_sg_attrs+0x29/0x90 <- iommu_dma_map_sg) n=1',
  `unmap_pages: (intel_iommu_unmap_pages+0x0/0x180) ${DOMAIN} iova=0xfff60000 pgsize=0x1000 pgcount=2`,
  'unmap: IOMMU: iova=0x00000000fff60000 - 0x00000000fff62000 size=8192 unmapped_size=8192',
]
  .map((event, at) => `${line(event, 18_000_000 + at)}\n`)
  .join('');

/** Reads a text, in pieces of a given size, and collects its events. */
export function importText(
  text: string | Uint8Array,
  pieceBytes = 1 << 20,
  options: FtraceOptions = {},
): { events: TraceEvent[]; summary: TraceSummary } {
  const events: TraceEvent[] = [];
  const keep = (event: TraceEvent) => events.push(event);
  const consumer = { map: keep, unmap: keep, invalidation: keep, mark: keep, other: keep };
  const reader = new FtraceReader('test.txt', consumer, options);
  const bytes = Buffer.from(text);
  for (let at = 0; at < bytes.length; at += pieceBytes) reader.push(bytes.subarray(at, at + pieceBytes));
  return { events, summary: reader.end() };
}

/** What a call throws. */
export function errorOf(call: () => unknown): Error {
  try {
    call();
  } catch (error) {
    if (error instanceof Error) return error;
  }
  throw new Error('expected an error');
}

/** {@link SMALL} and {@link PROBED} as one recording. */
export const RECORDED = `${SMALL}${PROBED}`.replace('4/4', '12/12');
