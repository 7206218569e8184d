// The prefix of an ftrace line, `TASK-PID [CPU] FLAGS SECONDS.MICROSECONDS: event: payload`, and numbers in payloads.
//
// A task's name may hold blanks, dashes, brackets and colons. The kernel pads it to 16 characters and cuts it at 15,
// so the dash before the process id stands at column 16; only a line that lost its padding needs a search. A dash
// further right may follow more padding; but more than a name and blanks among it are a torn line and the next one.

import { PAGE_SHIFT, PAGE_SIZE } from '../../machine/frame-number.ts';

/** What the prefix says. Reused from line to line. */
export interface LinePrefix {
  cpu: number;
  /** Microseconds; an integer. */
  timeUs: number;
  /** The event's name is `text.slice(nameFrom, nameTo)`; `nameTo` is -1 where the line has none. */
  nameFrom: number;
  nameTo: number;
  /** Where the payload starts, or where a name should have been. */
  payloadFrom: number;
}

/** The column of the dash between task and process id. */
const DASH_COLUMN = 16;
const SPACE = 0x20;
const ZERO = 0x30;
const COLON = 0x3a;
const CPU_MAX = 65535;
const MICROSECOND_DIGITS = 6;

const isDigit = (code: number): boolean => code >= ZERO && code <= 0x39;

const isNameChar = (code: number): boolean =>
  (code >= 0x61 && code <= 0x7a) || code === 0x5f || isDigit(code) || (code >= 0x41 && code <= 0x5a);

function skipSpaces(text: string, from: number, end: number): number {
  let at = from;
  while (at < end && text.charCodeAt(at) === SPACE) at += 1;
  return at;
}

function skipDigits(text: string, from: number, end: number): number {
  let at = from;
  while (at < end && isDigit(text.charCodeAt(at))) at += 1;
  return at;
}

/** The decimal number `text[from..to)`; exact up to 2^53. */
export function decimal(text: string, from: number, to: number): number {
  let value = 0;
  for (let at = from; at < to; at += 1) value = value * 10 + (text.charCodeAt(at) - ZERO);
  return value;
}

/** Whether a task's name is too long for one and not a single word either. */
const isJoined = (name: string): boolean => name.length >= DASH_COLUMN && /\s/.test(name);

/**
 * Reads the prefix of `text[from..end)`.
 * @returns false when the line has no valid prefix; `prefix` is then undefined.
 */
export function readPrefix(text: string, from: number, end: number, prefix: LinePrefix): boolean {
  if (text.charCodeAt(from + DASH_COLUMN) === 0x2d && readAfterDash(text, from + DASH_COLUMN + 1, end, prefix)) {
    return true;
  }
  for (let dash = text.indexOf('-', from + 1); dash > 0 && dash < end; dash = text.indexOf('-', dash + 1)) {
    if (dash > from + DASH_COLUMN && isJoined(text.slice(from, dash).trim())) return false;
    if (readAfterDash(text, dash + 1, end, prefix)) return true;
  }
  return false;
}

/** `(1234)` or `(-----)`: the thread group, printed with the option record-tgid. */
function skipGroup(text: string, from: number, end: number): number {
  let at = from;
  while (at < end && text.charCodeAt(at) !== 0x29) at += 1;
  return at + 1;
}

/** The prefix from the process id on. */
function readAfterDash(text: string, from: number, end: number, prefix: LinePrefix): boolean {
  let at = skipDigits(text, from, end);
  if (at === from) return false;
  at = skipSpaces(text, at, end);
  if (text.charCodeAt(at) === 0x28) at = skipSpaces(text, skipGroup(text, at, end), end);
  if (text[at] !== '[') return false;
  const cpuEnd = skipDigits(text, at + 1, end);
  prefix.cpu = decimal(text, at + 1, cpuEnd);
  if (cpuEnd === at + 1 || text[cpuEnd] !== ']' || prefix.cpu > CPU_MAX) return false;
  at = skipSpaces(text, cpuEnd + 1, end);
  if (readTime(text, at, end, prefix)) return true;
  while (at < end && text.charCodeAt(at) !== SPACE) at += 1; // flags: 4, 5 or 7 characters
  return readTime(text, skipSpaces(text, at, end), end, prefix);
}

/** The time stamp, the event's name, and where the payload starts. */
function readTime(text: string, from: number, end: number, prefix: LinePrefix): boolean {
  const dot = skipDigits(text, from, end);
  const colon = skipDigits(text, dot + 1, end);
  if (dot === from || text[dot] !== '.' || colon !== dot + 1 + MICROSECOND_DIGITS || colon >= end) return false;
  if (text.charCodeAt(colon) !== COLON) return false;
  prefix.timeUs = decimal(text, from, dot) * 1_000_000 + decimal(text, dot + 1, colon);
  if (!Number.isSafeInteger(prefix.timeUs)) return false;
  const nameFrom = skipSpaces(text, colon + 1, end);
  let at = nameFrom;
  while (at < end && isNameChar(text.charCodeAt(at))) at += 1;
  const named = at > nameFrom && at < end && text.charCodeAt(at) === COLON;
  prefix.nameFrom = nameFrom;
  prefix.nameTo = named ? at : -1;
  prefix.payloadFrom = named ? skipSpaces(text, at + 1, end) : nameFrom;
  return true;
}

/** A byte count or an address as frames, and what is left over. */
export interface Frames {
  frames: number;
  /** Bytes beyond the last whole frame: 0 when the value is a multiple of 4096. */
  rest: number;
}

/** The hexadecimal digits `text[from..to)` as frames. Exact up to 2^64; larger values only stay large. */
export function hexFrames(text: string, from: number, to: number, into: Frames): void {
  const cut = Math.max(from, to - PAGE_SHIFT / 4);
  into.frames = hexadecimal(text, from, cut);
  into.rest = hexadecimal(text, cut, to);
}

/** The decimal number at `text[from..to)` as frames. Exact up to 2^64, which a plain sum of digits is not. */
export function decimalFrames(text: string, from: number, to: number, into: Frames): void {
  let frames = 0;
  let rest = 0;
  for (let at = from; at < to; at += 1) {
    rest = rest * 10 + (text.charCodeAt(at) - ZERO);
    frames = frames * 10 + (rest >> PAGE_SHIFT);
    rest &= PAGE_SIZE - 1;
  }
  into.frames = frames;
  into.rest = rest;
}

/** The hexadecimal digits `text[from..to)` as a number; exact up to 2^53. */
export function hexadecimal(text: string, from: number, to: number): number {
  let value = 0;
  for (let at = from; at < to; at += 1) {
    const code = text.charCodeAt(at);
    value = value * 16 + (code <= 0x39 ? code - ZERO : (code | 0x20) - 0x57);
  }
  return value;
}
