import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, describe, expect, it } from 'vitest';
import { importFtrace, LINE_MAX } from '../../../benchmarks/trace/ftrace.ts';
import { FTRACE_EVENTS } from '../../../benchmarks/trace/ftrace-events.ts';
import { InputError } from '../../../machine/errors.ts';
import { errorOf, importText, line, MAP, PROBED, UNMAP } from './ftrace-text.ts';

describe('the prefix of a line', () => {
  it.each([
    ['                 fio-198     [001] .....    17.227161: ', 1, 17_227_161],
    ['          <idle>-0       [000] d.h1.    17.227161: ', 0, 17_227_161],
    ['              sh-115     [000] ....    17.227161: ', 0, 17_227_161],
    ['              sh-115     [000] .N...1.    17.227161: ', 0, 17_227_161],
    ['              sh-115     [000]    17.227161: ', 0, 17_227_161],
    ['              sh-115     (    115) [000] .....    17.227161: ', 0, 17_227_161],
    ['              sh-115     (-------) [000] .....    17.227161: ', 0, 17_227_161],
    [' Web Cont-1 [0]:-2041    [013] d..1. 123456.000007: ', 13, 123_456_000_007],
    ['   kworker/u4:2-events-77  [4095] .....     0.000000: ', 4095, 0],
    ['    a-1 [001] a:-115     [000] .....    17.227161: ', 0, 17_227_161],
    ['sh-115 [002] ..... 17.227161: ', 2, 17_227_161],
  ])('%s', (prefix, cpu, timeUs) => {
    const { events, summary } = importText(`${prefix}${MAP}\n`);
    expect(events).toMatchObject([{ kind: 'map', cpu, timeUs }]);
    expect(summary.unknownLines).toBe(0);
  });

  it('takes the dash at column 16 where a task is named like a prefix', () => {
    const task = 'x-1 [007] 9'.padStart(16);
    expect(importText(`${task}-115     [000] .....    17.227161: ${MAP}\n`).events).toMatchObject([{ cpu: 0 }]);
  });

  it('accepts a last line without a newline, lines that end in CR LF, and empty lines around the events', () => {
    const { events, summary } = importText(`\r\n\n${line(MAP)}\r\n${line(UNMAP)}`);
    expect(events.map(({ kind }) => kind)).toEqual(['map', 'unmap']);
    expect(summary).toMatchObject({ lines: 4, events: 2, unknownLines: 0 });
    expect(importText(`${line(MAP)}\n\n\r\n`).summary).toMatchObject({ lines: 3, events: 1 });
  });
});

describe('map and unmap', () => {
  const map = {
    kind: 'map',
    dfn: 0xfffbe,
    pages: 1,
    mfn: 0x11a330,
    bytes: 4096,
    rights: 'rw',
    space: null,
    remap: false,
  };
  const unmap = { kind: 'unmap', dfn: 0xfffbe, pages: 1, unmappedPages: 1, space: null, mapped: 'none' };

  it.each([
    ['with a range', MAP, map],
    ['old', 'map: IOMMU: iova=0x00000000fffbe000 paddr=0x000000011a330000 size=4096', map],
    ['with a device', 'map: IOMMU: dev=0000:01:00.0 iova=0x00000000fffbe000 paddr=0x000000011a330000 size=4096', map],
    ['with a range', UNMAP, unmap],
    ['old', 'unmap: IOMMU: iova=0x00000000fffbe000 size=4096 unmapped_size=4096', unmap],
    [
      'with nothing there',
      'unmap: IOMMU: iova=0x00000000fffbe000 size=4096 unmapped_size=0',
      { ...unmap, unmappedPages: 0 },
    ],
  ])('%s: %s', (_, payload, expected) => {
    expect(importText(line(payload)).events).toEqual([{ timeUs: 17_227_161, cpu: 1, ...expected }]);
  });

  it('reads the last frame of 57 bits, and sizes beyond 2^53, exactly', () => {
    const last = 'map: IOMMU: iova=0x01fffffffffff000 - 0x0200000000000000 paddr=0x000ffffffffff000 size=4096';
    const whole = 'unmap: IOMMU: iova=0x0000000000001000 size=144115188075851776 unmapped_size=0';
    expect(importText(`${line(last)}\n${line(whole)}`).events).toMatchObject([
      { dfn: 2 ** 45 - 1, mfn: 2 ** 40 - 1 },
      { dfn: 1, pages: 2 ** 45 - 1 },
    ]);
  });

  it('several maps and one unmap are a scatter-gather list', () => {
    const text = [
      line('map: IOMMU: iova=0x10000 - 0x11000 paddr=0x5000 size=4096', 1),
      line('map: IOMMU: iova=0x11000 - 0x14000 paddr=0x9000 size=12288', 2),
      line('unmap: IOMMU: iova=0x10000 - 0x14000 size=16384 unmapped_size=16384', 3),
    ].join('\n');
    const { events, summary } = importText(text);
    expect(events.at(-1)).toMatchObject({ mapped: 'all', pages: 4 });
    expect(summary).toMatchObject({ unmapsWithoutMap: 0, unmapsPartial: 0, leftLiveBytes: 0, mapBytes: 16384 });
  });

  it('counts remaps, unmaps without a map, and unmaps of a part', () => {
    const text = [
      line('map: IOMMU: iova=0x10000 - 0x11000 paddr=0x5000 size=4096', 1),
      line('map: IOMMU: iova=0x10000 - 0x11000 paddr=0x6000 size=4096', 2),
      line('unmap: IOMMU: iova=0x10000 - 0x12000 size=8192 unmapped_size=8192', 3),
      line('unmap: IOMMU: iova=0x10000 - 0x11000 size=4096 unmapped_size=4096', 4),
    ].join('\n');
    const { events, summary } = importText(text);
    expect(events).toMatchObject([{ remap: false }, { remap: true }, { mapped: 'part' }, { mapped: 'none' }]);
    expect(summary).toMatchObject({ remaps: 1, unmapsPartial: 1, unmapsWithoutMap: 1, leftLiveBytes: 4096 });
    expect(summary).toMatchObject({ firstTimeUs: 1, lastTimeUs: 4, maps: 2, unmaps: 2, unmapBytes: 12288 });
  });
});

describe('the address space of an access', () => {
  it('is the domain of the probe before it, with the rights of its protection bits', () => {
    const { events, summary } = importText(PROBED);
    const accesses = events.filter(({ kind }) => kind === 'map' || kind === 'unmap');
    const space = '0xff442691c19541d0';
    expect(accesses).toMatchObject([{ space, rights: 'w' }, { space, rights: 'r' }, { space }]);
    expect(summary).toMatchObject({ mapsWithSpace: 2, unmapsWithSpace: 1, spaces: 1, devices: ['0000:01:00.0'] });
  });

  const probe = (iova: string, domain = '0xd1', count = 1) =>
    `map_pages: (f+0x0/0x1) domain=${domain} iova=${iova} paddr=0x1000 pgsize=0x1000 pgcount=${count} prot=0x3`;
  const access = (iova: string, pages = 1) => `map: IOMMU: iova=${iova} paddr=0x1000 size=${pages * 4096}`;
  const spaces = (...lines: string[]) =>
    importText(lines.join('\n')).events.flatMap((event) => (event.kind === 'map' ? [event.space] : []));

  it('is unknown where the probe names another frame, another CPU, or came long ago', () => {
    expect(spaces(line(probe('0x1000'), 1), line(access('0x2000'), 2))).toEqual([null]);
    expect(spaces(line(probe('0x1000'), 1, 0), line(access('0x1000'), 2, 1))).toEqual([null]);
    expect(spaces(line(probe('0x1000'), 1), line(access('0x1000'), 200_000))).toEqual([null]);
    expect(spaces(line(probe('0x1000'), 1), line(access('0x1000'), 2), line(access('0x1000'), 3))).toEqual([
      '0xd1',
      null,
    ]);
  });

  it('survives an interrupt, and an access of several calls', () => {
    expect(
      spaces(
        line(probe('0x1000'), 1),
        line(probe('0x9000', '0xd2'), 2),
        line(access('0x9000'), 3),
        line(access('0x1000'), 4),
      ),
    ).toEqual(['0xd2', '0xd1']);
    expect(spaces(line(probe('0x1000'), 1), line(probe('0x2000', '0xd1', 7), 2), line(access('0x1000', 8), 3))).toEqual(
      ['0xd1'],
    );
  });
});

describe('other events', () => {
  it('gives the words of a descriptor, exact above 2^53', () => {
    const submit = 'qi_submit: iotlb_inv dmar2: 0x800f2 0xf9a00005 0x0 0xffffffffffffffff';
    const { events, summary } = importText(line(submit));
    expect(events).toMatchObject([
      { kind: 'invalidation', type: 'iotlb_inv', unit: 'dmar2', words: [0x800f2, 0xf9a00005, 0, '0xffffffffffffffff'] },
    ]);
    expect(summary.qiByType).toEqual({ iotlb_inv: 1 });
  });

  it('gives marks as UTF-8', () => {
    expect(importText(line('tracing_mark_write: BEGIN größe: 1')).events).toMatchObject([{ text: 'BEGIN größe: 1' }]);
  });

  const where = '(iommu_dma_map_page+0x0/0x260)';
  const cases: [payload: string, device: string | null][] = [
    ['io_page_fault: IOMMU:nvme 0000:01:00.0 iova=0x00000000fffb2040 flags=0x0001', '0000:01:00.0'],
    ['attach_device_to_domain: IOMMU: device=0000:00:05.0', '0000:00:05.0'],
    ['add_device_to_group: IOMMU: groupID=3 device=0000:00:05.0', '0000:00:05.0'],
    [
      'cache_tag_flush_range: dmar1 0000:00:1b.0[0] type iotlb did 9 [0xe9828000-0xe9828fff] addr 0x0 pages 0x1 mask 0x0',
      '0000:00:1b.0',
    ],
    ['cache_tag_assign: dmar9/0000:00:01.0 type devtlb did 1 pasid 9 ref 1', '0000:00:01.0'],
    ['prq_report: dmar0/0000:00:0a.0 seq# 1: rid=0x50 addr=0x1000', '0000:00:0a.0'],
    ['bounce_map_single: dev=0000:00:14.0 dev_addr=0xfffff000 phys_addr=0x1000 size=512', '0000:00:14.0'],
    ['dma_map_page: 0000:00:02.0 dir=TO_DEVICE dma_addr=ff6ed0f6 size=74 phys_addr=100c580f6 attrs=', '0000:00:02.0'],
    ['dma_unmap_page: 0000:00:02.0 dir=FROM_DEVICE dma_addr=ffff98c0 size=1522 attrs=SKIP_CPU_SYNC', '0000:00:02.0'],
    [
      'dma_alloc: 0000:00:02.0 dma_addr=fffff000 size=4096 virt_addr=00000000f0 flags=GFP_KERNEL attrs=',
      '0000:00:02.0',
    ],
    [
      'dma_free: 0000:00:02.0 dir=BIDIRECTIONAL dma_addr=fffff000 size=4096 virt_addr=00000000f0 attrs=',
      '0000:00:02.0',
    ],
    [
      'dma_map_sg: 0000:01:00.0 dir=FROM_DEVICE nents=2/2 ents=1/1 dma_addrs={0xfff60000} sizes={0x2000} attrs=',
      '0000:01:00.0',
    ],
    ['dma_unmap_sg: 0000:01:00.0 dir=FROM_DEVICE phys_addrs={0x1000} attrs=', '0000:01:00.0'],
    [`map_page: ${where} dev="0000:01:00.0" off=0x0 size=131072 dir=2`, '0000:01:00.0'],
    ['map_page_ret: (nvme_prep_rq.part.0+0x411/0x910 [nvme] <- iommu_dma_map_page) iova=0xfff20000', null],
    [`unmap_page: ${where} dev="0000:01:00.0" iova=0xfff20000 size=131072 dir=2`, '0000:01:00.0'],
    [`unmap_page: ${where} dev=(fault) iova=0xfff20000 size=131072 dir=2`, null],
    [`map_sg: ${where} dev="0000:01:00.0" nents=11 dir=2`, '0000:01:00.0'],
    [`map_sg_ret: (f+0x29/0x90 <- iommu_dma_map_sg) n=-5`, null],
    [`unmap_sg: ${where} dev="0000:01:00.0" iova=0xfff60000 len0=131072 nents=11 dir=2`, '0000:01:00.0'],
    [`alloc: ${where} dev="0000:01:00.0" size=4096`, '0000:01:00.0'],
    [`alloc: ${where} iovad=0xff442691c0875408 pages=1 limit_pfn=0xfffff flush=0`, null],
    ['alloc_ret: (iommu_dma_alloc_iova+0xb9/0xe0 <- alloc_iova_fast) pfn=0xffa5e', null],
    [`alloc_tree: ${where} iovad=0xff442691c0875408 pages=1 limit_pfn=0xfffff align=1`, null],
    [`free: ${where} iovad=0xff442691c0875408 pfn=0xfff72 pages=1`, null],
    [`free: ${where} dev="0000:01:00.0" size=4096 iova=0xfffff000`, '0000:01:00.0'],
    [`free_tree: ${where} iovad=0xff442691c0875408 pfn=0xfff72`, null],
    [`tlb_sync: ${where} domain=0xff442691c0b5d410 start=0xfff72000 end=0xfff72fff pgsize=0x1000`, null],
    [`flush_all: ${where} domain=0xff442691c0b5d410`, null],
    [`attach: ${where} domain=0xff442691c0b5d410 dev="0000:00:05.0"`, '0000:00:05.0'],
    [`detach: ${where} dev="0000:00:05.0"`, '0000:00:05.0'],
    [`qi_flush_iotlb: ${where} did=3 addr=0xfff72040 order=0 type=0x3000000000000000`, null],
    [`reg_flush_iotlb: ${where} did=14 addr=0xfffb2040 order=0 type=0x3000000000000000`, null],
    [`qi_flush_context: ${where} did=14 sid=0x28 fm=0x0 type=0x6000000000000000`, null],
    ['fq_timeout: (fq_flush_timeout+0x0/0xb0)', null],
  ];
  it.each(cases)('%s', (payload, device) => {
    const { events, summary } = importText(line(payload));
    const name = payload.slice(0, payload.indexOf(':'));
    expect(events).toEqual([{ kind: 'other', timeUs: 17_227_161, cpu: 1, name, device }]);
    expect(summary.devices).toEqual(device === null ? [] : [device]);
  });

  it('counts what the table does not cover, and shows the first few', () => {
    const unknown = [
      'sched_switch: prev=a',
      'alloc: (some_probe+0x0/0x1) bytes=4096',
      'map_pages: (some_probe+0x0/0x1) size=4096',
      'f <-g',
      'constructor: x',
    ];
    const { summary } = importText([MAP, ...unknown, ...unknown].map((text) => line(text)).join('\n'));
    expect(summary.unknownLines).toBe(10);
    expect(summary.unknownExamples).toHaveLength(5);
    expect(summary.unknownExamples[0]).toEqual({ line: 2, name: 'sched_switch', text: '"prev=a"' });
    expect(summary.eventsByKind).toEqual({
      map: 1,
      alloc: 2,
      map_pages: 2,
      sched_switch: 2,
      '(no name)': 2,
      constructor: 2,
    });
    expect(summary).toMatchObject({ events: 11, maps: 1 });
  });

  it('has forms for every event of its table', () => {
    for (const [name, row] of Object.entries(FTRACE_EVENTS)) expect(row.forms.length, name).toBeGreaterThan(0);
  });
});

describe('bad input', () => {
  const good = line(MAP, 17_227_161);
  const cases: [what: string, text: string, code: string, place: number, message: RegExp][] = [
    [
      'a torn line',
      `# tracer\n${good}\n   fio-1`,
      'FTRACE_LINE',
      3,
      /torn line: expected .*TASK-PID.* got " {3}fio-1"/,
    ],
    ['a line without its start', `${good}\n00 size=4096\n`, 'FTRACE_LINE', 2, /torn line/],
    ['an event cut in its name', `${good}\n${line('unm')}`, 'FTRACE_LINE', 2, /expected "event: payload"/],
    [
      'a map cut short',
      `${good}\n${line('map: IOMMU: iova=0x00000000fff')}`,
      'FTRACE_LINE',
      2,
      /expected map: .*<iova>/,
    ],
    ['two lines run together', `${line(MAP)}${good}`, 'FTRACE_LINE', 1, /torn line/],
    ['JSON', '{ "a": 1 }\n', 'FTRACE_LINE', 1, /not ftrace text.*got "\{ "a": 1 \}"/],
    ['binary', '\u007fELF\u0002\u0001', 'FTRACE_LINE', 1, /not ftrace text.*got "\\x7fELF\\x02\\x01"/],
    ['nothing', '', 'FTRACE_EMPTY', 1, /no event/],
    ['only a header', '# tracer: nop\n#\n', 'FTRACE_EMPTY', 2, /no event/],
    ['lost events', `${good}\nCPU:1 [LOST 123 EVENTS]\n`, 'FTRACE_LOST', 2, /CPU 1 lost 123 events.*buffer_size_kb/],
    ['events lost, nobody knows how many', 'CPU:0 [LOST EVENTS]\n', 'FTRACE_LOST', 1, /unknown number/],
    [
      'an overrun',
      '# t\n# entries-in-buffer/entries-written: 10/25   #P:2\n',
      'FTRACE_LOST',
      2,
      /15 of 25 events.*buffer_size_kb/,
    ],
    [
      'time that goes back',
      `${good}\n${line(UNMAP, 17_227_160)}`,
      'FTRACE_CLOCK',
      2,
      /CPU 1, from 17\.227161 to 17\.227160/,
    ],
    [
      'a size',
      line('map: IOMMU: iova=0x1000 paddr=0x1000 size=4097'),
      'FTRACE_SIZE',
      1,
      /size "4097": expected a multiple/,
    ],
    ['no size', line('map: IOMMU: iova=0x1000 paddr=0x1000 size=0'), 'FTRACE_SIZE', 1, /above 0/],
    ['an unmapped size', line('unmap: IOMMU: iova=0x1000 size=4096 unmapped_size=1'), 'FTRACE_SIZE', 1, /unmapped "1"/],
    ['a range', line('map: IOMMU: iova=0x1000 - 0x3000 paddr=0x1000 size=4096'), 'FTRACE_SIZE', 1, /ends at 0x3000/],
    ['an address', line('map: IOMMU: iova=0x1001 paddr=0x1000 size=4096'), 'FTRACE_ADDRESS', 1, /iova 0x1001/],
    ['a short address', line('map: IOMMU: iova=0x1 paddr=0x1000 size=4096'), 'FTRACE_ADDRESS', 1, /iova 0x1: expected/],
    ['a target', line('map: IOMMU: iova=0x1000 paddr=0x1800 size=4096'), 'FTRACE_ADDRESS', 1, /paddr 0x1800/],
    ['58 bits', line('map: IOMMU: iova=0x200000000000000 paddr=0x1000 size=4096'), 'FTRACE_ADDRESS', 1, /2\^57/],
    ['a long line', `${good}\n${'x'.repeat(LINE_MAX + 1)}\n`, 'FTRACE_LINE', 2, /longer than 65536 bytes/],
    ['a long line that never ends', `${good}\n${'x'.repeat(3 * LINE_MAX)}`, 'FTRACE_LINE', 2, /longer than/],
  ];
  it.each(cases)('%s', (_, text, code, place, message) => {
    for (const chunkBytes of [1 << 20, 1000]) {
      const error = errorOf(() => importText(text, chunkBytes));
      expect(error).toBeInstanceOf(InputError);
      expect(error).toMatchObject({ code, place: { file: 'test.txt', line: place } });
      expect(error.message).toMatch(message);
      expect(error.message.startsWith(`test.txt:${place}: `)).toBe(true);
      expect(error.message).not.toContain('\n');
    }
  });

  it('goes on after lost events when asked to, and counts them', () => {
    const text = `# entries-in-buffer/entries-written: 1/16   #P:2\nCPU:1 [LOST 7 EVENTS]\n${good}\n`;
    const { summary } = importText(text, 1 << 20, { onLost: 'count' });
    expect(summary).toMatchObject({ lostEvents: 15, entriesInBuffer: 1, maps: 1 });
  });

  it('accepts time that goes back from one CPU to another, and counts it', () => {
    const { summary } = importText(`${line(MAP, 10, 0)}\n${line(UNMAP, 9, 1)}\n`);
    expect(summary).toMatchObject({ clockStepsBack: 1, firstTimeUs: 10, lastTimeUs: 9 });
  });
});

describe('files', () => {
  const folder = mkdtempSync(join(tmpdir(), 'ftrace-'));
  afterAll(() => rmSync(folder, { recursive: true }));
  const file = (name: string, bytes: Uint8Array | string) => {
    const path = join(folder, name);
    writeFileSync(path, bytes);
    return path;
  };
  const many = Array.from({ length: 20_000 }, (_, at) => line(at % 2 ? UNMAP : MAP, at)).join('\n');

  it('tells a .gz by its bytes, not by its name', async () => {
    const plain = await importFtrace(file('plain.gz', many));
    const packed = await importFtrace(file('packed.txt', gzipSync(many)));
    expect(plain).toMatchObject({ maps: 10_000, unmaps: 10_000, lines: 20_000 });
    expect({ ...packed, file: plain.file }).toEqual(plain);
    const members = Buffer.concat([gzipSync(`${line(MAP, 1)}\n`), gzipSync(line(UNMAP, 2))]);
    expect(await importFtrace(file('members', members))).toMatchObject({ maps: 1, unmaps: 1 });
  });

  it('says where a .gz ends early or is damaged', async () => {
    const packed = gzipSync(many, { level: 1 });
    const damaged = Buffer.from(packed);
    damaged.fill(0xff, packed.length >> 1, (packed.length >> 1) + 64);
    const cut = packed.subarray(0, packed.length >> 1);
    for (const [name, bytes] of [
      ['cut.gz', cut],
      ['stub.gz', packed.subarray(0, 5)],
      ['bad.gz', damaged],
    ] as const) {
      const path = file(name, bytes);
      const error = await importFtrace(path).catch((thrown: unknown) => thrown);
      expect(error).toBeInstanceOf(InputError);
      expect(error).toMatchObject({ code: 'GZIP', place: { file: path, line: expect.any(Number) } });
      expect((error as InputError).message).toMatch(/after \d+ bytes of text/);
    }
  });

  it('says that a file cannot be read', async () => {
    await expect(importFtrace(join(folder, 'none.txt'))).rejects.toMatchObject({ code: 'FILE' });
    await expect(importFtrace(folder)).rejects.toMatchObject({ code: 'FILE' });
    await expect(importFtrace(file('empty', ''))).rejects.toMatchObject({ code: 'FTRACE_EMPTY' });
  });

  it('passes on what the consumer throws', async () => {
    const path = file('throws.txt', gzipSync(many));
    const map = () => {
      throw new TypeError('mine');
    };
    await expect(importFtrace(path, { map })).rejects.toThrow(new TypeError('mine'));
  });
});
