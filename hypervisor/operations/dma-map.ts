// dma_map and dma_unmap: a domain's kernel decides what its devices reach, in a device address space of its own making.

import { completeAll, flushThen, Reuse } from '../../grant/index.ts';
import { Errno } from '../../machine/errno.ts';
import { type Dfn, type Mfn, pagesOf } from '../../machine/frame-number.ts';
import type { Domid, Vcpu } from '../../machine/ids.ts';
import { Pending, Step } from '../../machine/pending.ts';
import { joinWords } from '../../machine/wide.ts';
import type { OperationContext } from './context.ts';

/** Scratch words: first device frame, frame, pages (in `count`: 1), access rights, pages done. */
export const DmaScratch = {
  dfnLow: Pending.scratch,
  dfnHigh: Pending.scratch + 1,
  frame: Pending.scratch + 2,
  pages: Pending.scratch + 3,
  rights: Pending.scratch + 4,
  done: Pending.scratch + 5,
  pieces: Pending.scratch + 6,
} as const;

const Phase = { check: 0, page: 1, pageFlush: 2, end: 3, endFlush: 4, next: 5 } as const;

/** Pieces of an unmap between two ends, as Xen ends batches of grants: what is held back stays bounded. */
const PIECES_PER_END = 32;

function fail(record: Uint32Array, errno: number): number {
  record[Pending.result] = errno;
  return Step.done;
}

function firstDfn(record: Uint32Array): number {
  return joinWords(record[DmaScratch.dfnLow]!, record[DmaScratch.dfnHigh]!);
}

/** One micro-step of dma_map: pages go in one by one, each change flushed as the policy wishes. */
export function stepDmaMap(context: OperationContext, vcpu: Vcpu, phase: number): number {
  const { pending } = context.parts;
  const record = pending.record(vcpu);
  switch (phase) {
    case Phase.check:
      return checkMap(context, record);
    case Phase.page:
      return mapPage(context, vcpu, record);
    case Phase.pageFlush:
      return flushThen(context.access, vcpu, Phase.pageFlush, Phase.page);
    case Phase.end:
      context.access.operationEnd(vcpu);
      return Phase.endFlush;
    default:
      return completeAll(context.access, vcpu, Phase.endFlush, Step.done);
  }
}

/** Everything that can be refused is refused before anything is changed. */
function checkMap(context: OperationContext, record: Uint32Array): number {
  const { driver, frames } = context.parts;
  const domain = record[Pending.domain]! as Domid;
  const dfn = firstDfn(record);
  const frame = record[DmaScratch.frame]!;
  const pages = record[DmaScratch.pages]!;
  if (!driver.tables.exists(domain)) return fail(record, Errno.EOPNOTSUPP);
  if (pages === 0) return fail(record, Errno.EINVAL);
  if (!driver.tables.reaches((dfn + pages - 1) as Dfn)) return fail(record, Errno.ERANGE);
  for (let page = 0; page < pages; page += 1) {
    const at = (frame + page) as Mfn;
    if (!frames.isAllocated(at) || frames.owner(at) !== domain) return fail(record, Errno.EPERM);
    if (driver.tables.find(domain, (dfn + page) as Dfn, false) === 1 && (driver.tables.low & 3) !== 0) {
      return fail(record, Errno.EEXIST);
    }
  }
  return Phase.page;
}

function mapPage(context: OperationContext, vcpu: Vcpu, record: Uint32Array): number {
  const { driver } = context.parts;
  const domain = record[Pending.domain]! as Domid;
  const failed = record[Pending.result]! | 0;
  if (failed !== 0) return undoMap(context, vcpu, record, failed);
  const done = record[DmaScratch.done]!;
  if (done === record[DmaScratch.pages]!) {
    return Phase.end;
  }
  const dfn = (firstDfn(record) + done) as Dfn;
  const ready = context.access.prepare(vcpu, domain, dfn);
  if (ready === Reuse.waiting) return Step.blocked;
  if (ready === Reuse.asked) return Phase.page;
  if (ready === Reuse.flushing) return flushThen(context.access, vcpu, Phase.page, Phase.page);
  const frame = (record[DmaScratch.frame]! + done) as Mfn;
  const errno =
    ready === Reuse.refused ? Errno.EBUSY : driver.map(vcpu, domain, dfn, frame, record[DmaScratch.rights]!);
  if (errno !== 0) return undoMap(context, vcpu, record, errno);
  record[DmaScratch.done] = done + 1;
  return Phase.pageFlush;
}

/** Takes back the pages that went in before one failed. */
function undoMap(context: OperationContext, vcpu: Vcpu, record: Uint32Array, errno: number): number {
  const { driver } = context.parts;
  const domain = record[Pending.domain]! as Domid;
  const done = record[DmaScratch.done]!;
  if (done === 0) return fail(record, errno);
  driver.unmap(vcpu, domain, (firstDfn(record) + done - 1) as Dfn, 0);
  record[DmaScratch.done] = done - 1;
  record[Pending.result] = errno;
  return Phase.pageFlush;
}

/** One micro-step of dma_unmap: the range goes in the largest naturally aligned pieces. */
export function stepDmaUnmap(context: OperationContext, vcpu: Vcpu, phase: number): number {
  const { pending } = context.parts;
  const record = pending.record(vcpu);
  switch (phase) {
    case Phase.check:
      return checkUnmap(context, record);
    case Phase.page:
      return unmapPiece(context, vcpu, record);
    case Phase.pageFlush:
      return flushThen(context.access, vcpu, Phase.pageFlush, Phase.page);
    case Phase.end:
      context.access.operationEnd(vcpu);
      return Phase.endFlush;
    case Phase.endFlush:
      return completeAll(context.access, vcpu, Phase.endFlush, Phase.next);
    default:
      record[DmaScratch.pieces] = 0;
      return record[DmaScratch.done] === record[DmaScratch.pages] ? Step.done : Phase.page;
  }
}

function checkUnmap(context: OperationContext, record: Uint32Array): number {
  const { driver } = context.parts;
  if (!driver.tables.exists(record[Pending.domain]! as Domid)) return fail(record, Errno.EOPNOTSUPP);
  const end = firstDfn(record) + record[DmaScratch.pages]!;
  return end > 0 && !driver.tables.reaches((end - 1) as Dfn) ? fail(record, Errno.ERANGE) : Phase.page;
}

function unmapPiece(context: OperationContext, vcpu: Vcpu, record: Uint32Array): number {
  const { driver } = context.parts;
  const domain = record[Pending.domain]! as Domid;
  const done = record[DmaScratch.done]!;
  const left = record[DmaScratch.pages]! - done;
  const pieces = record[DmaScratch.pieces]!;
  if (left === 0 || pieces === PIECES_PER_END) return Phase.end;
  const dfn = (firstDfn(record) + done) as Dfn;
  const order = pieceOrder(dfn, left);
  const removed = driver.unmap(vcpu, domain, dfn, order);
  if (removed < 0) return fail(record, removed);
  if (removed > 0) context.access.holdDmaRange(vcpu, domain, dfn, order);
  record[Pending.result] = record[Pending.result]! + removed;
  record[DmaScratch.done] = done + pagesOf(order);
  record[DmaScratch.pieces] = pieces + 1;
  return Phase.pageFlush;
}

/** Largest order, at most 9, of an aligned block that starts at `dfn` and fits in `left` pages. */
export function pieceOrder(dfn: number, left: number): number {
  let order = 0;
  while (order < 9 && pagesOf(order + 1) <= left && (dfn & (pagesOf(order + 1) - 1)) === 0) order += 1;
  return order;
}
