// Records of devices and of plain accesses to memory.

import type { DmaResult, Op } from '../../../hypervisor/index.ts';
import { bytesHex, filledHex } from '../../../machine/hex.ts';
import { DOMID_INVALID, type Sbdf, sbdfText } from '../../../machine/ids.ts';
import type { RecordedDescriptor, RecordedFault } from '../recording/field-values.ts';
import { frameOf, hexOf, sbdfOf, wideOf } from './hex-value.ts';
import type { Handlers, ReplayContext } from './replay-context.ts';

const PROBE_BYTES = 16;
const PAGE_BYTES = 4096;
/** xen: XEN_DOMCTL_DEV_RDM_RELAXED. */
const RDM_RELAXED = 1;
/** Where probes lie in the device's own memory. */
const BUFFER = '0x40000';
/** Which of a domain's data frames holds the ring of the card; and the byte of a descriptor that says it is done. */
const RING_PAGE = 40;
const DONE_BYTE = 12;
/** Bytes of a probe that say whether anything was written. */
const MARK_BYTES = 8;

/** `count` bytes of a 64-bit value as they lie in memory, as hex. */
function littleEndian(value: string, count: number): string {
  const digits = value.slice(2).padStart(16, '0');
  let text = '';
  for (let at = 0; at < count; at += 1) text += digits.slice(14 - 2 * at, 16 - 2 * at);
  return text;
}

function store(context: ReplayContext, frame: number, offset: number, bytes: string): void {
  context.prepare({ op: 'store', frame, offset, bytes });
  context.contents.accept(frame);
}

const bufferName = (device: string, place: string): string => `${device} ${place}`;

/** The fault as the unit's log has it. */
function recordedFaults(dma: DmaResult | undefined, sid: Sbdf, addr: string, write: number): RecordedFault[] {
  return dma?.fault ? [{ sid: hexOf(sid), reason: dma.fault.reason, addr, write }] : [];
}

const textOf = (context: ReplayContext, frame: number, offset: number, count: number): string | null =>
  context.probe.isMemory(frame) ? bytesHex(context.probe.bytes(frame), offset, offset + count) : null;

/**
 * What the unit was told of devices as the hardware domain was made. Before that and after it Xen invalidates all, and
 * all of the domain; the model, whose caches are empty, has no such invalidations. xen: intel_iommu_hwdom_init,
 * iommu_flush_all.
 */
function toldOfDevices(told: readonly RecordedDescriptor[]): readonly RecordedDescriptor[] {
  const areAwaited = told.every(({ t }, at) => (t === 'wait') === (at % 2 === 1)) && told.length % 2 === 0;
  const own = [...told.keys()].filter((at) => told[at]!.t !== 'wait' && told[at]!.t !== 'dev-iotlb');
  const [first, last] = [own.slice(0, BEFORE.length), own.slice(-AFTER.length)];
  const says = (places: readonly number[]) => places.map((at) => `${told[at]!.t} ${told[at]!.g}`).join();
  const isBoot = areAwaited && own.length >= BEFORE.length + AFTER.length;
  if (!isBoot || says(first) !== BEFORE.join() || says(last) !== AFTER.join()) return told;
  return told.slice(2 * BEFORE.length, last[0]);
}
const BEFORE = ['cc global', 'iotlb global'];
const AFTER = ['iotlb domain', 'cc global', 'iotlb global'];

export const deviceHandlers: Handlers = {
  /** The domain is there already, and its devices are its own. */
  boot(context, { iommu }) {
    const rest = toldOfDevices(iommu);
    context.tally.skip('boot.iommu', iommu.length - rest.length);
    return { observed: {}, recorded: { iommu: rest } };
  },

  assign(context, { dom, bdf, flags = 0 }) {
    const device = sbdfOf(Number(bdf));
    const relaxed = (flags & RDM_RELAXED) !== 0;
    const op: Op = { op: 'assign_device', device, domain: dom, relaxed, flags: (flags & ~RDM_RELAXED) >>> 0 };
    return { observed: { rc: context.step(op).result } };
  },

  test_assign(context, { dom, bdf, flags = 0 }) {
    const device = sbdfOf(Number(bdf));
    const domain = dom === DOMID_INVALID ? {} : { domain: dom };
    return { observed: { rc: context.step({ op: 'test_assign_device', device, ...domain, flags }).result } };
  },

  deassign(context, { dom, bdf, flags = 0 }) {
    const device = sbdfOf(Number(bdf));
    return { observed: { rc: context.step({ op: 'deassign_device', device, domain: dom, flags }).result } };
  },

  pci_device_remove(context, { bdf }) {
    return { observed: { rc: context.step({ op: 'remove_device', device: sbdfOf(Number(bdf)) }).result } };
  },

  pci_device_add(context, { bdf }) {
    return { observed: { rc: context.step({ op: 'add_device', device: sbdfOf(Number(bdf)) }).result } };
  },

  owners: ({ probe }, { devices }) => (devices ? { observed: { devices: probe.deviceOwners() } } : undefined),

  /** The device reads into its own buffer, or writes its buffer back. A processor had stored `cpu` there before. */
  dma(context, { bdf, addr, len, w, cpu, faultKnown, owner }) {
    const device = sbdfOf(Number(bdf));
    const place = Math.floor(Number(addr) / PAGE_BYTES);
    const frame = context.windows.get(`${owner} ${place}`) ?? place;
    const address = wideOf(addr);
    const sid = context.probe.requester(device);
    const from = { device, requester: sbdfText(sid), address };
    store(context, frame, 0, cpu);
    const memory = bufferName(device, BUFFER);
    const buffer = context.deviceBuffers.get(memory);
    if (w === 0) {
      const { dma } = context.step({ op: 'dma', ...from, access: 'read', length: len });
      const bytes = dma?.bytes ?? buffer?.bytes ?? filledHex(0, PROBE_BYTES);
      context.deviceBuffers.set(memory, { bytes, stored: cpu });
      return { observed: faultKnown ? { faults: recordedFaults(dma, sid, addr, w) } : {} };
    }
    const bytes = buffer?.bytes ?? filledHex(0, PROBE_BYTES);
    const { dma } = context.step({ op: 'dma', ...from, access: 'write', bytes });
    context.contents.accept(frame);
    const mem = textOf(context, frame, 0, PROBE_BYTES);
    const mark = (text: string | null | undefined) => text?.slice(0, 2 * MARK_BYTES);
    const written = Number(mark(mem) !== mark(cpu));
    const observed = {
      mem,
      written,
      read_data_ok: written === 0 ? -1 : Number(mark(mem) === mark(buffer?.stored)),
    };
    return { observed: faultKnown ? { ...observed, faults: recordedFaults(dma, sid, addr, w) } : observed };
  },

  dma_raw(context, { bdf, addr, len, w, buffer = BUFFER }) {
    const device = sbdfOf(Number(bdf));
    const place = bufferName(device, buffer);
    const sid = context.probe.requester(device);
    const held = context.deviceBuffers.get(place)?.bytes ?? filledHex(0, len);
    // The unit is asked page by page, and the first fault is recorded.
    let bytes = '';
    let faults: RecordedFault[] = [];
    for (let done = 0; done < len && faults.length === 0; ) {
      const from = Number(addr) + done;
      const length = Math.min(len - done, PAGE_BYTES - (from % PAGE_BYTES));
      const part = held.slice(2 * done, 2 * (done + length));
      const burst = w === 0 ? ({ access: 'read', length } as const) : ({ access: 'write', bytes: part } as const);
      const { dma } = context.step({ op: 'dma', device, requester: sbdfText(sid), address: from, ...burst });
      bytes += dma?.bytes ?? part;
      faults = recordedFaults(dma, sid, hexOf(from), w);
      done += length;
    }
    if (w === 0) context.deviceBuffers.set(place, { bytes: bytes + held.slice(bytes.length), stored: held });
    return { observed: { faults } };
  },

  /** The descriptor is in the domain's memory: it asks that its fetch be reported. */
  nicgood(context, { bdf, dom, busmaster }) {
    const device = sbdfOf(Number(bdf));
    const name = context.domains.get(dom)?.data[RING_PAGE];
    if (name === undefined) {
      context.fail(`domain ${dom} has no ring`);
      return { observed: { descriptor_done_written: 0 } };
    }
    // Whether faults had it disabled depends on when they came.
    context.prepare({ op: 'set_bus_master', device, on: busmaster === 1 });
    const frame = frameOf(name);
    store(context, frame, 0, `${'00'.repeat(11)}08${'00'.repeat(52)}`);
    const address = frame * PAGE_BYTES;
    const { dma } = context.step({ op: 'dma', device, address, access: 'read', length: PROBE_BYTES });
    if (dma?.bytes) context.step({ op: 'dma', device, address: address + DONE_BYTE, access: 'write', bytes: '01' });
    context.contents.accept(frame);
    return { observed: { descriptor_done_written: Number(textOf(context, frame, DONE_BYTE, 1) === '01') } };
  },

  // When the unit is told nothing: that much is compared.
  nicdma: () => undefined,

  poke(context, { frame, off, len, val, byte }) {
    const bytes = byte !== undefined ? filledHex(byte, len) : littleEndian(val ?? '0x0', len);
    store(context, frameOf(frame), off, bytes);
    return undefined;
  },

  peek(context, { mfn, off }) {
    const bytes = textOf(context, frameOf(mfn), off, 8);
    if (bytes === null) return { observed: { val: null } };
    const digits = bytes
      .match(/../g)!
      .reverse()
      .join('')
      .replace(/^0+(?=.)/, '');
    return { observed: { val: `0x${digits}` } };
  },
};
