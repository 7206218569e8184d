// A small machine for the policy suite: a granter, a mapper of grants with a device, and a domain that maps its own
// memory for a device of its own. It keeps book of what was taken away and not released, apart from the driver's.

import {
  type FlushPolicy,
  GNTMAP,
  GTF,
  Hypervisor,
  type Op,
  type OpResult,
  Progress,
  PV_WINDOW_BASE,
  type Release,
} from '../../../hypervisor/index.ts';
import { pieceOrder } from '../../../hypervisor/operations/dma-map.ts';
import type { Dfn, Gfn } from '../../../machine/frame-number.ts';
import type { Domid, Vcpu } from '../../../machine/ids.ts';

const GRANTER = 1 as Domid;
const MAPPER = 2 as Domid;
const OWNER = 3 as Domid;
const MAPPER_DEVICE = '0000:03:00.0';
const OWNER_DEVICE = '0000:04:00.0';
export const VCPUS = 2;
/** Grants 0 to 2 of the granter, each a frame of its own. */
export const REFS = 3;
/** The owner's device addresses in use: eight per virtual CPU. */
const WINDOW = 16;
export const WINDOW_PER_VCPU = 8;

/** No command of so few pages takes more micro-steps. */
const STEPS_MAX = 2000;

/** What a guest does. Handles are chosen among those that the virtual CPU has taken. */
export type Command =
  | { readonly kind: 'grantMap'; readonly ref: number; readonly readOnly: boolean; readonly half: 'host' | 'device' }
  | { readonly kind: 'grantUnmap'; readonly which: readonly number[] }
  | { readonly kind: 'dmaMap'; readonly at: number; readonly pages: number; readonly access: 'r' | 'rw' }
  | { readonly kind: 'dmaUnmap'; readonly at: number; readonly pages: number }
  | { readonly kind: 'tick'; readonly us: number };

interface Handle {
  readonly handle: number;
  readonly ref: number;
  readonly readOnly: boolean;
  readonly hostAddress: number;
  readonly busAddress: number;
}

/** A range that was unmapped and not released: which of its pages were there. */
interface Piece {
  readonly dfn: number;
  readonly order: number;
  readonly pages: readonly number[];
}

interface Running {
  readonly command: Command;
  readonly op: Op;
  readonly handles: readonly Handle[];
}

type VcpuOp = Extract<Op, { readonly vcpu?: number }>;

export class PolicyMachine {
  readonly machine: Hypervisor;
  readonly #ram: number;
  readonly #granted: readonly number[];
  readonly #handles: Handle[][] = Array.from({ length: VCPUS }, () => []);
  #unreleased: Piece[] = [];
  /** Commands that had an effect, by kind: a suite that does nothing proves nothing. */
  readonly done = new Map<string, number>();
  readonly #running = new Map<number, Running>();
  #slot = 0;
  #nowUs = 0;

  constructor(policy: FlushPolicy, release: Release) {
    this.machine = new Hypervisor({
      policy,
      release,
      vcpus: VCPUS,
      frames: 96,
      domains: 4,
      units: [{}, { capabilities: { cachingMode: true, maxAddressMask: 1 } }],
      devices: [
        { device: MAPPER_DEVICE, unit: 0 },
        { device: OWNER_DEVICE, unit: 1 },
      ],
      windowPages: 256,
      gfns: 16,
    });
    this.#mustDo({ op: 'create_domain', domain: GRANTER, kind: 'pv', frames: REFS });
    this.#mustDo({ op: 'create_domain', domain: MAPPER, kind: 'pv', frames: 1, iommu: true });
    this.#mustDo({ op: 'create_domain', domain: OWNER, kind: 'hvm', frames: 6, iommu: true, deviceTables: 'empty' });
    this.#mustDo({ op: 'assign_device', device: MAPPER_DEVICE, domain: MAPPER });
    this.#mustDo({ op: 'assign_device', device: OWNER_DEVICE, domain: OWNER });
    const { domains } = this.machine.control.root;
    this.#ram = this.machine.parts.p2m.frame(OWNER, 1 as Gfn);
    this.#granted = Array.from({ length: REFS }, (_, ref) => domains[GRANTER]!.ram.first + ref);
    for (const [ref, frame] of this.#granted.entries()) {
      this.#mustDo({ op: 'grant_write', domain: GRANTER, ref, flags: GTF.permit_access, grantee: MAPPER, frame });
    }
    this.machine.access.observer = { released: (_, dfn, order) => this.#released(dfn, order) };
  }

  #mustDo(op: Op): void {
    const { result } = this.machine.step(op);
    if (result !== 0) throw new Error(`${op.op}: ${result}`);
  }

  /** Does a command from end to end, the units running when it cannot go on. */
  do(vcpu: number, command: Command): void {
    if (!this.begin(vcpu, command)) return;
    for (let steps = 0; this.isBusy(vcpu); steps += 1) {
      if (steps === STEPS_MAX) throw new Error(`${command.kind} does not come to an end`);
      if (!this.goOn(vcpu)) for (const unit of this.machine.units) while (unit.step());
    }
  }

  /** Starts a command, to be gone on with by {@link goOn}. False when there is nothing to do for it. */
  begin(vcpu: number, command: Command): boolean {
    const running = this.#plan(vcpu, command);
    if (!running) return false;
    const begun = this.machine.begin(running.op as Parameters<Hypervisor['begin']>[0]);
    if (typeof begun !== 'number') throw new Error(`${running.op.op} was refused`);
    this.#running.set(vcpu, running);
    return true;
  }

  isBusy(vcpu: number): boolean {
    return this.#running.has(vcpu);
  }

  /** One micro-step; false when it is blocked. */
  goOn(vcpu: number): boolean {
    const progress = this.machine.microStep(vcpu as Vcpu);
    if (progress === Progress.done) {
      const running = this.#running.get(vcpu)!;
      this.#running.delete(vcpu);
      this.#ended(vcpu, running, this.machine.finish(vcpu as Vcpu));
    }
    return progress !== Progress.blocked;
  }

  #plan(vcpu: number, command: Command): Running | null {
    const handles: Handle[] = [];
    if (command.kind === 'grantUnmap') {
      for (const which of command.which) {
        const own = this.#handles[vcpu]!;
        if (own.length > 0) handles.push(...own.splice(which % own.length, 1));
      }
      if (handles.length === 0) return null;
    }
    const op = this.#op(vcpu, command, handles);
    if (op.op === 'dma_unmap') this.#expectRelease(op.dfn, op.pages);
    return { command, op, handles };
  }

  #op(vcpu: number, command: Command, handles: readonly Handle[]): VcpuOp {
    switch (command.kind) {
      case 'grantMap': {
        const half = command.half === 'host' ? GNTMAP.host_map : GNTMAP.device_map;
        const flags = half | (command.readOnly ? GNTMAP.readonly : 0);
        this.#slot += 1;
        const hostAddress = PV_WINDOW_BASE + (this.#slot % 256) * 4096;
        return {
          op: 'map_grant_ref',
          vcpu,
          domain: MAPPER,
          elements: [{ flags, ref: command.ref, domain: GRANTER, ...(command.half === 'host' ? { hostAddress } : {}) }],
        };
      }
      case 'grantUnmap': {
        const elements = handles.map(({ handle, hostAddress, busAddress }) => ({ handle, hostAddress, busAddress }));
        return { op: 'unmap_grant_ref', vcpu, domain: MAPPER, elements };
      }
      case 'tick':
        this.#nowUs += command.us;
        return { op: 'tick', vcpu, nowUs: this.#nowUs };
      default: {
        const dfn = WINDOW + vcpu * WINDOW_PER_VCPU + command.at;
        const pages = Math.min(command.pages, WINDOW_PER_VCPU - command.at);
        if (command.kind === 'dmaUnmap') return { op: 'dma_unmap', vcpu, domain: OWNER, dfn, pages };
        const { access } = command;
        return {
          op: 'dma_map',
          vcpu,
          domain: OWNER,
          dfn,
          pages: Math.min(pages, 3),
          frame: this.#ram + 2 * vcpu,
          access,
        };
      }
    }
  }

  /** The pieces that an unmap takes its range in, and what of each is there to be released. */
  #expectRelease(first: number, pages: number): void {
    for (let done = 0; done < pages; ) {
      const dfn = first + done;
      const order = pieceOrder(dfn, pages - done);
      const there = Array.from({ length: 2 ** order }, (_, page) => dfn + page).filter(
        (page) => this.#rights(page) > 0,
      );
      if (there.length > 0) this.#unreleased.push({ dfn, order, pages: there });
      done += 2 ** order;
    }
  }

  #released(dfn: number, order: number): void {
    const at = this.#unreleased.findIndex((piece) => piece.dfn === dfn && piece.order === order);
    if (at >= 0) this.#unreleased.splice(at, 1);
  }

  #rights(dfn: number): number {
    return this.machine.parts.driver.lookup(OWNER, dfn as Dfn).rights;
  }

  #ended(vcpu: number, { command, op, handles }: Running, result: OpResult): void {
    const isRefused = result.result < 0 || result.elements?.some(({ status }) => status !== 0);
    const hadEffect = op.op === 'dma_unmap' ? result.result > 0 : !isRefused;
    if (hadEffect) this.done.set(command.kind, (this.done.get(command.kind) ?? 0) + 1);
    if (op.op === 'map_grant_ref' && command.kind === 'grantMap') {
      const [element] = result.elements!;
      if (element!.status !== 0) return;
      const isHost = command.half === 'host';
      this.#handles[vcpu]!.push({
        handle: element!.handle!,
        ref: command.ref,
        readOnly: command.readOnly,
        hostAddress: isHost ? Number(op.elements[0]!.hostAddress) : 0,
        busAddress: isHost ? 0 : Number(element!.busAddress),
      });
      this.#mustBeUsable(
        MAPPER_DEVICE,
        this.#granted[command.ref]!,
        this.#granted[command.ref]!,
        command.readOnly ? 1 : 3,
      );
    } else if (op.op === 'dma_map' && result.result === 0) {
      for (let page = 0; page < op.pages; page += 1) {
        this.#mustBeUsable(OWNER_DEVICE, op.dfn + page, op.frame + page, op.access === 'r' ? 1 : 3);
      }
    } else if (handles.length > 0 && result.elements!.some(({ status }) => status !== 0)) {
      throw new Error(`unmap_grant_ref: ${JSON.stringify(result.elements)}`);
    }
  }

  /** Violations of "what was given can be used at once": filled as commands end. */
  readonly unusable: string[] = [];

  #mustBeUsable(device: string, dfn: number, frame: number, rights: number): void {
    for (const answer of this.machine.mayTranslate(device, dfn)) {
      if (answer.frame === frame && (answer.rights & rights) === rights) continue;
      this.unusable.push(`${device} may not get dfn ${dfn} as it is mapped: ${JSON.stringify(answer)}`);
    }
  }

  /** What devices may reach beyond the tables: stale, whether released or not. */
  stale(): string[] {
    return [...this.#staleGrants(), ...this.#staleRanges()].map(({ text }) => text);
  }

  /**
   * What devices may reach beyond the tables, of things that were given back. This is what a strict policy excludes.
   */
  staleReleased(): string[] {
    return [...this.#staleGrants(), ...this.#staleRanges()].filter(({ held }) => !held).map(({ text }) => text);
  }

  /** What is held back still though nothing is mapped: to be empty when everything has come to rest. */
  heldBack(): string[] {
    const { grants } = this.machine.parts;
    const live = this.#handles.flat();
    const bits = this.#granted.flatMap((_, ref) => {
      const flags = grants.sharedFlags(GRANTER, ref);
      const isWrong =
        ((flags & GTF.reading) !== 0 && !live.some((handle) => handle.ref === ref)) ||
        ((flags & GTF.writing) !== 0 && !live.some((handle) => handle.ref === ref && !handle.readOnly));
      return isWrong ? [`grant ${ref} is still marked as in use`] : [];
    });
    return [...bits, ...this.#unreleased.map(({ dfn, order }) => `dfn ${dfn}, order ${order} is not released`)];
  }

  /**
   * A stale write to a granted frame is held while GTF_writing says so to the granter, a read while GTF_reading does.
   */
  #staleGrants(): { readonly text: string; readonly held: boolean }[] {
    return this.#granted.flatMap((frame, ref) => {
      const flags = this.machine.parts.grants.sharedFlags(GRANTER, ref);
      return this.#excess(MAPPER_DEVICE, frame, 1)
        .concat(this.#excess(MAPPER_DEVICE, frame, 2))
        .map(({ text, right }) => ({
          text,
          held: (flags & (right === 2 ? GTF.writing : GTF.reading)) !== 0,
        }));
    });
  }

  #staleRanges(): { readonly text: string; readonly held: boolean }[] {
    const held = new Set(this.#unreleased.flatMap(({ pages }) => pages));
    return Array.from({ length: VCPUS * WINDOW_PER_VCPU }, (_, at) => WINDOW + at).flatMap((dfn) =>
      this.#excess(OWNER_DEVICE, dfn, 3).map(({ text }) => ({ text, held: held.has(dfn) })),
    );
  }

  #excess(device: string, dfn: number, mask: number): { readonly text: string; readonly right: number }[] {
    const answers = this.machine.mayTranslate(device, dfn);
    const current = answers.find((answer) => answer.current)!;
    return answers.flatMap(({ frame, rights, current: isCurrent }) => {
      if (isCurrent || frame < 0) return [];
      const right = rights & ~(frame === current.frame ? current.rights : 0) & mask;
      return right === 0 ? [] : [{ text: `${device} may use dfn ${dfn} as frame ${frame}, rights ${right}`, right }];
    });
  }

  /** Time passes, and every virtual CPU looks at its timer: twice, for one may wait for what another has submitted. */
  settle(us: number): void {
    for (const step of [us, 0]) for (let vcpu = 0; vcpu < VCPUS; vcpu += 1) this.do(vcpu, { kind: 'tick', us: step });
  }
}
