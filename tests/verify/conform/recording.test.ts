import { describe, expect, test } from 'vitest';
import { InputError } from '../../../machine/errors.ts';
import { recordFields } from '../../../verify/conform/recording/record-fields.ts';
import { parseRecording } from '../../../verify/conform/recording/recording.ts';
import { recordingFromBytes } from '../../../verify/files/recording-file.ts';
import { RECORDED, recorded, recordedBytes, recordedText } from './recorded.ts';

const text = recordedText('scen4-417-cm0');
const [config = '', ...rest] = text.split('\n');

function errorOf(read: () => unknown): InputError {
  try {
    read();
  } catch (error) {
    if (error instanceof InputError) return error;
    throw error;
  }
  throw new Error('expected an InputError');
}

const parse = (lines: readonly string[]) => () => parseRecording(lines.join('\n'), 'r.jsonl');

describe('a recording', () => {
  test.each(RECORDED)('%s: one record per line, the config first', async (name) => {
    const recording = await recorded(name);
    expect(recording.config.recording).toBe(2);
    expect(recording.records).toHaveLength(recordedText(name).trimEnd().split('\n').length);
    expect(recording.records[0]).toBe(recording.config);
  });

  test('is the same packed and unpacked, whatever its name', async () => {
    const packed = await recordingFromBytes(recordedBytes('scen4-417-cm0'), 'a.txt');
    const plain = await recordingFromBytes(new TextEncoder().encode(text), 'a.gz');
    expect(plain.records).toEqual(packed.records);
  });

  test('may lack the line end of its last line', () => {
    expect(parseRecording(text.trimEnd(), 'r.jsonl').records).toHaveLength(86);
  });

  test('says of every field what becomes of it', () => {
    const roles = new Set<string>();
    const visit = (table: object): void => {
      for (const spec of Object.values(table)) {
        if (typeof spec === 'string') roles.add(spec.split(' ')[0]!);
        else visit(spec as object);
      }
    };
    visit(recordFields);
    expect([...roles].sort()).toEqual(['adopted', 'checked', 'compared', 'ignored', 'input']);
  });
});

const op = { flags: 2, dom: 1, ref: 8, host: '0x1000', st: 0, h: 0, dev: '0x0' };
const fault = { sid: '0x30', reason: 6, addr: '0x1000', write: 0 };
const call = { s: 7, rc: 0, iommu: [] };
/** A record of each of some kinds that is one. */
const SAMPLES = {
  info: { o: 'info', d: 1, tot_pages: 2 },
  watch: { o: 'watch', d: 1, first: 0, n: 1 },
  map: { o: 'map', ...call, d: 1, n: 1, ops: [op] },
  memory_op: { o: 'memory_op', ...call, d: 1, n: 1, cmd: 1, in: ['0x1'], out: ['0x1'] },
  createdomain: {
    o: 'createdomain',
    ...call,
    id: 1,
    hvm: 1,
    hap: 1,
    cdf_iommu: 1,
    max_grant_frames: 8,
    max_maptrack_frames: 8,
    gver: 2,
  },
  pci: { o: 'pci', bdf: '0x30', type: 'endpoint', ats: false },
  populate: { o: 'populate', ...call, id: 1, n: 8 },
  poke: { o: 'poke', d: 1, frame: '0x1', off: 0, len: 8, val: '0x0' },
  dma: { o: 'dma', s: 7, bdf: '0x30', addr: '0x1000', len: 2, w: 0, cpu: '0102', faultKnown: true, iommu: [] },
  raw: { o: 'raw', ...call, d: 1, cmd: 0, n: 1, ptr: 'ok' },
};

test.each(Object.entries(SAMPLES))('%s: a record', (_, record) => {
  expect(parse([config, JSON.stringify(record)])().records).toHaveLength(2);
});

describe('what is no recording is refused with file and line', () => {
  const cases: readonly (readonly [name: string, lines: readonly string[], code: string, message: RegExp])[] = [
    ['an empty file', [''], 'RECORDING_CONFIG', /^r\.jsonl:1: empty/],
    ['another first record', rest.slice(0, 3), 'RECORDING_CONFIG', /^r\.jsonl:1: the first record has "o": "boot"/],
    [
      'another form of recording',
      [config.replace('"recording":2', '"recording":1')],
      'RECORDING_CONFIG',
      /^r\.jsonl:1: .*"recording": 1; expected a config with "recording": 2/,
    ],
    ['a second config', [config, config], 'RECORDING_KIND', /^r\.jsonl:2: a second config/],
    ['no JSON', [config, '{"o":'], 'RECORDING_LINE', /^r\.jsonl:2: no JSON/],
    ['an empty line', [config, '', rest[0]!], 'RECORDING_LINE', /^r\.jsonl:2: no JSON/],
    ['no record', [config, '[1]'], 'RECORDING_LINE', /^r\.jsonl:2: expected a record/],
    [
      'a call of one element without any',
      [config, '{"o":"set_version","s":1,"d":1,"n":1,"rc":0,"ops":[]}'],
      'RECORDING_FIELD',
      /^r\.jsonl:2: /,
    ],
    [
      'a quarantine that there is not',
      [config.replace(/"quarantine":"[a-z]*"/, '"quarantine":"most"')],
      'RECORDING_FIELD',
      /^r\.jsonl:1: config\.iommu\.quarantine is "most"; expected none, basic, scratch/,
    ],
    ['an unknown kind', [config, '{"o":"mop"}'], 'RECORDING_KIND', /^r\.jsonl:2: unknown kind .*"mop".*known: config/],
    ['no kind', [config, '{"s":1}'], 'RECORDING_KIND', /^r\.jsonl:2: unknown kind .*none/],
    ['a kind that every object has', [config, '{"o":"toString"}'], 'RECORDING_KIND', /^r\.jsonl:2: unknown kind/],
    ['a missing field', [config, '{"o":"info","d":1}'], 'RECORDING_FIELD', /^r\.jsonl:2: info\.tot_pages missing/],
    [
      'a field of another type',
      [config, '{"o":"info","d":"1","tot_pages":2}'],
      'RECORDING_FIELD',
      /^r\.jsonl:2: info\.d is "1"; expected an integer from 0 to 65535/,
    ],
    [
      'an element without a field',
      [config, '{"o":"swap_grant_ref","s":1,"d":1,"n":1,"rc":0,"iommu":[],"ops":[{"a":1,"st":0}]}'],
      'RECORDING_FIELD',
      /^r\.jsonl:2: swap_grant_ref\.ops\[0\]\.b missing/,
    ],
    [
      'an element that is none',
      [config, '{"o":"swap_grant_ref","s":1,"d":1,"n":1,"rc":0,"iommu":[],"ops":[7]}'],
      'RECORDING_FIELD',
      /^r\.jsonl:2: swap_grant_ref\.ops\[0\] is 7; expected an object/,
    ],
    ...(
      [
        ['a region that ends before it begins', '"reservedRegions":[["0x9b","0x9a",["0x28"]]]', /reservedRegions/],
        ['a region for no device', '"reservedRegions":[["0x9a","0x9a",[]]]', /reservedRegions/],
        ['devices of a region that are none', '"reservedRegions":[["0x9a","0x9a",[40]]]', /reservedRegions/],
        ['a stride that there is not', '"phantoms":[["0x100",3]]', /phantoms .*a stride 1, 2 or 4/],
        ['a slot that is none', '"phantoms":[[256,1]]', /phantoms/],
        ['a hidden device by another name', '"hidden":["00:07.0"]', /hidden/],
      ] as const
    ).map(([name, field, message]) => {
      const line = config.replace(/}$/, `,${field}}`);
      return [name, [line], 'RECORDING_FIELD', message] as const;
    }),
    [
      'an owner that is none',
      [config, '{"o":"owners","devices":[["0x28","0"]]}'],
      'RECORDING_FIELD',
      /^r\.jsonl:2: owners\.devices is .*; expected a list of \[bdf, domid or null\]/,
    ],
    [
      'an access longer than the memory of the device',
      [config, '{"o":"dma_raw","bdf":"0x30","addr":"0x1000","len":4097,"w":0,"iommu":[]}'],
      'RECORDING_FIELD',
      /^r\.jsonl:2: dma_raw\.len is 4097; expected 1 to 4096/,
    ],
    [
      'descriptors that are none',
      [config, '{"o":"assign","s":1,"dom":1,"bdf":"0x1","rc":0,"iommu":[{}]}'],
      'RECORDING_FIELD',
      /^r\.jsonl:2: assign\.iommu is .*; expected a list of descriptors/,
    ],
    [
      'an address that is none',
      [config, '{"o":"p2m","d":1,"gfn":"20","mfn":null}'],
      'RECORDING_FIELD',
      /^r\.jsonl:2: p2m\.gfn is "20"; expected a "0x\.\.\."/,
    ],
    ...(
      [
        ['a negative id', 'info', { d: -1 }, /info\.d is -1; expected an integer from 0 to 65535/],
        ['a fraction', 'info', { tot_pages: 1.5 }, /info\.tot_pages is 1\.5/],
        ['negative counts', 'watch', { first: -1 }, /watch\.first is -1; expected an integer from 0/],
        ['negative flags', 'map', { ops: [{ ...op, flags: -1 }] }, /map\.ops\[0\]\.flags is -1/],
        ['another count than elements', 'map', { n: 2 }, /map\.n is 2; expected the number of ops/],
        ['another count than items', 'memory_op', { n: 2 }, /memory_op\.n is 2; expected the number of items of "in"/],
        ['a command that nobody knows', 'memory_op', { cmd: 3 }, /memory_op\.cmd is 3; expected 0, 1 or 6/],
        ['a switch that is neither 0 nor 1', 'createdomain', { hvm: 2 }, /createdomain\.hvm is 2; expected 0 or 1/],
        ['a negative domain', 'createdomain', { id: -1 }, /createdomain\.id is -1/],
        ['no shadow tables', 'createdomain', { hvm: 1, hap: 0 }, /createdomain\.hap is 0; expected 1 with hvm/],
        ['a device of no known type', 'pci', { type: 'toaster' }, /pci\.type is "toaster"; expected endpoint, /],
        [
          'neither a number of pages nor a list',
          'populate',
          { n: undefined },
          /populate\.n missing; expected a number/,
        ],
        ['no value to store', 'poke', { val: undefined }, /poke\.val missing; expected a value or a byte/],
        ['more than a page', 'poke', { off: 4092 }, /poke\.len is 8; expected no more than is left/],
        ['two faults', 'dma', { faults: [fault, fault] }, /dma\.faults is .*; expected a list of no more than one/],
        ['bytes that are none', 'dma', { cpu: '0' }, /dma\.cpu is "0"; expected bytes/],
      ] as const
    ).map(
      ([name, kind, edit, message]) =>
        [name, [config, JSON.stringify({ ...SAMPLES[kind], ...edit })], 'RECORDING_FIELD', message] as const,
    ),
    [
      'a config without its parts',
      [config.replace('"gnttab":', '"other":')],
      'RECORDING_FIELD',
      /^r\.jsonl:1: config\.gnttab is undefined|config\.gnttab missing/,
    ],
  ];

  test.each(cases)('%s', (_, lines, code, message) => {
    const error = errorOf(parse(lines));
    expect(error.code).toBe(code);
    expect(error.message).toMatch(message);
  });

  test('packed data that is cut off, at the line that it breaks in', async () => {
    const bytes = recordedBytes('scen4-417-cm0');
    const cut = recordingFromBytes(bytes.slice(0, bytes.length - 200), 'r.gz');
    await expect(cut).rejects.toMatchObject({ code: 'RECORDING_END', place: { file: 'r.gz' } });
    await expect(cut).rejects.toThrow(/^r\.gz:\d+: the compressed data is truncated or damaged here/);
    const { place } = (await cut.catch((error: unknown) => error)) as InputError;
    expect(place.line).toBeGreaterThan(40);
  });

  test('packed data without its last bytes, though all of the text is there', async () => {
    const bytes = recordedBytes('scen4-417-cm0');
    const cut = recordingFromBytes(bytes.slice(0, bytes.length - 4), 'r.gz');
    await expect(cut).rejects.toThrow(/^r\.gz:87: the compressed data is truncated/);
  });

  test('packed data that is damaged', async () => {
    const bytes = recordedBytes('scen4-417-cm0').slice();
    for (let at = 1500; at < 1600; at += 1) bytes[at] = 0xa5;
    await expect(recordingFromBytes(bytes, 'r.gz')).rejects.toMatchObject({ name: 'InputError' });
  });
});
