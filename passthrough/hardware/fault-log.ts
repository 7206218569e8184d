// The primary fault log: recording registers, filled in turn, and their summary in FSTS. VT-d 7.3, 10.4.9, 10.4.14.

import type { Heap } from '../../machine/heap/heap.ts';
import { decode, faultRecord, faultStatus, maskOf } from './layouts.ts';
import { Access, faultReasonName, Register } from './registers.ts';

const OVERFLOW = maskOf(faultStatus, 'overflow');
const PENDING = maskOf(faultStatus, 'pending');
const QUEUE_ERROR = maskOf(faultStatus, 'queueError');
const TIMEOUT = maskOf(faultStatus, 'invalidationTimeout');
const RECORD_INDEX = maskOf(faultStatus, 'recordIndex');
const FAULT = 0x80000000;
const WAS_READ = 0x40000000;

/** A fault as software reads it. */
export interface FaultView {
  readonly sourceId: number;
  readonly dfn: number;
  readonly access: 'read' | 'write';
  readonly reason: number;
  readonly reasonName: string;
}

export class FaultLog {
  readonly #heap: Heap;
  readonly #registers: number;
  readonly #first: number;
  readonly #records: number;
  /** Record that the next fault goes to. */
  readonly #next: number;

  constructor(heap: Heap, registers: number, cap: readonly [number, number], records: number) {
    this.#heap = heap;
    this.#registers = registers;
    const offset = ((cap[0] >>> 24) | ((cap[1] & 3) << 8)) * 16;
    this.#first = registers + (offset >> 2);
    this.#records = records;
    this.#next = heap.reserve('next fault record', 1).base;
  }

  get #status(): number {
    return this.#registers + (Register.FSTS >> 2);
  }

  /** Records a fault; when its register still holds one, only the overflow is noted. VT-d 7.3.1. */
  record(reason: number, sourceId: number, dfn: number, access: Access): void {
    const heap = this.#heap;
    const status = heap.words[this.#status]!;
    if ((status & OVERFLOW) !== 0) return;
    const index = heap.words[this.#next]!;
    const at = this.#first + index * 4;
    if ((heap.words[at + 3]! & FAULT) !== 0) {
      heap.write(this.#status, status | OVERFLOW);
      return;
    }
    heap.write(at, (dfn % 0x100000) * 0x1000);
    heap.write(at + 1, Math.floor(dfn / 0x100000));
    heap.write(at + 2, sourceId);
    heap.write(at + 3, (FAULT | (access === Access.read ? WAS_READ : 0) | reason) >>> 0);
    if ((status & PENDING) === 0) heap.write(this.#status, (status & ~RECORD_INDEX) | PENDING | (index << 8));
    heap.write(this.#next, (index + 1) % this.#records);
  }

  /** Software writes ones to FSTS bits to clear them; pending goes when the records are clear. VT-d 10.4.9. */
  clearStatus(bits: number): void {
    const status = this.#heap.words[this.#status]!;
    this.#heap.write(this.#status, status & ~(bits & (OVERFLOW | QUEUE_ERROR | TIMEOUT)));
  }

  queueError(): void {
    this.#heap.write(this.#status, this.#heap.words[this.#status]! | QUEUE_ERROR);
  }

  /** A device TLB did not answer in time. The first of several is named. VT-d 6.5.2.10. */
  invalidationTimeout(sourceId: number): void {
    if (!this.timedOut) this.#heap.write(this.#registers + (Register.IQER >> 2) + 1, sourceId);
    this.#heap.write(this.#status, this.#heap.words[this.#status]! | TIMEOUT);
  }

  /** Whether a device TLB did not answer in time, and software has not cleared that. */
  get timedOut(): boolean {
    return (this.#heap.words[this.#status]! & TIMEOUT) !== 0;
  }

  /** Source id of that device. */
  get timeoutSource(): number {
    return this.#heap.words[this.#registers + (Register.IQER >> 2) + 1]! & 0xffff;
  }

  get queueStopped(): boolean {
    return (this.#heap.words[this.#status]! & (QUEUE_ERROR | TIMEOUT)) !== 0;
  }

  get overflowed(): boolean {
    return (this.#heap.words[this.#status]! & OVERFLOW) !== 0;
  }

  /** Reads and clears all records, oldest first, as a fault handler does. */
  take(): FaultView[] {
    const heap = this.#heap;
    const found: FaultView[] = [];
    const next = heap.words[this.#next]!;
    for (let i = 0; i < this.#records; i += 1) {
      const at = this.#first + ((next + i) % this.#records) * 4;
      if ((heap.words[at + 3]! & FAULT) === 0) continue;
      const fields = decode(
        faultRecord,
        [0, 1, 2, 3].map((word) => heap.words[at + word]!),
      );
      found.push({
        sourceId: fields.sourceId,
        dfn: fields.page,
        access: fields.accessType === 1 ? 'read' : 'write',
        reason: fields.reason,
        reasonName: faultReasonName(fields.reason),
      });
      for (let word = 0; word < 4; word += 1) heap.write(at + word, 0);
    }
    heap.write(this.#status, heap.words[this.#status]! & ~(PENDING | OVERFLOW | RECORD_INDEX));
    return found;
  }
}
