// create_domain: RAM, page tables, grant table, device tables; and what its devices could reach if it had any.

import { Errno } from '../machine/errno.ts';
import type { Dfn, Gfn, Mfn } from '../machine/frame-number.ts';
import { FrameType } from '../machine/frame-table.ts';
import type { Domid, Vcpu } from '../machine/ids.ts';
import { wideHigh, wideLow } from '../machine/wide.ts';
import { addDomain, type DomainControl } from './control.ts';
import { adoptDevices } from './devices/adoption.ts';
import type { MemoryLayout } from './door/memory-op.ts';
import type { Op, OpResult } from './door/op.ts';
import { P2mType } from './memory/p2m.ts';
import { Pte, PV_WINDOW_BASE, tableType } from './memory/pv-tables.ts';
import type { OperationContext } from './operations/context.ts';
import type { IommuOptions, MachineConfig } from './options.ts';
import type { Parts } from './parts.ts';

type CreateDomain = Extract<Op, { op: 'create_domain' }>;

const BUILDER = 0 as Vcpu;

/**
 * Builds a domain. A PV domain's frames are in its device tables 1:1 if and only if their type is writable, which is
 * what XSA-288 settled; so not those that become page tables. An HVM domain's are there by gfn. `deviceTables: 'empty'`
 * leaves them out: then a kernel's DMA API (dma_map) alone decides what devices reach.
 */
export function createDomain(machine: OperationContext, op: CreateDomain): OpResult {
  const { config, control, parts } = machine;
  check(op, config);
  if (control.root.domains[op.domain]) return { result: Errno.EEXIST };
  if (op.hardware && control.root.hardwareDomain !== null) return { result: Errno.EEXIST };
  if (op.kind === 'hvm' && (op.frames ?? 0) > config.gfns) return { result: Errno.EINVAL };
  const mark = parts.heap.mark();
  const [root, changes] = [control.root, control.journal.length];
  const first = new Builder(machine, op).build();
  if (first >= 0) addDomain(control, domainControl(op, config, first));
  const result = first >= 0 && op.hardware ? adoptDevices(machine, op.domain as Domid) : Math.min(first, 0);
  if (result !== 0) {
    parts.heap.rollback(mark);
    control.root = root;
    control.journal.length = changes;
  }
  parts.heap.release(mark);
  return { result };
}

function check(op: CreateDomain, config: MachineConfig): void {
  if (op.domain >= config.domains) {
    throw new RangeError(`domain ${op.domain}: expected 0 to ${config.domains - 1} (option domains)`);
  }
  if (op.sharedTables && !(op.kind === 'hvm' && op.iommu)) {
    throw new TypeError('sharedTables: expected only of an HVM domain with iommu');
  }
  if (op.frames !== undefined && op.memory) throw new TypeError('frames, memory: expected one of the two');
}

function domainControl(op: CreateDomain, config: MachineConfig, first: number): DomainControl {
  const iommu = op.iommu ?? false;
  const hardware = op.hardware ?? false;
  const deviceTables = op.deviceTables ?? 'ram';
  // Of a hardware domain that is not confined, all memory is mapped once and for all, or nothing is translated.
  const syncs = iommu && op.kind === 'pv' && !(hardware && config.iommu.hardwareDomain !== 'strict');
  return {
    domain: op.domain,
    kind: op.kind,
    state: 'alive',
    iommu,
    hardware,
    deviceTables,
    ram: { first, frames: op.frames ?? 0 },
    maxPages: op.maxPages ?? 0xffffffff,
    regions: [],
    grantView: {
      kind: op.kind,
      syncDevices: syncs,
      syncOwnFrames: syncs && deviceTables === 'ram',
      privileged: hardware,
      dying: false,
    },
  };
}

type IommuMode = IommuOptions['hardwareDomain'];

/** As asked for; but only units that can all pass requests through do. xen: vtd_setup. */
function hardwareMode(config: MachineConfig, parts: Parts): IommuMode {
  const mode = config.iommu.hardwareDomain;
  if (mode !== 'passthrough') return mode;
  // Tables of 5 levels turn it off, too: xen knows nothing of them (iommu_alloc, unhandled bits of SAGAW).
  const isPossible = parts.units.every(
    ({ capabilities: { passThrough, levels } }) => passThrough && !levels.includes(5),
  );
  return isPossible ? mode : 'relaxed';
}

/** One domain in the making. Methods give a negative errno where memory is exhausted or a limit passed. */
class Builder {
  readonly #parts: Parts;
  readonly #config: MachineConfig;
  readonly #op: CreateDomain;
  readonly #domain: Domid;
  /** Pages side by side that devices are to reach and do not yet. */
  readonly #run = { dfn: 0, frame: 0, pages: 0 };
  readonly #mapsRam: boolean;

  constructor(machine: OperationContext, op: CreateDomain) {
    this.#parts = machine.parts;
    this.#config = machine.config;
    this.#op = op;
    this.#domain = op.domain as Domid;
    this.#mapsRam = op.iommu === true && op.deviceTables !== 'empty' && this.#mode === 'strict';
  }

  /** @returns the first frame of RAM; a negative errno. */
  build(): number {
    const { grants, driver } = this.#parts;
    const limits = this.#config.grants;
    const version = this.#op.grantVersion ?? limits.version;
    if (version < 1 || version > limits.version) return Errno.EINVAL;
    if (this.#op.iommu && driver.tables.create(this.#domain) < 0) return Errno.ENOMEM;
    if (this.#op.sharedTables) driver.tables.setPlain(this.#domain);
    if (this.#op.iommu && this.#mode === 'passthrough') driver.tables.setPassThrough(this.#domain);
    const made = grants.create(this.#domain, {
      grantFrames: this.#op.grantFrames ?? limits.grantFrames,
      maptrackFrames: this.#op.maptrackFrames ?? limits.maptrackFrames,
      version,
      ...(this.#op.memory?.grantFrames ? { allocate: this.#op.memory.grantFrames } : {}),
    });
    if (made !== 0) return made;
    const { memory } = this.#op;
    if (!memory) return this.#plain();
    const first = this.#op.kind === 'hvm' ? this.#translated(memory) : this.#paravirtual(memory);
    if (first < 0) return first;
    // Where it is told what the hardware domain sees besides its own, that is all.
    const isSeen = memory.identity ? this.#identity(memory) : this.#mapEverything();
    return isSeen ? first : Errno.ENOMEM;
  }

  /** Without a layout: a window for host mappings, and RAM in one piece. */
  #plain(): number {
    const { frames, grants } = this.#parts;
    if (grants.grow(this.#domain, this.#op.grantFrames ?? this.#config.grants.grantFrames) < 0) return Errno.ENOMEM;
    const window = this.#op.kind === 'pv' ? this.#config.windowPages : 0;
    for (let page = 0; page < window; page += 512) {
      const address = PV_WINDOW_BASE + page * 4096;
      if (!this.#coverWith(address, (level) => this.#allocateTable(level))) return Errno.ENOMEM;
    }
    const ram: Mfn[] = [];
    for (let page = 0; page < (this.#op.frames ?? 0); page += 1) {
      const frame = frames.allocate(this.#domain);
      if (frame < 0) return Errno.ENOMEM;
      ram.push(frame as Mfn);
    }
    for (const [page, frame] of ram.entries()) this.#addPage(frame, page);
    return this.#mapRun() && this.#mapEverything() ? (ram[0] ?? 0) : Errno.ENOMEM;
  }

  #allocateTable(level: number): number {
    const frame = this.#parts.frames.allocate(this.#domain);
    return frame < 0 ? -1 : this.#makeTable(frame as Mfn, level);
  }

  /** A frame becomes a table that another one refers to; the top one is pinned, and in use (xen: guest_table). */
  #makeTable(frame: Mfn, level: number): number {
    const { frames } = this.#parts;
    frames.clearContents(frame);
    frames.resetType(frame, FrameType.none);
    frames.takeReferences(frame, 1, 0);
    frames.getType(frame, tableType(level));
    if (level !== 4) return frame;
    this.#parts.pvTables.writeXenEntries(frame);
    frames.setPinned(frame, true);
    frames.takeReferences(frame, 1, 0);
    frames.getType(frame, tableType(level));
    return frame;
  }

  #coverWith(address: number, next: (level: number) => number): boolean {
    return this.#parts.pvTables.cover(this.#domain, wideLow(address, 'address'), wideHigh(address, 'address'), next);
  }

  #addPage(frame: Mfn, gfn: number): boolean {
    const { frames, p2m } = this.#parts;
    if (this.#op.kind === 'hvm') p2m.set(this.#domain, gfn as Gfn, frame, P2mType.ram);
    // Populating takes and drops a reference to the writable type: the page keeps it, with a count of 0.
    else frames.resetType(frame, FrameType.writable);
    if (!this.#mapsRam) return true;
    const run = this.#run;
    const dfn = this.#op.kind === 'hvm' ? gfn : frame;
    if (run.pages > 0 && (run.dfn + run.pages !== dfn || run.frame + run.pages !== frame) && !this.#mapRun())
      return false;
    if (run.pages === 0) {
      run.dfn = dfn;
      run.frame = frame;
    }
    run.pages += 1;
    return true;
  }

  /** Maps the pages side by side that were added last, all at once. */
  #mapRun(): boolean {
    const { dfn, frame, pages } = this.#run;
    this.#run.pages = 0;
    return this.#parts.driver.mapRange(BUILDER, this.#domain, dfn as Dfn, frame as Mfn, pages, 3) === 0;
  }

  /** How the domain's devices are confined: a guest's always are. */
  get #mode(): IommuMode {
    return this.#op.hardware && this.#op.kind === 'pv' ? hardwareMode(this.#config, this.#parts) : 'strict';
  }

  /** A hardware domain that is not confined has all memory mapped, once and for all. */
  #mapEverything(): boolean {
    if (!this.#op.iommu || this.#mode !== 'relaxed') return true;
    const { driver, frames } = this.#parts;
    return driver.mapRange(BUILDER, this.#domain, 0 as Dfn, 0 as Mfn, frames.ram, 3) === 0;
  }

  /** A translated domain frame by frame: RAM, and pages of the hypervisor's heap that it sees. */
  #translated(memory: MemoryLayout): number {
    const { frames, p2m } = this.#parts;
    for (const [gfn, mfn, count, step] of memory.p2m ?? []) {
      for (let page = 0; page < count; page += 1) {
        const frame = (mfn + page * step) as Mfn;
        const isShared = frames.isAllocated(frame) && frames.owner(frame) === this.#domain && frames.isXenHeap(frame);
        if (!isShared && frames.allocate(this.#domain, { at: frame }) < 0) return Errno.ENOMEM;
        if (gfn + page >= p2m.gfns) return Errno.EINVAL;
        if (!this.#addPage(frame, gfn + page)) return Errno.ENOMEM;
      }
    }
    return this.#mapRun() ? (memory.p2m?.[0]?.[1] ?? 0) : Errno.ENOMEM;
  }

  /** A PV domain frame by frame: RAM, the page tables among it, and what they map. */
  #paravirtual(memory: MemoryLayout): number {
    const { frames } = this.#parts;
    for (const frame of memory.heapFrames ?? []) {
      if (frames.allocate(this.#domain, { at: frame, xenHeap: true }) < 0) return Errno.ENOMEM;
      frames.getType(frame as Mfn, FrameType.writable);
    }
    const tables = new Map((memory.pageTables ?? []).map(([frame, level]) => [frame, level]));
    for (const [first, last] of memory.ram ?? []) {
      for (let frame = first; frame <= last; frame += 1) {
        if (frames.allocate(this.#domain, { at: frame }) < 0) return Errno.ENOMEM;
        if (!tables.has(frame) && !this.#addPage(frame as Mfn, frame)) return Errno.ENOMEM;
      }
    }
    if (!this.#mapRun()) return Errno.ENOMEM;
    if (!this.#hookTables(memory, [...tables])) return Errno.EINVAL;
    return this.#mapPages(memory) ? (memory.ram?.[0]?.[0] ?? 0) : Errno.EINVAL;
  }

  #hookTables(memory: MemoryLayout, tables: readonly (readonly [number, number])[]): boolean {
    const left = new Map([1, 2, 3, 4].map((level) => [level, tables.filter(([, of]) => of === level)]));
    const next = (level: number) => {
      const frame = left.get(level)!.shift()?.[0];
      return frame === undefined ? -1 : this.#makeTable(frame as Mfn, level);
    };
    for (const [first, last] of memory.mapped ?? []) {
      const end = Number(last);
      for (let address = Number(first); address <= end; address += 0x200000) {
        if (!this.#coverWith(address, next)) return false;
      }
    }
    return true;
  }

  /** Pages that the tables map, each entry with its references. */
  #mapPages(memory: MemoryLayout): boolean {
    const { pvTables, frames } = this.#parts;
    for (const [start, mfn, count, step, access] of memory.mappings ?? []) {
      for (let page = 0; page < count; page += 1) {
        const address = Number(start) + page * 4096;
        const frame = (mfn + page * step) as Mfn;
        if (!pvTables.find(this.#domain, wideLow(address, 'address'), wideHigh(address, 'address'))) return false;
        if (!frames.takeReferences(frame, 1, access === 'rw' ? 1 : 0)) return false;
        const flags = Pte.present | Pte.user | Pte.accessedDirty | (access === 'rw' ? Pte.writable : 0);
        pvTables.write(((frame << 12) | flags) >>> 0, frame >>> 20);
      }
    }
    return true;
  }

  /** A hardware domain's devices reach reserved memory, too, and all of it unless they are confined. */
  #identity(memory: MemoryLayout): boolean {
    if (!this.#op.iommu || !this.#op.hardware || this.#mode === 'passthrough') return true;
    return (memory.identity ?? []).every(([first, last, access]) => {
      const rights = access === 'rw' ? 3 : 1;
      return (
        this.#parts.driver.mapRange(BUILDER, this.#domain, first as Dfn, first as Mfn, last - first + 1, rights) === 0
      );
    });
  }
}
