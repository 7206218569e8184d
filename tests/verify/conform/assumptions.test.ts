// What a recording says of its machine that the model takes for granted: refused where it says otherwise, or counted.
// And that a replay reads what the table of fields calls input or adopted, and nothing that it calls ignored.

import { describe, expect, test } from 'vitest';
import { rulesOf } from '../../../verify/conform/assumptions.ts';
import { conformRecording } from '../../../verify/conform/index.ts';
import { type FieldTable, type RecordedLine, recordFields } from '../../../verify/conform/recording/record-fields.ts';
import { parseRecording, type Recording } from '../../../verify/conform/recording/recording.ts';
import { RECORDED, recorded, recordedText } from './recorded.ts';

/** One that has HVM domains, and one that has devices with memory of their own. */
const [withHvm, withMemory] = ['scen3-417-cm0', 'scen-417-cm0'].map((name) => recordedText(name).split('\n'));

/** A recording with its first line that has `find` edited. */
function altered(find: string, from: string | RegExp, to: string) {
  const lines = (find.includes('edu') ? withMemory : withHvm)!;
  const at = lines.findIndex((line) => line.includes(find));
  const line = lines[at]!.replace(from, to);
  expect(line).not.toBe(lines[at]);
  return { recording: parseRecording(lines.with(at, line).join('\n'), 'r.jsonl'), line: at + 1 };
}

const config = '"o":"config"';
const refused: readonly (readonly [name: string, find: string, from: string | RegExp, to: string, why: RegExp])[] = [
  [
    'another range of Xen',
    config,
    '"0xffff87ffffffffff"',
    '"0xffff8fffffffffff"',
    /config\.xenVaRange is .*address space/,
  ],
  ['other addresses', config, '"0x800000000000"', '"0x100000000000000"', /config\.noncanonical is /],
  [
    'caching mode',
    config,
    '"cachingMode":false',
    '"cachingMode":true',
    /config\.qemuVtd\.cachingMode is true; expected false: the registers/,
  ],
  ['a width', config, '"awBits":48', '"awBits":39', /config\.qemuVtd\.awBits is 39; expected 48/],
  ['a device TLB', config, '"deviceIotlb":false', '"deviceIotlb":true', /config\.qemuVtd\.deviceIotlb is true/],
  ['a bit of the unit', config, '"mamv":18', '"mamv":9', /config\.unit\.mamv is 9; expected 18/],
  [
    'ATS without a device TLB',
    config,
    '"ats":false',
    '"ats":true',
    /config\.iommu\.ats is true; expected false: Xen uses/,
  ],
  ['registers of no unit', config, '"cap":"0xd2008c222f0606"', '"cap":"0xd2008c222f0607"', /CAP\.ND is 7/],
  [
    'a third version of tables',
    config,
    '"maxVersion":2',
    '"maxVersion":3',
    /config\.gnttab\.maxVersion is 3; expected 2/,
  ],
  [
    'a hidden device that is not there',
    config,
    /}$/,
    ',"hidden":["0x28","0x1000"]}',
    /config\.hidden\[1\] is "0x1000"; expected "a device": one of those/,
  ],
  ['phantoms of nothing', config, /}$/, ',"phantoms":[["0x1000",1]]}', /config\.phantoms\[0\] is "0x1000"/],
  [
    'a region for nothing',
    config,
    /}$/,
    ',"reservedRegions":[["0x9a","0x9a",["0x28"]],["0x9c","0x9d",["0x30","0x1000"]]]}',
    /config\.reservedRegions\[1\] is "0x1000"/,
  ],
  [
    'a page that is in two regions',
    config,
    /}$/,
    ',"reservedRegions":[["0x9a","0x9c",["0x28"]],["0x9c","0x9d",["0x30"]]]}',
    /no such machine: reservedRegions\[1\]: expected no frame of reservedRegions\[0\]/,
  ],
  ['another segment', '"o":"pci"', '"seg":0', '"seg":1', /pci\.seg is 1; expected 0/],
  ['a device twice', '"bdf":"0x28"', '"bdf":"0x28"', '"bdf":"0x0"', /pci\.bdf/],
  [
    'registers in memory',
    '"o":"edu"',
    /"bar":"0x\w+"/,
    '"bar":"0x200000"',
    /edu\.bar is "0x200000"; expected "no memory"/,
  ],
  [
    'a domain as it was not created',
    '"o":"createdomain"',
    '"max_grant_frames":8',
    '"max_grant_frames":9',
    /domain\.maxGrantFrames is 8; expected 9/,
  ],
];

describe('a machine that the model is not is refused, with file and line', () => {
  test.each(refused)('%s', async (_, find, from, to, why) => {
    const { recording } = altered(find, from, to);
    const refusal = conformRecording(recording);
    await expect(refusal).rejects.toMatchObject({ code: 'RECORDING_MACHINE', place: { file: 'r.jsonl' } });
    await expect(refusal).rejects.toThrow(why);
  });

  test('in its own line', async () => {
    const { recording, line } = altered('"o":"edu"', /"bar":"0x\w+"/, '"bar":"0x200000"');
    await expect(conformRecording(recording)).rejects.toMatchObject({ place: { line } });
  });
});

test.each([
  ['"xen":"4.17.0"', 'xen4_17', true],
  ['"xen":"4.23-unstable","xenVersion":"4.23-unstable"', 'xen4_23', true],
  ['"xen":"c447b7308b","xenVersion":"4.23-unstable"', 'xen4_23', true],
  ['"xen":"4.19.1","xenVersion":"4.19.1"', 'xen4_17', false],
  ['"xen":"4.170"', 'xen4_23', false],
  ['"xen":"4.8"', 'xen4_17', false],
  ['"xen":"5.0"', 'xen4_23', false],
  ['"xen":"c447b7308b"', 'xen4_23', false],
])('the rules of %s are %s; held against recordings of it: %s', async (to, rules, isKnown) => {
  const { recording } = altered(config, /"xen":"[^"]*","xenVersion":"4.17.7"/, to);
  expect(rulesOf(recording)).toEqual({ rules, isKnown });
  const { conformance } = await conformRecording(recording);
  expect(conformance.notCompared['config.xen']).toBe(isKnown ? undefined : 1);
});

test('a limit that a domain was not given is what the domain then has', async () => {
  const { recording } = altered('"o":"createdomain"', '"max_grant_frames":8', '"max_grant_frames":-1');
  const { conformance } = await conformRecording(recording);
  expect(conformance.agreed).toBe(conformance.compared);
});

test('what the model passes over is counted', async () => {
  const { recording } = altered(config, '"debug":false', '"debug":true');
  const { conformance } = await conformRecording(recording);
  expect(conformance.notCompared).toMatchObject({ 'config.debug': 1 });
  const other = altered(config, '"AMD"', '"Intel"');
  expect((await conformRecording(other.recording)).conformance.notCompared).toMatchObject({ 'config.cpu': 1 });
  const remapped = altered(config, /"intremap":false/g, '"intremap":true');
  expect((await conformRecording(remapped.recording)).conformance.notCompared).toMatchObject({
    'config.iommu.intremap': 1,
  });
});

test.each([
  ['version', '"version":1', '"version":2'],
  ['frames', /"gtmfn":\["(0x\w+)","0x\w+"/, '"gtmfn":["$1","0x1"'],
])('what a domain says of its table and the model has otherwise is a disagreement: %s', async (_, from, to) => {
  const { recording, line } = altered('"o":"domain","id":0', from, to);
  const { conformance } = await conformRecording(recording);
  expect(conformance.disagreements).toMatchObject([{ line, op: 'domain', field: 'input' }]);
});

/** The record, noting the path of each field that is read. */
function watched<T extends object>(value: T, path: string, read: Set<string>): T {
  return new Proxy(value, {
    get(target, key, receiver) {
      const found: unknown = Reflect.get(target, key, receiver);
      if (typeof key !== 'string' || (Array.isArray(target) && typeof found === 'function')) return found;
      const at = Array.isArray(target) ? path : `${path}.${key}`;
      read.add(at);
      return typeof found === 'object' && found !== null ? watched(found, at, read) : found;
    },
  });
}

function rolesOf(table: FieldTable, path: string): [path: string, role: string][] {
  return Object.entries(table).flatMap(([field, spec]) => {
    if (typeof spec === 'string') return [[`${path}.${field}`, spec.split(' ')[0]!] as [string, string]];
    return rolesOf((Array.isArray(spec) ? spec[0] : spec) as FieldTable, `${path}.${field}`);
  });
}

test('a replay reads what is input or adopted, and nothing that is ignored', async () => {
  const read = new Set<string>();
  const there = new Set<string>();
  const note = (value: object, path: string): void => {
    for (const [key, found] of Object.entries(value)) {
      const at = Array.isArray(value) ? path : `${path}.${key}`;
      there.add(at);
      if (typeof found === 'object' && found !== null) note(found, at);
    }
  };
  for (const name of RECORDED) {
    const { file, records } = await recorded(name);
    for (const record of records) note(record, record.o);
    const seen = records.map((record) => watched(record, record.o, read)) as RecordedLine[];
    const recording: Recording = { file, records: seen, config: seen[0] as Recording['config'] };
    await conformRecording(recording);
  }
  const roles = Object.entries(recordFields).flatMap(([kind, table]) => rolesOf(table, kind));
  const unread = roles.filter(([path, role]) => /input|adopted/.test(role) && there.has(path) && !read.has(path));
  const misread = roles.filter(([path, role]) => role === 'ignored' && read.has(path));
  expect({ unread, misread }).toEqual({ unread: [], misread: [] });
});
