// What every operation on a batch does alike: when it ends, and how.

import { Errno } from '../../machine/errno.ts';
import { Pending } from '../../machine/pending.ts';

/**
 * Whether the operation ends before its next element: there is none, the last could not be written, this one cannot be
 * read, or something more urgent waits, which is looked for before every element but the first.
 */
export function endsHere(record: Uint32Array): boolean {
  const index = record[Pending.index]!;
  if (index === record[Pending.count] || record[Pending.result] !== 0) return true;
  if (isPreempted(record)) return true;
  if (index + 1 !== record[Pending.unreadable]) return false;
  record[Pending.result] = Errno.EFAULT;
  return true;
}

/** Whether something more urgent waits; the operation's return value says so then. */
export function isPreempted(record: Uint32Array): boolean {
  const index = record[Pending.index]!;
  if (record[Pending.preempt] === 0 || index < record[Pending.preempt]! || index === 0) return false;
  record[Pending.result] = Errno.ERESTART;
  return true;
}

/** Goes on to the next element, unless the outcome of this one could not be written. */
export function nextElement(record: Uint32Array): void {
  const index = record[Pending.index]!;
  if (index + 1 === record[Pending.unwritable]) record[Pending.result] = Errno.EFAULT;
  else record[Pending.index] = index + 1;
}
