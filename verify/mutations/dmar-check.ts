// What must hold for any bytes given as a DMAR table: an error with its place, or a platform that is consistent.

import { InputError } from '../../machine/errors.ts';
import { parseSbdf, type Sbdf, sbdfText } from '../../machine/ids.ts';
import {
  type DeviceAnswer,
  type DmarTable,
  dmarBytes,
  encodeDmar,
  Platform,
  type PlatformOptions,
  parseDmar,
} from '../../passthrough/index.ts';

/** What came of the bytes. */
export type DmarOutcome =
  | { readonly kind: 'refused'; readonly code: string }
  /** `disabledBy`: for what Xen turns VT-d off. */
  | { readonly kind: 'platform'; readonly disabledBy: string | null };

/** A memory map with a hole, so that reserved regions of each kind turn up. */
const MEMORY: NonNullable<PlatformOptions['memory']> = [
  { base: '0x0', limit: '0x7fffffff', type: 'ram' },
  { base: '0x80000000', limit: '0xdfffffff', type: 'reserved' },
];
/** Functions asked about at most: platforms are small, but mutations repeat things. */
const ASKED_MAX = 40;

/**
 * Reads the content as a file with a DMAR table, makes a platform of it and asks that.
 * @param parse the reader; another one shows that the check finds what is wrong
 * @throws Error when anything is thrown that is no {@link InputError}, or an answer makes no sense
 */
export function checkDmar(content: Uint8Array, parse: typeof parseDmar = parseDmar): DmarOutcome {
  let table: DmarTable;
  let bytes = content;
  try {
    bytes = dmarBytes(content, 'mutant');
    table = strictOrLoose(bytes, parse);
  } catch (error) {
    return { kind: 'refused', code: located(error, bytes) };
  }
  encodesAgain(table, parse);
  const bare = new Platform(table);
  const whole = new Platform(table, { functions: functionsOf(table), memory: MEMORY });
  for (const platform of [bare, whole]) {
    regionsMakeSense(platform);
    for (const device of devicesOf(table)) answerMakesSense(platform, platform.describe(device));
  }
  return { kind: 'platform', disabledBy: bare.disabledBy?.code ?? null };
}

/** The table; a wrong checksum is an error with the right place, and then the table is read all the same. */
function strictOrLoose(bytes: Uint8Array, parse: typeof parseDmar): DmarTable {
  try {
    return parse(bytes, 'mutant');
  } catch (error) {
    if (located(error, bytes) !== 'DMAR_CHECKSUM') throw error;
    return parse(bytes, 'mutant', { checksum: 'warn' });
  }
}

/** Code of an input error that names a byte of the input. */
function located(error: unknown, bytes: Uint8Array): string {
  if (!(error instanceof InputError)) throw error;
  const { offset } = error.place;
  const isPlace = offset !== undefined && Number.isInteger(offset) && offset >= 0 && offset <= bytes.length;
  expect(isPlace && /^DMAR_[A-Z]+$/.test(error.code), () => `error ${error.code} at ${offset}: ${error.message}`);
  return error.code;
}

/** What was decoded is encoded, but for reserved bytes, and that is what is decoded and encoded from then on. */
function encodesAgain(table: DmarTable, parse: typeof parseDmar): void {
  const encoded = encodeDmar(table);
  const again = parse(encoded, 'encoded');
  expect(contentOf(again) === contentOf(table), () => `encoded as\n${contentOf(again)}\nand not\n${contentOf(table)}`);
  const twice = encodeDmar(again);
  const isSame = twice.length === encoded.length && twice.every((byte, at) => byte === encoded[at]);
  expect(isSame, () => 'encoded twice in two ways');
}

function contentOf({ header: { length: _, checksumOk: __, ...named }, warnings: ___, ...rest }: DmarTable): string {
  return JSON.stringify({ ...named, ...rest });
}

/** Xen's list of regions: none is reversed, none overlaps another. */
function regionsMakeSense(platform: Platform): void {
  const ranges = platform.regions
    .map((region) => platform.table.reservedRegions[region]!)
    .map(({ base, limit }) => [BigInt(base), BigInt(limit)] as const)
    .sort(([a], [b]) => (a < b ? -1 : 1));
  const isApart = ranges.every(([base, limit], at) => base <= limit && (at === 0 || ranges[at - 1]![1] < base));
  expect(isApart, () => `regions in force: ${ranges.join(' ')}`);
}

function answerMakesSense({ units, table }: Platform, answer: DeviceAnswer): void {
  const { unit, why, candidates, segment, registerBase } = answer.unit;
  const isKnown = why === 'explicit' || why === 'bridge' || why === 'include-all';
  const makesSense =
    isKnown === (unit !== null) &&
    (unit === null ? registerBase === null : registerBase === units[unit]?.registerBase) &&
    (unit === null || candidates.join() === `${unit}`) &&
    (why === 'none') === (candidates.length === 0) &&
    candidates.every((candidate) => units[candidate]?.segment === segment) &&
    (why !== 'include-all' || units[unit!]!.includeAll) &&
    answer.reservedRegions.every(({ region, frames }) => {
      const of = table.reservedRegions[region];
      return of?.segment === segment && Number.isSafeInteger(frames) && frames >= 0;
    });
  expect(makesSense, () => `answer ${JSON.stringify(answer)}`);
}

type ScopedStructure = { readonly segment: number; readonly scopes: DmarTable['units'][number]['scopes'] };

const structuresOf = (table: DmarTable): readonly ScopedStructure[] => [
  ...table.units,
  ...table.reservedRegions,
  ...table.rootPorts,
  ...table.satc,
];

/** Functions that the table is about, and some on the buses behind them. */
function devicesOf(table: DmarTable): string[] {
  const named = structuresOf(table).flatMap(({ segment, scopes }) =>
    scopes.flatMap(({ startBus, path }) => {
      const bus = (startBus + path.length - 1) & 0xff;
      const [device, fn] = path.at(-1)!;
      return [address(segment, bus, device, fn), address(segment, bus + 1, device, fn)];
    }),
  );
  return [...new Set([...named, '0000:00:1f.3', '0001:07:00.0'])].slice(0, ASKED_MAX);
}

const address = (segment: number, bus: number, device: number, fn: number): string =>
  sbdfText((segment * 0x10000 + ((bus & 0xff) << 8) + ((device & 31) << 3) + (fn & 7)) as Sbdf);

/** A machine that has every second function that the table names, each a bridge to the next bus. */
function functionsOf(table: DmarTable): NonNullable<PlatformOptions['functions']> {
  return devicesOf(table)
    .filter((_, at) => at % 2 === 0)
    .map((device, at) => {
      const bus = (parseSbdf(device) >>> 8) & 0xff;
      const isBridge = at % 3 !== 0 && bus < 0xff;
      return isBridge
        ? { device, type: 'root-port', secondary: bus + 1, subordinate: Math.min(bus + at, 0xff) }
        : { device };
    });
}

function expect(holds: boolean, message: () => string): void {
  if (!holds) throw new Error(message());
}
