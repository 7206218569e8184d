// A recording through the model, record by record, each compared as it goes.

import { Hypervisor, type Op } from '../../../hypervisor/index.ts';
import { InputError } from '../../../machine/errors.ts';
import type { Mark } from '../../../machine/heap/heap.ts';
import type { Vcpu } from '../../../machine/ids.ts';
import { checkAssumptions, rulesOf } from '../assumptions.ts';
import type { Comparison, Observation } from '../comparison.ts';
import type { RecordKind } from '../recording/record-fields.ts';
import type { Recording } from '../recording/recording.ts';
import type { Tally } from '../tally.ts';
import { ContentWatch } from './content-watch.ts';
import { deviceHandlers } from './device-records.ts';
import { EntryWatch } from './entry-watch.ts';
import { grantHandlers } from './grant-records.ts';
import { domainRecord, hardwareDomainOp, machineOptions } from './machine-plan.ts';
import { MachineProbe } from './machine-probe.ts';
import { memoryHandlers } from './memory-records.ts';
import { AdoptedFrames, type Handlers, type Outcome, type ReplayContext, type Replayed } from './replay-context.ts';
import { UnitTap } from './unit-tap.ts';

const handlers: Handlers = { ...grantHandlers, ...memoryHandlers, ...deviceHandlers };
/** The log of writes is let go of when it is this long: while it is short it stays where it is fast to reach. */
const LOG_WORDS = 1 << 14;

/** Recordings are made on one processor. */
const RECORDED_CPU = 0 as Vcpu;

type AnyHandler = (context: ReplayContext, record: unknown, at: number) => Replayed | undefined;

export class Replay implements ReplayContext {
  readonly machine: Hypervisor;
  readonly probe: MachineProbe;
  readonly recording: Recording;
  readonly domains: ReplayContext['domains'] = new Map();
  readonly entries: EntryWatch;
  readonly contents: ContentWatch;
  readonly tally: Tally;
  readonly adopted = new AdoptedFrames();
  readonly deviceBuffers: ReplayContext['deviceBuffers'] = new Map();
  readonly windows: ReplayContext['windows'] = new Map();
  windowAt = 0;
  /** What is written from here on is in the heap's log; so far it has been looked at. */
  #mark: Mark;
  #looked = 0;
  /** Why the record at hand cannot be carried out. */
  #failure: string | undefined;
  readonly #comparison: Comparison;
  readonly #tap: UnitTap;

  /**
   * Builds the machine that the recording describes, with its hardware domain.
   * @throws InputError when there can be no such machine.
   */
  constructor(recording: Recording, tally: Tally, comparison: Comparison) {
    checkAssumptions(recording, tally);
    this.recording = recording;
    this.tally = tally;
    this.#comparison = comparison;
    this.machine = machineOf(recording);
    this.probe = new MachineProbe(this.machine);
    this.entries = new EntryWatch(this.probe);
    this.contents = new ContentWatch(this.probe);
    this.#tap = new UnitTap(this.machine.units[0]!);
    this.#mark = this.machine.parts.heap.mark();
    const hardware = domainRecord(recording, 0, 0);
    if (hardware) this.domains.set(0, hardware);
    const { result } = this.step(hardwareDomainOp(recording, hardware));
    if (result !== 0) throw unbuildable(recording, `domain 0 cannot be built: ${result}`);
  }

  /** Does an operation; what was written to memory is noted for those who watch it. */
  step(op: Op): Outcome {
    try {
      return this.machine.step(op);
    } catch (error) {
      // Nothing that the model can do: a disagreement in whatever is compared. Later on it is a defect of our own.
      const isRefusal = error instanceof TypeError || error instanceof RangeError;
      if (isRefusal && !this.machine.isBusy(RECORDED_CPU)) return { result: error.message };
      throw error;
    } finally {
      this.#noteWrites();
    }
  }

  prepare(op: Op): Outcome {
    const outcome = this.step(op);
    if (outcome.result !== 0) this.fail(`${op.op}: ${outcome.result}`);
    return outcome;
  }

  fail(why: string): void {
    this.#failure ??= why;
  }

  #noteWrites(): void {
    const { heap } = this.machine.parts;
    this.#looked = heap.eachBlockWriteSince(this.#mark, this.#noteWrite, this.#looked);
    if (this.#looked < LOG_WORDS) return;
    heap.release(this.#mark);
    this.#mark = heap.mark();
    this.#looked = 0;
  }

  readonly #noteWrite = (block: number, first: number, last: number): void => {
    this.entries.noteWrite(block, first, last);
    this.contents.noteWrite(block);
  };

  /** Replays the record at a place, and compares. */
  replayAt(at: number): void {
    const record = this.recording.records[at]!;
    const handler = handlers[record.o as RecordKind] as AnyHandler | undefined;
    // What is done by register at boot nobody recorded.
    const isUnknown = record.o === 'boot' && !this.recording.config.iommu.qinval;
    if (!handler || isUnknown) return this.tally.skip(record.o);
    if (record.o !== 'boot') this.#tap.take();
    this.#failure = undefined;
    const replayed = handler(this, record, at);
    if (!replayed) this.tally.skip(record.o);
    const whole = record as unknown as Observation;
    // Of what is not replayed, that nothing reached the unit is all that can be compared.
    const recorded = replayed ? whole : { iommu: whole.iommu };
    const effects = this.#effects(record);
    this.#comparison.compare(at + 1, record.o, recorded, replayed?.observed ?? {}, effects, replayed?.recorded);
    if (this.#failure !== undefined) this.#comparison.refuse(at + 1, record.o, this.#failure);
  }

  /** What the operation submitted to the unit, and which grant entries it changed. */
  #effects(record: { readonly o: string }): Observation {
    const iommu = this.#tap.take();
    // The recorder looked at the entries after each grant hypercall, and when a domain was destroyed.
    const looksAtEntries = 'ops' in record || record.o === 'destroydomain';
    return looksAtEntries ? { iommu, gt: this.entries.changes() } : { iommu };
  }
}

function machineOf(recording: Recording): Hypervisor {
  try {
    return new Hypervisor(machineOptions(recording, rulesOf(recording).rules));
  } catch (error) {
    if (error instanceof RangeError || error instanceof TypeError) throw unbuildable(recording, error.message);
    throw error;
  }
}

const unbuildable = ({ file }: Recording, why: string): InputError =>
  new InputError('RECORDING_MACHINE', { file, line: 1 }, `no such machine: ${why}`);
