// What the flush engine works with.

import type { FrameTable } from '../../../machine/frame-table.ts';
import type { Heap } from '../../../machine/heap/heap.ts';
import type { VtdUnit } from '../../hardware/index.ts';
import type { Clock } from '../clock.ts';
import type { Contexts } from '../contexts.ts';
import type { DomainIds } from '../domain-ids.ts';
import type { DeviceTables } from '../tables/device-tables.ts';
import type { DeviceTlbTimeout } from './device-tlb-flush.ts';

export interface FlushEngineOptions {
  readonly heap: Heap;
  readonly frames: FrameTable;
  readonly clock: Clock;
  readonly units: readonly VtdUnit[];
  readonly ids: readonly DomainIds[];
  readonly tables: DeviceTables;
  readonly contexts: Contexts;
  readonly vcpus: number;
  readonly domains: number;
  readonly ledgerCapacity: number;
  readonly deviceTlbTimeout: DeviceTlbTimeout;
  /** Whether a virtual CPU is in the middle of no operation. */
  readonly isIdle?: (vcpu: number) => boolean;
}
