// How the driver hands invalidations to a unit: by descriptors in the queue, or by registers.
// xen: vtd/qinval.c, vtd/iommu.c.

import { HypervisorBug } from '../../../machine/errors.ts';
import { type Mfn, PAGE_WORDS, pagesOf } from '../../../machine/frame-number.ts';
import type { FrameTable } from '../../../machine/frame-table.ts';
import { DOMID_XEN, type Vcpu } from '../../../machine/ids.ts';
import { QUEUE_ENTRIES, Register, type VtdUnit } from '../../hardware/index.ts';

const GRANULARITY_DOMAIN = 2;
const GRANULARITY_PAGE = 3;

// Low words of descriptors: type, then what is always set. VT-d 6.5.2.
const IOTLB = 2;
const CONTEXT_CACHE = 1;
const DEVICE_TLB = 3;
/** Wait: status write and fence, no interrupt, status data 1. */
const WAIT = 5 | (1 << 5) | (1 << 6);

/** GCMD.WBF. */
const WRITE_BUFFER_FLUSH = 1 << 27;

/** Whether the unit's command registers are free. Always so when it has a queue. */
export function isRegisterIdle(unit: VtdUnit): boolean {
  if (unit.queueEnabled) return true;
  return unit.readHigh(Register.CCMD) >>> 31 === 0 && unit.readHigh(unit.iotlbRegister) >>> 31 === 0;
}

/** Whether another descriptor fits in the queue: one slot stays empty, so that a full queue is not an empty one. */
export function hasRoom(unit: VtdUnit): boolean {
  return unit.queued < QUEUE_ENTRIES - 1;
}

/** Whether the unit can invalidate 2^order pages and no more. */
export function isPageSelective(unit: VtdUnit, order: number): boolean {
  return unit.capabilities.pageSelective && order <= unit.capabilities.maxAddressMask;
}

function submit(frames: FrameTable, unit: VtdUnit, w0: number, w1: number, w2: number, w3: number): void {
  const tail = unit.queueTail;
  if (!unit.writeOwnQueue(tail, w0, w1, w2, w3)) frames.writeWideEntry(unit.queueFrame as Mfn, tail, w0, w1, w2, w3);
  unit.writeRegister(Register.IQT, ((tail + 1) & (QUEUE_ENTRIES - 1)) << 4);
}

/**
 * Submits an IOTLB invalidation, drains set where the unit has them. A page-selective one that the unit cannot do
 * becomes domain-selective (xen: vtd_flush_iotlb_page, MAMV).
 */
export function submitIotlb(
  frames: FrameTable,
  unit: VtdUnit,
  granularity: number,
  did: number,
  dfn: number,
  order: number,
  leavesOnly: boolean,
): void {
  const isPage = granularity === GRANULARITY_PAGE && isPageSelective(unit, order);
  const by = granularity === GRANULARITY_PAGE && !isPage ? GRANULARITY_DOMAIN : granularity;
  const addressLow = isPage ? (dfn << 12) | (leavesOnly ? 1 << 6 : 0) | order : 0;
  const addressHigh = isPage ? (dfn < 0x100000 ? 0 : Math.floor(dfn / 0x100000)) : 0;
  const { drains } = unit;
  if (unit.queueEnabled) {
    return submit(frames, unit, IOTLB | (by << 4) | (drains << 6) | (did << 16), 0, addressLow, addressHigh);
  }
  unit.writeRegister(unit.iotlbRegister - 8, addressLow, addressHigh);
  unit.writeRegister(unit.iotlbRegister, 0, (0x80000000 | (by << 28) | (drains << 16) | did) >>> 0);
}

/** Flushes the unit's write buffer by command. xen: iommu_flush_write_buffer. */
export function flushBuffer(unit: VtdUnit): void {
  unit.writeRegister(Register.GCMD, (unit.readLow(Register.GSTS) | WRITE_BUFFER_FLUSH) >>> 0);
}

/** Submits a context-cache invalidation of one device, tagged with the did of the old entry. */
export function submitContext(frames: FrameTable, unit: VtdUnit, did: number, sourceId: number): void {
  const device = 3;
  if (unit.queueEnabled) {
    return submit(frames, unit, (CONTEXT_CACHE | (device << 4) | (did << 16)) >>> 0, sourceId, 0, 0);
  }
  unit.writeRegister(Register.CCMD, ((sourceId << 16) | did) >>> 0, (0x80000000 | (device << 29)) >>> 0);
}

/**
 * Submits the invalidation of a device's own TLB: 2^order pages, or everything (`order` -1, or one that the unit cannot
 * invalidate as pages). In the address of more than one page the lowest 0 bit says how many. VT-d 6.5.2.5.
 */
export function submitDeviceTlb(frames: FrameTable, unit: VtdUnit, sourceId: number, dfn: number, order: number): void {
  if (order < 0 || !isPageSelective(unit, order)) {
    return submit(frames, unit, DEVICE_TLB, sourceId, 0xfffff001, 0x7fffffff);
  }
  const first = order === 0 ? dfn : dfn + pagesOf(order - 1) - 1;
  const low = ((first << 12) | (order === 0 ? 0 : 1)) >>> 0;
  submit(frames, unit, DEVICE_TLB, sourceId, low, Math.floor(first / 0x100000));
}

/** Waits for what units were sent: what the hardware writes when it comes to a wait lies in a frame of the driver's. */
export class Waits {
  readonly #frames: FrameTable;
  readonly #units: readonly VtdUnit[];
  /** One word per (vCPU, unit). */
  readonly #status: Mfn;

  /** @throws RangeError when there is no memory for the frame. */
  constructor(frames: FrameTable, units: readonly VtdUnit[]) {
    this.#frames = frames;
    this.#units = units;
    const frame = frames.allocate(DOMID_XEN, { xenHeap: true });
    if (frame < 0) throw new RangeError('frames: expected room for the invalidation status');
    this.#status = frame as Mfn;
  }

  canSubmit(unit: number): boolean {
    const on = this.#units[unit]!;
    return !on.queueEnabled || hasRoom(on);
  }

  /** Submits a wait. By register there is none: the commands themselves say when they are done. */
  submit(vcpu: Vcpu, unit: number): void {
    const on = this.#units[unit]!;
    if (!on.queueEnabled) return;
    const word = this.#word(vcpu, unit);
    this.#frames.writeWord(this.#status, word, 0);
    submit(this.#frames, on, WAIT, 1, (this.#status << 12) | (word << 2), this.#status >>> 20);
  }

  /** Whether a unit has done everything that the CPU sent it before its last wait. */
  isOver(vcpu: Vcpu, unit: number): boolean {
    const on = this.#units[unit]!;
    return on.queueEnabled ? this.#frames.readWord(this.#status, this.#word(vcpu, unit)) === 1 : isRegisterIdle(on);
  }

  /**
   * Submits a CPU's wait again that will never be over, as the unit gave it up with the device TLB before it. False
   * when it may yet be.
   */
  repeat(vcpu: Vcpu, unit: number): boolean {
    const on = this.#units[unit]!;
    if (!on.queueEnabled || !on.isAtRest || this.isOver(vcpu, unit)) return false;
    this.submit(vcpu, unit);
    return true;
  }

  #word(vcpu: Vcpu, unit: number): number {
    const word = vcpu * this.#units.length + unit;
    if (word >= PAGE_WORDS) throw new HypervisorBug('F3', `no status word for vCPU ${vcpu} and unit ${unit}`);
    return word;
  }
}
