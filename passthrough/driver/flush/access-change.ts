// A change of device access in the making: the one object that policies are shown.

import type { Dfn } from '../../../machine/frame-number.ts';
import type { Domid } from '../../../machine/ids.ts';
import type { AccessChange, Rights, Structure } from '../../policy/flush-policy.ts';

export class ChangeInMaking implements AccessChange {
  domain = 0 as Domid;
  dfn = 0 as Dfn;
  order = 0;
  from: Rights = 'none';
  to: Rights = 'none';
  frameChanged = false;
  structure: Structure = 'none';
  pendingRemoval = false;
  absentMayBeCached = false;
}

/** Rights in words, from the bits of an entry. */
export function rightsOf(bits: number): Rights {
  return bits === 0 ? 'none' : (bits & 2) !== 0 ? 'rw' : 'ro';
}
