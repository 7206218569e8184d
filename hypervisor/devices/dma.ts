// What devices do: accesses, translated by their unit and performed on memory, in one step or in two.

import { Errno } from '../../machine/errno.ts';
import { type Mfn, PAGE_SIZE } from '../../machine/frame-number.ts';
import { bytesHex, hexBytes } from '../../machine/hex.ts';
import { parseSbdf, sbdfText } from '../../machine/ids.ts';
import { wideLow } from '../../machine/wide.ts';
import {
  Access,
  AdversaryCaches,
  addressFrame,
  FaultReason,
  faultReasonName,
  type MayTranslation,
  type TranslatedAccess,
  type VtdUnit,
} from '../../passthrough/index.ts';
import type { ControlState, DeviceControl } from '../control.ts';
import type { DmaResult, Op, OpResult } from '../door/op.ts';
import type { Parts } from '../parts.ts';

type AccessOp = Extract<Op, { readonly op: 'dma' | 'dma_translate' }>;

/** Words of a frame: the low 12 bits of an address, by 4 bytes. */
const WORD_OF_PAGE = 0xffc;

/** Bytes of one page that an access is about. */
interface Burst {
  readonly offset: number;
  readonly length: number;
  /** Of a write. */
  readonly bytes: Uint8Array;
}

/** The bytes that an operation names; null: it is about one word. */
function burstOf(op: AccessOp): Burst | null {
  if (op.length === undefined && op.bytes === undefined) return null;
  if (op.op === 'dma_translate') throw new TypeError('length, bytes: expected only of op dma, which is not held');
  const bytes = hexBytes(op.bytes ?? '', 'bytes');
  const length = op.access === 'read' ? (op.length ?? 4) : bytes.length;
  const offset = wideLow(op.address, 'address') & 0xfff;
  if (!Number.isInteger(length) || length < 1 || offset + length > PAGE_SIZE) {
    throw new RangeError(`length ${length}: expected 1 to ${PAGE_SIZE - offset} bytes, within the page`);
  }
  return { offset, length, bytes };
}

export class DeviceDma {
  readonly #parts: Parts;
  readonly #control: ControlState;

  constructor(parts: Parts, control: ControlState) {
    this.#parts = parts;
    this.#control = control;
  }

  /**
   * A device, or one whose phantom function is named; null: there is none. The hypervisor may know it no more, but with
   * a unit it went for good.
   */
  #find(name: string): DeviceControl | null {
    const { devices, units } = this.#control.root;
    let device = devices.find((one) => one.device === name);
    if (!device) {
      const sbdf = parseSbdf(name);
      device = devices[this.#parts.functions.findIndex(({ phantoms }) => phantoms.includes(sbdf))];
    }
    return device && units[device.unit]!.present ? device : null;
  }

  /** The id that a request carries: the device's own, or one that its bridge may put in its place. */
  #sourceId({ device, requester }: AccessOp): number {
    const own = parseSbdf(device);
    const asked = requester === undefined ? own : parseSbdf(requester);
    const { requesters } = this.#parts.functions.find(({ sbdf }) => sbdf === own) ?? { requesters: [own] };
    if (asked !== own && !requesters.includes(asked)) {
      throw new RangeError(`requester ${requester}: expected ${requesters.map(sbdfText).join(' or ')}`);
    }
    return asked % 0x10000;
  }

  /** Everything that a request of a device may get now; the tables' own answer first. */
  mayTranslate(device: string, dfn: number, sourceId = parseSbdf(device) % 0x10000): readonly MayTranslation[] {
    const found = this.#find(device);
    if (!found) throw new RangeError(`unknown device ${device}`);
    const { caches } = this.#parts.units[found.unit]!;
    if (!(caches instanceof AdversaryCaches)) throw new TypeError('mayTranslate needs the cache profile "adversary"');
    return caches.mayTranslate(sourceId, dfn);
  }

  access(op: AccessOp): OpResult {
    const device = this.#find(op.device);
    if (!device) return { result: Errno.ENODEV };
    const unit = this.#parts.units[device.unit]!;
    const access = Access[op.access];
    if (access === undefined) throw new TypeError(`access ${String(op.access)}: expected read or write`);
    const dfn = addressFrame(op.address);
    const burst = burstOf(op);
    if (!device.busMaster) return { result: 0, dma: { disabled: true } };
    const sourceId = this.#sourceId(op);
    const { frame, did } = this.#answer(op, unit, sourceId, dfn, access);
    if (frame < 0) return { result: 0, dma: { fault: { reason: -frame, name: faultReasonName(-frame) } } };
    if (burst) return { result: 0, dma: this.#performBurst(frame, access, burst) };
    const word = (wideLow(op.address, 'address') & WORD_OF_PAGE) >>> 2;
    const held = { unit: unit.index, did, sourceId, dfn, frame, access, word, value: op.value ?? 0 };
    if (op.op === 'dma') return { result: 0, dma: this.#perform(held) };
    const slot = this.#parts.dma.hold(held);
    return slot < 0 ? { result: Errno.EBUSY } : { result: 0, dma: { frame, slot } };
  }

  /** The tables' own answer, or the one of an adversarial unit's that was chosen; a fault is recorded. */
  #answer(op: AccessOp, unit: VtdUnit, sourceId: number, dfn: number, access: Access): { frame: number; did: number } {
    if (!op.choose) {
      const frame = unit.request(sourceId, dfn, access);
      return { frame, did: unit.caches.lastDid };
    }
    const choices = this.mayTranslate(op.device, dfn, sourceId);
    const chosen = choices[op.choose];
    if (!chosen) throw new RangeError(`choose ${op.choose}: expected 0 to ${choices.length - 1}`);
    if (chosen.frame >= 0 && (chosen.rights & access) !== 0) return chosen;
    const refused = access === Access.write ? FaultReason.writeNotPermitted : FaultReason.readNotPermitted;
    const reason = chosen.frame < 0 ? -chosen.frame : refused;
    unit.faults.record(reason, sourceId, dfn, access);
    return { frame: -reason, did: chosen.did };
  }

  /** The second half of an access that was translated and held. */
  perform(slot: number): OpResult {
    const held = this.#parts.dma.get(slot);
    if (!held) return { result: Errno.ENOENT };
    this.#parts.dma.release(slot);
    return { result: 0, dma: this.#perform(held) };
  }

  /** Performs some held access, as hardware does in its own time. False when none is held. */
  performAny(): boolean {
    const [held] = this.#parts.dma.all();
    return held !== undefined && this.perform(held.slot).result === 0;
  }

  /** A run of bytes in one page, translated once. */
  #performBurst(frame: number, access: Access, { offset, length, bytes }: Burst): DmaResult {
    const { frames } = this.#parts;
    if (!frames.isMemory(frame)) return { frame };
    if (access === Access.read) return { frame, bytes: bytesHex(frames.readBytes(frame, offset, length)) };
    this.#parts.pvTables.forget();
    frames.writeBytes(frame as Mfn, offset, bytes);
    return { frame };
  }

  #perform({ frame, word, access, value }: Omit<TranslatedAccess, 'slot'>): DmaResult {
    const { frames } = this.#parts;
    if (!frames.isMemory(frame)) return { frame };
    if (access === Access.read) return { frame, value: frames.readWord(frame, word) };
    // It may be a page table, where a device is let at all memory.
    this.#parts.pvTables.forget();
    frames.writeWord(frame as Mfn, word, value);
    return { frame };
  }
}
