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

/** One edit of a record in the text of a recording, and what is told about it. */
const edits: readonly (readonly [name: string, file: string, find: RegExp, edit: (line: string) => string])[] = [
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
];

describe('one thing altered in a recording is one disagreement, in its line', () => {
  test.each(edits)('%s', async (_, file, find, edit) => {
    const lines = recordedText(file).split('\n');
    const at = lines.findIndex((line) => find.test(line));
    expect(at).toBeGreaterThan(0);
    const line = lines[at]!;
    lines[at] = edit(line);
    expect(lines[at]).not.toBe(line);
    const { conformance } = await conformRecording(parseRecording(lines.join('\n'), file));
    expect(conformance.disagreements.map((found) => found.line)).toEqual([at + 1]);
    expect(conformance.compared - conformance.agreed).toBe(1);
  });
});
