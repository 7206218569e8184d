// Device TLBs of a flush: which of them an invalidation concerns, what they are told, and what becomes of one that does
// not answer. xen: vtd/qinval.c dev_invalidate_iotlb, dev_invalidate_sync; pci.c iommu_dev_iotlb_flush_timeout.

import type { FrameTable } from '../../../machine/frame-table.ts';
import type { Domid, Vcpu } from '../../../machine/ids.ts';
import { Register, type VtdUnit } from '../../hardware/index.ts';
import type { Contexts } from '../contexts.ts';
import type { DomainIds } from '../domain-ids.ts';
import { submitDeviceTlb } from './invalidation.ts';

/** FSTS.ITE: written, it is cleared. */
const TIMEOUT = 1 << 6;

/**
 * What the driver does about a device TLB that does not answer: waits on; or uses it no more, and says so (its unit,
 * source id, and the domain whose translations it had).
 */
export type DeviceTlbTimeout = 'spins' | 'disabled';
export type TimeoutObserver = (vcpu: Vcpu, unit: number, source: number, domain: Domid | -1) => void;

export class DeviceTlbFlush {
  /** Told when a device TLB is given up. */
  observer: TimeoutObserver | null = null;
  /** Whether a device that does not answer is given up. */
  readonly givesUp: boolean;
  readonly #frames: FrameTable;
  readonly #units: readonly VtdUnit[];
  readonly #ids: readonly DomainIds[];
  readonly #contexts: Contexts;

  constructor(options: {
    readonly frames: FrameTable;
    readonly units: readonly VtdUnit[];
    readonly ids: readonly DomainIds[];
    readonly contexts: Contexts;
    readonly onTimeout: DeviceTlbTimeout;
  }) {
    this.#frames = options.frames;
    this.#units = options.units;
    this.#ids = options.ids;
    this.#contexts = options.contexts;
    this.givesUp = options.onTimeout === 'disabled';
  }

  get areThere(): boolean {
    return this.#contexts.hasDeviceTlbs;
  }

  /** The next device TLB behind a unit, from the `from`-th on, that keeps what goes by a did (-1: any); -1: none. */
  next(unit: number, did: number, from: number): number {
    return this.#contexts.nextDeviceTlb(unit, did, from);
  }

  /** A device's new context is in force: by it the device may keep translations. xen: domain_context_mapping. */
  attached(unit: number, source: number): void {
    if (this.#contexts.didOf(unit, source) >= 0) this.#contexts.enableDeviceTlb(unit, source, true);
  }

  /** Tells one of 2^order pages (-1: of everything). */
  tell(unit: number, device: number, dfn: number, order: number): void {
    submitDeviceTlb(this.#frames, this.#units[unit]!, this.#contexts.deviceTlbSource(device), dfn, order);
  }

  /** The device that a CPU told last did not answer in time: it is given up, and the unit's queue goes on. */
  giveUp(vcpu: Vcpu, unit: number, device: number): boolean {
    const { faults } = this.#units[unit]!;
    if (!this.givesUp || device < 0 || !faults.timedOut) return false;
    const source = this.#contexts.deviceTlbSource(device);
    if (faults.timeoutSource !== source) return false;
    const did = this.#contexts.didOf(unit, source);
    this.#contexts.giveUpDeviceTlb(device);
    this.#units[unit]!.writeRegister(Register.FSTS, TIMEOUT);
    this.observer?.(vcpu, unit, source, did < 0 ? -1 : this.#ids[unit]!.domainOf(did));
    return true;
  }
}
