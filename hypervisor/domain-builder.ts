// create_domain: RAM, page tables, grant table, device tables; and what its devices could reach if it had any.

import { Errno } from '../machine/errno.ts';
import type { Dfn, Gfn, Mfn } from '../machine/frame-number.ts';
import { FrameType } from '../machine/frame-table.ts';
import type { Domid, Vcpu } from '../machine/ids.ts';
import type { ControlState } from './control.ts';
import type { Op, OpResult } from './door/op.ts';
import { P2mType } from './memory/p2m.ts';
import type { MachineConfig } from './options.ts';
import type { Parts } from './parts.ts';

interface Machine {
  readonly config: MachineConfig;
  readonly control: ControlState;
  readonly parts: Parts;
}

/**
 * Builds a domain. A PV domain's frames are in its device tables 1:1 if and only if their type is writable, which is
 * what XSA-288 settled; so not those that become page tables. An HVM domain's are there by gfn. `deviceTables: 'empty'`
 * leaves them out: then a kernel's DMA API (dma_map) alone decides what devices reach.
 */
export function createDomain(machine: Machine, op: Extract<Op, { op: 'create_domain' }>): OpResult {
  const { config, control, parts } = machine;
  const domain = op.domain as Domid;
  if (!Number.isInteger(op.domain) || op.domain < 0 || op.domain >= config.domains) {
    throw new RangeError(`domain ${op.domain}: expected 0 to ${config.domains - 1} (option domains)`);
  }
  const count = op.frames ?? 0;
  if (!Number.isInteger(count) || count < 0) throw new RangeError(`frames ${count}: expected a count`);
  if (op.kind !== 'pv' && op.kind !== 'hvm') throw new TypeError(`kind ${String(op.kind)}: expected pv or hvm`);
  if (control.root.domains[op.domain]) return { result: Errno.EEXIST };
  const tables = op.kind === 'pv' ? parts.windows.tables : 0;
  if (op.kind === 'hvm' && count > config.gfns) return { result: Errno.EINVAL };
  const mark = parts.heap.mark();
  const first = build(machine, domain, op, tables);
  if (first < 0) {
    parts.heap.rollback(mark);
    parts.heap.release(mark);
    return { result: Errno.ENOMEM };
  }
  parts.heap.release(mark);
  control.change(`domain ${op.domain} created`, (draft) => {
    const iommu = op.iommu ?? false;
    draft.domains[op.domain] = {
      domain: op.domain,
      kind: op.kind,
      state: 'alive',
      iommu,
      deviceTables: op.deviceTables ?? 'ram',
      ram: { first, frames: count },
      grantView: { kind: op.kind, syncDevices: iommu && op.kind === 'pv' },
    };
  });
  return { result: 0 };
}

/** @returns the first frame of RAM, -1 when memory is exhausted. */
function build(machine: Machine, domain: Domid, op: Extract<Op, { op: 'create_domain' }>, tables: number): number {
  const { parts } = machine;
  if (op.iommu && parts.driver.tables.create(domain) < 0) return -1;
  if (parts.grants.grow(domain, machine.config.grants.grantFrames) < 0) return -1;
  for (let index = 0; index < tables; index += 1) {
    const frame = parts.frames.allocate(domain);
    if (frame < 0) return -1;
    parts.frames.getType(frame as Mfn, FrameType.l1PageTable);
    parts.windows.addTable(domain, index, frame as Mfn);
  }
  // RAM first, in one piece, and only then the tables that let devices reach it.
  const ram: Mfn[] = [];
  for (let page = 0; page < (op.frames ?? 0); page += 1) {
    const frame = parts.frames.allocate(domain);
    if (frame < 0) return -1;
    ram.push(frame as Mfn);
  }
  const isMapped = ram.every((frame, page) => addPage(parts, domain, op, page, frame));
  return isMapped ? (ram[0] ?? 0) : -1;
}

function addPage(
  parts: Parts,
  domain: Domid,
  op: Extract<Op, { op: 'create_domain' }>,
  page: number,
  frame: Mfn,
): boolean {
  if (op.kind === 'hvm') parts.p2m.set(domain, page as Gfn, frame, P2mType.ram);
  else {
    // Populating takes and drops a reference to the writable type: the page keeps it, with a count of 0.
    parts.frames.getType(frame, FrameType.writable);
    parts.frames.putType(frame);
  }
  if (!op.iommu || op.deviceTables === 'empty') return true;
  const dfn = (op.kind === 'hvm' ? page : frame) as number as Dfn;
  return parts.driver.map(0 as Vcpu, domain, dfn, frame, 3) === 0;
}
