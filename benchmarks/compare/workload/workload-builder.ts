// From the events of a trace to a workload: spaces become domains, CPUs and frames get dense names, and what cannot be
// replayed as it stands is put in order once, for all policies alike.

import { InputError } from '../../../machine/errors.ts';
import { importFtrace, type TraceMap, type TraceSummary, type TraceUnmap } from '../../trace/ftrace.ts';
import { Column } from './column.ts';
import { FrameNames } from './frame-names.ts';
import {
  type AddressGroups,
  EventKind,
  type ImportedTrace,
  type WorkloadDomain,
  type WorkloadEvents,
} from './workload.ts';

/** Virtual CPUs that a machine may have; further CPUs of a trace share them. */
const VCPUS_MAX = 64;
/** Address spaces, frames in each, and device frames (tables of 4 levels) that the model takes. */
const SPACES_MAX = 64;
const FRAMES_MAX = 2 ** 20;
const DFN_LIMIT = 2 ** 36;
/** A mapping that joins no group yet. */
const NOT_LIVE = -1;

/**
 * Imports a trace for replay. @throws InputError as `importFtrace`, and `TRACE_LIMIT` for what the model cannot hold.
 */
export async function importTrace(file: string): Promise<ImportedTrace> {
  const builder = new WorkloadBuilder();
  const summary = await importFtrace(file, builder);
  return builder.build(summary);
}

/** A recorded address space in the making. */
class Space {
  readonly name: string | null;
  readonly index: number;
  /** Mapped device frames, and the map event that each belongs to. */
  readonly live = new Map<number, number>();
  readonly leafTables = new Set<number>();
  firstDfn = Number.POSITIVE_INFINITY;
  endDfn = 0;

  constructor(name: string | null, index: number) {
    this.name = name;
    this.index = index;
  }
}

/** Takes the events of an importer, one by one, then makes the workload. */
export class WorkloadBuilder {
  readonly #timeUs = new Column();
  readonly #vcpu = new Column();
  readonly #kind = new Column();
  readonly #domain = new Column();
  readonly #dfn = new Column();
  readonly #pages = new Column();
  /** Of a map: recorded frame. Of an unmap: a map event that it ends. */
  readonly #frame = new Column();
  readonly #rights = new Column();
  readonly #parent = new Column();
  readonly #joined = new Map<number, number>();
  readonly #spaces: Space[] = [];
  readonly #cpus = new Map<number, number>();
  #now = 0;
  #maps = 0;
  #mappedPages = 0;
  #unmappedPages = 0;
  #unmapsLeftOut = 0;
  #remaps = 0;
  #writeOnlyMaps = 0;
  #unmapPiecesMax = 0;

  map(event: TraceMap): void {
    const space = this.#space(event.space);
    const end = event.dfn + event.pages;
    this.#takeAway(space, event);
    const index = this.#push(event, EventKind.map, space, event.dfn, event.pages);
    this.#frame.push(event.mfn);
    this.#rights.push(event.rights === 'r' ? 1 : 3);
    if (event.rights === 'w') this.#writeOnlyMaps += 1;
    this.#maps += 1;
    this.#mappedPages += event.pages;
    space.firstDfn = Math.min(space.firstDfn, event.dfn);
    space.endDfn = Math.max(space.endDfn, end);
    for (let dfn: number = event.dfn; dfn < end; dfn += 1) space.live.set(dfn, index);
    for (let table = Math.floor(event.dfn / 512); table * 512 < end; table += 1) space.leafTables.add(table);
  }

  unmap(event: TraceUnmap): void {
    const space = this.#spaceOf(event);
    const range = space && liveRange(space, event.dfn, event.pages);
    if (!range) this.#unmapsLeftOut += 1;
    else if (range.end - range.first <= farPages(space)) this.#unmapRange(event, space, range.first, range.end);
    else for (const run of liveRuns(space, range)) this.#unmapRange(event, space, run.first, run.end);
  }

  #space(name: string | null): Space {
    const found = this.#spaces.find((space) => space.name === name);
    if (found) return found;
    const space = new Space(name, this.#spaces.length);
    this.#spaces.push(space);
    return space;
  }

  /** The space of an unmap: the one it names if that has pages there, or else the first that has. */
  #spaceOf(event: TraceUnmap): Space | undefined {
    const has = (space: Space) => liveRange(space, event.dfn, event.pages) !== null;
    return this.#spaces.find((space) => space.name === event.space && has(space)) ?? this.#spaces.find(has);
  }

  /** A map takes device frames that are mapped: those are unmapped first, in as few pieces as there are. */
  #takeAway(space: Space, event: TraceMap): void {
    const end = event.dfn + event.pages;
    for (let dfn: number = event.dfn; dfn < end; dfn += 1) {
      if (!space.live.has(dfn)) continue;
      let last = dfn;
      while (last + 1 < end && space.live.has(last + 1)) last += 1;
      this.#unmapRange(event, space, dfn, last + 1);
      this.#remaps += 1;
      dfn = last;
    }
  }

  #unmapRange(event: TraceMap | TraceUnmap, space: Space, first: number, end: number): void {
    let map = NOT_LIVE;
    for (let dfn = first; dfn < end; dfn += 1) {
      const of = space.live.get(dfn);
      if (of === undefined) continue;
      this.#unmappedPages += 1;
      space.live.delete(dfn);
      if (map === NOT_LIVE) map = of;
      else if (of !== map) this.#join(map, of);
    }
    this.#push(event, EventKind.unmap, space, first, end - first);
    this.#frame.push(map);
    this.#rights.push(0);
    const pieces = Math.min(end - first, Math.ceil((end - first) / 512) + 18);
    this.#unmapPiecesMax = Math.max(this.#unmapPiecesMax, pieces);
  }

  #push(event: TraceMap | TraceUnmap, kind: number, space: Space, dfn: number, pages: number): number {
    this.#now = Math.max(this.#now, event.timeUs);
    let vcpu = this.#cpus.get(event.cpu);
    if (vcpu === undefined) {
      vcpu = this.#cpus.size % VCPUS_MAX;
      this.#cpus.set(event.cpu, vcpu);
    }
    const index = this.#kind.length;
    this.#timeUs.push(this.#now);
    this.#vcpu.push(vcpu);
    this.#kind.push(kind);
    this.#domain.push(space.index);
    this.#dfn.push(dfn);
    this.#pages.push(pages);
    this.#parent.push(index);
    return index;
  }

  /** The map event that stands for the group of one. */
  #root(map: number): number {
    let at = map;
    for (let up = this.#joined.get(at); up !== undefined; up = this.#joined.get(at)) at = up;
    return at;
  }

  #join(a: number, b: number): void {
    const [x, y] = [this.#root(a), this.#root(b)];
    if (x !== y) this.#joined.set(Math.max(x, y), Math.min(x, y));
  }

  /** @throws InputError `TRACE_LIMIT` */
  build(summary: TraceSummary): ImportedTrace {
    const fail = (message: string): never => {
      throw new InputError('TRACE_LIMIT', { file: summary.file }, message);
    };
    if (this.#maps === 0) fail('no map of a DMA buffer in the trace; expected iommu:map and iommu:unmap events');
    if (this.#spaces.length > SPACES_MAX) fail(`${this.#spaces.length} address spaces: expected at most ${SPACES_MAX}`);
    const far = this.#spaces.find((space) => space.endDfn > DFN_LIMIT);
    if (far) fail(`device frame 0x${(far.endDfn - 1).toString(16)}: expected addresses of at most 48 bits`);
    const { group, groups } = this.#groups();
    const { frame, domains, physicalFrames } = this.#frames(fail);
    const count = this.#kind.length;
    const events: WorkloadEvents = {
      count,
      timeUs: this.#timeUs.numbers(),
      vcpu: this.#vcpu.bytes(),
      kind: this.#kind.bytes(),
      domain: this.#domain.bytes(),
      dfn: this.#dfn.numbers(),
      pages: this.#pages.words(),
      frame,
      rights: this.#rights.bytes(),
      group,
    };
    return {
      summary,
      events,
      groups,
      domains,
      counts: {
        maps: this.#maps,
        unmaps: count - this.#maps,
        mappedPages: this.#mappedPages,
        unmappedPages: this.#unmappedPages,
        unmapsLeftOut: this.#unmapsLeftOut,
        remaps: this.#remaps,
        writeOnlyMaps: this.#writeOnlyMaps,
      },
      cpus: Math.min(this.#cpus.size, VCPUS_MAX),
      physicalFrames,
      unmapPiecesMax: this.#unmapPiecesMax,
    };
  }

  #groups(): { readonly group: Uint32Array; readonly groups: AddressGroups } {
    const count = this.#kind.length;
    const group = new Uint32Array(count);
    const first = new Column();
    const end: number[] = [];
    const start: number[] = [];
    const known = new Map<number, number>();
    for (let event = 0; event < count; event += 1) {
      const isMap = this.#kind.at(event) === EventKind.map;
      const root = this.#root(isMap ? event : this.#frame.at(event));
      let index = known.get(root);
      if (index === undefined) {
        index = start.length;
        known.set(root, index);
        start.push(this.#dfn.at(event));
        end.push(0);
      }
      group[event] = index;
      if (!isMap) continue;
      start[index] = Math.min(start[index]!, this.#dfn.at(event));
      end[index] = Math.max(end[index]!, this.#dfn.at(event) + this.#pages.at(event));
    }
    for (const dfn of start) first.push(dfn);
    return {
      group,
      groups: { first: first.numbers(), pages: Float64Array.from(end, (to, index) => to - start[index]!) },
    };
  }

  /** Names the frames: in each domain from 0, and once more over all of them, for frames that domains share. */
  #frames(fail: (message: string) => never) {
    const ranges = this.#spaces.map((): { first: number; frames: number }[] => []);
    const maps = this.#mapEvents();
    for (const event of maps) {
      ranges[this.#domain.at(event)]!.push({ first: this.#frame.at(event), frames: this.#pages.at(event) });
    }
    const names = ranges.map((of) => new FrameNames(of));
    const all = new FrameNames(ranges.flat());
    if (names.reduce((sum, of) => sum + of.count, 0) > FRAMES_MAX) {
      fail(`the trace maps ${all.count} different frames: expected at most ${FRAMES_MAX} (4 GiB)`);
    }
    const frame = new Uint32Array(this.#kind.length);
    for (const event of maps) frame[event] = names[this.#domain.at(event)]!.name(this.#frame.at(event));
    const domains = this.#spaces.map(
      (space, index): WorkloadDomain => ({
        space: space.name,
        frames: names[index]!.count,
        physical: Uint32Array.from(names[index]!.recorded(), (recorded) => all.name(recorded)),
        firstDfn: space.firstDfn,
        spanPages: space.endDfn - space.firstDfn,
        leafTables: space.leafTables.size,
      }),
    );
    return { frame, domains, physicalFrames: all.count };
  }

  #mapEvents(): number[] {
    const maps: number[] = [];
    for (let event = 0; event < this.#kind.length; event += 1) {
      if (this.#kind.at(event) === EventKind.map) maps.push(event);
    }
    return maps;
  }
}

/** Device frames from `first` to before `end`. */
interface DfnRange {
  readonly first: number;
  readonly end: number;
}

/** Ranges of more pages than this are searched by what is mapped, not page by page. */
const farPages = (space: Space): number => space.live.size * 2 + 512;

/** The part of a range from its first mapped page to behind its last; null when none is mapped. */
function liveRange(space: Space, from: number, pages: number): DfnRange | null {
  const { live } = space;
  if (pages > farPages(space)) {
    const mapped = liveIn(space, { first: from, end: from + pages });
    return mapped.length === 0 ? null : { first: mapped[0]!, end: mapped.at(-1)! + 1 };
  }
  let first = from;
  while (first < from + pages && !live.has(first)) first += 1;
  if (first === from + pages) return null;
  let end = from + pages;
  while (!live.has(end - 1)) end -= 1;
  return { first, end };
}

/** The mapped device frames of a range, in order. */
function liveIn(space: Space, { first, end }: DfnRange): number[] {
  return [...space.live.keys()].filter((dfn) => dfn >= first && dfn < end).sort((a, b) => a - b);
}

/** The mapped device frames of a range as runs without gaps. */
function liveRuns(space: Space, range: DfnRange): DfnRange[] {
  const runs: { first: number; end: number }[] = [];
  for (const dfn of liveIn(space, range)) {
    const last = runs.at(-1);
    if (last?.end === dfn) last.end += 1;
    else runs.push({ first: dfn, end: dfn + 1 });
  }
  return runs;
}
