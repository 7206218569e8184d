// GNTTABOP_cache_flush: the processor's caches of a frame that the caller owns or has mapped. Nothing of it is modelled
// but who may. xen: common/grant_table.c _cache_flush.

import { Errno } from '../../machine/errno.ts';
import { type Mfn, PAGE_SIZE } from '../../machine/frame-number.ts';
import { DOMID_FIRST_RESERVED, type Domid } from '../../machine/ids.ts';
import type { GrantContext } from './context.ts';

const CLEAN = 1;
const INVALIDATE = 2;

/** @returns 0 or a negative errno. */
export function cacheFlush(
  context: GrantContext,
  caller: Domid,
  low: number,
  high: number,
  offset: number,
  length: number,
  operation: number,
): number {
  if (offset >= PAGE_SIZE || length > PAGE_SIZE || offset + length > PAGE_SIZE) return Errno.EINVAL;
  // Refs (bit 31) instead of addresses are refused, too, as recorded.
  if ((operation & ~(CLEAN | INVALIDATE)) !== 0) return Errno.EINVAL;
  if (length === 0 || (operation & (CLEAN | INVALIDATE)) === 0) return 0;
  const frame = (low >>> 12) + high * 0x100000;
  if (!context.frames.isMemory(frame)) return Errno.EINVAL;
  if (!context.frames.isAllocated(frame)) return Errno.EPERM;
  const owner = context.frames.owner(frame as Mfn);
  if (owner >= DOMID_FIRST_RESERVED) return Errno.EPERM;
  if (owner !== caller && !hasMapped(context, caller, owner, frame as Mfn)) return Errno.EINVAL;
  // Invalidating alone is not to be had on x86.
  return (operation & CLEAN) === 0 ? Errno.EOPNOTSUPP : 0;
}

/** xen: grant_map_exists. */
function hasMapped({ tables }: GrantContext, mapper: Domid, granter: Domid, frame: Mfn): boolean {
  for (let ref = 0, end = tables.entries(granter); ref < end; ref += 1) {
    const isHeld = tables.pins(granter, ref) !== 0 && tables.activeMapper(granter, ref) === mapper;
    if (isHeld && tables.activeFrame(granter, ref) === frame) return true;
  }
  return false;
}
