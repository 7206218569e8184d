import { describe, expect, it } from 'vitest';
import { importFtrace, type TraceSummary } from '../../../benchmarks/trace/ftrace.ts';
import { type ReferenceCounts, recordedTraces } from './recorded-traces.ts';

const sum = (counts: Readonly<Record<string, number>>) =>
  Object.values(counts).reduce((total, count) => total + count, 0);

function expectCounts(summary: TraceSummary, reference: ReferenceCounts): void {
  expect(summary).toMatchObject({
    events: sum(reference.events),
    eventsByKind: reference.events,
    maps: reference.events.map ?? 0,
    unmaps: reference.events.unmap ?? 0,
    unmapsWithoutMap: reference.unmap_without_map_in_trace,
    unmapsPartial: reference.unmap_partial,
    mapBytes: reference.map_bytes,
    unmapBytes: reference.unmap_bytes,
    leftLiveBytes: reference.left_live_bytes,
    unknownLines: reference.unparsed,
    qiByType: reference.qi_types,
    clockStepsBack: 0,
    lostEvents: 0,
  });
  expect(Object.keys(summary.eventsByKind).sort()).toEqual(Object.keys(reference.events).sort());
  expect((summary.lastTimeUs - summary.firstTimeUs) / 1e6).toBeCloseTo(reference.seconds, 2);
}

const shipped = (path: string) => new URL(`../../../${path}`, import.meta.url).pathname;

describe('recordings that come with the project', () => {
  it('nvme-randread-4k-qd32.strict: one map, one unmap, one invalidation per read', async () => {
    const summary = await importFtrace(shipped('examples/data/nvme-randread-4k-qd32.strict.txt.gz'));
    expectCounts(summary, {
      events: { map: 16384, unmap: 16384, qi_submit: 16384, tracing_mark_write: 2 },
      map_bytes: 67_108_864,
      unmap_bytes: 67_108_864,
      left_live_bytes: 0,
      unmap_without_map_in_trace: 0,
      unmap_partial: 0,
      unparsed: 0,
      qi_types: { iotlb_inv: 16384 },
      seconds: 1.733,
    });
    expect(summary.entriesInBuffer).toBe(summary.events);
  });

  it('nvme-seqread-128k-qd8 with probes: scatter-gather lists, and an address space for every map', async () => {
    const summary = await importFtrace(shipped('tests/data/linux/nvme-seqread-128k-qd8.txt.gz'));
    expectCounts(summary, {
      events: {
        alloc: 602,
        alloc_ret: 601,
        alloc_tree: 8,
        free: 587,
        map: 1502,
        map_page: 374,
        map_page_ret: 374,
        map_pages: 1502,
        map_sg: 226,
        map_sg_ret: 226,
        qi_flush_iotlb: 587,
        qi_submit: 600,
        tlb_sync: 587,
        tracing_mark_write: 2,
        unmap: 600,
        unmap_page: 364,
        unmap_pages: 587,
        unmap_sg: 223,
      },
      map_bytes: 78_647_296,
      unmap_bytes: 78_643_200,
      left_live_bytes: 4096,
      unmap_without_map_in_trace: 0,
      unmap_partial: 0,
      unparsed: 0,
      qi_types: { iotlb_inv: 600 },
      seconds: 1.747,
    });
    expect(summary).toMatchObject({ mapsWithSpace: 1502, unmapsWithSpace: 587, spaces: 1, devices: ['0000:01:00.0'] });
  });

  it('vfio-map-3: mappings of a user process', async () => {
    const rights = new Set<string>();
    const marks: string[] = [];
    const path = shipped('tests/data/linux/vfio-map-3.txt.gz');
    const summary = await importFtrace(path, {
      map: (event) => rights.add(event.rights),
      mark: (event) => marks.push(event.text),
    });
    expectCounts(summary, {
      events: { attach_device_to_domain: 4, map: 32, qi_submit: 40, tracing_mark_write: 192, unmap: 33 },
      map_bytes: 67_334_144,
      unmap_bytes: 67_334_144,
      left_live_bytes: 0,
      unmap_without_map_in_trace: 1,
      unmap_partial: 0,
      unparsed: 0,
      qi_types: { cc_inv: 4, iotlb_inv: 36 },
      seconds: 0.511,
    });
    expect(summary.devices).toEqual(['0000:00:05.0']);
    expect([...rights]).toEqual(['rw']);
    expect(marks).toContain('vt done seq=1 op=open_container ret=0 err=0');
  });
});

const recorded = recordedTraces('ftrace recordings');

describe.skipIf(recorded === null)('recordings below PASSTHROUGH_DATA', () => {
  it.each([...(recorded ?? [])])('$name has the counts of summary.json', async ({ file, counts }) => {
    expect(counts, 'a row of summary.json').toBeDefined();
    expectCounts(await importFtrace(file), counts!);
  });
});
