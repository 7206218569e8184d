// What a policy sees of one virtual CPU, and how it asks.

import type { Dfn } from '../../../machine/frame-number.ts';
import type { Domid, Vcpu } from '../../../machine/ids.ts';
import type { Flush } from '../../policy/flush-policy.ts';
import type { FlushLedger } from './flush-ledger.ts';

/** The part of the flush engine that policies speak to. */
export interface FlushRequests {
  readonly ledger: FlushLedger;
  requestPage(vcpu: Vcpu, domain: Domid, dfn: Dfn, order: number, leavesOnly: boolean): void;
  requestDomain(vcpu: Vcpu, domain: Domid): void;
  requestGlobal(vcpu: Vcpu): void;
  requestWait(vcpu: Vcpu): void;
  isUnwaited(vcpu: Vcpu): boolean;
}

export class VcpuFlush implements Flush {
  readonly vcpu: Vcpu;
  readonly #engine: FlushRequests;

  constructor(engine: FlushRequests, vcpu: Vcpu) {
    this.#engine = engine;
    this.vcpu = vcpu;
  }

  page(domain: Domid, dfn: Dfn, order: number, options?: { readonly leavesOnly?: boolean }): void {
    this.#engine.requestPage(this.vcpu, domain, dfn, order, options?.leavesOnly ?? false);
  }

  domain(domain: Domid): void {
    this.#engine.requestDomain(this.vcpu, domain);
  }

  global(): void {
    this.#engine.requestGlobal(this.vcpu);
  }

  wait(): void {
    this.#engine.requestWait(this.vcpu);
  }

  get pendingCount(): number {
    return this.#engine.ledger.uncovered(this.vcpu);
  }

  get pendingAgeUs(): number {
    return this.#engine.ledger.ageUs(this.vcpu);
  }

  pendingDomains(): readonly Domid[] {
    return this.#engine.ledger.domains(this.vcpu);
  }

  get unwaited(): boolean {
    return this.#engine.isUnwaited(this.vcpu);
  }
}
