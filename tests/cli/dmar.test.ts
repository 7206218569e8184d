import { chmodSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { sizeText } from '../../cli/commands/dmar-listing.ts';
import { parseDmar } from '../../passthrough/platform/dmar.ts';
import { scopeText } from '../../passthrough/platform/units/scope-reach.ts';
import { dmarTable, drhd, FULL_TABLE, rmrr, scope } from '../passthrough/platform/dmar-fixtures.ts';
import { runCommand, scratchFolder } from './cli-run.ts';

const Q35 = fileURLToPath(new URL('../../examples/data/q35.DMAR.bin', import.meta.url));
const q35 = new Uint8Array(readFileSync(Q35));

const { pathOf, fileOf } = scratchFolder();

const passthrough = (...argv: string[]) => runCommand(argv);

describe('passthrough dmar', () => {
  test('--json prints the decoded table', async () => {
    const { code, stdout, stderr } = await passthrough('dmar', Q35, '--json');
    expect([code, stderr]).toEqual([0, '']);
    expect(JSON.parse(stdout)).toEqual(parseDmar(q35, Q35));
  });

  test('hex text is the same table', async () => {
    const hex = fileOf('q35.hex', `${Buffer.from(q35).toString('hex')}\n`);
    expect(await passthrough('dmar', hex, '--json')).toEqual(await passthrough('dmar', Q35, '--json'));
  });

  test('lists units and devices', async () => {
    const { code, stdout, stderr } = await passthrough('dmar', Q35);
    expect([code, stderr]).toEqual([0, '']);
    expect(stdout.split('\n').slice(0, 10)).toEqual([
      'DMAR revision 1, 184 bytes, made by BOCHS / BXPC',
      'checksum good',
      'host addresses of 39 bits (raw 0x26)',
      'flags 0x00',
      '',
      'Units (DRHD): 1',
      ' #  segment  registers   devices',
      ' 0  0000     0xfed90000  ioapic 0 at ff:00.0',
      '                         endpoint 00:00.0',
      '                         endpoint 00:02.0',
    ]);
    expect(stdout).not.toMatch(/[ \t]$/m);
  });

  test('lists every kind of structure', async () => {
    const { stdout } = await passthrough('dmar', fileOf('full.bin', FULL_TABLE));
    expect(stdout).toContain('flags 0x05: interrupt remapping, DMA control opt-in');
    expect(stdout).toContain('endpoint 00:1c.0/02.0/03.1');
    expect(stdout).toContain('all others (include-all)');
    expect(stdout).toMatch(/0x89db1000 +0x89dd0fff +128 KiB +endpoint 00:14\.0/);
    expect(stdout).toMatch(/0001 +all ports/);
    expect(stdout).toMatch(/0x1fed91000 +305419896/);
    expect(stdout).toMatch(/1 +\\_SB\.PCI0\.I2C0/);
    expect(stdout).toContain('Translation caches on the chip (SATC): 2');
    expect(stdout).toContain('Devices on the chip (SIDP): 1');
  });

  test('--ignore-checksum turns a wrong checksum into a warning', async () => {
    const wrong = q35.slice();
    wrong[9]! ^= 1;
    const file = fileOf('wrong.bin', wrong);
    const { code, stdout, stderr } = await passthrough('dmar', file, '--ignore-checksum');
    expect(code).toBe(0);
    expect(stdout).toContain('checksum WRONG');
    expect(stderr).toBe(
      `passthrough: warning: ${file}: byte 9 (0x9): checksum is 0xc7, expected 0xc6 for these bytes\n`,
    );
  });

  test('a name in a table cannot drive the terminal', async () => {
    const bytes = FULL_TABLE.slice();
    const name = Buffer.from(bytes).indexOf('\\_SB');
    bytes[name] = 0x1b;
    const { stdout } = await passthrough('dmar', fileOf('escape.bin', bytes), '--ignore-checksum');
    expect(stdout).toContain('\\x1b_SB.PCI0.I2C0');
    expect(stdout).not.toContain('\x1b');
  });
});

describe('passthrough dmar --device', () => {
  const table = dmarTable([
    drhd(0, 0, 0xfed90000n, ...scope(1, 0, 0, 2, 0)),
    drhd(0, 0, 0xfed91000n, ...scope(2, 0, 0, 0x1c, 0)),
    drhd(1, 0, 0xfed92000n),
    rmrr(0, 0x89db1000n, 0x89dd0fffn, ...scope(1, 0, 0, 0x14, 0), ...scope(1, 0, 0, 0x1d, 0)),
  ]);
  const listed = (...argv: string[]) => passthrough('dmar', fileOf('platform.bin', table), ...argv);

  test('answers unit, reserved regions and ATS of each', async () => {
    const asked = ['--device', '0000:00:1d.0', '--device', '00:02.0', '--device', '1:0.0', '--device', '0001:00:00.0'];
    const { code, stdout, stderr } = await listed(...asked);
    expect([code, stderr]).toEqual([0, '']);
    expect(stdout.split('\n')).toEqual([
      '0000:00:1d.0',
      '  unit      2, segment 0000, registers at 0xfed92000 (include-all: no unit names it; this one serves all others of its segment)',
      '  reserved  0x89db1000..0x89dd0fff, frames 0x89db1 and 31 more, shared with other devices',
      '  ATS       allowed: integrated into the root complex',
      '',
      '0000:00:02.0',
      '  unit      0, segment 0000, registers at 0xfed90000 (explicit: named by the unit: endpoint 00:02.0)',
      '  reserved  none',
      '  ATS       allowed: integrated into the root complex',
      '',
      '0000:01:00.0',
      '  unit      unknown on segment 0000, unit 1 or unit 2: may be behind bridge 00:1c.0 (only the PCI topology tells)',
      '  reserved  none',
      '  ATS       unknown: below no root port with ATS; it may be integrated into the root complex (only the PCI topology tells)',
      '',
      '0001:00:00.0',
      '  unit      none on segment 0001: no unit names it, and none of its segment serves all others',
      '  reserved  none',
      '  ATS       allowed: integrated into the root complex',
      '',
    ]);
  });

  test('--json is the same as data', async () => {
    const { stdout } = await listed('--device', '00:1d.0', '--json');
    expect(JSON.parse(stdout)).toEqual({
      devices: [
        {
          device: '0000:00:1d.0',
          unit: expect.objectContaining({ unit: 2, segment: 0, registerBase: '0xfed92000', why: 'include-all' }),
          reservedRegions: [expect.objectContaining({ region: 0, base: '0x89db1000', frames: 32, shared: true })],
          ats: expect.objectContaining({ allowed: true, why: 'integrated' }),
          satc: null,
        },
      ],
      findings: [],
      disabledBy: null,
    });
  });

  test('says what Xen makes of a broken table', async () => {
    const broken = fileOf('broken.bin', dmarTable([drhd(1, 0, 0n), rmrr(0, 0n, 0n, ...scope(1, 0, 0, 2, 0))]));
    const { code, stdout, stderr } = await passthrough('dmar', broken, '--device', '00:02.0');
    expect(code).toBe(0);
    expect(stdout).toContain('0x0..0x0, maps nothing');
    expect(stderr).toContain('unit 0 has register base 0x0: Xen disables VT-d (-ENODEV); xen: dmar.c acpi_parse_one_');
    expect(stderr).toContain('0x0..0x0 maps no page: a limit that starts a page leaves it out: Xen goes on; xen: x86');
    expect(JSON.parse((await passthrough('dmar', broken, '--device', '00:02.0', '--json')).stdout)).toMatchObject({
      disabledBy: { code: 'UNIT_BASE' },
    });
  });

  test.each(['', 'nowhere', '00:20.0', '00:02.8', '10000:00:02.0', '00:02'])('%j is no address', async (address) => {
    const { code, stdout, stderr } = await listed('--device', address);
    expect([code, stdout]).toEqual([2, '']);
    expect(stderr).toMatch(/^passthrough: [^\n]*Expected segment:bus:device\.function in hex[^\n]*\n$/);
  });
});

describe('bad input is one line on stderr, nothing on stdout, exit 2', () => {
  const cases: readonly [name: string, make: () => string, message: string][] = [
    ['a missing file', () => pathOf('missing.bin'), 'missing.bin: no such file'],
    ['a directory', () => pathOf(''), 'is a directory, expected a file'],
    ['an empty file', () => fileOf('empty.bin', ''), 'empty.bin: byte 0 (0x0): the file is empty'],
    ['a huge file', () => fileOf('huge.bin', new Uint8Array(2 ** 20 + 1)), 'larger than 1048576 bytes'],
    [
      'a truncated table',
      () => fileOf('cut.bin', q35.subarray(0, 100)),
      "cut.bin: byte 4 (0x4): the table's length is 184 bytes, but only 100 are there",
    ],
    [
      'a flipped bit',
      () => fileOf('flipped.bin', q35.with(60, q35[60]! ^ 4)),
      'flipped.bin: byte 9 (0x9): checksum is 0xc6, expected 0x',
    ],
    [
      'a truncated hex file',
      () => fileOf('cut.hex', Buffer.from(q35).toString('hex').slice(0, 200)),
      "cut.hex (decoded): byte 4 (0x4): the table's length is 184 bytes",
    ],
    ['text', () => fileOf('text.txt', 'Hello'), 'text.txt: byte 0 (0x0): found 0x48 ("H"), expected a raw table'],
    ['a line end in the name', () => fileOf('a\nb', 'Hello'), 'a\\x0ab: byte 0 (0x0)'],
    ['a name that is no path', () => 'a\0b', 'a\\x00b: not a path'],
  ];

  test.each(cases)('%s', async (_name, make, message) => {
    for (const flags of [[], ['--json'], ['--ignore-checksum']]) {
      if (flags[0] === '--ignore-checksum' && message.includes('checksum')) continue;
      const { code, stdout, stderr } = await passthrough('dmar', make(), ...flags);
      expect([code, stdout]).toEqual([2, '']);
      expect(stderr).toMatch(/^passthrough: [^\n]*\n$/);
      expect(stderr).toContain(message);
    }
  });

  test.skipIf(process.getuid?.() === 0)('a file without permission', async () => {
    const file = fileOf('secret.bin', q35);
    chmodSync(file, 0);
    const { code, stdout, stderr } = await passthrough('dmar', file);
    expect([code, stdout, stderr]).toEqual([2, '', `passthrough: ${file}: permission denied\n`]);
  });
});

describe('the words for scopes and sizes', () => {
  test.each([
    [{ type: 1, enumerationId: 0, startBus: 0, path: [[0x1f, 7]] }, 'endpoint 00:1f.7'],
    [
      {
        type: 2,
        enumerationId: 0,
        startBus: 0,
        path: [
          [0x1c, 0],
          [2, 0],
        ],
      },
      'bridge 00:1c.0/02.0',
    ],
    [{ type: 3, enumerationId: 2, startBus: 0xf0, path: [[0x1f, 0]] }, 'ioapic 2 at f0:1f.0'],
    [{ type: 4, enumerationId: 0, startBus: 0, path: [[0x1f, 0]] }, 'hpet 0 at 00:1f.0'],
    [{ type: 5, enumerationId: 9, startBus: 0, path: [[0x1e, 2]] }, 'acpi 9 at 00:1e.2'],
    [{ type: 77, enumerationId: 1, startBus: 0, path: [[1, 0]] }, 'type 77 1 at 00:01.0'],
  ] as const)('%j is %s', (scope, text) => {
    expect(scopeText(scope)).toBe(text);
  });

  test.each([
    [1n, '1 B'],
    [4096n, '4 KiB'],
    [72n << 20n, '72 MiB'],
    [1025n, '1025 B'],
    [2n ** 64n, '16777216 TiB'],
    [0n, 'reversed'],
  ])('%d bytes are %s', (bytes, text) => {
    expect(sizeText(bytes)).toBe(text);
  });
});
