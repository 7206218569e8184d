// What devices may reach, as the grant tables and other operations ask for it: passthrough's answer to their port.

import { completeGrant, type DeviceAccess, type GrantContext, Reuse } from '../grant/index.ts';
import { errnoName } from '../machine/errno.ts';
import type { Dfn, Mfn } from '../machine/frame-number.ts';
import { DOMID_FIRST_RESERVED, type Domid, type Vcpu } from '../machine/ids.ts';
import { Progress } from '../machine/pending.ts';
import { highWord, joinWords } from '../machine/wide.ts';
import type { FlushEngine, IommuDriver } from '../passthrough/index.ts';
import type { Parts } from './parts.ts';

/** What a held-back completion is about. */
export const Completion = { grant: 1, dmaRange: 2, frame: 3 } as const;

/** Told when something that was mapped for devices becomes reusable. */
export interface ReleaseObserver {
  released(domain: Domid, dfn: Dfn, order: number): void;
}

export class DriverAccess implements DeviceAccess {
  observer: ReleaseObserver | null = null;
  /** Set once, after both ends exist. */
  grants: GrantContext | null = null;
  readonly #parts: Parts;
  readonly #driver: IommuDriver;
  readonly #flush: FlushEngine;

  constructor(parts: Parts) {
    this.#parts = parts;
    this.#driver = parts.driver;
    this.#flush = parts.driver.flush;
  }

  prepare(vcpu: Vcpu, domain: Domid, frame: number): Reuse {
    const flush = this.#flush;
    const { ledger } = flush;
    const record = ledger.findPending(domain, frame as Dfn, 0);
    if (record === 0) return Reuse.ready;
    const { onReuse } = flush.policy;
    if (onReuse === 'allow') return Reuse.ready;
    return onReuse === 'refuse' ? Reuse.refused : this.#ask(vcpu, domain, record);
  }

  settle(vcpu: Vcpu, domain: Domid, frame: Mfn): Reuse {
    const flush = this.#flush;
    if (flush.release !== 'afterFlush') return Reuse.ready;
    const record = flush.ledger.findPending(domain, frame as number as Dfn, 0);
    return record === 0 ? Reuse.ready : this.#ask(vcpu, domain, record);
  }

  /** Asks for the flush of everything that a domain's devices lost and that is held back on this CPU. */
  settleDomain(vcpu: Vcpu, domain: Domid): void {
    if (!this.holdsBack(vcpu)) return;
    this.#flush.requestDomain(vcpu, domain);
    this.#flush.requestWait(vcpu);
  }

  /** Has a removal flushed, unless somebody is at it already. */
  #ask(vcpu: Vcpu, domain: Domid, record: number): Reuse {
    const flush = this.#flush;
    const { ledger } = flush;
    const owner = ledger.vcpuOf(record);
    if (owner !== vcpu && !this.#parts.pending.isIdle(owner)) return Reuse.waiting;
    if (!flush.isIdle(vcpu)) return Reuse.flushing;
    // The whole removal, for a part of one covers nothing.
    flush.requestPage(vcpu, domain, ledger.dfnOf(record), ledger.orderOf(record), false);
    flush.requestWait(vcpu);
    return Reuse.asked;
  }

  map(vcpu: Vcpu, domain: Domid, frame: Mfn, rights: number): number {
    const done = this.#driver.map(vcpu, domain, frame as number as Dfn, frame, rights);
    return done === 0 ? 0 : this.#fail(vcpu, domain, frame, done);
  }

  unmap(vcpu: Vcpu, domain: Domid, frame: Mfn): number {
    const done = this.#driver.unmap(vcpu, domain, frame as number as Dfn, 0);
    return done >= 0 ? 0 : this.#fail(vcpu, domain, frame, done);
  }

  /** Says what a domain's devices reach at a device frame; `rights` 0: nothing. Not 0: failed, as above. */
  setFrame(vcpu: Vcpu, domain: Domid, dfn: Dfn, frame: Mfn, rights: number): number {
    const driver = this.#driver;
    const done = rights === 0 ? driver.unmap(vcpu, domain, dfn, 0) : driver.map(vcpu, domain, dfn, frame, rights);
    return done >= 0 ? 0 : this.#fail(vcpu, domain, dfn, done);
  }

  /** A domain whose device tables fail is crashed, but for the hardware domain. xen: iommu_map, iommu_unmap. */
  #fail(vcpu: Vcpu, domain: Domid, dfn: number, errno: number): number {
    const view = this.grants!.domain(domain);
    if (view && !view.privileged) this.grants!.crash(vcpu, domain, `device tables: ${errnoName(errno)} at dfn ${dfn}`);
    return errno;
  }

  isFlushed(vcpu: Vcpu): boolean {
    return this.#flush.isIdle(vcpu);
  }

  flush(vcpu: Vcpu): Progress {
    return this.#flush.step(vcpu);
  }

  elementEnd(vcpu: Vcpu): void {
    this.#flush.elementEnd(vcpu);
  }

  operationEnd(vcpu: Vcpu): void {
    this.#flush.operationEnd(vcpu);
  }

  holdsBack(vcpu: Vcpu): boolean {
    const flush = this.#flush;
    return flush.release === 'afterFlush' && flush.ledger.size(vcpu) > 0;
  }

  holdGrant(vcpu: Vcpu, granter: Domid, ref: number, halves: number, frame: Mfn, mapper: Domid): void {
    this.#flush.hold(vcpu, Completion.grant, granter, ref, halves, frame, mapper);
  }

  holdDmaRange(vcpu: Vcpu, domain: Domid, dfn: Dfn, order: number): void {
    this.#flush.hold(vcpu, Completion.dmaRange, domain, dfn, highWord(dfn), order, 0);
  }

  /** A frame without references goes back to the free ones, once what was removed before is flushed. */
  freeFrame(vcpu: Vcpu, frame: Mfn): void {
    if (this.holdsBack(vcpu)) this.#flush.hold(vcpu, Completion.frame, frame, 0, 0, 0, 0);
    else this.#free(frame);
  }

  #free(frame: Mfn): void {
    const { frames } = this.#parts;
    const owner = frames.owner(frame);
    // Of the dead, and of what was lost on its way to another domain, nothing is left.
    const isLiving = owner < DOMID_FIRST_RESERVED && this.grants?.domain(owner)?.dying === false;
    frames.free(frame, isLiving);
  }

  completeOne(vcpu: Vcpu): Progress {
    if (this.#completeOf(vcpu, vcpu)) return Progress.more;
    // A flush covers what idle CPUs removed, too, and they would not come to it before their next operation.
    const { pending } = this.#parts;
    for (let other = 0; other < pending.vcpus; other += 1) {
      if (other !== vcpu && pending.isIdle(other) && this.#completeOf(other, vcpu)) return Progress.more;
    }
    return Progress.done;
  }

  /** Lets a held-back end happen that is ready in a CPU's queue, on the CPU `by`. False when none is. */
  #completeOf(vcpu: number, by: Vcpu): boolean {
    const flush = this.#flush;
    const { ledger } = flush;
    const record = ledger.ready(vcpu, flush.release === 'onReturn');
    if (record === 0) return false;
    const a = ledger.completionArgument(record, 0) as Domid;
    const b = ledger.completionArgument(record, 1);
    const c = ledger.completionArgument(record, 2);
    const d = ledger.completionArgument(record, 3);
    const mapper = ledger.completionArgument(record, 4) as Domid;
    const kind = ledger.completionKind(record);
    // Before the completion happens: it may itself remove something, and hold back what follows from that.
    ledger.completed(vcpu, record);
    if (kind === Completion.dmaRange) this.observer?.released(a, joinWords(b, c) as Dfn, d);
    else if (kind === Completion.frame) this.#free(a as number as Mfn);
    else completeGrant(this.grants!, by, a, b, c, d as Mfn, mapper);
    return true;
  }
}
