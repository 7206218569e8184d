// What a machine may be made of: every option wrong, one at a time, is refused by its name, with what was given and what
// was expected.

import { describe, expect, it } from 'vitest';
import { fingerprint, fork, Hypervisor, policyNamed, rulePresets } from '../../hypervisor/index.ts';

const DEVICE = '0000:03:00.0';
const CACHE = { entries: 4, ways: 4, replacement: 'lru' };
const SHAPE = {
  contextCache: CACHE,
  iotlb: CACHE,
  level2: CACHE,
  level3: CACHE,
  level4: CACHE,
  rewalkOnPermissionMiss: true,
};
const XEN = policyNamed('xen');
const RULES = rulePresets.xen4_23;

function messageOf(options: unknown): string {
  try {
    new Hypervisor(options as never);
  } catch (error) {
    if (error instanceof RangeError || error instanceof TypeError) return error.message;
    throw error;
  }
  return 'accepted';
}

/** Options with one value at a path. */
function withValue(path: string, value: unknown): unknown {
  return path.split('.').reduceRight((inner, name) => ({ [name]: inner }), value);
}

const NUMBERS = [null, 'x', '5', true, {}, [], Number.NaN, Number.POSITIVE_INFINITY, -1, 1.5, 2 ** 40];
const FLAGS = [null, 0, 1, 'yes', 'false', {}];
const WORDS = [null, 'x', 0, true, {}, [], '', 'Basic', 'toString', '__proto__'];

const WRONG: Readonly<Record<string, readonly unknown[]>> = {
  domains: [...NUMBERS, 0, 1025],
  frames: [...NUMBERS, 7],
  vcpus: [...NUMBERS, 0, 65],
  units: [null, 5, 'x', {}, []],
  devices: [null, 5, 'x', {}],
  'grants.grantFrames': [...NUMBERS, 0],
  'grants.maptrackFrames': NUMBERS,
  'grants.version': [...NUMBERS, 0, 3],
  'grants.transitive': FLAGS,
  'grants.transfer': FLAGS,
  rules: [null, 5, 'x', true, [], 'toString', {}, { ...RULES, name: 5 }],
  maptrackOrder: WORDS,
  windowPages: NUMBERS,
  gfns: NUMBERS,
  policy: [null, 5, 'x', true, [], {}, { ...XEN, releases: [] }, { ...XEN, change: 5 }, { ...XEN, tick: 5 }],
  release: WORDS,
  caches: [null, 'lru', {}, []],
  'caches.kind': WORDS,
  dmaSlots: [...NUMBERS, 0],
  batchMax: [...NUMBERS, 0],
  flushQueue: [...NUMBERS, 63, 100],
  'iommu.superpages': FLAGS,
  'iommu.reclaimTables': FLAGS,
  'iommu.quarantine': WORDS,
  'iommu.queuedInvalidation': FLAGS,
  'iommu.ats': FLAGS,
  'iommu.hardwareDomain': WORDS,
  'iommu.domainIds': [...WORDS, 'perUnit'],
  grants: [null, 5, 'x', []],
  iommu: [null, 5, 'x', []],
  hypervisorFrames: NUMBERS,
};

describe.each(Object.entries(WRONG))('%s', (path, values) => {
  const name = path.split('.').at(-1)!;

  it.each(values.map((value) => [value]))('cannot be %j', (value) => {
    const message = messageOf(withValue(path, value));
    expect(message).toContain(name);
    expect(message).toMatch(/expected/);
    if (typeof value === 'number') expect(message).toContain(String(value));
    if (typeof value === 'string') expect(message).toContain(value);
  });

  it('may be left undefined, which is its default', () => {
    const options = name === 'kind' ? {} : withValue(path, undefined);
    expect(fingerprint(new Hypervisor(options as never))).toBe(fingerprint(new Hypervisor({})));
    expect(JSON.stringify(new Hypervisor(options as never).config)).toBe(JSON.stringify(new Hypervisor({}).config));
  });
});

describe('what options hold', () => {
  it.each([
    ['machine options', 5, 'machine options 5: expected an object'],
    ['a unit', { units: [5] }, 'units[0] 5: expected an object'],
    ['a capability', { units: [{ capabilities: { cachingMode: 1 } }] }, /^units\[0\]\.capabilities\.cachingMode 1: /],
    ['a number of dids', { units: [{ capabilities: { domainIds: 17 } }] }, /domainIds 17: expected 16 or 64 or/],
    ['registers', { units: [{ registers: { cap: [1], ecap: [0, 0] } }] }, 'units[0].registers.cap: expected 2 items'],
    [
      'both',
      { units: [{ capabilities: {}, registers: { cap: [0, 0], ecap: [0, 0] } }] },
      'units[0]: expected one of capabilities and registers',
    ],
    ['a device', { devices: [{ device: 'x', unit: 0 }] }, /^devices\[0\]\.device: PCI address "x"/],
    ['no device', { devices: [{ unit: 0 }] }, /^devices\[0\]\.device undefined/],
    ['no unit', { devices: [{ device: DEVICE }] }, /^devices\[0\]\.unit undefined/],
    ['its unit', { devices: [{ device: DEVICE, unit: 1 }] }, 'devices[0].unit 1: expected 0 to 0'],
    ['its type', { devices: [{ device: DEVICE, unit: 0, type: 'bridge' }] }, /type "bridge": expected endpoint or/],
    ['its bus', { devices: [{ device: DEVICE, unit: 0, secondary: 256 }] }, /secondary 256: expected 0 to 255/],
    ['ats', { devices: [{ device: DEVICE, unit: 0, ats: 1 }] }, /ats 1: expected true or false/],
    [
      'a device twice',
      {
        devices: [
          { device: DEVICE, unit: 0 },
          { device: '03:00.0', unit: 0 },
        ],
      },
      'devices[1].device 03:00.0: expected each device once',
    ],
    ['may-entries', { caches: { kind: 'adversary', mayEntries: 0 } }, /^caches\.mayEntries 0: expected 1 to/],
    [
      'a cache',
      { caches: { kind: 'lru', shape: { ...SHAPE, iotlb: { ...CACHE, replacement: 'mru' } } } },
      'caches.shape.iotlb.replacement "mru": expected lru or fifo or random',
    ],
    ['no cache', { caches: { kind: 'lru', shape: { iotlb: CACHE } } }, /^caches\.shape\.contextCache undefined/],
    [
      'a decision',
      { rules: { ...RULES, grants: { ...RULES.grants, pinLimit: 'all' } } },
      'rules.grants.pinLimit "all": expected incremented or any',
    ],
    [
      'an errno',
      { rules: { ...RULES, passthrough: { didsExhausted: 'ENOSPC' } } },
      'rules.passthrough.didsExhausted "ENOSPC": expected EBUSY or EFAULT',
    ],
    ['no decision', { rules: { ...RULES, memory: {} } }, /^rules\.memory\.foreignMapOfGrant undefined/],
  ])('%s', (_, options, message) => {
    if (typeof message === 'string') expect(messageOf(options)).toBe(message);
    else expect(messageOf(options)).toMatch(message);
  });
});

describe('an option that there is not', () => {
  it.each([
    ['', { frame: 64 }, 'frame'],
    ['', JSON.parse('{"__proto__": {}}'), '__proto__'],
    ['grants: ', { grants: { transitiv: true } }, 'transitiv'],
    ['iommu: ', { iommu: { quarantin: 'none' } }, 'quarantin'],
    ['caches: ', { caches: { kind: 'adversary', shape: SHAPE } }, 'shape'],
    ['caches: ', { caches: { kind: 'lru', mayEntries: 5 } }, 'mayEntries'],
    ['caches.shape: ', { caches: { kind: 'lru', shape: { ...SHAPE, level5: CACHE } } }, 'level5'],
    ['units[0]: ', { units: [{ cachingMode: true }] }, 'cachingMode'],
    ['units[0].capabilities: ', { units: [{ capabilities: { cm: true } }] }, 'cm'],
    ['devices[0]: ', { devices: [{ device: DEVICE, unit: 0, ATS: true }] }, 'ATS'],
    ['rules.grants: ', { rules: { ...RULES, grants: { ...RULES.grants, pins: 1 } } }, 'pins'],
  ])('is refused by its name: %s%j', (place, options, name) => {
    expect(messageOf(options)).toMatch(/: expected \w+, \w+/);
    expect(messageOf(options).startsWith(`machine options: ${place}unknown field "${name}": expected `)).toBe(true);
  });

  it('is none where a policy of one’s own has more to it', () => {
    expect(messageOf({ policy: { ...XEN, name: 'mine', memo: 5 } })).toBe('accepted');
  });
});

it('what a machine is made of makes another one: by its config, and by a fork', () => {
  const machine = new Hypervisor({
    rules: { ...RULES, name: 'mine' },
    policy: XEN,
    caches: { kind: 'lru' },
    units: [{ capabilities: { cachingMode: true } }],
    devices: [{ device: DEVICE, unit: 0, type: 'pci-endpoint', ats: true }],
    iommu: { quarantine: 'scratch' },
  });
  expect(fingerprint(new Hypervisor(machine.config))).toBe(fingerprint(machine));
  expect(fingerprint(fork(machine))).toBe(fingerprint(machine));
});
