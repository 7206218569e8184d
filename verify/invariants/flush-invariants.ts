// What units may still remember of what is no more.

import { DOMID_FIRST_RESERVED, type Domid } from '../../machine/ids.ts';
import { rememberedContexts } from './context-entries.ts';
import type { Invariant } from './invariant.ts';

/** F1. Who releases on return waits for nothing. */
export const nothingStaleIsForgotten: Invariant = {
  id: 'F1',
  sentence: 'What a device may reach by a cached entry it reaches by the tables, or its release waits for the flush.',
  check(machine, reach) {
    const { flush } = machine.parts.driver;
    const now = new Map<string, number>();
    const key = (device: string, dfn: number, frame: number) => `${device} ${dfn} ${frame}`;
    for (const { device, dfn, frame, rights, current } of reach()) {
      if (current) now.set(key(device, dfn, frame), rights);
    }
    return reach().flatMap(({ device, owner, dfn, frame, rights, current }) => {
      const excess = current ? 0 : rights & ~(now.get(key(device, dfn, frame)) ?? 0);
      if (excess === 0) return [];
      const isHeld = flush.release === 'afterFlush';
      const isWaiting = isHeld && owner < DOMID_FIRST_RESERVED && flush.isPending(owner as Domid, dfn as never, 0);
      return isWaiting ? [] : [`${device} may still ${excess & 2 ? 'write' : 'read'} frame ${frame} at dfn ${dfn}`];
    });
  },
};

/** F6. Context entries are never deferred; what is remembered under a did that has none is D2's. */
export const contextsAreFlushed: Invariant = {
  id: 'F6',
  sentence: 'At rest no unit remembers a context entry that is no more.',
  check(machine) {
    return rememberedContexts(machine).map(({ unit, source }) => {
      return `unit ${unit} may remember an older entry of requester 0x${source.toString(16)}`;
    });
  },
};
