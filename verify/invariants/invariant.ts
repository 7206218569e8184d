// What an invariant is, and what invariants look at: domains, live handles, everything that devices may reach.

import type { Hypervisor } from '../../hypervisor/index.ts';
import type { Mfn } from '../../machine/frame-number.ts';
import { DOMID_FIRST_RESERVED, type Domid, type MaptrackHandle, parseSbdf } from '../../machine/ids.ts';

/** One way in which a state breaks an invariant. */
export interface Violation {
  readonly invariant: string;
  readonly message: string;
}

/** A named predicate over a state in which no operation is in progress. */
export interface Invariant {
  readonly id: string;
  readonly sentence: string;
  /** `reach`: what devices may reach that are confined. */
  readonly check: (machine: Hypervisor, reach: () => readonly Reach[]) => readonly string[];
}

/** One frame that a device may reach. */
export interface Reach {
  readonly device: string;
  /** Domain that the device is assigned to. */
  readonly owner: number;
  readonly dfn: number;
  readonly frame: number;
  /** Bit 0 read, bit 1 write. */
  readonly rights: number;
  /** By the tables as they are, or only by something cached. */
  readonly current: boolean;
}

/**
 * Everything that devices may reach which somebody has. Needs the cache profile `adversary`. Bridges are left out: what
 * goes by their requester ids is done for the devices behind them.
 */
export function reachOf(machine: Hypervisor): Reach[] {
  const found: Reach[] = [];
  const dfns = Math.max(machine.config.frames, machine.config.gfns);
  for (const [index, { device, owner }] of machine.control.root.devices.entries()) {
    if (owner === null || machine.parts.functions[index]!.requesters.length === 0) continue;
    for (let dfn = 0; dfn < dfns; dfn += 1) {
      for (const { frame, rights, current } of machine.mayTranslate(device, dfn)) {
        if (frame >= 0 && rights !== 0) found.push({ device, owner, dfn, frame, rights, current });
      }
    }
  }
  // A translated access reaches its frame whatever becomes of the translation.
  for (const { unit, sourceId, dfn, frame, access } of machine.parts.dma.all()) {
    const of = machine.control.root.devices.find(
      (device) => device.unit === unit && parseSbdf(device.device) % 0x10000 === sourceId && device.owner !== null,
    );
    if (of) found.push({ device: of.device, owner: of.owner!, dfn, frame, rights: access, current: false });
  }
  return found;
}

/** Whether a domain's devices are confined. Those of a hardware domain that is not reach all memory, by intent. */
export function isConfined({ control, config }: Hypervisor, domain: number): boolean {
  const found = control.root.domains[domain];
  return !(found?.hardware && found.kind === 'pv' && config.iommu.hardwareDomain !== 'strict');
}

/** Domains that there are, dying ones included. */
export function domainsOf(machine: Hypervisor): Domid[] {
  return machine.control.root.domains.flatMap((domain) => (domain ? [domain.domain as Domid] : []));
}

export interface LiveMapping {
  readonly handle: MaptrackHandle;
  readonly granter: Domid;
  readonly ref: number;
  readonly flags: number;
  readonly frame: Mfn;
}

/** The live handles of a domain, with what they map. */
export function handlesOf(machine: Hypervisor, mapper: Domid): readonly LiveMapping[] {
  const { grants } = machine.parts;
  const maptrack = grants.maptrack(mapper);
  return maptrack.live().flatMap((handle) => {
    const [granter, ref] = [maptrack.domain(handle), maptrack.ref(handle)];
    // A handle can outlive its granter, if the mapper has overwritten its PTE. It stands for no use then.
    if (granter >= DOMID_FIRST_RESERVED) return [];
    return [{ handle, granter, ref, flags: maptrack.flags(handle), frame: grants.activeFrame(granter, ref) }];
  });
}

/** Whether some completion is still held back, so that pins are more than live halves. */
export function holdsBack(machine: Hypervisor): boolean {
  const { ledger } = machine.parts.driver.flush;
  return Array.from({ length: machine.config.vcpus }, (_, vcpu) => ledger.size(vcpu)).some((size) => size > 0);
}
