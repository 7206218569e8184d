// Hypercalls about a grant table as a whole, each done in one step under its lock: setup_table, query_size,
// get_status_frames, get_version; and swap_grant_ref, element by element. xen: common/grant_table.c.

import { Errno } from '../../machine/errno.ts';
import { DOMID_FIRST_RESERVED, DOMID_SELF, type Domid } from '../../machine/ids.ts';
import { GrantStatus } from '../status.ts';
import type { GrantContext } from './context.ts';

/** The domain that a hypercall means: its own, or another's table, which takes a privilege. */
function target(context: GrantContext, caller: Domid, named: number): Domid | GrantStatus {
  const domain = (named === DOMID_SELF ? caller : named) as Domid;
  if (domain >= DOMID_FIRST_RESERVED || context.domain(domain) === null) return GrantStatus.bad_domain;
  if (domain !== caller && !context.domain(caller)!.privileged) return GrantStatus.permission_denied;
  return domain;
}

/** Grows a table to `frames` at least. xen: gnttab_setup_table. */
export function setupTable(
  context: GrantContext,
  caller: Domid,
  named: number,
  frames: number,
  allocate: readonly number[],
  allocateStatus: readonly number[],
): { readonly status: GrantStatus; readonly domain: Domid } {
  const found = target(context, caller, named);
  if (found < 0) return { status: found as GrantStatus, domain: caller };
  const domain = found as Domid;
  const { tables } = context;
  if (frames > tables.framesMax(domain)) return { status: GrantStatus.general_error, domain };
  const grown = tables.grow(domain, frames, allocate, allocateStatus);
  return { status: grown === 0 ? GrantStatus.okay : GrantStatus.general_error, domain };
}

/** Frames that a table has, and may have. xen: gnttab_query_size. */
export function querySize(
  context: GrantContext,
  caller: Domid,
  named: number,
): { readonly status: GrantStatus; readonly frames: number; readonly maxFrames: number } {
  const found = target(context, caller, named);
  if (found < 0) return { status: found as GrantStatus, frames: 0, maxFrames: 0 };
  const domain = found as Domid;
  const { tables } = context;
  return { status: GrantStatus.okay, frames: tables.frameCount(domain), maxFrames: tables.framesMax(domain) };
}

/** Whether a table has that many status frames; version 1 has none. xen: gnttab_get_status_frames. */
export function statusFrames(
  context: GrantContext,
  caller: Domid,
  named: number,
  frames: number,
): { readonly status: GrantStatus; readonly domain: Domid } {
  const found = target(context, caller, named);
  if (found < 0) return { status: found as GrantStatus, domain: caller };
  const domain = found as Domid;
  const isThere = frames <= context.tables.statusFrameCount(domain);
  return { status: isThere ? GrantStatus.okay : GrantStatus.general_error, domain };
}

/** @returns 1 or 2, or a negative errno. xen: gnttab_get_version. */
export function getVersion(context: GrantContext, caller: Domid, named: number): number {
  const found = target(context, caller, named);
  if (found === GrantStatus.bad_domain) return Errno.ESRCH;
  if (found === GrantStatus.permission_denied) return Errno.EPERM;
  return context.tables.version(found as Domid);
}

/** Exchanges two entries that are not in use. xen: gnttab_swap_grant_ref. */
export function swapEntries({ tables }: GrantContext, domain: Domid, a: number, b: number): GrantStatus {
  const entries = tables.entries(domain);
  if (a >= entries || b >= entries) return GrantStatus.bad_gntref;
  if (a === b) return GrantStatus.okay;
  if (tables.pins(domain, a) !== 0 || tables.pins(domain, b) !== 0) return GrantStatus.eagain;
  const words = tables.version(domain) === 2 ? 4 : 2;
  for (let word = 0; word < words; word += 1) {
    const kept = tables.shared(domain, a, word);
    tables.writeShared(domain, a, word, tables.shared(domain, b, word));
    tables.writeShared(domain, b, word, kept);
  }
  if (words === 4) {
    const kept = tables.statusWord(domain, a);
    tables.setStatusWord(domain, a, tables.statusWord(domain, b));
    tables.setStatusWord(domain, b, kept);
  }
  return GrantStatus.okay;
}
