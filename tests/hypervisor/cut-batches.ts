// Batches that are cut short: what became of them, although the guest is not told.

import { Errno, fork, type Hypervisor, type Op, type OpResult } from '../../hypervisor/index.ts';

/** An operation that was done, and its whole outcome. */
export interface Told {
  readonly op: Op;
  readonly result: OpResult;
  /** Of a batch that was cut short: a machine that did the same part of it by itself. */
  readonly copy: Hypervisor | null;
}

/**
 * The part of a batch that was processed, as a batch of its own: it was interrupted, or the outcome of an element was
 * not written although that was done. Null: it was not cut short.
 */
function partOf(op: Op, { result, elements = [] }: OpResult): Op | null {
  if (!('elements' in op) || op.op === 'cache_flush') return null;
  const isUnwritten = result === Errno.EFAULT && op.unwritableFrom === elements.length;
  if (result !== Errno.ERESTART && !isUnwritten) return null;
  const { unreadableFrom, unwritableFrom, preemptAfter, ...rest } = op;
  return { ...rest, elements: op.elements.slice(0, elements.length + Number(isUnwritten)) } as Op;
}

/** Does an operation; of a batch that is cut short, the part that was done is told as a copy of the machine did it. */
export function doAndTell(machine: Hypervisor, op: Op): Told {
  const copy = 'unwritableFrom' in op || 'preemptAfter' in op || op.op === 'copy' ? fork(machine) : null;
  const result = machine.step(op);
  const part = partOf(op, result);
  return part && copy ? { op: part, result: copy.step(part), copy } : { op, result, copy: null };
}
