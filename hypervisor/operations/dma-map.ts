// dma_map and dma_unmap: a domain's kernel decides what its devices reach, in a device address space of its own making.

import { Errno } from '../../machine/errno.ts';
import type { Dfn, Mfn } from '../../machine/frame-number.ts';
import type { Domid, Vcpu } from '../../machine/ids.ts';
import { Pending, Progress } from '../../machine/pending.ts';
import type { DriverAccess } from '../device-access.ts';
import type { Parts } from '../parts.ts';

/** Scratch words: first device frame, frame, pages (in `count`: 1), access rights, pages done. */
export const DmaScratch = {
  dfnLow: Pending.scratch,
  dfnHigh: Pending.scratch + 1,
  frame: Pending.scratch + 2,
  pages: Pending.scratch + 3,
  rights: Pending.scratch + 4,
  done: Pending.scratch + 5,
} as const;

const Phase = { check: 0, page: 1, pageFlush: 2, end: 3, endFlush: 4 } as const;

/** What operations of the hypervisor's own work with. */
export interface OperationContext {
  readonly parts: Parts;
  readonly access: DriverAccess;
}

function fail(context: OperationContext, record: number, errno: number): Progress {
  context.parts.heap.write(record + Pending.result, errno);
  return Progress.done;
}

function firstDfn(context: OperationContext, record: number): number {
  const { heap } = context.parts;
  return heap.read(record + DmaScratch.dfnLow) + heap.read(record + DmaScratch.dfnHigh) * 2 ** 32;
}

/** One micro-step of dma_map: pages go in one by one, each change flushed as the policy wishes. */
export function stepDmaMap(context: OperationContext, vcpu: Vcpu): Progress {
  const { heap, pending } = context.parts;
  const record = pending.record(vcpu);
  switch (heap.read(record + Pending.phase)) {
    case Phase.check:
      return checkMap(context, record);
    case Phase.page:
      return mapPage(context, vcpu, record);
    case Phase.pageFlush:
      return flushThen(context, vcpu, record, Phase.page);
    case Phase.end:
      context.access.operationEnd(vcpu);
      heap.write(record + Pending.phase, Phase.endFlush);
      return Progress.more;
    default:
      return finish(context, vcpu);
  }
}

function flushThen(context: OperationContext, vcpu: Vcpu, record: number, phase: number): Progress {
  const progress = context.access.flush(vcpu);
  if (progress !== Progress.done) return progress;
  context.parts.heap.write(record + Pending.phase, phase);
  return Progress.more;
}

/** Everything that can be refused is refused before anything is changed. */
function checkMap(context: OperationContext, record: number): Progress {
  const { heap, driver, frames } = context.parts;
  const domain = heap.read(record + Pending.domain) as Domid;
  const dfn = firstDfn(context, record);
  const frame = heap.read(record + DmaScratch.frame);
  const pages = heap.read(record + DmaScratch.pages);
  if (!driver.tables.exists(domain)) return fail(context, record, Errno.EOPNOTSUPP);
  if (pages === 0) return fail(context, record, Errno.EINVAL);
  if (!driver.tables.reaches((dfn + pages - 1) as Dfn)) return fail(context, record, Errno.ERANGE);
  for (let page = 0; page < pages; page += 1) {
    const at = (frame + page) as Mfn;
    if (!frames.isAllocated(at) || frames.owner(at) !== domain) return fail(context, record, Errno.EPERM);
    if (driver.tables.find(domain, (dfn + page) as Dfn, false) === 1 && (driver.tables.low & 3) !== 0) {
      return fail(context, record, Errno.EEXIST);
    }
  }
  heap.write(record + Pending.phase, Phase.page);
  return Progress.more;
}

function mapPage(context: OperationContext, vcpu: Vcpu, record: number): Progress {
  const { heap, driver } = context.parts;
  const domain = heap.read(record + Pending.domain) as Domid;
  const failed = heap.read(record + Pending.result) | 0;
  if (failed !== 0) return undoMap(context, vcpu, record, failed);
  const done = heap.read(record + DmaScratch.done);
  if (done === heap.read(record + DmaScratch.pages)) {
    heap.write(record + Pending.phase, Phase.end);
    return Progress.more;
  }
  const dfn = (firstDfn(context, record) + done) as Dfn;
  const ready = context.access.prepare(vcpu, domain, dfn);
  if (ready === Progress.more) {
    const progress = context.access.flush(vcpu);
    return progress === Progress.done ? Progress.more : progress;
  }
  const frame = (heap.read(record + DmaScratch.frame) + done) as Mfn;
  const errno =
    ready === Progress.blocked
      ? Errno.EBUSY
      : driver.map(vcpu, domain, dfn, frame, heap.read(record + DmaScratch.rights));
  if (errno !== 0) return undoMap(context, vcpu, record, errno);
  heap.write(record + DmaScratch.done, done + 1);
  heap.write(record + Pending.phase, Phase.pageFlush);
  return Progress.more;
}

/** Takes back the pages that went in before one failed. */
function undoMap(context: OperationContext, vcpu: Vcpu, record: number, errno: number): Progress {
  const { heap, driver } = context.parts;
  const domain = heap.read(record + Pending.domain) as Domid;
  const done = heap.read(record + DmaScratch.done);
  if (done === 0) return fail(context, record, errno);
  driver.unmap(vcpu, domain, (firstDfn(context, record) + done - 1) as Dfn, 0);
  heap.write(record + DmaScratch.done, done - 1);
  heap.write(record + Pending.result, errno);
  heap.write(record + Pending.phase, Phase.pageFlush);
  return Progress.more;
}

function finish(context: OperationContext, vcpu: Vcpu): Progress {
  const progress = context.access.flush(vcpu);
  return progress === Progress.done ? context.access.completeOne(vcpu) : progress;
}

/** One micro-step of dma_unmap: the range goes in the largest naturally aligned pieces. */
export function stepDmaUnmap(context: OperationContext, vcpu: Vcpu): Progress {
  const { heap, pending } = context.parts;
  const record = pending.record(vcpu);
  switch (heap.read(record + Pending.phase)) {
    case Phase.check:
      if (!context.parts.driver.tables.exists(heap.read(record + Pending.domain) as Domid)) {
        return fail(context, record, Errno.EOPNOTSUPP);
      }
      heap.write(record + Pending.phase, Phase.page);
      return Progress.more;
    case Phase.page:
      return unmapPiece(context, vcpu, record);
    case Phase.pageFlush:
      return flushThen(context, vcpu, record, Phase.page);
    case Phase.end:
      context.access.operationEnd(vcpu);
      heap.write(record + Pending.phase, Phase.endFlush);
      return Progress.more;
    default:
      return finish(context, vcpu);
  }
}

function unmapPiece(context: OperationContext, vcpu: Vcpu, record: number): Progress {
  const { heap, driver } = context.parts;
  const domain = heap.read(record + Pending.domain) as Domid;
  const done = heap.read(record + DmaScratch.done);
  const left = heap.read(record + DmaScratch.pages) - done;
  if (left === 0) {
    heap.write(record + Pending.phase, Phase.end);
    return Progress.more;
  }
  const dfn = (firstDfn(context, record) + done) as Dfn;
  const order = pieceOrder(dfn, left);
  const removed = driver.unmap(vcpu, domain, dfn, order);
  if (removed > 0) context.access.holdDmaRange(vcpu, domain, dfn, order);
  heap.write(record + Pending.result, heap.read(record + Pending.result) + removed);
  heap.write(record + DmaScratch.done, done + 2 ** order);
  heap.write(record + Pending.phase, Phase.pageFlush);
  return Progress.more;
}

/** Largest order, at most 9, of an aligned block that starts at `dfn` and fits in `left` pages. */
export function pieceOrder(dfn: number, left: number): number {
  let order = 0;
  while (order < 9 && 2 ** (order + 1) <= left && (dfn & (2 ** (order + 1) - 1)) === 0) order += 1;
  return order;
}
