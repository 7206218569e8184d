// The flush timers of a policy: when is the next one due?

import type { Hypervisor } from '../../../hypervisor/index.ts';

/** One timer per virtual CPU, set when something is left pending there. */
export class FlushTimers {
  readonly #machine: Hypervisor;
  readonly #timerUs: number;
  /** Per virtual CPU: not due before this time. */
  readonly #dueUs: Float64Array;

  constructor(machine: Hypervisor) {
    this.#machine = machine;
    this.#timerUs = machine.config.policy.timerUs ?? Number.POSITIVE_INFINITY;
    this.#dueUs = new Float64Array(machine.config.vcpus).fill(Number.POSITIVE_INFINITY);
  }

  /** An operation ran on a virtual CPU. */
  ran(vcpu: number): void {
    if (this.#dueUs[vcpu] !== Number.POSITIVE_INFINITY || this.#timerUs === Number.POSITIVE_INFINITY) return;
    if (this.#machine.parts.driver.flush.ledger.uncovered(vcpu) > 0) this.#set(vcpu);
  }

  /** The virtual CPU whose timer is due first, by `untilUs`; -1 when none is. */
  next(untilUs: number): number {
    let first = -1;
    for (let vcpu = 0; vcpu < this.#dueUs.length; vcpu += 1) {
      if (this.dueUs(vcpu) > untilUs) continue;
      // What it was set for may be flushed by now, by another CPU or a full queue.
      this.#set(vcpu);
      if (this.dueUs(vcpu) <= untilUs && (first < 0 || this.dueUs(vcpu) < this.dueUs(first))) first = vcpu;
    }
    return first;
  }

  dueUs(vcpu: number): number {
    return this.#dueUs[vcpu]!;
  }

  #set(vcpu: number): void {
    const { clock, driver } = this.#machine.parts;
    const { ledger } = driver.flush;
    const isPending = ledger.uncovered(vcpu) > 0;
    this.#dueUs[vcpu] = isPending ? clock.nowUs - ledger.ageUs(vcpu) + this.#timerUs : Number.POSITIVE_INFINITY;
  }

  /** The timer of a virtual CPU has fired. A policy that did nothing about it is asked again a period later. */
  fired(vcpu: number): void {
    const { clock } = this.#machine.parts;
    this.#set(vcpu);
    if (this.dueUs(vcpu) <= clock.nowUs) this.#dueUs[vcpu] = clock.nowUs + this.#timerUs;
  }
}
