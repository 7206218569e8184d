// Which operations run on a virtual CPU, and what their fields may be.

import type { Op } from './op.ts';

/** Operations that run on a virtual CPU, in micro-steps. The code is what the pending record holds. */
export const VCPU_OPS = [
  'map_grant_ref',
  'unmap_grant_ref',
  'dma_map',
  'dma_unmap',
  'assign_device',
  'deassign_device',
  'tick',
  'unmap_and_replace',
  'copy',
  'transfer',
  'update_va_mapping',
  'map_foreign',
  'pin_table',
  'unpin_table',
  'decrease_reservation',
  'populate_physmap',
  'increase_reservation',
  'add_to_physmap',
  'remove_from_physmap',
  'destroy_domain',
  'set_version',
  'remove_device',
  'add_device',
  'remove_unit',
] as const;
export type VcpuOpName = (typeof VCPU_OPS)[number];
export type VcpuOp = Extract<Op, { readonly op: VcpuOpName }>;

/** A domain id as a guest's 16-bit field holds it. */
export function domainWord(domain: number): number {
  if (!Number.isInteger(domain) || domain < 0 || domain > 0xffff) {
    throw new TypeError(`domain ${String(domain)}: expected an integer from 0 to 65535`);
  }
  return domain;
}

const codes = new Map<string, number>(VCPU_OPS.map((name, index) => [name, index + 1]));

/** What the pending record holds for an operation. */
export function vcpuOpCode(name: VcpuOpName): number {
  return codes.get(name)!;
}

export function isVcpuOp(op: Op): op is VcpuOp {
  return codes.has(op.op);
}
