// Records of devices and of plain accesses to memory.

import type { DmaResult } from '../../../hypervisor/index.ts';
import { bytesHex, filledHex } from '../../../machine/hex.ts';
import type { RecordedFault } from '../recording/record-fields.ts';
import { frameOf, sbdfOf, wideOf } from './hex-value.ts';
import type { Handlers, ReplayContext } from './replay-context.ts';

const PROBE_BYTES = 16;
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

/** The fault as the unit's log has it. */
function recordedFaults(dma: DmaResult | undefined, bdf: string, addr: string, write: number): RecordedFault[] {
  return dma?.fault ? [{ sid: bdf, reason: dma.fault.reason, addr, write }] : [];
}

const textOf = (context: ReplayContext, frame: number, offset: number, count: number): string | null =>
  context.probe.isMemory(frame) ? bytesHex(context.probe.bytes(frame), offset, offset + count) : null;

export const deviceHandlers: Handlers = {
  assign(context, { dom, bdf }) {
    const device = sbdfOf(Number(bdf));
    return { observed: { rc: context.step({ op: 'assign_device', device, domain: dom }).result } };
  },

  deassign(context, { dom, bdf }) {
    const device = sbdfOf(Number(bdf));
    return { observed: { rc: context.step({ op: 'deassign_device', device, domain: dom }).result } };
  },

  /** The device reads into its own buffer, or writes its buffer back. A processor had stored `cpu` there before. */
  dma(context, { bdf, addr, len, w, cpu, faultKnown }) {
    const device = sbdfOf(Number(bdf));
    const frame = Math.floor(Number(addr) / 4096);
    const address = wideOf(addr);
    store(context, frame, 0, cpu);
    const buffer = context.deviceBuffers.get(device);
    if (w === 0) {
      const { dma } = context.step({ op: 'dma', device, address, access: 'read', length: len });
      const bytes = dma?.bytes ?? buffer?.bytes ?? filledHex(0, PROBE_BYTES);
      context.deviceBuffers.set(device, { bytes, stored: cpu });
      return { observed: faultKnown ? { faults: recordedFaults(dma, bdf, addr, w) } : {} };
    }
    const bytes = buffer?.bytes ?? filledHex(0, PROBE_BYTES);
    const { dma } = context.step({ op: 'dma', device, address, access: 'write', bytes });
    context.contents.accept(frame);
    const mem = textOf(context, frame, 0, PROBE_BYTES);
    const mark = (text: string | null | undefined) => text?.slice(0, 2 * MARK_BYTES);
    const written = Number(mark(mem) !== mark(cpu));
    const observed = {
      mem,
      written,
      read_data_ok: written === 0 ? -1 : Number(mark(mem) === mark(buffer?.stored)),
    };
    return { observed: faultKnown ? { ...observed, faults: recordedFaults(dma, bdf, addr, w) } : observed };
  },

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
