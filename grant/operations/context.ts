// What the operations work with.

import type { FrameTable } from '../../machine/frame-table.ts';
import type { Domid } from '../../machine/ids.ts';
import type { Locks } from '../../machine/locks.ts';
import type { PendingOperations } from '../../machine/pending.ts';
import type { GrantTables } from '../grant-tables.ts';
import type { DeviceAccess, DomainView, HostMappings } from '../ports.ts';
import type { UnmapBatches } from '../unmap-batch.ts';

export interface GrantContext {
  readonly frames: FrameTable;
  readonly pending: PendingOperations;
  readonly tables: GrantTables;
  readonly batches: UnmapBatches;
  /** One lock per domain: its grant table, as mapper. */
  readonly locks: Locks;
  readonly ports: { readonly host: HostMappings; readonly device: DeviceAccess };
  /** The domain, or null when there is none of that id. */
  domain(domid: Domid): DomainView | null;
  /** The machine frame that a granter's frame number names: plain RAM of its own; -1 otherwise. */
  grantedFrame(granter: Domid, frame: number): number;
}
