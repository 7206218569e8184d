// Grant hypercalls between the door and the grant tables: what entry checks, arguments in, outcomes out.
// xen: common/grant_table.c do_grant_table_op.

import {
  cacheFlush,
  type GrantContext,
  getVersion,
  querySize,
  REPLACES,
  SetVersionScratch,
  setupTable,
  statusFrames,
  swapEntries,
} from '../../grant/index.ts';
import { Errno } from '../../machine/errno.ts';
import type { Mfn, Wide } from '../../machine/frame-number.ts';
import type { Domid, Vcpu } from '../../machine/ids.ts';
import { ARGUMENT_WORDS, ARGUMENTS, Pending } from '../../machine/pending.ts';
import { wideHigh, wideLow } from '../../machine/wide.ts';
import type { DomainControl } from '../control.ts';
import type { Parts } from '../parts.ts';
import { checkAsked } from './asked-frames.ts';
import { batchResults, placeBatch } from './grant-batch.ts';
import type { GrantBatchOp, GrantOp, GrantSingleOp, SetVersionOp } from './grant-op.ts';
import type { OpResult } from './op.ts';
import { type VcpuOpName, vcpuOpCode } from './vcpu-ops.ts';

const ALL_ONES: Wide = '0xffffffffffffffff';
/** The command is in the low 12 bits; what lies above them is for continuations of cache_flush. */
const COMMAND_MASK = 0xfff;

/** Entry facts of a command: on a batch, or on one structure with its count looked at or not; there at all. */
type CommandKind = 'batch' | 'single' | 'uncounted' | 'absent';

export class GrantCalls {
  readonly #parts: Parts;
  readonly #context: GrantContext;
  readonly #domain: (domain: number) => DomainControl | null;

  constructor(parts: Parts, context: GrantContext, domain: (domain: number) => DomainControl | null) {
    this.#parts = parts;
    this.#context = context;
    this.#domain = domain;
  }

  /** The batch goes into guest memory, where the operation reads it and writes its outcome. */
  place(op: GrantBatchOp, vcpu: Vcpu): Vcpu | OpResult {
    const { pending } = this.#parts;
    const caller = this.#domain(op.domain);
    if (!caller) return { result: Errno.ESRCH };
    if (op.elements.length > pending.elementsMax) {
      throw new RangeError(
        `${op.op}: ${op.elements.length} elements: expected at most ${pending.elementsMax} (option batchMax)`,
      );
    }
    const record = pending.record(vcpu);
    placeBatch(record, op);
    const refused = this.#refused(op, caller);
    if (refused !== 0) return { result: refused };
    pending.open(vcpu, vcpuOpCode(op.op), op.domain, op.elements.length);
    record[Pending.unreadable] = op.argument === 'unmapped' ? 1 : (op.unreadableFrom ?? -1) + 1;
    record[Pending.unwritable] = (op.unwritableFrom ?? -1) + 1;
    // An element is done in any case.
    record[Pending.preempt] = op.preemptAfter === undefined ? 0 : Math.max(1, op.preemptAfter);
    if (op.op === 'unmap_and_replace') record[REPLACES] = 1;
    return vcpu;
  }

  #refused(op: GrantBatchOp, caller: DomainControl): number {
    if (isAbsent(caller, op.op)) return Errno.ENOSYS;
    if (op.argument === 'forbidden') return Errno.EFAULT;
    if (op.op === 'transfer' && !this.#context.options.transfer) return Errno.EOPNOTSUPP;
    return 0;
  }

  /** Outcome of a batch: its elements as far as they were written, and what is left of it if it was interrupted. */
  result(name: VcpuOpName, record: Uint32Array, vcpu: Vcpu): OpResult {
    return batchResults(name as GrantBatchOp['op'], record, vcpu);
  }

  single(op: GrantSingleOp): OpResult {
    if (op.op === 'grant_write') return this.#write(op);
    const caller = this.#domain(op.domain);
    if (!caller) return { result: Errno.ESRCH };
    if (isAbsent(caller, op.op)) return { result: Errno.ENOSYS };
    const domain = op.domain as Domid;
    switch (op.op) {
      case 'grant_table_op':
        if (caller.kind === 'hvm' && HVM_ABSENT.has(COMMAND_NAMES[op.command])) return { result: Errno.ENOSYS };
        return { result: this.#enter(op.command, op.count, op.argument ?? 'mapped') };
      case 'swap_grant_ref':
        return this.#each(op, ({ a, b }) => swapEntries(this.#context, domain, a, b));
      case 'cache_flush':
        return this.#cacheFlush(op, domain);
      case 'get_version':
        if (((op.count ?? 1) | 0) < 0) return { result: Errno.EINVAL };
        return op.argument && op.argument !== 'mapped' ? { result: Errno.EFAULT } : this.#version(op, domain);
      default:
        if ((op.count ?? 1) !== 1) return { result: Errno.EINVAL };
        return op.argument && op.argument !== 'mapped' ? { result: Errno.EFAULT } : this.#table(op, domain);
    }
  }

  /** What entry says of a call whose argument nobody looks into. */
  #enter(command: number, count: number, argument: 'mapped' | 'unmapped' | 'forbidden'): number {
    if ((count | 0) < 0) return Errno.EINVAL;
    const number = command & COMMAND_MASK;
    const kind = this.#commandKind(number);
    if (command !== number && number !== CACHE_FLUSH) return Errno.EINVAL;
    if (kind === 'absent') return Errno.ENOSYS;
    if (kind === 'single' && count !== 1) return Errno.EINVAL;
    if (argument === 'forbidden') return Errno.EFAULT;
    if (kind === 'batch' && count === 0) return 0;
    if (argument === 'unmapped') return Errno.EFAULT;
    throw new RangeError(`command ${number} with ${count} elements in memory: expected the operation of that name`);
  }

  #commandKind(number: number): CommandKind {
    if (number === CACHE_FLUSH && this.#context.rules.cacheFlush === 'absent') return 'absent';
    return COMMANDS[number] ?? 'absent';
  }

  #each<Element>(
    op: {
      readonly elements: readonly Element[];
      readonly argument?: string;
      readonly unreadableFrom?: number;
      readonly unwritableFrom?: number;
      readonly preemptAfter?: number;
    },
    act: (element: Element) => number,
  ): OpResult {
    if (op.argument === 'forbidden') return { result: Errno.EFAULT, elements: [] };
    const elements: { status: number }[] = [];
    for (const [index, element] of op.elements.entries()) {
      if (index > 0 && op.preemptAfter !== undefined && index >= op.preemptAfter) {
        return { result: Errno.ERESTART, elements, continuation: continued(op as unknown as GrantOp, index) };
      }
      if (op.argument === 'unmapped' || index === op.unreadableFrom) return { result: Errno.EFAULT, elements };
      const status = act(element);
      if (index === op.unwritableFrom) return { result: Errno.EFAULT, elements };
      elements.push({ status });
    }
    return { result: 0, elements };
  }

  #cacheFlush(op: Extract<GrantSingleOp, { op: 'cache_flush' }>, domain: Domid): OpResult {
    if (this.#context.rules.cacheFlush === 'absent') return { result: Errno.ENOSYS };
    let result = 0;
    const done = this.#each(op, ({ address, offset, length, operation }) => {
      if (result === 0) {
        const low = wideLow(address, 'address');
        const high = wideHigh(address, 'address');
        result = cacheFlush(this.#context, domain, low, high, offset, length, operation);
      }
      return 0;
    });
    return { result: done.result !== 0 ? done.result : result };
  }

  #version(op: Extract<GrantSingleOp, { op: 'get_version' }>, domain: Domid): OpResult {
    const version = getVersion(this.#context, domain, op.target);
    return version < 0 ? { result: version } : { result: 0, version };
  }

  placeSetVersion(op: SetVersionOp, vcpu: Vcpu): Vcpu | OpResult {
    if (!this.#domain(op.domain)) return { result: Errno.ESRCH };
    if (((op.count ?? 1) | 0) < 0) return { result: Errno.EINVAL };
    const { pending } = this.#parts;
    const asked = op.allocate ?? [];
    const words = pending.elementsMax * ARGUMENT_WORDS;
    if (asked.length > words) throw new RangeError(`allocate: expected at most ${words} frames (option batchMax)`);
    if (op.argument && op.argument !== 'mapped') return { result: Errno.EFAULT };
    checkAsked(this.#parts.frames, { allocate: asked });
    const count = Math.ceil(asked.length / ARGUMENT_WORDS);
    const record = pending.open(vcpu, vcpuOpCode(op.op), op.domain, count);
    record[SetVersionScratch.version] = op.version;
    record[SetVersionScratch.asked] = asked.length;
    record.fill(0, ARGUMENTS, ARGUMENTS + count * ARGUMENT_WORDS);
    record.set(asked, ARGUMENTS);
    return vcpu;
  }

  /** The version in force is told whether it was changed or not. */
  setVersionResult(record: Uint32Array, result: number): OpResult {
    return { result, version: this.#parts.grants.version(record[Pending.domain] as Domid) };
  }

  #table(
    op: Extract<GrantSingleOp, { op: 'setup_table' | 'query_size' | 'get_status_frames' }>,
    domain: Domid,
  ): OpResult {
    const named = op.target;
    if (op.op === 'query_size') {
      const { status, frames, maxFrames } = querySize(this.#context, domain, named);
      return status === 0 ? { result: 0, status, size: { frames, maxFrames } } : { result: 0, status };
    }
    const count = op.frames;
    if (op.list === 'forbidden') return { result: Errno.EFAULT };
    const isSetup = op.op === 'setup_table';
    if (isSetup) checkAsked(this.#parts.frames, { allocate: op.allocate, allocateStatus: op.allocateStatus });
    const { status, domain: of } = isSetup
      ? setupTable(this.#context, domain, named, count, op.allocate ?? [], op.allocateStatus ?? [])
      : statusFrames(this.#context, domain, named, count);
    if (status !== 0) return { result: 0, status };
    if (op.list === 'unmapped' && count > 0) return { result: 0, status: BAD_VIRT_ADDR };
    const { grants } = this.#parts;
    const frames = Array.from({ length: count }, (_, index) =>
      this.#seen(of, isSetup ? grants.frame(of, index) : grants.statusFrame(of, index)),
    );
    return { result: 0, status, frames };
  }

  /** A frame's number as its domain sees it. xen: mfn_to_gfn. */
  #seen(domain: Domid, frame: Mfn): Wide {
    if (this.#domain(domain)?.kind !== 'hvm') return frame;
    const gfn = this.#parts.p2m.gfnOf(frame);
    return gfn < 0 ? ALL_ONES : gfn;
  }

  /** A guest's own stores: the flags last, as the protocol has it; other bytes of the entry stay as they are. */
  #write(op: Extract<GrantOp, { op: 'grant_write' }>): OpResult {
    if (!this.#domain(op.domain)) return { result: Errno.ESRCH };
    const { grants, frames } = this.#parts;
    const domain = op.domain as Domid;
    const layout = op.layout ?? 1;
    const entries = grants.frameCount(domain) * (layout === 1 ? 512 : 256);
    if (op.ref >= entries) {
      throw new RangeError(`ref ${op.ref}: expected 0 to ${entries - 1}`);
    }
    const frame = grants.sharedFrame(domain, op.ref, layout);
    const at = grants.sharedWord(op.ref, layout);
    const low = wideLow(op.frame ?? 0, 'frame');
    if (layout === 1) frames.writeWord(frame, at + 1, low);
    else if (op.transitive) {
      const rest = frames.readWord(frame, at + 1) & 0xffff0000;
      frames.writeWord(frame, at + 1, (rest | op.transitive.domain) >>> 0);
      frames.writeWord(frame, at + 2, op.transitive.ref);
    } else {
      if (op.subPage) {
        const { offset, length } = op.subPage;
        frames.writeWord(frame, at + 1, (offset | (length << 16)) >>> 0);
      }
      frames.writeEntry(frame, (at + 2) >>> 1, low, wideHigh(op.frame ?? 0, 'frame'));
    }
    frames.writeWord(frame, at, ((op.grantee << 16) | op.flags) >>> 0);
    return { result: 0 };
  }
}

const BAD_VIRT_ADDR = -5;
const CACHE_FLUSH = 12;
/** What an HVM domain cannot call, by name, or as what has no name here. xen: hvm_grant_table_op. */
const HVM_ABSENT: ReadonlySet<string | undefined> = new Set([
  'unmap_and_replace',
  'transfer',
  'get_status_frames',
  'cache_flush',
  undefined,
]);

function isAbsent(caller: DomainControl, operation: string): boolean {
  return caller.kind === 'hvm' && HVM_ABSENT.has(operation);
}

/** By number. xen: GNTTABOP_*. */
const COMMAND_NAMES: readonly (string | undefined)[] = [
  'map_grant_ref',
  'unmap_grant_ref',
  'setup_table',
  undefined,
  'transfer',
  'copy',
  'query_size',
  'unmap_and_replace',
  'set_version',
  'get_status_frames',
  'get_version',
  'swap_grant_ref',
  'cache_flush',
];
const COMMANDS: readonly CommandKind[] = [
  'batch',
  'batch',
  'single',
  'absent',
  'batch',
  'batch',
  'single',
  'batch',
  'uncounted',
  'single',
  'uncounted',
  'batch',
  'batch',
];

/** The call on the elements from `index` on. */
export function continued(op: GrantOp, index: number): GrantOp {
  if (!('elements' in op)) return op;
  const { unreadableFrom, unwritableFrom, preemptAfter: _, ...rest } = op;
  return {
    ...rest,
    elements: op.elements.slice(index),
    ...(unreadableFrom === undefined ? {} : { unreadableFrom: unreadableFrom - index }),
    ...(unwritableFrom === undefined ? {} : { unwritableFrom: unwritableFrom - index }),
  } as GrantOp;
}
