// The machine and its one door. `step(op)` does an operation from end to end; `begin`, `microStep` and `hardware` do
// the same in pieces, so that others can come in between.

import { type GrantContext, stepMapGrantRef, stepUnmapGrantRef } from '../grant/index.ts';
import { Errno } from '../machine/errno.ts';
import type { Gfn, Mfn } from '../machine/frame-number.ts';
import type { Domid, Vcpu } from '../machine/ids.ts';
import { Pending, Progress, Step } from '../machine/pending.ts';
import { highWord, wideLow, word32 } from '../machine/wide.ts';
import type { MayTranslation, VtdUnit } from '../passthrough/index.ts';
import { ControlState, type DomainControl } from './control.ts';
import { DriverAccess } from './device-access.ts';
import { DeviceDma } from './device-dma.ts';
import { findDevice } from './device-owners.ts';
import { createDomain } from './domain-builder.ts';
import { mapResults, placeMapElements, placeUnmapElements, unmapResults } from './door/grant-batch.ts';
import type { Op, OpResult } from './door/op.ts';
import { domainWord, isVcpuOp, VCPU_OPS, type VcpuOp, type VcpuOpName } from './door/vcpu-ops.ts';
import { HostMappingTables } from './memory/host-mappings.ts';
import { P2mType } from './memory/p2m.ts';
import { placeAssign, placeDeassign, stepMoveDevice } from './operations/assign-device.ts';
import { DmaScratch, type OperationContext, stepDmaMap, stepDmaUnmap } from './operations/dma-map.ts';
import { stepTick } from './operations/tick.ts';
import { configure, type MachineConfig, type MachineOptions } from './options.ts';
import { makeParts, type Parts } from './parts.ts';

const OKAY: OpResult = Object.freeze({ result: 0 });
const { done: DONE, blocked: BLOCKED } = Step;
/** Phase of an operation whose last micro-step is done. */
const FINISHED = 0xffffffff;

export class Hypervisor {
  readonly config: MachineConfig;
  readonly control: ControlState;
  /** The parts underneath: for inspection and for measurement, not for changing. */
  readonly parts: Parts;
  readonly access: DriverAccess;
  readonly #grants: GrantContext;
  readonly #context: OperationContext;
  readonly #dma: DeviceDma;

  /** @throws RangeError naming the option that cannot be. */
  constructor(options: MachineOptions = {}) {
    this.config = configure(options);
    this.parts = makeParts(this.config);
    const { parts, config } = this;
    this.control = new ControlState({
      domains: new Array<null>(config.domains).fill(null),
      devices: config.devices.map(({ device, unit }) => ({ device, unit, owner: null, place: 0 })),
      hardwareDomain: null,
      units: parts.units.map((unit) => ({ unit: unit.index, capabilities: unit.capabilities })),
      policy: { name: config.policy.name, release: config.release },
    });
    this.access = new DriverAccess(parts);
    this.#context = { parts, config, access: this.access, control: this.control };
    this.#grants = {
      frames: parts.frames,
      pending: parts.pending,
      tables: parts.grants,
      batches: parts.batches,
      locks: parts.locks,
      ports: {
        host: new HostMappingTables(
          parts,
          (domain) => this.#domain(domain),
          (domain, reason) => this.#crash(domain, reason),
        ),
        device: this.access,
      },
      domain: (domain) => this.control.grantViews[domain] ?? null,
      grantedFrame: (granter, frame) => this.#grantedFrame(granter, frame),
    };
    this.access.grants = this.#grants;
    this.#dma = new DeviceDma(parts, (device) => {
      const found = findDevice(this.control, device);
      return found ? parts.units[found.device.unit]! : null;
    });
  }

  #domain(domain: Domid): DomainControl {
    return this.control.root.domains[domain]!;
  }

  #crash(domain: Domid, reason: string): void {
    this.control.change(`domain ${domain} crashed`, (draft) => {
      const crashed = draft.domains[domain]!;
      crashed.state = 'crashed';
      crashed.reason = reason;
    });
  }

  /** xen: get_paged_frame. A PV granter names machine frames, which must be its own; an HVM one its gfns, plain RAM. */
  #grantedFrame(granter: Domid, frame: number): number {
    const { frames, p2m } = this.parts;
    if (this.#domain(granter).kind === 'hvm') {
      return p2m.type(granter, frame as Gfn) === P2mType.ram ? p2m.frame(granter, frame as Gfn) : -1;
    }
    return frames.isAllocated(frame) && frames.owner(frame as Mfn) === granter ? frame : -1;
  }

  get units(): readonly VtdUnit[] {
    return this.parts.units;
  }

  get nowUs(): number {
    return this.parts.clock.nowUs;
  }

  /**
   * Does an operation from end to end, the hardware running whenever something waits for it.
   * @throws TypeError, RangeError for what is no operation of this machine; HypervisorBug for our own defects.
   */
  step(op: Op): OpResult {
    if (!isVcpuOp(op)) return this.#single(op);
    const vcpu = this.begin(op);
    if (typeof vcpu !== 'number') return vcpu;
    const code = this.parts.pending.record(vcpu)[Pending.op]!;
    // Nobody comes in between, so the phase need not be kept in the record.
    for (let phase = 0; phase !== DONE; ) {
      const next = this.#advance(code, vcpu, phase);
      if (next === BLOCKED) this.#letHardwareRun(vcpu, phase);
      else phase = next;
    }
    return this.#finish(vcpu);
  }

  /**
   * Starts an operation on its virtual CPU.
   * @returns the virtual CPU, or the result of an operation that was refused before it began.
   */
  begin(op: VcpuOp): Vcpu | OpResult {
    const vcpu = (op.vcpu ?? 0) as Vcpu;
    if (!Number.isInteger(vcpu) || vcpu < 0 || vcpu >= this.config.vcpus) {
      throw new RangeError(`vcpu ${vcpu}: expected 0 to ${this.config.vcpus - 1}`);
    }
    if (!this.parts.pending.isIdle(vcpu)) throw new TypeError(`vCPU ${vcpu} is in the middle of an operation`);
    return this.#place(op, vcpu);
  }

  #place(op: VcpuOp, vcpu: Vcpu): Vcpu | OpResult {
    switch (op.op) {
      case 'map_grant_ref':
      case 'unmap_grant_ref':
        return this.#placeBatch(op, vcpu);
      case 'dma_map':
      case 'dma_unmap':
        return this.#placeDma(op, vcpu);
      case 'assign_device': {
        const refusal = placeAssign(this.#context, vcpu, op, (domain) => this.#open(op.op, vcpu, domain, 0));
        return refusal === 0 ? vcpu : { result: refusal };
      }
      case 'deassign_device': {
        const refusal = placeDeassign(this.#context, vcpu, op, (domain) => this.#open(op.op, vcpu, domain, 0));
        return refusal === 0 ? vcpu : { result: refusal };
      }
      default:
        this.parts.clock.advanceTo(op.nowUs);
        this.#open(op.op, vcpu, 0, 0);
        return vcpu;
    }
  }

  #open(name: VcpuOpName, vcpu: Vcpu, domain: number, count: number): Uint32Array {
    return this.parts.pending.open(vcpu, VCPU_OPS.indexOf(name) + 1, domain, count);
  }

  #aliveDomain(domain: number): DomainControl | null {
    const found = this.control.root.domains[domain];
    return found && found.state === 'alive' ? found : null;
  }

  /** The batch goes into guest memory, where the operation reads it and writes its outcome. */
  #placeBatch(op: Extract<Op, { op: 'map_grant_ref' | 'unmap_grant_ref' }>, vcpu: Vcpu): Vcpu | OpResult {
    const { pending } = this.parts;
    if (!this.#aliveDomain(op.domain)) return { result: Errno.ESRCH };
    if (!Array.isArray(op.elements)) throw new TypeError(`${op.op}: expected elements`);
    if (op.elements.length > pending.elementsMax) {
      throw new RangeError(
        `batch of ${op.elements.length} elements: expected at most ${pending.elementsMax} (option batchMax)`,
      );
    }
    const record = pending.record(vcpu);
    if (op.op === 'map_grant_ref') placeMapElements(record, op.elements);
    else placeUnmapElements(record, op.elements);
    this.#open(op.op, vcpu, op.domain, op.elements.length);
    return vcpu;
  }

  #placeDma(op: Extract<Op, { op: 'dma_map' | 'dma_unmap' }>, vcpu: Vcpu): Vcpu | OpResult {
    const domain = this.#aliveDomain(op.domain);
    if (!domain) return { result: Errno.ESRCH };
    // Where the tables follow RAM and grants nobody else decides what a device frame is.
    if (!domain.iommu || domain.deviceTables !== 'empty') return { result: Errno.EOPNOTSUPP };
    if (!Number.isSafeInteger(op.dfn) || op.dfn < 0)
      throw new RangeError(`dfn ${op.dfn}: expected a device frame number`);
    if (!Number.isInteger(op.pages) || op.pages < 0 || op.pages > 2 ** 31)
      throw new RangeError(`pages ${op.pages}: expected a count`);
    const frame = op.op === 'dma_map' ? word32(op.frame, 'frame') : 0;
    const record = this.#open(op.op, vcpu, op.domain, 0);
    record[DmaScratch.dfnLow] = op.dfn;
    record[DmaScratch.dfnHigh] = highWord(op.dfn);
    record[DmaScratch.pages] = op.pages;
    record[DmaScratch.frame] = frame;
    if (op.op === 'dma_map') record[DmaScratch.rights] = op.access === 'rw' ? 3 : 1;
    return vcpu;
  }

  /** Whether an operation is in progress on a virtual CPU. */
  isBusy(vcpu: Vcpu): boolean {
    return !this.parts.pending.isIdle(vcpu);
  }

  /** One micro-step of the operation on a virtual CPU. When `done`, {@link finish} gives its result. */
  microStep(vcpu: Vcpu): Progress {
    if (this.parts.pending.isIdle(vcpu)) throw new TypeError(`vCPU ${vcpu} has no operation`);
    if (this.parts.pending.record(vcpu)[Pending.phase] === FINISHED)
      throw new TypeError(`the operation on vCPU ${vcpu} is done: finish it`);
    const record = this.parts.pending.record(vcpu);
    const next = this.#advance(record[Pending.op]!, vcpu, record[Pending.phase]!);
    if (next === DONE) {
      record[Pending.phase] = FINISHED;
      return Progress.done;
    }
    if (next === BLOCKED) return Progress.blocked;
    record[Pending.phase] = next;
    return Progress.more;
  }

  #advance(code: number, vcpu: Vcpu, phase: number): number {
    switch (code) {
      case 1:
        return stepMapGrantRef(this.#grants, vcpu, phase);
      case 2:
        return stepUnmapGrantRef(this.#grants, vcpu, phase);
      case 3:
        return stepDmaMap(this.#context, vcpu, phase);
      case 4:
        return stepDmaUnmap(this.#context, vcpu, phase);
      case 5:
      case 6:
        return stepMoveDevice(this.#context, vcpu, phase);
      default:
        return stepTick(this.#context, vcpu, phase);
    }
  }

  /**
   * Takes the result of an operation whose last micro-step is done; the virtual CPU is idle then.
   * @throws TypeError when there is no such operation.
   */
  finish(vcpu: Vcpu): OpResult {
    const { pending } = this.parts;
    if (pending.isIdle(vcpu) || pending.record(vcpu)[Pending.phase] !== FINISHED)
      throw new TypeError(`vCPU ${vcpu} has no operation that is done`);
    return this.#finish(vcpu);
  }

  #finish(vcpu: Vcpu): OpResult {
    const { pending } = this.parts;
    const record = pending.record(vcpu);
    const name = VCPU_OPS[record[Pending.op]! - 1]!;
    const result = record[Pending.result]! | 0;
    const outcome = this.#outcome(name, record, result);
    // A domain is crashed by its own operation, so what became of it is in the control state.
    const domain = record[Pending.domain]!;
    const after = this.control.root.domains[domain];
    pending.close(vcpu);
    if (name !== 'map_grant_ref' || after?.state !== 'crashed') return outcome;
    return { ...outcome, crashed: [{ domain, reason: after.reason ?? '' }] };
  }

  #outcome(name: VcpuOpName, record: Uint32Array, result: number): OpResult {
    if (name === 'map_grant_ref') return { result, elements: mapResults(record) };
    if (name === 'unmap_grant_ref') return { result, elements: unmapResults(record) };
    return result === 0 ? OKAY : { result };
  }

  /** Something waits: units go on, and accesses that a drain waits for are performed. */
  #letHardwareRun(vcpu: Vcpu, phase: number): void {
    let moved = false;
    const { units } = this.parts;
    for (let unit = 0; unit < units.length; unit += 1) while (units[unit]!.step()) moved = true;
    if (moved) return;
    if (this.#dma.performAny()) return;
    // The operation can be taken up again from here, once the other one has gone on.
    this.parts.pending.record(vcpu)[Pending.phase] = phase;
    const holders = Array.from({ length: this.config.domains }, (_, domain) => this.parts.locks.holder(domain));
    const other = holders.find((holder) => holder >= 0 && holder !== vcpu);
    const why = other === undefined ? '' : `: vCPU ${other} holds a lock and is in the middle of an operation`;
    throw new TypeError(`vCPU ${vcpu} cannot go on${why}`);
  }

  #single(op: Exclude<Op, VcpuOp>): OpResult {
    switch (op.op) {
      case 'create_domain':
        return createDomain(this, op);
      case 'grant_write':
        return this.#grantWrite(op);
      case 'dma':
      case 'dma_translate':
        return this.#dma.access(op);
      case 'dma_perform':
        return this.#dma.perform(op.slot);
      case 'hardware': {
        const unit = this.parts.units[op.unit];
        if (!unit) throw new RangeError(`unit ${op.unit}: expected 0 to ${this.parts.units.length - 1}`);
        return { result: Number(unit.step()) };
      }
      default:
        throw new TypeError(`unknown operation ${JSON.stringify((op as { op: unknown }).op)}`);
    }
  }

  #grantWrite(op: Extract<Op, { op: 'grant_write' }>): OpResult {
    if (!this.#aliveDomain(op.domain)) return { result: Errno.ESRCH };
    if (!Number.isInteger(op.ref) || op.ref < 0 || op.ref >= this.parts.grants.entries(op.domain as Domid)) {
      throw new RangeError(`ref ${op.ref}: expected 0 to ${this.parts.grants.entries(op.domain as Domid) - 1}`);
    }
    const flags = word32(op.flags, 'flags') & 0xffff;
    const grantee = domainWord(op.grantee);
    this.parts.grants.guestWrite(op.domain as Domid, op.ref, flags, grantee, wideLow(op.frame ?? 0, 'frame'));
    return OKAY;
  }

  /** Everything that a request of a device may get now; the tables' own answer first. */
  mayTranslate(device: string, dfn: number): readonly MayTranslation[] {
    return this.#dma.mayTranslate(device, dfn);
  }
}
