// Operations on memory and domains between the door and the pending record.

import type { GrantContext } from '../../grant/index.ts';
import { Errno } from '../../machine/errno.ts';
import { type Mfn, PAGE_SIZE } from '../../machine/frame-number.ts';
import { hexBytes } from '../../machine/hex.ts';
import { DOMID_IO, DOMID_SELF, DOMID_XEN, type Domid, type Vcpu } from '../../machine/ids.ts';
import { ARGUMENT_WORDS, ARGUMENTS } from '../../machine/pending.ts';
import { wideHigh, wideLow } from '../../machine/wide.ts';
import type { DomainControl } from '../control.ts';
import { Pte } from '../memory/pv-tables.ts';
import { TableScratch } from '../operations/page-tables.ts';
import { ExtentWords, MapSpace, ReservationScratch } from '../operations/reservation.ts';
import type { Parts } from '../parts.ts';
import { checkAsked } from './asked-frames.ts';
import type { MemoryOp } from './memory-op.ts';
import type { OpResult } from './op.ts';
import { type VcpuOpName, vcpuOpCode } from './vcpu-ops.ts';

/** Memory operations that run in micro-steps. */
export type MemoryStepOp = Exclude<MemoryOp, { op: 'create_domain' | 'store' | 'destroy_domain' }>;
type Of<Name extends MemoryOp['op']> = Extract<MemoryOp, { op: Name }>;

const ORDER_MAX = 18;

export class MemoryCalls {
  readonly #parts: Parts;
  readonly #context: GrantContext;
  readonly #domain: (domain: number) => DomainControl | null;

  constructor(parts: Parts, context: GrantContext, domain: (domain: number) => DomainControl | null) {
    this.#parts = parts;
    this.#context = context;
    this.#domain = domain;
  }

  place(op: MemoryStepOp, vcpu: Vcpu): Vcpu | OpResult {
    const caller = this.#domain(op.domain);
    if (!caller) return { result: Errno.ESRCH };
    switch (op.op) {
      case 'update_va_mapping':
      case 'map_foreign':
      case 'pin_table':
      case 'unpin_table':
        return caller.kind === 'hvm' ? { result: Errno.EOPNOTSUPP } : this.#placeTable(op, vcpu, caller);
      case 'decrease_reservation':
        return this.#placeExtents(op, vcpu, op.frames, 0, []);
      case 'populate_physmap':
      case 'increase_reservation':
        return this.#placeExtents(op, vcpu, op.gfns, op.order ?? 0, op.allocate ?? []);
      default:
        return this.#placePhysmap(op, vcpu);
    }
  }

  #open(op: MemoryStepOp, vcpu: Vcpu, count: number): Uint32Array {
    return this.#parts.pending.open(vcpu, vcpuOpCode(op.op), op.domain, count);
  }

  #placeTable(
    op: Of<'update_va_mapping' | 'map_foreign' | 'pin_table' | 'unpin_table'>,
    vcpu: Vcpu,
    caller: DomainControl,
  ): Vcpu | OpResult {
    if (op.op === 'map_foreign') {
      if (!caller.hardware) return { result: Errno.EPERM };
      if (this.#foreignOwner(op) === null) return { result: Errno.ESRCH };
    }
    const record = this.#open(op, vcpu, 0);
    if ('address' in op) {
      record[TableScratch.addressLow] = wideLow(op.address, 'address');
      record[TableScratch.addressHigh] = wideHigh(op.address, 'address');
    }
    if (op.op === 'update_va_mapping') {
      record[TableScratch.entryLow] = wideLow(op.entry, 'entry');
      record[TableScratch.entryHigh] = wideHigh(op.entry, 'entry');
    } else if (op.op === 'map_foreign') {
      const rights = op.writable ? Pte.writable : 0;
      record[TableScratch.entryLow] = op.frame ?? 0;
      record[TableScratch.entryHigh] = op.frame === null ? 0 : Pte.present | Pte.user | Pte.accessedDirty | rights;
      record[TableScratch.owner] = this.#foreignOwner(op)!;
    } else record[TableScratch.frame] = op.frame;
    if (op.op === 'pin_table') record[TableScratch.level] = op.level;
    return vcpu;
  }

  /** Where a translated domain ends is the model's to say, not Xen's: nothing is lost there without a word. */
  #checkGfns(domain: Domid, gfns: readonly number[], order: number): void {
    if (this.#context.domain(domain)?.kind !== 'hvm') return;
    const end = this.#parts.p2m.gfns - (1 << order);
    const at = gfns.findIndex((gfn) => gfn > end);
    if (at >= 0) throw new RangeError(`gfns[${at}] ${gfns[at]}: expected 0 to ${end} (option gfns)`);
  }

  /** Whose frame a map_foreign is about; of I/O memory, and of DOMID_SELF, the caller. xen: get_pg_owner. */
  #foreignOwner(op: Of<'map_foreign'>): number | null {
    if (op.owner === DOMID_SELF) return op.domain;
    if (op.owner === op.domain) return null;
    const isSystem = op.owner === DOMID_IO || op.owner === DOMID_XEN;
    return isSystem || this.#context.domain(op.owner as Domid) !== null ? op.owner : null;
  }

  #placeExtents(
    op: Of<'decrease_reservation' | 'populate_physmap' | 'increase_reservation'>,
    vcpu: Vcpu,
    numbers: readonly number[],
    order: number,
    allocate: readonly number[],
  ): Vcpu | OpResult {
    const { pending } = this.#parts;
    if (numbers.length > pending.elementsMax) {
      throw new RangeError(`${numbers.length} extents: expected at most ${pending.elementsMax} (option batchMax)`);
    }
    if (order > ORDER_MAX) {
      throw new RangeError(`order ${order}: expected 0 to ${ORDER_MAX}`);
    }
    if (op.op === 'populate_physmap') this.#checkGfns(op.domain as Domid, numbers, order);
    if ('argument' in op && op.argument && op.argument !== 'mapped') return { result: Errno.EFAULT };
    const record = pending.record(vcpu);
    for (const [index, number] of numbers.entries()) {
      const at = ARGUMENTS + index * ARGUMENT_WORDS;
      record.fill(0, at, at + ARGUMENT_WORDS);
      record[at + ExtentWords.number] = number;
      const asked = allocate[index];
      if (asked !== undefined) record[at + ExtentWords.asked] = asked + 1;
    }
    this.#open(op, vcpu, numbers.length)[ReservationScratch.order] = order;
    return vcpu;
  }

  #placePhysmap(op: Of<'add_to_physmap' | 'remove_from_physmap'>, vcpu: Vcpu): Vcpu | OpResult {
    const { sharedInfo, gmfnRange } = MapSpace;
    if (op.op === 'add_to_physmap' && (op.space === gmfnRange || (op.space === sharedInfo && op.index === 0))) {
      throw new RangeError(`space ${op.space}: expected any but a range of gfns, or the shared info page`);
    }
    if (op.op === 'add_to_physmap') checkAsked(this.#parts.frames, { allocate: op.allocate });
    const record = this.#open(op, vcpu, 0);
    record[ReservationScratch.gfn] = op.gfn;
    if (op.op === 'add_to_physmap') {
      record[ReservationScratch.space] = op.space;
      record[ReservationScratch.frameIndex] = op.index;
      if (op.allocate !== undefined) record[ReservationScratch.asked] = op.allocate + 1;
    }
    return vcpu;
  }

  /** What a finished operation says beside its return value. */
  result(name: VcpuOpName, record: Uint32Array, result: number): OpResult {
    if (name === 'map_foreign' && result === 0 && record[TableScratch.entryHigh] !== 0) {
      return { result, frames: [record[TableScratch.frame]!] };
    }
    if (name !== 'populate_physmap' && name !== 'increase_reservation') return { result };
    const frames = Array.from(
      { length: Math.max(0, result) },
      (_, index) => record[ARGUMENTS + index * ARGUMENT_WORDS + ExtentWords.frame]!,
    );
    return { result, frames };
  }

  /** A processor stores bytes in memory. */
  store(op: Of<'store'>): OpResult {
    const { frames } = this.#parts;
    const bytes = op.fill ? NO_BYTES : hexBytes(op.bytes ?? '', 'bytes');
    const length = op.fill ? checkedFill(op.fill) : bytes.length;
    if (!frames.isMemory(op.frame)) throw new RangeError(`frame ${op.frame}: expected a frame of memory`);
    if (op.offset + length > PAGE_SIZE) {
      throw new RangeError(`offset ${op.offset}: expected ${length} bytes to stay within the page`);
    }
    // Nobody but the hypervisor writes page tables; a test that does is believed.
    this.#parts.pvTables.forget();
    if (op.fill) frames.fillBytes(op.frame as Mfn, op.offset, length, op.fill.byte);
    else frames.writeBytes(op.frame as Mfn, op.offset, bytes);
    return { result: 0 };
  }
}

const NO_BYTES = new Uint8Array(0);

/** @returns the length. */
function checkedFill({ byte, length }: { readonly byte: number; readonly length: number }): number {
  if (!Number.isInteger(byte) || byte < 0 || byte > 255) throw new TypeError(`byte ${byte}: expected 0 to 255`);
  if (!Number.isInteger(length) || length < 0 || length > PAGE_SIZE) {
    throw new RangeError(`length ${length}: expected 0 to ${PAGE_SIZE}`);
  }
  return length;
}
