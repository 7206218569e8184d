// What the operations work with.

import type { FrameTable } from '../../machine/frame-table.ts';
import type { Domid, Vcpu } from '../../machine/ids.ts';
import type { Locks } from '../../machine/locks.ts';
import type { PendingOperations } from '../../machine/pending.ts';
import type { CopyClaims } from '../copy-claims.ts';
import type { GrantTables } from '../grant-tables.ts';
import type { DeviceAccess, DomainView, HostMappings, PageMoves, PageReferences } from '../ports.ts';
import type { GrantRules } from '../rules.ts';
import type { UnmapBatches } from '../unmap-batch.ts';

/** Boot options about grants. xen: gnttab=. */
export interface GrantOptions {
  /** Entries may lead on to another domain's; pages may change hands. */
  readonly transitive: boolean;
  readonly transfer: boolean;
}

export interface GrantContext {
  readonly frames: FrameTable;
  readonly pending: PendingOperations;
  readonly tables: GrantTables;
  readonly batches: UnmapBatches;
  readonly claims: CopyClaims;
  readonly rules: GrantRules;
  readonly options: GrantOptions;
  /** One lock per domain: its grant table, as mapper. */
  readonly locks: Locks;
  readonly ports: {
    readonly host: HostMappings;
    readonly device: DeviceAccess;
    readonly pages: PageReferences;
    readonly moves: PageMoves;
  };
  /** The domain, or null when there is none of that id. */
  domain(domid: Domid): DomainView | null;
  /** The machine frame that a granter's frame number names: plain RAM of its own; -1 otherwise. */
  grantedFrame(granter: Domid, low: number, high: number): number;
  /** The operation on a virtual CPU crashes a domain: its own, or another that it deals with. */
  crash(vcpu: Vcpu, domid: Domid, reason: string): void;
}
