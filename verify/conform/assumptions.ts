// What a recording says of its machine that the model takes for granted, or that the recording says twice. One that
// says otherwise is refused; what the model passes over is counted as not compared.

import type { RulesName } from '../../hypervisor/index.ts';
import { InputError } from '../../machine/errors.ts';
import { type Capabilities, decodeCapabilities } from '../../passthrough/index.ts';
import type { RecordOf } from './recording/record-fields.ts';
import type { Recording } from './recording/recording.ts';
import { domainRecord, wordsOf } from './replay/machine-plan.ts';
import type { Tally } from './tally.ts';

type Config = RecordOf<'config'>;

/** The versions of Xen that recordings were held against, newest first, and the rules of each. */
const VERSIONS: readonly (readonly [version: readonly [number, number], rules: RulesName])[] = [
  [[4, 23], 'xen4_23'],
  [[4, 17], 'xen4_17'],
];

/** Entries 256 to 271 of the top table are the hypervisor's own; addresses have 48 bits. */
const XEN_RANGE = ['0xffff800000000000', '0xffff87ffffffffff'];
const NONCANONICAL = ['0x800000000000', '0xffff7fffffffffff'];

/** `config.unit` has the bits of its registers by these names, too. */
const UNIT_BITS: {
  readonly [name in keyof Omit<Config['unit'], 'cap' | 'ecap' | 'ir'>]: (of: Capabilities) => number;
} = {
  nd: (of) => Math.log2(of.domainIds),
  rwbf: (of) => Number(of.writeBufferFlush),
  cm: (of) => Number(of.cachingMode),
  sagaw: (of) => of.levels.reduce((bits, level) => bits | (1 << (level - 2)), 0),
  mgaw: (of) => of.addressBits,
  sllps: (of) => Number(of.superpage2m) | (Number(of.superpage1g) << 1),
  psi: (of) => Number(of.pageSelective),
  nfr: (of) => of.faultRecords,
  mamv: (of) => of.maxAddressMask,
  dwd: (of) => Number(of.drainWrites),
  drd: (of) => Number(of.drainReads),
  c: (of) => Number(of.coherent),
  qi: (of) => Number(of.queuedInvalidation),
  dt: (of) => Number(of.deviceTlb),
  pt: (of) => Number(of.passThrough),
  sc: (of) => Number(of.snoopControl),
};

/** What a field must be: that value, or nothing where it may be missing. */
interface Assumption {
  readonly field: string;
  readonly found: unknown;
  readonly expected: unknown;
  readonly why: string;
}

/** @throws InputError naming the field, what it is, and why it must be something else. */
export function checkAssumptions(recording: Recording, tally: Tally): void {
  const { config, records, file } = recording;
  const refuse = (line: number, { field, found, expected, why }: Assumption): never => {
    const values = `${field} is ${JSON.stringify(found)}; expected ${JSON.stringify(expected)}`;
    throw new InputError('RECORDING_MACHINE', { file, line }, `${values}: ${why}`);
  };
  const check = (line: number, assumptions: readonly Assumption[]) => {
    for (const one of assumptions) if (!isMet(one)) refuse(line, one);
  };
  check(1, [...configAssumptions(config, unitOf(recording)), ...namedDevices(recording)]);
  if (!rulesOf(recording).isKnown) tally.skip('config.xen');
  if (config.iommu.intremap) tally.skip('config.iommu.intremap');
  if (config.debug) tally.skip('config.debug');
  if (config.cpu.vendor !== 'AMD') tally.skip('config.cpu');
  const devices = new Set<string>();
  const created = new Set([0]);
  for (const [at, record] of records.entries()) {
    if (record.o === 'pci') {
      check(at + 1, [
        { field: 'pci.seg', found: record.seg, expected: 0, why: 'there is one segment' },
        { field: 'pci.bdf', found: devices.has(record.bdf), expected: false, why: 'each device stands once' },
      ]);
      devices.add(record.bdf);
    } else if (record.o === 'edu') check(at + 1, eduAssumptions(record, config, devices));
    else if (record.o === 'createdomain') {
      created.add(record.id);
      check(at + 1, domainAssumptions(record, recording, at));
    } else if (record.o === 'domain') {
      const isCreated = { field: 'domain.id', found: record.id, why: 'it was created before' };
      check(at + 1, [{ ...isCreated, expected: created.has(record.id) ? record.id : 'another id' }]);
      if (record.id === 0)
        check(at + 1, [{ field: 'domain.hvm', found: record.hvm, expected: 0, why: 'domain 0 is PV' }]);
    }
  }
}

const isMet = ({ found, expected }: Assumption): boolean =>
  found === undefined || JSON.stringify(found) === JSON.stringify(expected);

/** The first that is a version, of what a recording says of its Xen; a commit is none. */
function versionOf({ config: { xen, xenVersion } }: Recording): readonly [number, number] | null {
  for (const text of [xen, xenVersion]) {
    const found = /^(\d+)\.(\d+)(?!\d)/.exec(text ?? '');
    if (found) return [Number(found[1]), Number(found[2])];
  }
  return null;
}

/**
 * The rules of the version that a recording is of, and whether they were held against recordings of it. Of a version
 * between two the older one's, of none that is told the newest one's.
 */
export function rulesOf(recording: Recording): { readonly rules: RulesName; readonly isKnown: boolean } {
  const version = versionOf(recording);
  const [oldest, newest] = [VERSIONS.at(-1)!, VERSIONS[0]!];
  if (!version) return { rules: newest[1], isKnown: false };
  const [major, minor] = version;
  const found = VERSIONS.find(([[ofMajor, ofMinor]]) => major > ofMajor || (major === ofMajor && minor >= ofMinor));
  const [[ofMajor, ofMinor], rules] = found ?? oldest;
  return { rules, isKnown: ofMajor === major && ofMinor === minor };
}

function unitOf({ config, file }: Recording): Capabilities {
  try {
    return decodeCapabilities({ cap: wordsOf(config.unit.cap), ecap: wordsOf(config.unit.ecap) });
  } catch (error) {
    if (error instanceof RangeError) throw new InputError('RECORDING_MACHINE', { file, line: 1 }, error.message);
    throw error;
  }
}

function configAssumptions(config: Config, unit: Capabilities): Assumption[] {
  const { qemuVtd, iommu, gnttab } = config;
  const domains = gnttab.maxVersion === 1 ? 1 : 2;
  const says = 'the registers of the unit say so';
  const uses = 'Xen uses no more than the unit has';
  const fixed = 'the address space of Xen on x86-64';
  const bits = Object.entries(UNIT_BITS) as [keyof typeof UNIT_BITS, (of: Capabilities) => number][];
  const used = (isUsed: boolean, has: boolean) => isUsed && has;
  return [
    { field: 'config.xenVaRange', found: config.xenVaRange, expected: XEN_RANGE, why: fixed },
    { field: 'config.noncanonical', found: config.noncanonical, expected: NONCANONICAL, why: fixed },
    { field: 'config.gnttab.maxVersion', found: gnttab.maxVersion, expected: domains, why: 'there are two' },
    { field: 'config.qemuVtd.cachingMode', found: qemuVtd.cachingMode, expected: unit.cachingMode, why: says },
    { field: 'config.qemuVtd.awBits', found: qemuVtd.awBits, expected: unit.addressBits, why: says },
    { field: 'config.qemuVtd.deviceIotlb', found: qemuVtd.deviceIotlb, expected: unit.deviceTlb, why: says },
    {
      field: 'config.iommu.qinval',
      found: iommu.qinval,
      expected: used(iommu.qinval, unit.queuedInvalidation),
      why: uses,
    },
    { field: 'config.iommu.ats', found: iommu.ats, expected: used(iommu.ats, unit.deviceTlb), why: uses },
    ...bits.map(([name, bit]) => ({
      field: `config.unit.${name}`,
      found: config.unit[name],
      expected: bit(unit),
      why: says,
    })),
  ];
}

/** What the set-up says of devices, it says of some that there are. */
function namedDevices({ config, records }: Recording): Assumption[] {
  const there = new Set(records.flatMap((record) => (record.o === 'pci' ? [Number(record.bdf)] : [])));
  const slots = new Set([...there].map((bdf) => bdf >>> 3));
  const why = 'one of those in records of pci';
  const check = (field: string, bdf: string, isThere: boolean): Assumption => {
    return { field, found: bdf, expected: isThere ? bdf : 'a device', why };
  };
  return [
    ...(config.hidden ?? []).map((bdf, at) => check(`config.hidden[${at}]`, bdf, there.has(Number(bdf)))),
    ...(config.phantoms ?? []).map(([bdf], at) => check(`config.phantoms[${at}]`, bdf, slots.has(Number(bdf) >>> 3))),
    ...(config.reservedRegions ?? []).flatMap(([, , devices], at) =>
      devices.map((bdf) => check(`config.reservedRegions[${at}]`, bdf, there.has(Number(bdf)))),
    ),
  ];
}

function eduAssumptions(record: RecordOf<'edu'>, { e820 }: Config, devices: ReadonlySet<string>): Assumption[] {
  const bar = Number(record.bar);
  const isMemory = e820.some(([first, last, use]) => use === 'usable' && Number(first) <= bar && bar <= Number(last));
  const there = devices.has(record.bdf) ? record.bdf : 'a device';
  return [
    { field: 'edu.bdf', found: record.bdf, expected: there, why: 'one of those before it' },
    { field: 'edu.bar', found: isMemory ? record.bar : undefined, expected: 'no memory', why: 'e820 has it as usable' },
  ];
}

/** A limit that the domain was created with; null: it was left to the hypervisor. */
const asked = (limit: number): number | null => (limit < 0 ? null : limit);

/** A domain's own record, which comes later, against what it was created with. */
function domainAssumptions(record: RecordOf<'createdomain'>, recording: Recording, at: number): Assumption[] {
  const found = domainRecord(recording, record.id, at);
  if (!found) return [];
  const why = `as domain ${record.id} was created`;
  const same = [
    ['hvm', found.hvm, record.hvm ?? 0],
    ['cdf_iommu', found.cdf_iommu, record.cdf_iommu],
    ['maxGrantFrames', found.maxGrantFrames, asked(record.max_grant_frames)],
    ['maxMaptrackFrames', found.maxMaptrackFrames, asked(record.max_maptrack_frames)],
    ['maxGrantVersion', found.maxGrantVersion, record.gver],
  ] as const;
  return same.map(([name, is, expected]) => ({
    field: `domain.${name}`,
    found: expected === null ? undefined : is,
    expected,
    why,
  }));
}
