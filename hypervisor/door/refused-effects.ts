// What an operation leaves behind although it was refused, as Xen does: the only exceptions to the rule that a refusal
// changes nothing. docs/refused-operations.md is made of this table, and a property holds refusals against it.

import { GrantStatus } from '../../grant/index.ts';
import type { Op } from './op.ts';

/** What of a machine an operation can change, in the words of the table. */
export const StatePart = {
  handleQueue: 'the order of free handles',
  usageBits: 'usage bits of an entry',
  grantEntry: 'an entry, other than its usage bits',
  frameType: "a frame's type",
  deviceEntry: 'what devices reach',
  frame: 'a frame, with what it held',
  tableEntry: 'a page-table entry, with the references that it held',
  p2mEntry: 'a p2m entry',
  grantTable: 'the size of a grant table',
  domain: 'the state of the domain',
  device: 'the state of a device',
  quarantine: "a device's quarantine",
} as const;
export type StatePart = keyof typeof StatePart;

export interface RefusedEffect {
  readonly operation: Op['op'];
  /** What it was refused with, and why. */
  readonly refusals: readonly number[];
  readonly when: string;
  /** What stays of it. */
  readonly effect: string;
  readonly parts: readonly StatePart[];
  readonly source: string;
}

const { general_error, bad_domain, bad_gntref, bad_page, bad_copy_arg, okay } = GrantStatus;
const EPERM = -1;
const ENXIO = -6;
const EACCES = -13;
const EBUSY = -16;
const EINVAL = -22;
const ESRCH = -3;
const ENOMEM = -12;
const EFAULT = -14;
const COPY_REFUSALS = [general_error, bad_domain, bad_gntref, bad_page, bad_copy_arg, -8];

export const refusedEffects: readonly RefusedEffect[] = [
  {
    operation: 'map_grant_ref',
    refusals: [general_error, bad_gntref, bad_page],
    when: 'a handle was taken before the refusal',
    effect: 'the handle goes to the end of its free list',
    parts: ['handleQueue'],
    source: 'grant_table.c map_grant_ref, put_maptrack_handle',
  },
  {
    operation: 'map_grant_ref',
    refusals: [general_error, bad_page],
    when: 'the entry was marked as used before the refusal',
    effect: 'usage bits that no pin stands behind are cleared, also those that the granter had set itself',
    parts: ['usageBits'],
    source: 'grant_table.c reduce_status_for_pin',
  },
  {
    operation: 'map_grant_ref',
    refusals: [general_error],
    when: 'the map was to write, and the host mapping failed',
    effect: "the frame stays of the type writable, and its owner's devices reach it",
    parts: ['frameType', 'deviceEntry'],
    source: 'mm.c _get_page_type; grant_table.c map_grant_ref',
  },
  {
    operation: 'map_grant_ref',
    refusals: [general_error],
    when: 'an HVM domain maps where it has mapped a grant already',
    effect: 'the domain is crashed',
    parts: ['domain'],
    source: 'p2m.c p2m_add_page',
  },
  {
    operation: 'unmap_and_replace',
    refusals: [general_error],
    when: 'the mapping at the host address is not that of the handle',
    effect: 'the entry at the new address is empty',
    parts: ['tableEntry', 'frame', 'deviceEntry'],
    source: 'pv/grant_table.c replace_grant_pv_mapping',
  },
  {
    operation: 'unmap_grant_ref',
    refusals: [okay],
    when: "the handle's granter is gone",
    effect: 'the domain is crashed',
    parts: ['domain'],
    source: 'grant_table.c unmap_common',
  },
  {
    operation: 'copy',
    refusals: COPY_REFUSALS,
    when: 'an entry was marked as used before the refusal',
    effect: 'usage bits that no pin stands behind are cleared, also those that the granter had set itself',
    parts: ['usageBits'],
    source: 'grant_table.c acquire_grant_for_copy, reduce_status_for_pin',
  },
  {
    operation: 'copy',
    refusals: COPY_REFUSALS,
    when: 'the destination was claimed before the refusal',
    effect: "its frame stays of the type writable, and its owner's devices reach it",
    parts: ['frameType', 'deviceEntry'],
    source: 'mm.c _get_page_type; grant_table.c gnttab_copy_claim_buf',
  },
  {
    operation: 'transfer',
    refusals: [general_error, bad_domain],
    when: 'the frame was taken from its owner before the refusal',
    effect: 'the frame is lost',
    parts: ['frame', 'deviceEntry'],
    source: 'grant_table.c gnttab_transfer',
  },
  {
    operation: 'transfer',
    refusals: [general_error],
    when: 'an HVM target cannot have the frame at the gfn that its entry names',
    effect: "the frame is the target's, at no gfn, and the entry says completed; over a grant's mapping it is crashed",
    parts: ['frame', 'frameType', 'grantEntry', 'usageBits', 'deviceEntry', 'domain'],
    source: 'grant_table.c gnttab_transfer; p2m.c guest_physmap_add_page',
  },
  {
    operation: 'transfer',
    refusals: [general_error],
    when: 'the target changed the version of its table after its entry had accepted, or died',
    effect: "the frame is the target's, without a type and at no gfn; if that is dying it goes with it",
    parts: ['frame', 'frameType', 'deviceEntry'],
    source: 'grant_table.c gnttab_transfer',
  },
  {
    operation: 'pin_table',
    refusals: [EPERM, EACCES, EBUSY, EINVAL],
    when: 'nothing needed the frame’s type, and what the frame holds is no table',
    effect: "the frame has no type, and its owner's devices do not reach it",
    parts: ['frameType', 'deviceEntry'],
    source: 'mm.c _get_page_type',
  },
  {
    operation: 'add_to_physmap',
    refusals: [EPERM, ENXIO],
    when: 'the table had to grow, and what is at the gfn cannot go from there',
    effect: 'the table has grown',
    parts: ['grantTable', 'frame'],
    source: 'mm.c xenmem_add_to_physmap_one',
  },
  {
    operation: 'assign_device',
    refusals: [EPERM, EBUSY, ENOMEM, EFAULT],
    when: 'the device was to leave the hardware domain, and needs tables in quarantine',
    effect: 'its quarantine has its tables and its did',
    parts: ['quarantine'],
    source: 'passthrough/pci.c assign_device; vtd/iommu.c intel_iommu_quarantine_init',
  },
  {
    operation: 'assign_device',
    refusals: [EPERM, EBUSY, ENOMEM, EFAULT, ESRCH],
    when: 'the device had faults',
    effect: 'they are forgotten',
    parts: ['device'],
    source: 'passthrough/pci.c assign_device',
  },
  {
    operation: 'assign_device',
    refusals: [ESRCH],
    when: 'a phantom function could not follow its device',
    effect:
      'the device is where deassign_device takes it; if it cannot go there it is broken, and the domain is crashed',
    parts: ['device', 'domain', 'deviceEntry', 'quarantine'],
    source: 'passthrough/pci.c assign_device (XSA-449)',
  },
  {
    operation: 'remove_device',
    refusals: [EBUSY],
    when: 'virtual functions of it are there',
    effect: 'it and they are broken',
    parts: ['device'],
    source: 'passthrough/pci.c pci_remove_device',
  },
  {
    operation: 'add_device',
    refusals: [EINVAL],
    when: 'no function answers there',
    effect: 'there is an entry of it, nobody’s and given to nobody',
    parts: ['device'],
    source: 'passthrough/pci.c pci_add_device, alloc_pdev',
  },
  {
    operation: 'remove_device',
    refusals: [EINVAL],
    when: 'no function answers there',
    effect: 'its entry is gone',
    parts: ['device'],
    source: 'passthrough/pci.c pci_remove_device',
  },
];

/** Effects that every batch may have, whatever its elements are about. */
export const batchEffects: readonly Pick<RefusedEffect, 'when' | 'effect' | 'source'>[] = [
  {
    when: 'a later element cannot be read',
    effect: 'elements before it stay done, and the call says EFAULT',
    source: 'grant_table.c gnttab_map_grant_ref and the like',
  },
  {
    when: 'the outcome of an element cannot be written',
    effect: 'the element stays done, and the guest never learns of it: of a map it has a handle that it does not know',
    source: 'grant_table.c gnttab_map_grant_ref and the like',
  },
  {
    when: 'something that was unmapped before waits for a flush, and the flush is due',
    effect: 'the flush is carried out, and what it held back is released',
    source: 'the flush policy; Xen holds nothing back',
  },
];
