// The counts of a trace's summary, kept while it is read.

import { PAGE_SIZE } from '../../machine/frame-number.ts';
import { ftraceEvents } from './ftrace-events.ts';
import type { TraceSummary, UnknownLine } from './trace-event.ts';

/** Unknown lines that are shown. */
const UNKNOWN_EXAMPLES = 5;
/** Different names that are kept of a kind (unknown events, devices, spaces); more than any real trace has. */
const NAMES_MAX = 4096;
/** Where unknown names beyond {@link NAMES_MAX} are counted. */
const OVERFLOW_NAME = '(others)';

/** A copy that does not keep alive the chunk of text that `name` was cut from. */
const detached = (name: string): string => Buffer.from(name, 'latin1').toString('latin1');

/** Counts by name. */
class Tallies {
  readonly #counts = new Map<string, number>();

  add(name: string): void {
    const count = this.#counts.get(name);
    if (count !== undefined) this.#counts.set(name, count + 1);
    else if (this.#counts.size < NAMES_MAX) this.#counts.set(detached(name), 1);
    else this.#counts.set(OVERFLOW_NAME, (this.#counts.get(OVERFLOW_NAME) ?? 0) + 1);
  }

  entries(): [string, number][] {
    return [...this.#counts];
  }
}

/** A set of names, each kept once. */
class Names {
  readonly #kept = new Map<string, string>();

  /** The kept copy of a name. */
  keep(name: string): string {
    const kept = this.#kept.get(name);
    if (kept !== undefined) return kept;
    const copy = detached(name);
    if (this.#kept.size < NAMES_MAX) this.#kept.set(copy, copy);
    return copy;
  }

  sorted(): string[] {
    return [...this.#kept.keys()].sort();
  }
}

/** Counters, raised by the reader. */
export class TraceTally {
  events = 0;
  maps = 0;
  unmaps = 0;
  unmapsWithoutMap = 0;
  unmapsPartial = 0;
  remaps = 0;
  mapPages = 0;
  unmapPages = 0;
  mapsWithSpace = 0;
  unmapsWithSpace = 0;
  /** Lost events by `LOST` lines, and by the header. They may be the same ones. */
  lostByLines = 0;
  lostByHeader = 0;
  entriesInBuffer: number | null = null;
  firstTimeUs = 0;
  lastTimeUs = 0;
  clockStepsBack = 0;
  unknownLines = 0;
  readonly unknownExamples: UnknownLine[] = [];
  readonly invalidations = new Tallies();
  readonly devices = new Names();
  readonly spaces = new Names();
  readonly #known = new Float64Array(ftraceEvents.size);
  readonly #unknown = new Tallies();

  /** An event of the table, by its index. */
  countKnown(index: number): void {
    (this.#known[index] as number) += 1;
  }

  /** An event that the table does not have. */
  countUnknownName(name: string): void {
    this.#unknown.add(name === '' ? '(no name)' : name);
  }

  /** A line that could not be used. `describe` is called for the first few only. */
  unknownLine(describe: () => UnknownLine): void {
    this.unknownLines += 1;
    if (this.unknownExamples.length < UNKNOWN_EXAMPLES) this.unknownExamples.push(describe());
  }

  summary(file: string, lines: number, livePages: number): TraceSummary {
    const known = [...ftraceEvents.values()].map(({ name, index }) => [name, this.#known[index] as number] as const);
    return {
      file,
      lines,
      events: this.events,
      eventsByKind: Object.fromEntries([...known.filter(([, count]) => count > 0), ...this.#unknown.entries()]),
      maps: this.maps,
      unmaps: this.unmaps,
      unmapsWithoutMap: this.unmapsWithoutMap,
      unmapsPartial: this.unmapsPartial,
      remaps: this.remaps,
      mapBytes: this.mapPages * PAGE_SIZE,
      unmapBytes: this.unmapPages * PAGE_SIZE,
      leftLiveBytes: livePages * PAGE_SIZE,
      mapsWithSpace: this.mapsWithSpace,
      unmapsWithSpace: this.unmapsWithSpace,
      spaces: this.spaces.sorted().length,
      unknownLines: this.unknownLines,
      unknownExamples: this.unknownExamples,
      lostEvents: Math.max(this.lostByLines, this.lostByHeader),
      entriesInBuffer: this.entriesInBuffer,
      firstTimeUs: this.firstTimeUs,
      lastTimeUs: this.lastTimeUs,
      clockStepsBack: this.clockStepsBack,
      qiByType: Object.fromEntries(this.invalidations.entries()),
      devices: this.devices.sorted(),
    };
  }
}
