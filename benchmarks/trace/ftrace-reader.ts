// Reads ftrace text, chunk by chunk: lines, then events.

import { InputError } from '../../machine/errors.ts';
import { dfn, FRAME_MAX, mfn, PAGE_SIZE, type Wide } from '../../machine/frame-number.ts';
import { type FtraceEvent, ftraceEvents } from './ftrace-events.ts';
import {
  decimal,
  decimalFrames,
  type Frames,
  hexadecimal,
  hexFrames,
  type LinePrefix,
  readPrefix,
} from './ftrace-line.ts';
import { LiveMappings } from './live-mappings.ts';
import { type FieldName, FieldSpans, isCutForm, matchForm, type PayloadForm, SLOT } from './payload-form.ts';
import { SpaceProbes } from './space-probes.ts';
import { bufferEntries, expectedForms, holdsEvent, snippet } from './torn-text.ts';
import type { TraceConsumer, TraceRights, TraceSummary } from './trace-event.ts';
import { TraceTally } from './trace-tally.ts';

/** The longest line accepted, in bytes. The kernel's own limit is 8 KiB. */
export const LINE_MAX = 64 * 1024;

const LINE_SHAPE = '"TASK-PID [CPU] FLAGS SECONDS.MICROSECONDS: event: payload"';
const REMOVE_HEADER = 'remove the header line to import it as it is';
const RECORD_LARGER = 'record again with a larger buffer (buffer_size_kb)';
/** Of a line that is too long, what is kept to quote. */
const START_BYTES = 100;
const ADDRESS_DIGITS = 16;
const WORDS = ['word0', 'word1', 'word2', 'word3'] as const;
const RIGHTS: readonly TraceRights[] = ['rw', 'r', 'w', 'rw'];
const NEWLINE = 0x0a;
const CARRIAGE_RETURN = 0x0d;
const NOTHING = Buffer.alloc(0);

export interface FtraceOptions {
  /** `error` (the default): a trace that lost events is refused. `count`: they are counted in `lostEvents`. */
  readonly onLost?: 'error' | 'count';
}

/**
 * Reads the text of one trace.
 *
 * Push the bytes in pieces of any size, then call {@link end}. Holds one unfinished line, the live mappings and some
 * names, never the text. Every error is an `InputError` with the file and the line: `FTRACE_LINE` (torn, or not ftrace
 * text), `FTRACE_LOST`, `FTRACE_SIZE`, `FTRACE_ADDRESS`, `FTRACE_CLOCK`, `FTRACE_COUNT` (not as many events as
 * the header says), `FTRACE_EMPTY`. After an error the reader is
 * not to be used further.
 */
export class FtraceReader {
  readonly #file: string;
  readonly #consumer: TraceConsumer;
  readonly #countLost: boolean;
  readonly #tally = new TraceTally();
  readonly #live = new LiveMappings();
  readonly #mapProbes = new SpaceProbes();
  readonly #unmapProbes = new SpaceProbes();
  readonly #lastTimeOfCpu = new Map<number, number>();
  readonly #prefix: LinePrefix = { cpu: 0, timeUs: 0, nameFrom: 0, nameTo: 0, payloadFrom: 0 };
  readonly #spans = new FieldSpans();
  readonly #frames: Frames = { frames: 0, rest: 0 };
  #carry: Buffer = NOTHING;
  #lines = 0;
  /** The first empty line since the last event; 0 for none. */
  #emptyLine = 0;

  constructor(file: string, consumer: TraceConsumer = {}, options: FtraceOptions = {}) {
    this.#file = file;
    this.#consumer = consumer;
    this.#countLost = options.onLost === 'count';
  }

  /** Lines read so far. */
  get lines(): number {
    return this.#lines;
  }

  /** The next bytes of the text. */
  push(chunk: Uint8Array): void {
    const piece = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    const bytes = this.#carry.length === 0 ? piece : Buffer.concat([this.#carry, piece]);
    const last = bytes.lastIndexOf(NEWLINE);
    this.#carry = NOTHING;
    if (last >= 0) this.#readLines(bytes.toString('latin1', 0, last + 1));
    if (bytes.length - last - 1 > LINE_MAX) {
      this.#lines += 1; // the unfinished line is at fault
      this.#failLength(bytes.toString('latin1', last + 1, last + 1 + START_BYTES));
    }
    this.#carry = Buffer.from(bytes.subarray(last + 1)); // a copy: the chunk is not ours to keep
  }

  /** The text is over. A last line without a newline counts. */
  end(): TraceSummary {
    if (this.#carry.length > 0) {
      const text = this.#carry.toString('latin1');
      this.#carry = NOTHING;
      this.#readLine(text, 0, text.length);
    }
    const { events, entriesInBuffer } = this.#tally;
    if (entriesInBuffer !== null && entriesInBuffer !== events) {
      const found = `${entriesInBuffer} entries announced, ${events} found`;
      this.#fail('FTRACE_COUNT', `${found}: the file was cut or edited; ${REMOVE_HEADER}`);
    }
    if (events === 0) {
      throw new InputError(
        'FTRACE_EMPTY',
        { file: this.#file, line: Math.max(this.#lines, 1) },
        `no event in the file; expected ftrace text with lines ${LINE_SHAPE}`,
      );
    }
    return this.#tally.summary(this.#file, this.#lines, this.#live.pages);
  }

  #readLines(text: string): void {
    for (let from = 0; from < text.length; ) {
      const end = text.indexOf('\n', from);
      this.#readLine(text, from, end);
      from = end + 1;
    }
  }

  #readLine(text: string, from: number, newline: number): void {
    this.#lines += 1;
    if (newline - from > LINE_MAX) this.#failLength(text.slice(from, newline));
    const end = newline > from && text.charCodeAt(newline - 1) === CARRIAGE_RETURN ? newline - 1 : newline;
    if (text[from] === '#') this.#readComment(text.slice(from, end));
    else if (readPrefix(text, from, end, this.#prefix)) this.#readEvent(text, end);
    else this.#readOddLine(text.slice(from, end));
  }

  #readComment(line: string): void {
    if (holdsEvent(line)) this.#failTorn('a comment or an event, not both', line);
    const entries = bufferEntries(line);
    if (entries === null) return;
    if (entries === 'torn') this.#failTorn('"entries-in-buffer/entries-written: N/M"', line);
    const { held, written } = entries;
    this.#tally.entriesInBuffer = (this.#tally.entriesInBuffer ?? 0) + held;
    if (held === written) return;
    this.#tally.lostByHeader += written - held;
    if (this.#countLost) return;
    this.#fail(
      'FTRACE_LOST',
      `${written - held} of ${written} events were lost before this trace was read; ${RECORD_LARGER}`,
    );
  }

  /** A line without the prefix of an event: empty, a report of lost events, or torn. */
  #readOddLine(line: string): void {
    const lost = /^\s*CPU:(\d+) \[LOST (?:(\d+) )?EVENTS\]\s*$/.exec(line);
    if (lost !== null) {
      this.#tally.lostByLines += Number(lost[2] ?? 1);
      if (this.#countLost) return;
      this.#fail(
        'FTRACE_LOST',
        `CPU ${lost[1]} lost ${lost[2] ?? 'an unknown number of'} events here; ${RECORD_LARGER}`,
      );
    }
    if (line === '') {
      if (this.#emptyLine === 0 && this.#tally.events > 0) this.#emptyLine = this.#lines;
      return;
    }
    if (this.#tally.events > 0) this.#failTorn(LINE_SHAPE, line);
    this.#fail('FTRACE_LINE', `not ftrace text: expected ${LINE_SHAPE}, got ${snippet(line)}`);
  }

  #readEvent(text: string, end: number): void {
    const { nameFrom, nameTo, payloadFrom } = this.#prefix;
    const name = nameTo < 0 ? '' : text.slice(nameFrom, nameTo);
    if (nameTo < 0 && /^\w*$/.test(text.slice(nameFrom, end))) {
      this.#failTorn('"event: payload" after the time', text.slice(nameFrom, end));
    }
    if (this.#emptyLine > 0) {
      this.#lines = this.#emptyLine;
      this.#failTorn(`${LINE_SHAPE} between events`, '');
    }
    this.#checkClock();
    this.#tally.events += 1;
    const event = ftraceEvents.get(name);
    if (event === undefined) {
      this.#tally.countUnknownName(name);
    } else {
      this.#tally.countKnown(event.index);
      const form = this.#matching(event.forms, text, payloadFrom, end);
      if (form !== undefined) {
        if (form.free) this.#checkJoined(text, end);
        this.#accept(event, form, text);
        return;
      }
      if (!event.probe || event.forms.some((cut) => isCutForm(cut, text, payloadFrom, end))) {
        this.#failTorn(expectedForms(event), text.slice(payloadFrom, end));
      }
    }
    this.#checkJoined(text, end);
    this.#tally.unknownLine(() => ({ line: this.#lines, name, text: snippet(text.slice(payloadFrom, end)) }));
  }

  /** Free text can hide the next line. */
  #checkJoined(text: string, end: number): void {
    const payload = text.slice(this.#prefix.payloadFrom, end);
    if (holdsEvent(payload)) this.#failTorn('one event on a line, not two', payload);
  }

  /** The first form that the payload has. A loop: this is the hottest place. */
  #matching(forms: readonly PayloadForm[], text: string, from: number, end: number): PayloadForm | undefined {
    for (const form of forms) if (matchForm(form, text, from, end, this.#spans)) return form;
    return undefined;
  }

  #checkClock(): void {
    const { cpu, timeUs } = this.#prefix;
    const before = this.#lastTimeOfCpu.get(cpu);
    if (before !== undefined && timeUs < before) {
      const [now, then] = [timeUs, before].map((us) => (us / 1e6).toFixed(6));
      this.#fail(
        'FTRACE_CLOCK',
        `time goes back on CPU ${cpu}, from ${then} to ${now}; expected the lines in the order of time`,
      );
    }
    this.#lastTimeOfCpu.set(cpu, timeUs);
    if (this.#tally.events === 0) this.#tally.firstTimeUs = timeUs;
    else if (timeUs < this.#tally.lastTimeUs) this.#tally.clockStepsBack += 1;
    this.#tally.lastTimeUs = timeUs;
  }

  /** A payload has been read; its fields lie in the spans. */
  #accept(event: FtraceEvent, form: PayloadForm, text: string): void {
    const device = form.fields.has('device') ? this.#device(text) : null;
    switch (event.role) {
      case 'map':
        this.#map(form, text);
        break;
      case 'unmap':
        this.#unmap(form, text);
        break;
      case 'mapProbe':
        this.#probe(this.#mapProbes, form, text);
        break;
      case 'unmapProbe':
        this.#probe(this.#unmapProbes, form, text);
        break;
      case 'invalidation':
        this.#invalidation(text);
        break;
      case 'mark':
        this.#mark(text);
        break;
      case 'other': {
        const { cpu, timeUs } = this.#prefix;
        this.#consumer.other?.({ kind: 'other', timeUs, cpu, name: event.name, device });
      }
    }
  }

  #map(form: PayloadForm, text: string): void {
    const pages = this.#sizeFrames(text, 'size', 1);
    const start = this.#addressFrame(text, 'iova', pages);
    const target = this.#addressFrame(text, 'paddr', pages);
    if (form.fields.has('end')) this.#checkEnd(text, start + pages);
    const { cpu, timeUs } = this.#prefix;
    const probe = this.#mapProbes.take(cpu, timeUs, start);
    const remap = this.#live.add(start, pages);
    this.#tally.maps += 1;
    this.#tally.mapPages += pages;
    if (remap) this.#tally.remaps += 1;
    if (probe !== null) this.#tally.mapsWithSpace += 1;
    this.#consumer.map?.({
      kind: 'map',
      timeUs,
      cpu,
      dfn: dfn(start),
      pages,
      mfn: mfn(target),
      bytes: pages * PAGE_SIZE,
      rights: probe === null ? 'rw' : (RIGHTS[probe.prot & 3] as TraceRights),
      space: probe === null ? null : probe.space,
      remap,
    });
  }

  #unmap(form: PayloadForm, text: string): void {
    const pages = this.#sizeFrames(text, 'size', 1);
    const unmappedPages = this.#sizeFrames(text, 'unmapped', 0);
    const start = this.#addressFrame(text, 'iova', pages);
    if (form.fields.has('end')) this.#checkEnd(text, start + pages);
    const { cpu, timeUs } = this.#prefix;
    const probe = this.#unmapProbes.take(cpu, timeUs, start);
    const mapped = this.#live.remove(start, pages);
    this.#tally.unmaps += 1;
    this.#tally.unmapPages += pages;
    if (mapped === 'none') this.#tally.unmapsWithoutMap += 1;
    if (mapped === 'part') this.#tally.unmapsPartial += 1;
    if (probe !== null) this.#tally.unmapsWithSpace += 1;
    const space = probe === null ? null : probe.space;
    this.#consumer.unmap?.({ kind: 'unmap', timeUs, cpu, dfn: dfn(start), pages, unmappedPages, space, mapped });
  }

  #probe(probes: SpaceProbes, form: PayloadForm, text: string): void {
    const { from, to } = this.#spans;
    hexFrames(text, from[SLOT.iova] as number, to[SLOT.iova] as number, this.#frames);
    const start = this.#frames.frames;
    hexFrames(text, from[SLOT.pageSize] as number, to[SLOT.pageSize] as number, this.#frames);
    const pages = this.#frames.frames * decimal(text, from[SLOT.pageCount] as number, to[SLOT.pageCount] as number);
    const prot = form.fields.has('prot') ? hexadecimal(text, from[SLOT.prot] as number, to[SLOT.prot] as number) : 0;
    const { cpu, timeUs } = this.#prefix;
    probes.add(cpu, timeUs, this.#tally.spaces.keep(this.#field(text, 'space')), start, pages, prot);
  }

  #invalidation(text: string): void {
    for (const word of WORDS) this.#checkDigits(text, word, 'FTRACE_LINE');
    const type = this.#field(text, 'type');
    this.#tally.invalidations.add(type);
    if (this.#consumer.invalidation === undefined) return;
    const { cpu, timeUs } = this.#prefix;
    this.#consumer.invalidation({
      kind: 'invalidation',
      timeUs,
      cpu,
      type,
      unit: this.#field(text, 'unit'),
      words: WORDS.map((word) => this.#wide(text, word)) as [Wide, Wide, Wide, Wide],
    });
  }

  #mark(text: string): void {
    const { cpu, timeUs } = this.#prefix;
    const note = Buffer.from(this.#field(text, 'text'), 'latin1').toString('utf8');
    this.#consumer.mark?.({ kind: 'mark', timeUs, cpu, text: note });
  }

  /** The device that the payload names; null for what a probe prints when it could not read the name. */
  #device(text: string): string | null {
    const name = this.#field(text, 'device');
    return name === '' || name.startsWith('(') ? null : this.#tally.devices.keep(name);
  }

  #field(text: string, field: FieldName): string {
    return text.slice(this.#spans.from[SLOT[field]], this.#spans.to[SLOT[field]]);
  }

  #wide(text: string, field: FieldName): Wide {
    const word = this.#field(text, field);
    const value = hexadecimal(word, 0, word.length);
    return Number.isSafeInteger(value) ? value : `0x${word}`;
  }

  /** A size in frames. */
  #sizeFrames(text: string, field: 'size' | 'unmapped', least: number): number {
    decimalFrames(text, this.#spans.from[SLOT[field]] as number, this.#spans.to[SLOT[field]] as number, this.#frames);
    const { frames, rest } = this.#frames;
    if (rest !== 0 || frames < least) {
      const expected = least > 0 ? 'a multiple of 4096 above 0' : 'a multiple of 4096';
      this.#fail('FTRACE_SIZE', `${field} ${snippet(this.#field(text, field))}: expected ${expected}`);
    }
    return frames;
  }

  #checkDigits(text: string, field: FieldName, code: string): void {
    if ((this.#spans.to[SLOT[field]] as number) - (this.#spans.from[SLOT[field]] as number) <= ADDRESS_DIGITS) return;
    const digits = this.#field(text, field);
    this.#fail(code, `${field} ${snippet(`0x${digits}`)}: expected at most ${ADDRESS_DIGITS} digits`);
  }

  /** The frame number of an address, with room for `pages` frames. */
  #addressFrame(text: string, field: 'iova' | 'paddr', pages: number): number {
    this.#checkDigits(text, field, 'FTRACE_ADDRESS');
    hexFrames(text, this.#spans.from[SLOT[field]] as number, this.#spans.to[SLOT[field]] as number, this.#frames);
    const { frames, rest } = this.#frames;
    if (rest !== 0) this.#fail('FTRACE_ADDRESS', `${field} 0x${this.#field(text, field)}: expected a multiple of 4096`);
    if (frames + pages - 1 > FRAME_MAX) {
      this.#fail(
        'FTRACE_ADDRESS',
        `${field} 0x${this.#field(text, field)} and ${pages} frames: expected an end within 2^57`,
      );
    }
    return frames;
  }

  #checkEnd(text: string, expected: number): void {
    this.#checkDigits(text, 'end', 'FTRACE_ADDRESS');
    hexFrames(text, this.#spans.from[SLOT.end] as number, this.#spans.to[SLOT.end] as number, this.#frames);
    if (this.#frames.frames === expected && this.#frames.rest === 0) return;
    this.#fail('FTRACE_SIZE', `range ends at 0x${this.#field(text, 'end')}: expected iova + size`);
  }

  #failTorn(expected: string, got: string): never {
    this.#fail('FTRACE_LINE', `torn line: expected ${expected}, got ${snippet(got)}`);
  }

  #failLength(start: string): never {
    this.#fail('FTRACE_LINE', `line longer than ${LINE_MAX} bytes: expected ${LINE_SHAPE}, got ${snippet(start)}`);
  }

  #fail(code: string, message: string): never {
    throw new InputError(code, { file: this.#file, line: this.#lines }, message);
  }
}
