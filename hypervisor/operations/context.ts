// What operations of the hypervisor's own work with.

import type { GrantContext } from '../../grant/index.ts';
import type { Domid } from '../../machine/ids.ts';
import type { ControlState, DomainControl } from '../control.ts';
import type { DriverAccess } from '../device-access.ts';
import type { PageTypes } from '../memory/page-types.ts';
import type { Physmap } from '../memory/physmap.ts';
import type { MachineConfig } from '../options.ts';
import type { Parts } from '../parts.ts';

export interface OperationContext {
  readonly parts: Parts;
  readonly config: MachineConfig;
  readonly control: ControlState;
  readonly access: DriverAccess;
  readonly pages: PageTypes;
  readonly physmap: Physmap;
  readonly grants: GrantContext;
  /** The domain of an id; null: there is none. */
  domain(domain: Domid): DomainControl | null;
}
