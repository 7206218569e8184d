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
    expect([...roles].sort()).toEqual(['adopted', 'compared', 'ignored', 'input']);
  });
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
      /^r\.jsonl:2: info\.d is "1"; expected an integer/,
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
