// The model against the recordings that belong to the project, and recordings with one thing altered.

import { describe, expect, test } from 'vitest';
import { conformRecording } from '../../../verify/conform/index.ts';
import { parseRecording } from '../../../verify/conform/recording/recording.ts';
import { RECORDED, recorded, recordedText } from './recorded.ts';

describe('the model agrees with real Xen', () => {
  test.each(RECORDED)('%s', async (name) => {
    const { conformance } = await conformRecording(await recorded(name));
    expect(conformance.disagreements).toEqual([]);
    expect(conformance.agreed).toBe(conformance.compared);
    expect(conformance.compared).toBeGreaterThan(40);
  });
});

/** docs/conformance.md, known differences. */
test('a device behind a bridge with a region: what Xen says is said, what it writes and rolls back is not', async () => {
  const { conformance } = await conformRecording(await recorded('different/dev1b-417-cm0'));
  const { disagreements, byField } = conformance;
  expect(disagreements[0]).toMatchObject({ op: 'assign', field: 'iommu[0]', expected: { t: 'cc' }, got: null });
  const fields = new Set(disagreements.map(({ op, field }) => `${op}.${field.replace(/\[.*/, '')}`));
  const ofDma = ['dma.faults', 'dma.written', 'dma.read_data_ok', 'dma.mem'];
  expect([...fields].toSorted()).toEqual(
    ['assign.iommu', 'unmap.iommu', 'pci_device_remove.iommu', ...ofDma].toSorted(),
  );
  expect(disagreements).toHaveLength(67);
  for (const field of ['assign.rc', 'deassign.rc', 'pci_device_remove.rc', 'owners.devices', 'map.st']) {
    const [agreed, compared] = byField[field]!;
    expect([field, compared - agreed, compared > 1]).toEqual([field, 0, true]);
  }
});

/** One edit of a record in the text of a recording, and what is told about it. */
const edits: readonly (readonly [
  name: string,
  file: string,
  find: RegExp,
  edit: (line: string) => string,
  disagreements?: number,
])[] = [
  ['a status', 'scen4-417-cm0', /"o":"copy".*"st":-8/, (line) => line.replace('"st":-8', '"st":-2')],
  ['a return value', 'scen4-417-cm0', /"o":"copy"/, (line) => line.replace('"rc":0', '"rc":-14')],
  ['a handle', 'rand1-417-cm0', /"o":"map".*"h":7,/, (line) => line.replace('"h":7,', '"h":8,')],
  ['an address', 'rand1-417-cm0', /"o":"map".*"h":7,/, (line) => line.replace(/"dev":"0x(\w+)000"/, '"dev":"0x$1001"')],
  ['a changed entry', 'rand1-417-cm0', /"gt":\[\[\d+,\d+,25,0\]\]/, (line) => line.replace(',25,0]', ',9,0]')],
  [
    'a change that is not there',
    'rand1-417-cm0',
    /"o":"map".*"gt":\[\[\d+,\d+,25,0\]\]/,
    (line) => line.replace(/"gt":\[\[.*?\]\],/, ''),
  ],
  [
    'copied bytes',
    'rand1-417-cm0',
    /"mem":\[\[\d,"0x\w+",\d+,\d+,"\w+","\w{16}"\]\]/,
    (line) => line.replace(/"\w{16}"\]\]/, '"0123456789abcdef"]]'),
  ],
  ['a peek', 'scen4-417-cm0', /"o":"peek".*"val":"0x0"/, (line) => line.replace('"val":"0x0"', '"val":"0x1"')],
  ['pages of a domain', 'scen3-417-cm0', /"o":"info"/, (line) => line.replace('"tot_pages":1024', '"tot_pages":1023')],
  ['a frame at a gfn', 'scen3-417-cm0', /"o":"p2m".*"mfn":null/, (line) => line.replace('"mfn":null', '"mfn":"0x1"')],
  [
    'written by a device',
    'scen-417-cm0',
    /"o":"dma".*"written":1/,
    (line) => line.replace('"written":1', '"written":0'),
  ],
  ['a fault', 'scen-417-cm0', /"o":"dma".*"reason":6/, (line) => line.replace('"reason":6', '"reason":5')],
  ['an entry', 'scen-417-cm0', /"o":"entry"/, (line) => line.replace('"flags":14', '"flags":6')],
  ['a descriptor', 'scen-417-cm0', /"o":"assign".*"t":"cc"/, (line) => line.replace('"did":0', '"did":3')],
  [
    'a descriptor of a call that submits none',
    'scen-417-cm0',
    /"o":"raw"/,
    (line) => line.replace('"iommu":[]', '"iommu":[{"t":"wait"}]'),
  ],
  ['what populate leaves of its list', 'scen3-417-cm0', /"o":"memory_op".*"cmd":6/, withoutOut],
  ['what decrease leaves of its list', 'scen3-417-cm0', /"o":"memory_op".*"cmd":1/, withoutOut],
  [
    'another list left',
    'scen3-417-cm0',
    /"o":"memory_op".*"cmd":6/,
    (line) => line.replace(/"out":\["0x/, '"out":["0x1'),
  ],
  ['a frame too few', 'rand1-417-cm0', /"s":1505,.*"o":"setup_table"/, withoutLastFrame],
  ['no frames at all', 'rand1-417-cm0', /"s":1505,.*"o":"setup_table"/, withoutFrames, 3],
  ['a status frame too few', 'scen-417-cm0', /"s":1763,.*"o":"get_status_frames"/, withoutFrames],
  ['why a gfn cannot be mapped', 'scen3-417-cm0', /"o":"p2m".*"rc":-22/, (line) => line.replace('-22', '-1')],
];

function withoutOut(line: string): string {
  return line.replace(/"out":\[[^\]]*\]/, '"out":[]');
}
function withoutLastFrame(line: string): string {
  return line.replace(/,"0x\w+"\]\}/, ']}');
}
function withoutFrames(line: string): string {
  return line.replace(/"frames":\[[^\]]*\]/, '"frames":[]');
}

describe('one thing altered in a recording is one disagreement, in its line', () => {
  for (const [name, file, find, edit, count = 1] of edits) {
    test(name, async () => {
      const lines = recordedText(file).split('\n');
      const at = lines.findIndex((line) => find.test(line));
      expect(at).toBeGreaterThan(0);
      const line = lines[at]!;
      lines[at] = edit(line);
      expect(lines[at]).not.toBe(line);
      const { conformance } = await conformRecording(parseRecording(lines.join('\n'), file));
      expect(conformance.disagreements.map((found) => found.line)).toEqual(Array(count).fill(at + 1));
      expect(conformance.compared - conformance.agreed).toBe(count);
    });
  }
});

test('frames taken over from a record do not count as compared; one that is missing there is noticed', async () => {
  const name = 'scen-417-cm0';
  const { conformance } = await conformRecording(await recorded(name));
  const { byField, notCompared } = conformance;
  const lists = recordedText(name)
    .split('\n')
    .filter((line) => line.includes('"o":"get_status_frames"'))
    .flatMap((line) => (JSON.parse(line) as { ops: { frames: string[] }[] }).ops[0]!.frames);
  expect(notCompared['get_status_frames.frames']).toBeGreaterThan(0);
  expect(byField['get_status_frames.frames']![1] + notCompared['get_status_frames.frames']!).toBe(lists.length);
  const text = recordedText(name).replace(/("s":1757,.*"frames":)\[[^\]]*\]/, '$1[]');
  const altered = await conformRecording(parseRecording(text, name));
  const lines = altered.conformance.disagreements.map((found) => found.op);
  expect(lines[0]).toBe('get_status_frames');
});

test('adopted bytes must make the frame what the recording says it is', async () => {
  const lines = recordedText('scen-417-cm0').split('\n');
  for (const [place, line] of lines.entries()) {
    if (line.includes('"o":"copy"')) lines[place] = line.replace(/("mem":\[\[\d,"0x\w+",\d+,\d+,")(\w)/, flipped);
  }
  const { conformance } = await conformRecording(parseRecording(lines.join('\n'), 'r.jsonl'));
  expect(conformance.notCompared['copy.mem']).toBeUndefined();
  const [agreed, compared] = conformance.byField['copy.mem']!;
  const { byField } = (await conformRecording(await recorded('scen-417-cm0'))).conformance;
  expect(compared).toBeGreaterThan(byField['copy.mem']![1]);
  expect(conformance.disagreements.filter(({ field }) => field.startsWith('mem'))).toHaveLength(compared - agreed);
});
const flipped = (_: string, before: string, digit: string) => `${before}${digit === '0' ? '1' : '0'}`;

test.each([
  ['populate', /("o":"populate".*?"rc":)\d+/, '$17'],
  ['pin_l4', /("o":"pin_l4".*?"rc":)0/, '$1-22'],
])('what a domain was built with is compared: %s', async (kind, from, to) => {
  const text = recordedText('scen-417-cm0');
  const { conformance } = await conformRecording(parseRecording(text.replace(from, to), 'r.jsonl'));
  expect(conformance.disagreements).toMatchObject([{ op: kind, field: 'rc' }]);
});

test('what cannot be carried out is a disagreement of its record', async () => {
  const lines = recordedText('scen4-417-cm0').split('\n');
  const at = lines.findIndex((line) => line.includes('"o":"gset"'));
  lines[at] = lines[at]!.replace(/"ref":\d+/, '"ref":4000000');
  const { conformance } = await conformRecording(parseRecording(lines.join('\n'), 'r.jsonl'));
  expect(conformance.disagreements[0]).toMatchObject({ line: at + 1, op: 'gset', field: 'input' });
});
