// What a replay reads of the machine beside the results of operations: all such knowledge of its parts is here.

import type { DomainControl, Hypervisor } from '../../../hypervisor/index.ts';
import { P2mType } from '../../../hypervisor/index.ts';
import type { Dfn, Gfn, Mfn, Wide } from '../../../machine/frame-number.ts';
import { FrameType } from '../../../machine/frame-table.ts';
import { type Domid, parseSbdf, type Sbdf } from '../../../machine/ids.ts';
import { wideHigh, wideLow } from '../../../machine/wide.ts';

/** A grant entry as it lies in memory. */
export interface SharedEntry {
  readonly flags: number;
  readonly grantee: number;
  /** Word of the status table; 0 in version 1. */
  readonly status: number;
  /** Frame number: low and high word. */
  readonly frame: readonly [low: number, high: number];
  /** Members of a transitive entry, as far as there are any. */
  readonly next: { readonly domain: number; readonly ref: number };
}

const V1_PER_FRAME = 512;
const V2_PER_FRAME = 256;
/** 16-bit words of status in a frame. */
const STATUS_PER_FRAME = 2048;

/** Of a frame: owner, references, and how many of them are of its type. */
export interface FrameState {
  readonly owner: number;
  readonly references: number;
  readonly type: string;
  readonly types: number;
}

const nameOf = (names: Readonly<Record<string, number>>, value: number): string =>
  Object.keys(names).find((name) => names[name] === value) ?? String(value);

const NO_FRAMES = { shared: [], status: [] } as const;

export class MachineProbe {
  readonly #machine: Hypervisor;

  constructor(machine: Hypervisor) {
    this.#machine = machine;
  }

  version(domain: number): number {
    return this.#machine.control.root.domains[domain] ? this.#machine.parts.grants.version(domain as Domid) : 1;
  }

  /** Frames of a domain's shared table, and of its status table. */
  tableFrames(domain: number): { readonly shared: readonly number[]; readonly status: readonly number[] } {
    const { parts, control } = this.#machine;
    if (!control.root.domains[domain]) return NO_FRAMES;
    const { grants } = parts;
    const id = domain as Domid;
    const shared: number[] = [];
    const status: number[] = [];
    for (let index = 0; index < grants.frameCount(id); index += 1) shared.push(grants.frame(id, index));
    for (let index = 0; index < grants.statusFrameCount(id); index += 1) status.push(grants.statusFrame(id, index));
    return { shared, status };
  }

  /** Refs that lie in one frame of the shared table. */
  refsPerFrame(domain: number): number {
    return this.version(domain) === 1 ? V1_PER_FRAME : V2_PER_FRAME;
  }

  /** A grant entry, decoded; null for a ref that the table has not, or for no domain. */
  entry(domain: number, ref: number): SharedEntry | null {
    const { parts, control } = this.#machine;
    if (!control.root.domains[domain]) return null;
    const { grants } = parts;
    const id = domain as Domid;
    const perFrame = this.refsPerFrame(domain);
    const index = Math.floor(ref / perFrame);
    if (index >= grants.frameCount(id)) return null;
    const words = this.words(grants.frame(id, index));
    if (perFrame === V1_PER_FRAME) {
      const at = (ref % V1_PER_FRAME) * 2;
      const next = { domain: 0, ref: 0 };
      const first = words[at]!;
      return { flags: first & 0xffff, grantee: first >>> 16, status: 0, frame: [words[at + 1]!, 0], next };
    }
    const at = (ref % V2_PER_FRAME) * 4;
    const first = words[at]!;
    return {
      flags: first & 0xffff,
      grantee: first >>> 16,
      status: this.statusOf(this.tableFrames(domain).status, ref),
      frame: [words[at + 2]!, words[at + 3]!],
      next: { domain: words[at + 1]! & 0xffff, ref: words[at + 2]! },
    };
  }

  /** The status of a ref in these status frames. */
  statusOf(frames: readonly number[], ref: number): number {
    const frame = frames[Math.floor(ref / STATUS_PER_FRAME)];
    if (frame === undefined) return 0;
    const word = this.words(frame)[(ref % STATUS_PER_FRAME) >>> 1]!;
    return (ref & 1) === 0 ? word & 0xffff : word >>> 16;
  }

  /** Pins of an active entry, one byte a counter; 0: it is not active. */
  pins(domain: number, ref: number): number {
    return this.#machine.parts.grants.pins(domain as Domid, ref);
  }

  activeFrame(domain: number, ref: number): number {
    return this.#machine.parts.grants.activeFrame(domain as Domid, ref);
  }

  /** Live handle of a mapper: the entry that it is of; null for one that is not live. */
  handle(
    mapper: number,
    handle: number,
  ): { readonly domain: number; readonly ref: number; readonly flags: number } | null {
    const maptrack = this.#machine.parts.grants.maptrack(mapper as Domid);
    const live = maptrack.live().find((found) => found === handle);
    if (live === undefined) return null;
    return { domain: maptrack.domain(live), ref: maptrack.ref(live), flags: maptrack.flags(live) };
  }

  /** What a domain's devices may do by its tables, and with which frame. */
  deviceEntry(domain: number, dfn: number): { readonly rights: number; readonly frame: number } | null {
    const { driver } = this.#machine.parts;
    return driver.tables.exists(domain as Domid) ? driver.lookup(domain as Domid, dfn as Dfn) : null;
  }

  /** Frames of RAM that a domain owns. */
  totalPages(domain: number): number {
    return this.#machine.parts.frames.owned(domain as Domid);
  }

  isHvm(domain: number): boolean {
    return this.#machine.control.root.domains[domain]?.kind === 'hvm';
  }

  domain(domain: number): DomainControl | null {
    return this.#machine.control.root.domains[domain] ?? null;
  }

  /** The domain whose did this is on the units: the complement of its id with caching mode. */
  domainOfDid(did: number): number {
    const { capabilities } = this.#machine.control.root.units[0]!;
    return capabilities.cachingMode ? ~did & 0xffff : did;
  }

  /** Who has a device; null: nobody, undefined: there is no such device. */
  deviceOwner(device: string): number | null | undefined {
    return this.#machine.control.root.devices.find((found) => found.device === device)?.owner;
  }

  /** The id that a device's requests carry on a real bus; its own, if the machine has it not. */
  requester(device: string): Sbdf {
    const { parts, config } = this.#machine;
    const index = config.devices.findIndex((found) => found.device === device);
    return parts.functions[index]?.requester ?? parseSbdf(device);
  }

  /** Who has each device that the hypervisor knows. */
  deviceOwners(): [bdf: string, owner: number | null][] {
    const present = this.#machine.control.root.devices.filter((found) => found.present);
    return present.map(({ device, owner }) => [`0x${parseSbdf(device).toString(16)}`, owner]);
  }

  /** Low and high word of the L1 entry for an address of a PV domain; null where no table has one. */
  pageEntry(domain: number, address: Wide): readonly [number, number] | null {
    const { pvTables } = this.#machine.parts;
    const isFound = pvTables.find(domain as Domid, wideLow(address, 'address'), wideHigh(address, 'address'));
    return isFound ? [pvTables.low, pvTables.high] : null;
  }

  /** The frame at a gfn of an HVM domain; null for a hole. */
  frameAtGfn(domain: number, gfn: number): number | null {
    const { p2m } = this.#machine.parts;
    if (p2m.type(domain as Domid, gfn as Gfn) === P2mType.hole) return null;
    return p2m.frame(domain as Domid, gfn as Gfn);
  }

  /** What lies at a gfn of an HVM domain, in words. */
  gfnType(domain: number, gfn: number): string {
    return nameOf(P2mType, this.#machine.parts.p2m.type(domain as Domid, gfn as Gfn));
  }

  /** Whose a frame is, and what it is used as; null for one that is free, or none. */
  frame(mfn: number): FrameState | null {
    const { frames } = this.#machine.parts;
    if (!frames.isAllocated(mfn)) return null;
    const frame = mfn as Mfn;
    const type = nameOf(FrameType, frames.type(frame));
    return { owner: frames.owner(frame), references: frames.references(frame), type, types: frames.typeCount(frame) };
  }

  isFree(frame: number): boolean {
    const { frames } = this.#machine.parts;
    return frame < frames.ram && !frames.isAllocated(frame);
  }

  isMemory(frame: number): boolean {
    return this.#machine.parts.frames.isMemory(frame);
  }

  /** Words of a frame of memory, for reading. */
  words(frame: number): Uint32Array {
    return this.#machine.parts.heap.blocks[frame]!;
  }

  /** Bytes of a frame of memory, for reading. */
  bytes(frame: number): Uint8Array {
    const words = this.words(frame);
    return new Uint8Array(words.buffer, words.byteOffset, words.byteLength);
  }
}
