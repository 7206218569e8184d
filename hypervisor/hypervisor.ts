// The machine and its one door. `step(op)` does an operation from end to end; `begin`, `microStep` and `hardware` do
// the same in pieces, so that others can come in between.

import {
  type GrantContext,
  stepCopy,
  stepMapGrantRef,
  stepSetVersion,
  stepTransfer,
  stepUnmapGrantRef,
} from '../grant/index.ts';
import { Errno } from '../machine/errno.ts';
import { DOMID_XEN, type Domid, type Vcpu } from '../machine/ids.ts';
import { Pending, Progress, Step } from '../machine/pending.ts';
import { highWord } from '../machine/wide.ts';
import type { MayTranslation, VtdUnit } from '../passthrough/index.ts';
import { ControlState, type Crash, crashDomain, type DomainControl, freshDevice, takeCrashes } from './control.ts';
import { DriverAccess } from './device-access.ts';
import { placeDeviceMove, stepMoveDevice, testAssign } from './devices/assignment.ts';
import { giveUpDevice, mayStall, setAnswers, whoIsSilent } from './devices/device-tlbs.ts';
import { DeviceDma } from './devices/dma.ts';
import { handleFaults } from './devices/faults.ts';
import { setBusMaster } from './devices/owners.ts';
import { stepRemoveUnit, UnitScratch } from './devices/release.ts';
import { createDomain } from './domain-builder.ts';
import { GrantCalls } from './door/grant-calls.ts';
import { MemoryCalls } from './door/memory-calls.ts';
import type { Op, OpResult } from './door/op.ts';
import { checkOp } from './door/op-checks.ts';
import { isVcpuOp, VCPU_OPS, type VcpuOp, type VcpuOpName, vcpuOpCode } from './door/vcpu-ops.ts';
import { HostMappingTables } from './memory/host-mappings.ts';
import { IoMemory } from './memory/io-memory.ts';
import { PageTypes } from './memory/page-types.ts';
import { Physmap } from './memory/physmap.ts';
import type { OperationContext } from './operations/context.ts';
import { reapDying, stepDestroyDomain } from './operations/destroy-domain.ts';
import { DmaScratch, stepDmaMap, stepDmaUnmap } from './operations/dma-map.ts';
import { stepMapForeign, stepPinTable, stepUnpinTable, stepUpdateVaMapping } from './operations/page-tables.ts';
import {
  stepAddToPhysmap,
  stepDecreaseReservation,
  stepIncreaseReservation,
  stepPopulate,
  stepRemoveFromPhysmap,
} from './operations/reservation.ts';
import { stepTick } from './operations/tick.ts';
import { configure, ioFrames, type MachineConfig, type MachineOptions } from './options.ts';
import { makeParts, type Parts } from './parts.ts';

const OKAY: OpResult = Object.freeze({ result: 0 });
const { done: DONE, blocked: BLOCKED } = Step;
/** Phase of an operation whose last micro-step is done. */
const FINISHED = 0xffffffff;
/** Of one dma_map or dma_unmap. */
const PAGES_MAX = 2 ** 31;

/** The micro-step of each operation that is not about grants. */
const STEPS: Readonly<Partial<Record<VcpuOpName, (context: OperationContext, vcpu: Vcpu, phase: number) => number>>> = {
  dma_map: stepDmaMap,
  dma_unmap: stepDmaUnmap,
  assign_device: stepMoveDevice,
  deassign_device: stepMoveDevice,
  remove_device: stepMoveDevice,
  add_device: stepMoveDevice,
  remove_unit: stepRemoveUnit,
  tick: stepTick,
  update_va_mapping: stepUpdateVaMapping,
  map_foreign: stepMapForeign,
  pin_table: stepPinTable,
  unpin_table: stepUnpinTable,
  decrease_reservation: stepDecreaseReservation,
  populate_physmap: stepPopulate,
  increase_reservation: stepIncreaseReservation,
  add_to_physmap: stepAddToPhysmap,
  remove_from_physmap: stepRemoveFromPhysmap,
  destroy_domain: stepDestroyDomain,
  set_version: ({ grants }, vcpu, phase) => stepSetVersion(grants, vcpu, phase),
};
const MAP = vcpuOpCode('map_grant_ref');
const UNMAP = vcpuOpCode('unmap_grant_ref');
const REPLACE = vcpuOpCode('unmap_and_replace');
const COPY = vcpuOpCode('copy');
const TRANSFER = vcpuOpCode('transfer');
const SET_VERSION = vcpuOpCode('set_version');
const STEP_OF = VCPU_OPS.map((name) => STEPS[name] ?? null);

export class Hypervisor {
  readonly config: MachineConfig;
  readonly control: ControlState;
  /** The parts underneath: for inspection and for measurement, not for changing. */
  readonly parts: Parts;
  readonly access: DriverAccess;
  readonly #grants: GrantContext;
  /** What operations work with: for running parts of them by themselves. */
  readonly context: OperationContext;
  readonly #dma: DeviceDma;
  readonly #grantCalls: GrantCalls;
  readonly #memoryCalls: MemoryCalls;

  /** @throws RangeError, TypeError naming the option that cannot be, or that there is not. */
  constructor(options: MachineOptions = {}) {
    this.config = configure(options);
    this.parts = makeParts(this.config);
    const { parts, config } = this;
    this.control = new ControlState({
      domains: new Array<null>(config.domains).fill(null),
      devices: config.devices.map(({ device, unit, hidden, type }) => ({
        ...freshDevice(device, unit, hidden ? DOMID_XEN : null),
        present: type !== 'unknown',
      })),
      hardwareDomain: null,
      units: parts.units.map((unit) => ({ unit: unit.index, capabilities: unit.capabilities, present: true })),
      policy: { name: config.policy.name, release: config.release },
      crashes: [],
    });
    this.access = new DriverAccess(parts);
    const { access, control } = this;
    const view = (domain: Domid) => control.grantViews[domain] ?? null;
    const crash = (vcpu: Vcpu, domain: Domid, reason: string) => crashDomain(control, { vcpu, domain, reason });
    const hasDevices = (domain: Domid) => control.root.devices.some(({ owner }) => owner === domain);
    parts.driver.flush.devices.observer = (vcpu, unit, source, domain) =>
      giveUpDevice(control, parts, { vcpu, unit, source, domain });
    const pages = new PageTypes(parts, access, view, new IoMemory(config.keptIo, ioFrames(config), view, hasDevices));
    const physmap = new Physmap(parts, access, pages, (domain) => this.#domain(domain), crash);
    this.#grants = {
      frames: parts.frames,
      pending: parts.pending,
      tables: parts.grants,
      batches: parts.batches,
      claims: parts.claims,
      rules: config.rules.grants,
      options: config.grants,
      locks: parts.locks,
      ports: {
        host: new HostMappingTables(parts, pages, physmap, view),
        device: access,
        pages,
        moves: physmap,
      },
      domain: view,
      // xen: get_paged_frame.
      grantedFrame: (granter, low, high) => (high === 0 ? physmap.ownFrame(granter, low) : -1),
      crash,
    };
    access.grants = this.#grants;
    const domain = (id: number) => control.root.domains[id] ?? null;
    this.context = { parts, config, control, access, pages, physmap, grants: this.#grants, domain };
    const alive = (id: number) => this.#aliveDomain(id);
    this.#grantCalls = new GrantCalls(parts, this.#grants, alive);
    this.#memoryCalls = new MemoryCalls(parts, this.#grants, alive);
    this.#dma = new DeviceDma(parts, control);
  }

  #domain(domain: Domid): DomainControl {
    return this.control.root.domains[domain]!;
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
   *   TypeError where it would wait for ever: for a device that does not answer, and the machine is as it was before.
   */
  step(op: Op): OpResult {
    return this.parts.hasDeviceTlbs && mayStall(this.parts) ? this.#runOrUndo(op) : this.#run(op);
  }

  #runOrUndo(op: Op): OpResult {
    const { control, parts } = this;
    const [root, changes, mark] = [control.root, control.journal.length, parts.heap.mark()];
    try {
      return this.#run(op);
    } catch (error) {
      parts.heap.rollback(mark);
      control.root = root;
      control.journal.length = changes;
      throw error;
    } finally {
      parts.heap.release(mark);
    }
  }

  #run(op: Op): OpResult {
    checkOp(op, this.config.vcpus);
    if (!isVcpuOp(op)) {
      // What is added until it is over is its doing, whatever is in flight.
      const inFlight = this.control.root.crashes.length;
      return this.#withCrashes(this.#single(op), (_, index) => index >= inFlight);
    }
    const vcpu = this.#begin(op);
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
    checkOp(op, this.config.vcpus);
    if (!isVcpuOp(op)) throw new TypeError(`${(op as Op).op} runs in one piece: expected an operation in micro-steps`);
    return this.#begin(op);
  }

  #begin(op: VcpuOp): Vcpu | OpResult {
    const vcpu = (op.vcpu ?? 0) as Vcpu;
    if (!this.parts.pending.isIdle(vcpu)) throw new TypeError(`vCPU ${vcpu} is in the middle of an operation`);
    return this.#place(op, vcpu);
  }

  #place(op: VcpuOp, vcpu: Vcpu): Vcpu | OpResult {
    switch (op.op) {
      case 'map_grant_ref':
      case 'unmap_grant_ref':
      case 'unmap_and_replace':
      case 'copy':
      case 'transfer':
        return this.#grantCalls.place(op, vcpu);
      case 'set_version':
        return this.#grantCalls.placeSetVersion(op, vcpu);
      case 'dma_map':
      case 'dma_unmap':
        return this.#placeDma(op, vcpu);
      case 'assign_device':
      case 'deassign_device':
      case 'remove_device':
      case 'add_device':
        return placeDeviceMove(this.context, vcpu, op, (domain) => this.#open(op.op, vcpu, domain, 0));
      case 'remove_unit':
        if (!this.control.root.units[op.unit]?.present) return { result: Errno.ENODEV };
        this.#open(op.op, vcpu, DOMID_XEN, 0)[UnitScratch.unit] = op.unit;
        return vcpu;
      case 'tick':
        this.parts.clock.advanceTo(op.nowUs);
        this.#open(op.op, vcpu, 0, 0);
        return vcpu;
      case 'destroy_domain':
        return this.#placeDestroy(op.domain, vcpu);
      default:
        return this.#memoryCalls.place(op, vcpu);
    }
  }

  /** From here on the domain is dying, and does nothing more. xen: domain_kill. */
  #placeDestroy(domain: number, vcpu: Vcpu): Vcpu | OpResult {
    const found = this.control.root.domains[domain];
    if (!found) return { result: Errno.ESRCH };
    if (found.hardware) return { result: Errno.EINVAL };
    if (found.state === 'dying') return OKAY;
    this.control.change(`domain ${domain} dies`, (draft) => {
      draft.domains[domain]!.state = 'dying';
      draft.domains[domain]!.grantView.dying = true;
    });
    this.#open('destroy_domain', vcpu, domain, 0);
    return vcpu;
  }

  #open(name: VcpuOpName, vcpu: Vcpu, domain: number, count: number): Uint32Array {
    return this.parts.pending.open(vcpu, vcpuOpCode(name), domain, count);
  }

  #aliveDomain(domain: number): DomainControl | null {
    const found = this.control.root.domains[domain];
    return found && found.state === 'alive' ? found : null;
  }

  #placeDma(op: Extract<Op, { op: 'dma_map' | 'dma_unmap' }>, vcpu: Vcpu): Vcpu | OpResult {
    const domain = this.#aliveDomain(op.domain);
    if (!domain) return { result: Errno.ESRCH };
    // Where the tables follow RAM and grants nobody else decides what a device frame is.
    if (!domain.iommu || domain.deviceTables !== 'empty') return { result: Errno.EOPNOTSUPP };
    if (op.pages > PAGES_MAX) throw new RangeError(`pages ${op.pages}: expected at most ${PAGES_MAX}`);
    const record = this.#open(op.op, vcpu, op.domain, 0);
    record[DmaScratch.dfnLow] = op.dfn;
    record[DmaScratch.dfnHigh] = highWord(op.dfn);
    record[DmaScratch.pages] = op.pages;
    if (op.op === 'dma_map') {
      record[DmaScratch.frame] = op.frame;
      record[DmaScratch.rights] = op.access === 'rw' ? 3 : 1;
    }
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
      case MAP:
        return stepMapGrantRef(this.#grants, vcpu, phase);
      case UNMAP:
      case REPLACE:
        return stepUnmapGrantRef(this.#grants, vcpu, phase);
      case COPY:
        return stepCopy(this.#grants, vcpu, phase);
      case TRANSFER:
        return stepTransfer(this.#grants, vcpu, phase);
      case SET_VERSION:
        return stepSetVersion(this.#grants, vcpu, phase);
      default:
        return STEP_OF[code - 1]!(this.context, vcpu, phase);
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
    const outcome = this.#outcome(name, record, vcpu, result);
    pending.close(vcpu);
    if (this.control.anyDying) reapDying(this.context);
    if (this.control.root.crashes.length === 0) return outcome;
    return this.#withCrashes(outcome, (crash) => crash.vcpu === vcpu);
  }

  /** A result says whom its operation crashed. */
  #withCrashes(outcome: OpResult, isItsDoing: (crash: Crash, index: number) => boolean): OpResult {
    const crashed = takeCrashes(this.control, isItsDoing);
    return crashed.length === 0 ? outcome : { ...outcome, crashed };
  }

  #outcome(name: VcpuOpName, record: Uint32Array, vcpu: Vcpu, result: number): OpResult {
    switch (name) {
      case 'map_grant_ref':
      case 'unmap_grant_ref':
      case 'unmap_and_replace':
      case 'copy':
      case 'transfer':
        return this.#grantCalls.result(name, record, vcpu);
      case 'set_version':
        return this.#grantCalls.setVersionResult(record, result);
      case 'map_foreign':
      case 'populate_physmap':
      case 'increase_reservation':
        return this.#memoryCalls.result(name, record, result);
      default:
        return result === 0 ? OKAY : { result };
    }
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
    const why =
      other === undefined
        ? whoIsSilent(this.control, this.parts)
        : `: vCPU ${other} holds a lock and is in the middle of an operation`;
    throw new TypeError(`vCPU ${vcpu} cannot go on${why}`);
  }

  #single(op: Exclude<Op, VcpuOp>): OpResult {
    switch (op.op) {
      case 'create_domain':
        return createDomain(this.context, op);
      case 'store':
        return this.#memoryCalls.store(op);
      case 'dma':
      case 'dma_translate':
        return this.#dma.access(op);
      case 'dma_perform':
        return this.#dma.perform(op.slot);
      case 'test_assign_device':
        return { result: testAssign(this.context, op) };
      case 'handle_faults':
        return { result: handleFaults(this.context) };
      case 'set_bus_master':
        return { result: setBusMaster(this.control, op.device, op.on) };
      case 'hardware': {
        const unit = this.parts.units[op.unit];
        if (!unit) throw new RangeError(`unit ${op.unit}: expected 0 to ${this.parts.units.length - 1}`);
        return { result: Number(unit.step()) };
      }
      case 'device_tlb':
        return setAnswers(this.control, this.parts, op);
      default:
        return this.#grantCalls.single(op);
    }
  }

  /** Everything that a request of a device may get now; the tables' own answer first. */
  mayTranslate(device: string, dfn: number): readonly MayTranslation[] {
    return this.#dma.mayTranslate(device, dfn);
  }
}
