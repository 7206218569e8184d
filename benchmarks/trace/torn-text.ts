// What torn ftrace text looks like, and how errors quote it.

import type { FtraceEvent } from './ftrace-events.ts';

const SNIPPET_CHARS = 60;

/** A piece of text, shortened, in quotes, control characters and foreign bytes escaped. */
export function snippet(text: string): string {
  const start = text.length > SNIPPET_CHARS ? `${text.slice(0, SNIPPET_CHARS)}...` : text;
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  return `"${start.replace(/[\x00-\x1f\x7f-\xff]/g, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, '0')}`)}"`;
}

/** The first forms of an event, for an error message: what is forgotten by its type, what is kept by its name. */
export function expectedForms(event: FtraceEvent): string {
  const readable = (template: string) =>
    template.replace(/\{(\w*):(\w+)\}/g, (_, name: string, type: string) => `<${name || type}>`);
  const forms = event.forms.slice(0, 2).map(({ template }) => `"${readable(template)}"`);
  return `${event.name}: ${forms.join(' or ')}`;
}

/** From the dash before the process id to the colon after the time. */
const PREFIX_INSIDE = /-\d+\s+(?:\([\s\d-]*\)\s+)?\[\d+\]\s+(?:\S+\s+)?\d+\.\d{6}:/;

/** Whether the start of an event line is somewhere in a text that should hold none: two lines were joined. */
export function holdsEvent(text: string): boolean {
  return text.includes('] ') && PREFIX_INSIDE.test(text);
}

/** What a comment says about the buffer: null for any other comment, `torn` where the two numbers make no sense. */
export function bufferEntries(comment: string): { held: number; written: number } | 'torn' | null {
  if (!comment.includes('entries-in-buffer/entries-written')) return null;
  const entries = /entries-in-buffer\/entries-written:\s*(\d+)\/(\d+)(?=\s|$)/.exec(comment);
  const [held, written] = [Number(entries?.[1]), Number(entries?.[2])];
  return held <= written ? { held, written } : 'torn';
}
