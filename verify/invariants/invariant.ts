// What an invariant is, and what invariants look at: domains, live handles, everything that devices may reach.

import type { Hypervisor } from '../../hypervisor/index.ts';
import type { Mfn } from '../../machine/frame-number.ts';
import {
  DOMID_FIRST_RESERVED,
  DOMID_IO,
  DOMID_XEN,
  type Domid,
  type MaptrackHandle,
  sbdfText,
} from '../../machine/ids.ts';

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
  /** The device's place in the control state. */
  readonly index: number;
  /** The device, or its phantom function. */
  readonly device: string;
  /** Domain that the device is assigned to; 0x7ff1: it is in quarantine. */
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
  const dfns = dfnsOf(machine);
  const { devices } = machine.control.root;
  const { functions, dma } = machine.parts;
  for (const [index, { requesters, phantoms, sbdf, unit }] of functions.entries()) {
    const owner = ownerOf(machine, index);
    if (owner === null || requesters.length === 0) continue;
    for (const requester of [sbdf, ...phantoms]) {
      const device = requester === sbdf ? devices[index]!.device : sbdfText(requester);
      for (const dfn of dfns) {
        for (const { frame, rights, current } of machine.mayTranslate(device, dfn)) {
          if (frame >= 0 && rights !== 0) found.push({ index, device, owner, dfn, frame, rights, current });
        }
      }
      // A translated access reaches its frame whatever becomes of the translation.
      for (const held of dma.all()) {
        if (held.unit !== unit || held.sourceId !== requester % 0x10000) continue;
        found.push({ index, device, owner, dfn: held.dfn, frame: held.frame, rights: held.access, current: false });
      }
    }
  }
  return found;
}

/** Device frames that are worth a look: those of memory, of gfns, of reserved regions. */
export function dfnsOf({ config }: Hypervisor): number[] {
  const plain = Array.from({ length: Math.max(config.frames, config.gfns) }, (_, dfn) => dfn);
  const reserved = config.reservedRegions.flatMap(({ firstFrame, frames }) =>
    Array.from({ length: frames }, (_, page) => firstFrame + page).filter((dfn) => dfn >= plain.length),
  );
  return [...plain, ...reserved];
}

/** Whose a device is, if its unit is there: a hidden one goes by the entries of the hardware domain. */
export function ownerOf({ control }: Hypervisor, index: number): number | null {
  const { owner, unit } = control.root.devices[index]!;
  if (!control.root.units[unit]!.present) return null;
  return owner === DOMID_XEN ? control.root.hardwareDomain : owner;
}

/** Whether a frame is of a reserved region that is mapped for a device: for its domain, or in its quarantine. */
export function isReserved(machine: Hypervisor, index: number, owner: number, frame: number): boolean {
  if (owner !== DOMID_IO) return isRegionOf(machine, owner, frame);
  return machine.parts.functions[index]!.regions.some((region) => lies(machine, region, frame));
}

/** Whether a frame is of a reserved region that a domain has mapped. */
export function isRegionOf(machine: Hypervisor, domain: number, frame: number): boolean {
  const regions = machine.control.root.domains[domain]?.regions ?? [];
  return regions.some(({ region }) => lies(machine, region, frame));
}

function lies({ config }: Hypervisor, region: number, frame: number): boolean {
  const { firstFrame, frames } = config.reservedRegions[region]!;
  return frame >= firstFrame && frame < firstFrame + frames;
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
