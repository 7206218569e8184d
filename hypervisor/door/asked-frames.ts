// Machine frames that an operation asks for by number: those that the allocator of a recorded machine gave.

import type { Mfn } from '../../machine/frame-number.ts';
import type { FrameTable } from '../../machine/frame-table.ts';

/** What fields ask for: one frame, or several. */
export type AskedFrames = Readonly<Record<string, number | readonly number[] | undefined>>;

/**
 * Checks that frames which an operation names are free, whether or not it will need them all: no allocator gives
 * others.
 * @throws RangeError naming the field, the frame, and whose it is.
 */
export function checkAsked(frames: FrameTable, fields: AskedFrames): void {
  const asked = new Set<number>();
  for (const [name, value] of Object.entries(fields)) {
    const list = typeof value === 'number' ? [value] : (value ?? []);
    for (const [at, frame] of list.entries()) {
      const field = typeof value === 'number' ? name : `${name}[${at}]`;
      const why = asked.has(frame) ? 'asked for twice' : whyNotFree(frames, frame);
      if (why !== null) throw new RangeError(`${field} ${frame}: expected a free frame of RAM, but it is ${why}`);
      asked.add(frame);
    }
  }
}

function whyNotFree(frames: FrameTable, frame: number): string | null {
  if (frame >= frames.ram) return `beyond the ${frames.ram} that there are`;
  return frames.isAllocated(frame) ? `domain ${frames.owner(frame as Mfn)}'s` : null;
}
