// The words that the flush engine keeps per virtual CPU: how far it is, and what it was asked for.

import { highWord } from '../../../machine/wide.ts';

// Words per virtual CPU: how many requests there are and the next of them, the next unit; whether a wait is wanted.
export const COUNT = 0;
export const NEXT = 1;
export const UNIT = 2;
export const WAIT_WANTED = 3;
/** Units that were sent invalidations which no wait has covered. */
export const TOUCHED = 4;
export const PHASE = 5;
/** Units whose wait is not over. */
export const AWAITED = 6;
/** The first device TLB that the request in hand has not come to. */
export const DEVICE_TLB = 7;
/** Units whose write buffer may hold changes that no invalidation has taken along. */
export const BUFFERS = 8;
export const REQUESTS = 9;
// A request: its kind, the domain with the order above it, the device frame.
export const REQUEST_WORDS = 4;
export const KIND = 0;
export const DOMAIN_ORDER = 1;
export const DFN_LOW = 2;
export const DFN_HIGH = 3;
export const REQUESTS_MAX = 62;

export const PAGE = 3;
export const DOMAIN = 2;
export const GLOBAL = 1;
export const LEAVES_ONLY = 0x100;
/** A wait was asked for before the next request: this one is waited for by itself. */
export const AWAITED_ALONE = 0x200;
/** It concerns entries that were absent: units that do not cache those are passed over. */
export const ABSENT_ONLY = 0x400;
/** The driver's own, for one unit and a did it names: context cache of a device; IOTLB of the did. */
export const CONTEXT_OF = 4;
export const IOTLB_OF = 5;

/** Notes a request behind those that there are. False when there is no room for it. */
export function addRequest(state: Uint32Array, kind: number, domain: number, dfn: number, order: number): boolean {
  const count = state[COUNT]!;
  if (count === REQUESTS_MAX) return false;
  const at = REQUESTS + count * REQUEST_WORDS;
  if (count > 0 && state[WAIT_WANTED] !== 0) {
    state[at - REQUEST_WORDS + KIND]! |= AWAITED_ALONE;
    state[WAIT_WANTED] = 0;
  }
  state[at + KIND] = kind;
  state[at + DOMAIN_ORDER] = domain | (order << 16);
  state[at + DFN_LOW] = dfn;
  state[at + DFN_HIGH] = highWord(dfn);
  state[COUNT] = count + 1;
  return true;
}
