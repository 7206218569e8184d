// The control state: what is small and rare, as one immutable tree. Each change is a set of patches: the audit journal.

import { castDraft, type Draft, enablePatches, type Patch, produceWithPatches } from 'immer';
import type { DomainView } from '../grant/index.ts';
import type { Capabilities, Release } from '../passthrough/index.ts';

enablePatches();

/** A domain, from its creation on. */
export interface DomainControl {
  readonly domain: number;
  readonly kind: 'pv' | 'hvm';
  /** `dying`: destroyed, but others still hold frames of it. */
  readonly state: 'alive' | 'crashed' | 'dying';
  /** Whether it has device tables of its own (xen: CDF_iommu). */
  readonly iommu: boolean;
  /** What its device tables hold: its RAM, or what its kernel's DMA API puts there. */
  readonly deviceTables: 'ram' | 'empty';
  /** Its RAM: first machine frame and number of frames. */
  readonly ram: { readonly first: number; readonly frames: number };
  /** The hardware domain: privileged, and the owner of devices that nobody else has (xen: is_hardware_domain). */
  readonly hardware: boolean;
  /** Frames of RAM that it may have. */
  readonly maxPages: number;
  /** What the grant tables need to know of it. */
  readonly grantView: DomainView;
  /** Reserved regions mapped for its devices, each with how many of them it is for. xen: identity_maps. */
  readonly regions: readonly { readonly region: number; readonly count: number }[];
  /** Why it crashed. */
  readonly reason?: string;
}

export interface DeviceControl {
  readonly device: string;
  readonly unit: number;
  /**
   * The domain that has it, the hardware domain included; DOMID_IO (0x7ff1): it is in quarantine; DOMID_XEN (0x7ff2):
   * it is hidden, the hypervisor's own, with the entries of the hardware domain; null: it is nobody's, and its DMA is
   * blocked.
   */
  readonly owner: number | null;
  /** A guest's device: its place among those of its owner, 0 the last to come. */
  readonly place: number;
  /** False once it was removed, until it is added again: no unit knows it. Of what is unknown, until it is added. */
  readonly present: boolean;
  /** It was put into quarantine on its own account, and goes back there from a guest, whatever the machine's option. */
  readonly quarantine: boolean;
  /** It could be neither moved nor moved back, or did not answer: no guest gets it any more. xen: pdev->broken. */
  readonly broken: boolean;
  /** Whether it may access memory at all (PCI: bus master enable). */
  readonly busMaster: boolean;
  /** Faults of late, and when the last one was. xen: struct pci_dev fault. */
  readonly faults: { readonly count: number; readonly atUs: number };
}

/** A device as it is before anybody has it. */
export function freshDevice(device: string, unit: number, owner: number | null): DeviceControl {
  const faults = { count: 0, atUs: 0 };
  return { device, unit, owner, place: 0, present: true, quarantine: false, broken: false, busMaster: true, faults };
}

/** A domain that was crashed, why, and the virtual CPU whose operation did it. */
export interface Crash {
  readonly vcpu: number;
  readonly domain: number;
  readonly reason: string;
}

export interface Control {
  readonly domains: readonly (DomainControl | null)[];
  readonly devices: readonly DeviceControl[];
  /** The domain that has every device which is not a guest's; null on a machine without one. */
  readonly hardwareDomain: number | null;
  readonly units: readonly {
    readonly unit: number;
    readonly capabilities: Capabilities;
    /** False once it was removed. */
    readonly present: boolean;
  }[];
  readonly policy: { readonly name: string; readonly release: Release };
  /** Crashes by operations that are not over: the result of each will name its own. Empty when nothing is in flight. */
  readonly crashes: readonly Crash[];
}

/** A change of the control state and its undoing. */
export interface ControlChange {
  readonly what: string;
  readonly patches: readonly Patch[];
  readonly inverse: readonly Patch[];
}

/** Holds the tree, and keeps a journal of what changed it. */
export class ControlState {
  /** What the grant tables need to know of each domain, by domid: they ask at every turn. */
  grantViews: readonly (DomainControl['grantView'] | null)[] = [];
  /** Whether some domain is dying. */
  anyDying = false;
  #root: Control;
  /** Every change so far, oldest first. */
  readonly journal: ControlChange[] = [];

  constructor(root: Control) {
    this.#root = root;
    this.root = root;
  }

  get root(): Control {
    return this.#root;
  }

  /** Another moment's tree takes the place of this one. */
  set root(root: Control) {
    this.#root = root;
    this.grantViews = root.domains.map((domain) => domain?.grantView ?? null);
    this.anyDying = root.domains.some((domain) => domain?.state === 'dying');
  }

  change(what: string, recipe: (draft: Draft<Control>) => void): void {
    const [next, patches, inverse] = produceWithPatches(this.root, (draft) => {
      recipe(draft);
    });
    this.root = next;
    this.journal.push({ what, patches, inverse });
  }
}

/** A domain is there from now on. */
export function addDomain(control: ControlState, domain: DomainControl): void {
  control.change(`domain ${domain.domain} created`, (draft) => {
    draft.domains[domain.domain] = castDraft(domain);
  });
}

/** A domain is crashed. Nothing happens to one that is not alive. xen: domain_crash, domain_shutdown. */
export function crashDomain(control: ControlState, { vcpu, domain, reason }: Crash): void {
  if (control.root.domains[domain]?.state !== 'alive') return;
  control.change(`domain ${domain} crashed`, (draft) => {
    const crashed = draft.domains[domain]!;
    crashed.state = 'crashed';
    crashed.reason = reason;
    draft.crashes.push({ vcpu, domain, reason });
  });
}

/** Takes the crashes that are the doing of an operation, which is over now, for its result to name them. */
export function takeCrashes(
  control: ControlState,
  isItsDoing: (crash: Crash, index: number) => boolean,
): readonly { readonly domain: number; readonly reason: string }[] {
  const { crashes } = control.root;
  const taken = crashes.filter(isItsDoing);
  if (taken.length === 0) return [];
  const left = crashes.filter((crash) => !taken.includes(crash));
  control.change('crashes told', (draft) => {
    draft.crashes = left;
  });
  return taken.map(({ domain, reason }) => ({ domain, reason }));
}
