// Payload forms: what an event's text looks like, written as a template and compiled once.
//
// A template is literal text with fields `{name:type}`; `{:type}` is matched and forgotten. Types:
//
//   dec    1 or more decimal digits            hex    `0x` and hexadecimal digits
//   int    dec with an optional minus sign     bare   hexadecimal digits without `0x`
//   label  up to a blank, `:` or `/`           word   up to a blank
//   name   a device's name: `"quoted"`, or up to a blank or `[`
//   where  `(...)`, as a probe prints its place
//   flags  up to a blank, perhaps nothing
//   pairs  `key=value` words up to the end, a value in braces whole; also `[TRUNCATED]`
//   rest   free text: whatever follows, perhaps nothing

/** The fields that forms can name, in the order of their slots. */
const FIELDS = [
  'iova',
  'end',
  'paddr',
  'size',
  'unmapped',
  'device',
  'space',
  'pageSize',
  'pageCount',
  'prot',
  'type',
  'unit',
  'word0',
  'word1',
  'word2',
  'word3',
  'text',
] as const;

export type FieldName = (typeof FIELDS)[number];

type FieldType = 'dec' | 'int' | 'hex' | 'bare' | 'label' | 'word' | 'name' | 'where' | 'flags' | 'pairs' | 'rest';

/** Where each field of the form matched last lies in the text. Reused from line to line: read before the next match. */
export class FieldSpans {
  readonly from = new Int32Array(FIELDS.length);
  readonly to = new Int32Array(FIELDS.length);
}

/** Slot of each field in {@link FieldSpans}. */
export const SLOT = Object.fromEntries(FIELDS.map((name, slot) => [name, slot])) as Readonly<Record<FieldName, number>>;

/** Literal text, then a field. */
interface Token {
  readonly literal: string;
  /** A field that is a run of characters of these classes; 0 for one that `fieldEnd` measures. */
  readonly classes: number;
  /** Null for a run, and at the end of a template, where no field is left. */
  readonly fieldEnd: FieldEnd | null;
  /** Where the field's span goes; -1 for a field to forget. */
  readonly slot: number;
  /** The field may be in quotes, which are left out of its span. */
  readonly quotable: boolean;
}

/** How far a field reaches from a position: the position after it, or -1. */
type FieldEnd = (text: string, from: number, end: number) => number;

/** A compiled template. */
export interface PayloadForm {
  readonly template: string;
  readonly tokens: readonly Token[];
  /** Fields that a match fills in. */
  readonly fields: ReadonlySet<FieldName>;
  /** Ends in free text, which could hide another line. */
  readonly free: boolean;
}

const DIGIT = 1;
const HEX = 2;
const WORD = 4;
const LABEL = 8;
const NAME = 16;

/** For each latin-1 character, the classes it belongs to. */
const CLASSES = new Uint8Array(256);
for (let code = 0; code < 256; code += 1) {
  const char = String.fromCharCode(code);
  if (code <= 0x20) continue;
  CLASSES[code] =
    (/[0-9]/.test(char) ? DIGIT : 0) |
    (/[0-9a-fA-F]/.test(char) ? HEX : 0) |
    WORD |
    (/[:/]/.test(char) ? 0 : LABEL) |
    (/[["]/.test(char) ? 0 : NAME);
}

/** End of the run of characters of a class, or -1 when there is none at all. */
function runEnd(text: string, from: number, end: number, mask: number): number {
  let at = from;
  while (at < end && ((CLASSES[text.charCodeAt(at) & 0xff] as number) & mask) !== 0) at += 1;
  return at === from ? -1 : at;
}

/** Position after the next `closing` (a character code), or -1. */
function closedBy(text: string, from: number, end: number, closing: number): number {
  let at = from;
  while (at < end && text.charCodeAt(at) !== closing) at += 1;
  return at < end ? at + 1 : -1;
}

const QUOTE = 0x22;
const CLOSING_PARENTHESIS = 0x29;
const PAIRS = /^(?:\w+=(?:\{[^\s{}]*\}|[^\s{}]*)|\[TRUNCATED\])(?: (?:\w+=(?:\{[^\s{}]*\}|[^\s{}]*)|\[TRUNCATED\]))*$/;

/** Each type: literal text that comes first, then a run of a class, or a measure of its own. */
const FIELD_TYPES: Readonly<Record<FieldType, { before?: string; classes?: number; fieldEnd?: FieldEnd }>> = {
  dec: { classes: DIGIT },
  hex: { before: '0x', classes: HEX },
  bare: { classes: HEX },
  label: { classes: LABEL },
  word: { classes: WORD },
  int: { fieldEnd: (text, from, end) => runEnd(text, text[from] === '-' ? from + 1 : from, end, DIGIT) },
  name: {
    fieldEnd: (text, from, end) =>
      text.charCodeAt(from) === QUOTE ? closedBy(text, from + 1, end, QUOTE) : runEnd(text, from, end, NAME),
  },
  where: { before: '(', fieldEnd: (text, from, end) => closedBy(text, from, end, CLOSING_PARENTHESIS) },
  flags: { fieldEnd: (text, from, end) => Math.max(from, runEnd(text, from, end, WORD)) },
  pairs: { fieldEnd: (text, from, end) => (PAIRS.test(text.slice(from, end)) ? end : -1) },
  rest: { fieldEnd: (_text, _from, end) => end },
};

/**
 * Compiles a template.
 * @throws TypeError when a field's name or type is not known.
 */
export function payloadForm(template: string): PayloadForm {
  const tokens: Token[] = [];
  const fields = new Set<FieldName>();
  const parts = template.split(/\{(\w*):(\w+)\}/); // literal, name, type, literal, name, type, ..., literal
  for (let part = 0; part < parts.length; part += 3) {
    const [literal = '', name = '', type] = parts.slice(part, part + 3);
    const slot = name === '' ? -1 : FIELDS.indexOf(name as FieldName);
    if (type === undefined) {
      tokens.push({ literal, classes: 0, fieldEnd: null, slot, quotable: false });
    } else {
      if (!(type in FIELD_TYPES) || (name !== '' && slot < 0)) {
        throw new TypeError(`payload form "${template}": unknown field {${name}:${type}}`);
      }
      if (slot >= 0) fields.add(name as FieldName);
      const { before = '', classes = 0, fieldEnd = null } = FIELD_TYPES[type as FieldType];
      tokens.push({ literal: literal + before, classes, fieldEnd, slot, quotable: type === 'name' });
    }
  }
  return { template, tokens, fields, free: template.endsWith(':rest}') };
}

/**
 * Whether `text[from..end)` has the form, whole. Fills the spans of its fields: without quotes, and for `hex` without
 * the `0x`.
 */
export function matchForm(form: PayloadForm, text: string, from: number, end: number, spans: FieldSpans): boolean {
  let at = from;
  for (const { literal, classes, fieldEnd, slot, quotable } of form.tokens) {
    if (!text.startsWith(literal, at)) return false;
    at += literal.length;
    let next: number;
    if (classes !== 0) next = runEnd(text, at, end, classes);
    else if (fieldEnd !== null) next = at > end ? -1 : fieldEnd(text, at, end);
    else break;
    if (next < 0) return false;
    if (slot >= 0) {
      const quote = quotable && text.charCodeAt(at) === QUOTE ? 1 : 0;
      spans.from[slot] = at + quote;
      spans.to[slot] = next - quote;
    }
    at = next;
  }
  return at === end;
}

/** Whether `text[from..end)` is the start of a payload of the form, and ends before the form does: a line cut short. */
export function isCutForm(form: PayloadForm, text: string, from: number, end: number): boolean {
  let at = from;
  for (const { literal, classes, fieldEnd } of form.tokens) {
    if (!text.startsWith(literal, at)) return literal.startsWith(text.slice(at, end));
    at += literal.length;
    if (classes === 0 && fieldEnd === null) return false;
    const next = classes !== 0 ? runEnd(text, at, end, classes) : (fieldEnd as FieldEnd)(text, at, end);
    if (next < 0)
      return at === end || text[at - 1] === '(' || text.charCodeAt(at) === QUOTE || text.slice(at, end) === '-';
    at = next;
  }
  return false;
}
