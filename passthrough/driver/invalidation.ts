// How the driver hands invalidations to a unit: by descriptors in the queue, or by registers.
// xen: vtd/qinval.c, vtd/iommu.c.

import type { Mfn } from '../../machine/frame-number.ts';
import type { FrameTable } from '../../machine/frame-table.ts';
import { QUEUE_ENTRIES, Register, type VtdUnit } from '../hardware/index.ts';

const GRANULARITY_DOMAIN = 2;
const GRANULARITY_PAGE = 3;

// Low words of descriptors: type, then what is always set. VT-d 6.5.2.
const IOTLB = 2;
const CONTEXT_CACHE = 1;
/** Wait: status write and fence, no interrupt, status data 1. */
const WAIT = 5 | (1 << 5) | (1 << 6);

/** Whether the unit's command registers are free. Always so when it has a queue. */
export function isRegisterIdle(unit: VtdUnit): boolean {
  if (unit.queueEnabled) return true;
  return unit.readHigh(Register.CCMD) >>> 31 === 0 && unit.readHigh(unit.iotlbRegister) >>> 31 === 0;
}

/** Whether another descriptor fits in the queue: one slot stays empty, so that a full queue is not an empty one. */
export function hasRoom(unit: VtdUnit): boolean {
  return unit.queued < QUEUE_ENTRIES - 1;
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
  const { capabilities } = unit;
  const isPage = granularity === GRANULARITY_PAGE && capabilities.pageSelective && order <= capabilities.maxAddressMask;
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

/** Submits a context-cache invalidation of one device, tagged with the did of the old entry. */
export function submitContext(frames: FrameTable, unit: VtdUnit, did: number, sourceId: number): void {
  const device = 3;
  if (unit.queueEnabled) {
    return submit(frames, unit, (CONTEXT_CACHE | (device << 4) | (did << 16)) >>> 0, sourceId, 0, 0);
  }
  unit.writeRegister(Register.CCMD, ((sourceId << 16) | did) >>> 0, (0x80000000 | (device << 29)) >>> 0);
}

/** Submits a wait: when the hardware reaches it, it writes 1 to the status word. */
export function submitWait(frames: FrameTable, unit: VtdUnit, statusFrame: Mfn, word: number): void {
  submit(frames, unit, WAIT, 1, (statusFrame << 12) | (word << 2), statusFrame >>> 20);
}
