// A machine for examples: the hardware domain (0), a PV guest with a device (1), a PV guest without (2), which grants,
// and an HVM guest with tables of its own (3). The policy is Xen's, so that what reaches the unit is what Xen submits.

import { expect } from 'vitest';
import { GNTMAP, GTF } from '../../grant/index.ts';
import {
  type CopyElementInput,
  type ElementResult,
  fingerprint,
  Hypervisor,
  type MachineOptions,
  type MapElementInput,
  type Op,
  type OpResult,
  Progress,
  PV_WINDOW_BASE,
  type UnmapElementInput,
} from '../../hypervisor/index.ts';
import type { Dfn, Gfn, Mfn } from '../../machine/frame-number.ts';
import type { Domid, Vcpu } from '../../machine/ids.ts';
import { invalidationOf } from '../../passthrough/index.ts';

export const { host_map: HOST, device_map: DEVICE, readonly: RO, contains_pte: PTE } = GNTMAP;
export const HW: number = 0;
export const A: number = 1;
export const B: number = 2;
export const H: number = 3;
export const SELF = 0x7ff0;
export const DEV = '0000:03:00.0';

/** Address of a page of a PV guest's window for host mappings. */
export const page = (index: number): number => PV_WINDOW_BASE + index * 4096;

type VcpuOp = Parameters<Hypervisor['begin']>[0];
type CreateDomain = Extract<Op, { op: 'create_domain' }>;

/** Domains other than usual: fields that replace those of `create_domain`, by domain; null: no such domain. */
export type Casting = Readonly<Record<number, Partial<CreateDomain> | null>>;

const CAST: readonly CreateDomain[] = [
  { op: 'create_domain', domain: HW, kind: 'pv', frames: 8, iommu: true, hardware: true },
  { op: 'create_domain', domain: A, kind: 'pv', frames: 8, iommu: true },
  { op: 'create_domain', domain: B, kind: 'pv', frames: 8 },
  { op: 'create_domain', domain: H, kind: 'hvm', frames: 8, iommu: true },
];

export class GuestScene {
  readonly machine: Hypervisor;
  #submitted: string[] = [];

  constructor(options: MachineOptions = {}, casting: Casting = {}) {
    this.machine = new Hypervisor({
      domains: 6,
      frames: 320,
      gfns: 32,
      windowPages: 64,
      policy: 'xen',
      devices: [{ device: DEV, unit: 0 }],
      ...options,
    });
    for (const usual of CAST) {
      const other = casting[usual.domain];
      if (other !== null) this.do({ ...usual, ...other } as Op);
    }
    for (const unit of this.machine.units) {
      unit.observer = { taken: (_, w0, w1, w2, w3, byRegister) => this.#note([w0, w1, w2, w3], byRegister) };
    }
    if (this.machine.control.root.domains[A]?.iommu) this.assign(A);
  }

  #note(words: readonly number[], byRegister: boolean): void {
    const found = invalidationOf(words, byRegister);
    if (found.t !== 'iotlb' && found.t !== 'cc') return;
    const of = found.did === 0 && this.cachingMode ? 'what was absent' : this.#ids.domainOf(found.did);
    const what = found.t === 'cc' ? 'context' : found.g === 'page' ? `page ${Number(found.addr) / 4096}` : found.g;
    const mask = found.t === 'iotlb' && (found.am ?? 0) > 0 ? ` mask ${found.am}` : '';
    this.#submitted.push(`${what}${mask} of ${of}`);
  }

  get #ids() {
    return this.machine.parts.driver.ids[0]!;
  }

  get cachingMode(): boolean {
    return this.machine.units[0]!.capabilities.cachingMode;
  }

  /** Does an operation that must succeed. */
  do(op: Op): OpResult {
    const result = this.machine.step(op);
    expect(result.result, JSON.stringify(op)).toBeGreaterThanOrEqual(0);
    return result;
  }

  step(op: Op): OpResult {
    return this.machine.step(op);
  }

  assign(domain: number): OpResult {
    return this.do({ op: 'assign_device', device: DEV, domain });
  }

  /** What the unit takes while something is done: IOTLB and context invalidations, oldest first. */
  during(act: () => unknown): string[] {
    this.#submitted = [];
    act();
    return this.#submitted;
  }

  /** Runs an operation one micro-step at a time; `between` looks at the state after each. The units go on meanwhile. */
  inPieces(op: VcpuOp, between: (step: number) => void): OpResult {
    const vcpu = this.machine.begin(op);
    if (typeof vcpu !== 'number') return vcpu;
    for (let step = 0; ; step += 1) {
      const progress = this.machine.microStep(vcpu);
      if (progress === Progress.blocked) for (const unit of this.machine.units) while (unit.step());
      between(step);
      if (progress === Progress.done) return this.machine.finish(vcpu as Vcpu);
    }
  }

  /** A domain's frame: a machine frame of a PV one, a gfn of an HVM one. */
  frame(domain: number, index = 0): number {
    const { ram, kind } = this.machine.control.root.domains[domain]!;
    return kind === 'hvm' ? index : ram.first + index;
  }

  /** The machine frame behind a gfn. */
  machineFrame(domain: number, gfn: number): number {
    return this.machine.parts.p2m.frame(domain as Domid, gfn as Gfn);
  }

  /** A guest writes an entry: its frame `index` for `grantee`, all rights, unless told otherwise. */
  grant(
    ref: number,
    options: Partial<Extract<Op, { op: 'grant_write' }>> & { index?: number; by?: number } = {},
  ): void {
    const { by = B, index = 0, ...rest } = options;
    const layout = this.machine.parts.grants.version(by as Domid) as 1 | 2;
    const usual = { flags: GTF.permit_access, grantee: A, frame: this.frame(by, index), layout };
    this.do({ op: 'grant_write', domain: by, ref, ...usual, ...rest });
  }

  /** Domain 1 maps ref 8 of domain 2 at the start of its window, unless told otherwise. */
  map(flags: number, options: Partial<MapElementInput> & { by?: number; vcpu?: number } = {}): ElementResult {
    const { by = A, vcpu = 0, ...rest } = options;
    const element = { flags, ref: 8, domain: B, hostAddress: page(0), ...rest };
    return this.step({ op: 'map_grant_ref', vcpu, domain: by, elements: [element] }).elements![0]!;
  }

  unmap(element: UnmapElementInput, options: { by?: number; vcpu?: number } = {}): number {
    const { by = A, vcpu = 0 } = options;
    return this.step({ op: 'unmap_grant_ref', vcpu, domain: by, elements: [element] }).elements![0]!.status;
  }

  /** Statuses of a batch of copies by domain 1. */
  copy(elements: readonly CopyElementInput[], by = A): number[] {
    return this.step({ op: 'copy', domain: by, elements }).elements!.map(({ status }) => status);
  }

  /** The four pin counters of an entry: `hostWrite/hostRead/deviceWrite/deviceRead`. */
  pins(ref: number, granter = B): string {
    const pins = this.machine.parts.grants.pins(granter as Domid, ref);
    return [pins & 0xff, (pins >>> 8) & 0xff, (pins >>> 16) & 0xff, pins >>> 24].join('/');
  }

  /** The usage bits of an entry, wherever its version has them. */
  usage(ref: number, granter = B): string {
    const usage = this.machine.parts.grants.usage(granter as Domid, ref);
    return `${usage & GTF.reading ? 'r' : '-'}${usage & GTF.writing ? 'w' : '-'}`;
  }

  /** What a domain's devices may do at a device frame: `rw`, `r` or `-`. */
  rights(domain: number, dfn: number): string {
    const { rights } = this.machine.parts.driver.lookup(domain as Domid, dfn as Dfn);
    return rights === 0 ? '-' : rights === 1 ? 'r' : 'rw';
  }

  references(frame: number): number {
    return this.machine.parts.frames.references(frame as Mfn);
  }

  isAllocated(frame: number): boolean {
    return this.machine.parts.frames.isAllocated(frame);
  }

  store(frame: number, offset: number, bytes: string): void {
    this.do({ op: 'store', frame, offset, bytes });
  }

  /** Bytes of a machine frame in hexadecimal. */
  bytes(frame: number, offset: number, length: number): string {
    return Buffer.from(this.machine.parts.frames.readBytes(frame, offset, length)).toString('hex');
  }

  /** Words of a grant entry as they are in the shared frame. */
  entry(ref: number, granter = B): number[] {
    const { grants } = this.machine.parts;
    const words = grants.version(granter as Domid) === 2 ? 4 : 2;
    return Array.from({ length: words }, (_, word) => grants.shared(granter as Domid, ref, word));
  }

  /** The device of domain 1 reads, or writes, a word: the frame that it reaches, or the name of the fault. */
  dma(dfn: number, access: 'read' | 'write' = 'read', device = DEV): number | string {
    const { dma } = this.step({ op: 'dma', device, address: dfn * 4096, access, value: 1 });
    return dma!.fault?.name ?? dma!.frame!;
  }

  get fingerprint(): string {
    return fingerprint(this.machine);
  }
}
