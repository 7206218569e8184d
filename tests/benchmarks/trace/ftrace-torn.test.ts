import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { TraceEvent } from '../../../benchmarks/trace/ftrace.ts';
import { InputError } from '../../../machine/errors.ts';
import { errorOf, importText, line, MAP, RECORDED, UNMAP } from './ftrace-text.ts';

const good = line(MAP, 17_000_000);
const submit = 'qi_submit: iotlb_inv dmar0: 0xe00f2 0xfffbe000 0x0 0x0';
const mark = 'tracing_mark_write: END';
const dmaMap =
  'dma_map_page: 0000:00:02.0 dir=TO_DEVICE dma_addr=ff6ed0f6 size=74 phys_addr=100c580f6 attrs=SKIP_CPU_SYNC';
const probe = 'map_pages: (f+0x0/0x1) domain=0xd1 iova=0x1000 paddr=0x1000 pgsize=0x1000 pgcount=1 prot=0x3';

function expectTorn(text: string, place: number, message: RegExp, code = 'FTRACE_LINE'): void {
  const error = errorOf(() => importText(text));
  expect(error).toBeInstanceOf(InputError);
  expect(error).toMatchObject({ code, place: { file: 'test.txt', line: place } });
  expect(error.message).toMatch(message);
}

describe('torn lines', () => {
  it.each(['  ', '\t', ' \t '])('a line of blanks, %j, anywhere', (blank) => {
    expectTorn(`${good}\n${blank}\n${line(UNMAP)}\n`, 2, /torn line: expected "TASK-PID/);
    expectTorn(`${good}\n${blank}`, 2, /expected "TASK-PID/);
    expectTorn(`${blank}\n${good}`, 1, /expected "TASK-PID/);
  });

  it('an empty line between events', () => {
    expectTorn(`${good}\n\n\n${line(UNMAP)}\n`, 2, /expected "TASK-PID.* between events, got ""/);
  });

  it.each([
    'unmap: IOMMU:',
    'unmap:',
    'map: IOMMU: ',
    'map: (some_probe+0x0/0x1) size=4096',
    'qi_submit: iotlb_inv dmar0: 0x3',
    'qi_submit:',
    'dma_map_page: 0000:00:02.0 dir=TO_DEVICE dma_addr=ff6ed0f6 size=74 phys',
    'dma_unmap_page: 0000:00:02.0 dir=TO_DEVICE dma_addr=ff6ed0f6 size=74',
    'dma_map_sg: 0000:01:00.0 dir=FROM_DEVICE nents=2/2 ents=1/1 dma_addrs={0xfff6',
    'dma_map_sg: 0000:01:00.0 dir=FROM_DEVICE nents=2/2 ent',
    'dma_alloc: 0000:00:02.0 dma_addr=fffff000 size=4096 virt_addr=00000000f0 flags=GFP_KERNEL',
    'dma_sync_single_for_cpu: 0000:00:02.0 dir=TO_DEVICE dma_addr=ff size=',
    'cache_tag_flush_range: dmar1 0000:00:1b.0[0] type iotlb did 9 [0xe9828000-0xe98',
    'io_page_fault: IOMMU:nvme 0000:01:00.0 iova=0x00000000fffb2040',
    'attach_device_to_domain: IOMMU: ',
    'map_pages: (intel_iommu_map',
    'map_pages: (f+0x0/0x1) domain=0xd1 iova=0x1000 paddr=0x1000 pgsize=0x1000 pgcount=1 prot=',
    'unmap_page: (f+0x0/0x1) dev="0000:01',
    'map_sg_ret: (f+0x0/0x1 <- g) n=-',
    'alloc:',
  ])('an event cut short: %s', (event) => {
    const name = event.slice(0, event.indexOf(':'));
    expectTorn(`${good}\n${line(event)}\n`, 2, new RegExp(`torn line: expected ${name}: ".*", got "`));
  });

  it.each([
    MAP,
    UNMAP,
    submit,
    mark,
    dmaMap,
    probe,
    'sched_switch: prev=a',
    'prq_report: dmar0/0000:00:0a.0 seq# 1: x',
  ])('two lines on one: %s', (event) => {
    for (const next of [line(UNMAP), line(mark), `  iperf3-3 [001] ..... 18.000000: ${MAP}`]) {
      expectTorn(`${good}\n${line(event)}${next}\n`, 2, /torn line: expected/);
    }
  });

  it('a line cut before its event, and a comment, that run into the next line', () => {
    for (const columns of [20, 30, 45]) expectTorn(`${good}\n${good.slice(0, columns)}${line(UNMAP)}`, 2, /torn line/);
    expectTorn(`# tracer: nop${good}\n`, 1, /a comment or an event, not both/);
  });

  it('the number of entries in the header', () => {
    const header = (entries: string) => `# entries-in-buffer/entries-written: ${entries}`;
    expect(importText(`${header('1/1   #P:2')}\n${good}\n`).summary.entriesInBuffer).toBe(1);
    const advice = 'the file was cut or edited; remove the header line to import it as it is';
    expectTorn(
      `${header('2/2   #P:2')}\n${good}\n`,
      2,
      new RegExp(`2 entries announced, 1 found: ${advice}`),
      'FTRACE_COUNT',
    );
    expectTorn(`${header('0/0')}\n${good}\n`, 2, /0 entries announced, 1 found/, 'FTRACE_COUNT');
    expectTorn(`${header('2/2')}\n`, 1, /2 entries announced, 0 found/, 'FTRACE_COUNT');
    for (const torn of ['12/1', '12/', '12', '']) expectTorn(`${header(torn)}\n${good}\n`, 1, /expected ".*N\/M"/);
  });

  it('numbers of more than 16 digits', () => {
    const wide = '0x00000000000001000';
    const most = /expected at most 16 digits/;
    expectTorn(line(`map: IOMMU: iova=${wide} paddr=0x1000 size=4096`), 1, most, 'FTRACE_ADDRESS');
    expectTorn(line(`map: IOMMU: iova=0x1000 paddr=${wide} size=4096`), 1, most, 'FTRACE_ADDRESS');
    expectTorn(line(`unmap: IOMMU: iova=${wide} size=4096 unmapped_size=0`), 1, most, 'FTRACE_ADDRESS');
    expectTorn(line(`qi_submit: iotlb_inv dmar0: 0x1 0x2 0x3 ${wide}`), 1, most);
  });
});

describe('a recording', () => {
  /** Its accesses. What an unmap really unmapped is the last number of its line: a cut may leave a shorter one. */
  const accessesOf = (text: string) =>
    importText(text).events.flatMap((event): TraceEvent[] => {
      if (event.kind === 'map') return [event];
      return event.kind === 'unmap' ? [{ ...event, unmappedPages: 0 }] : [];
    });
  const recording = gunzipSync(readFileSync(new URL('../../data/linux/vfio-map-3.txt.gz', import.meta.url))).toString();

  it.each([
    ['with probes', RECORDED],
    ['vfio-map-3', recording],
  ])('%s, that is cut or has lines joined, is an InputError or has the same accesses', (_, text) => {
    const lines = text.split('\n');
    const whole = accessesOf(text);
    const check = (damaged: string) => {
      let accesses: unknown;
      try {
        accesses = accessesOf(damaged);
      } catch (error) {
        expect(error).toBeInstanceOf(InputError);
        return;
      }
      expect(accesses).toEqual(whole);
    };
    const place = fc.tuple(fc.nat(lines.length - 2), fc.double({ min: 0, max: 1, noNaN: true }));
    fc.assert(
      fc.property(place, ([at, part]) => {
        const [before, torn = '', after] = [lines.slice(0, at), lines[at], lines.slice(at + 1)];
        const head = torn.slice(0, Math.floor(torn.length * part));
        check([...before, head, ...after].join('\n')); // its end is missing
        check([...before, head].join('\n')); // everything from there on is missing
        check([...before, head + after[0], ...after.slice(1)].join('\n')); // it runs into the next line
        check([...before, torn + after[0], ...after.slice(1)].join('\n')); // only the newline is missing
      }),
      { numRuns: 400 },
    );
  });
});
