// A synthetic platform: units with SR-IOV NICs behind them, and the driver without a hypervisor above it, so that there
// may be as many domains as there are domids.

import { FrameTable } from '../../machine/frame-table.ts';
import { Heap } from '../../machine/heap/heap.ts';
import type { Domid, Sbdf, UnitIndex, Vcpu } from '../../machine/ids.ts';
import { Progress } from '../../machine/pending.ts';
import {
  Clock,
  DmaInFlight,
  type DomainIdSpaces,
  decodeCapabilities,
  defaultCapabilities,
  defaultLruShape,
  encodeCapabilities,
  IommuDriver,
  policyNamed,
  VtdUnit,
} from '../../passthrough/index.ts';

const CPU = 0 as Vcpu;
/** Virtual functions of a NIC: one bus each, the physical function 00.0, the virtual ones from 10.0 on. */
export const FUNCTIONS = 128;
const FIRST_FUNCTION = 0x80;

/** NICs behind a unit, so that it has as many virtual functions as dids; 8,192 at most. */
export function nicsFor(dids: number): number {
  return Math.min(64, Math.ceil(dids / FUNCTIONS));
}

export interface SriovPlatformOptions {
  readonly units: number;
  /** NR_DID of each unit. */
  readonly dids: number;
  readonly domainIds: DomainIdSpaces;
  /** Domids that there may be. */
  readonly domains: number;
}

export class SriovPlatform {
  readonly driver: IommuDriver;
  readonly nics: number;
  readonly #units: readonly VtdUnit[];

  /** Domain 0 has every function. */
  constructor(options: SriovPlatformOptions) {
    this.nics = nicsFor(options.dids);
    const heap = new Heap();
    // Per domain the root of its tables; per unit its root table, and a context table per bus.
    const frames = new FrameTable(heap, {
      frames: options.domains + options.units * (this.nics + 4),
      privateFrames: options.units,
    });
    const registers = encodeCapabilities({ ...defaultCapabilities, domainIds: options.dids });
    const dma = new DmaInFlight(heap, 1);
    const capabilities = decodeCapabilities(registers);
    const caches = { lru: defaultLruShape };
    this.#units = Array.from(
      { length: options.units },
      (_, index) => new VtdUnit({ index, heap, frames, dma, registers, capabilities, caches }),
    );
    this.driver = new IommuDriver({
      heap,
      frames,
      clock: new Clock(heap),
      units: this.#units,
      domains: options.domains,
      vcpus: 1,
      ledgerCapacity: 64,
      policy: policyNamed('strict-page'),
      release: 'afterFlush',
      domainIds: options.domainIds,
    });
    for (let unit = 0; unit < options.units; unit += 1) {
      for (let nic = 0; nic < this.nics; nic += 1) this.give(0, unit, (nic << 8) as Sbdf);
      for (let at = 0; at < this.functions; at += 1) this.give(0, unit, this.virtualFunction(at));
    }
  }

  /** Virtual functions behind each unit. */
  get functions(): number {
    return this.nics * FUNCTIONS;
  }

  virtualFunction(at: number): Sbdf {
    return ((Math.floor(at / FUNCTIONS) << 8) + FIRST_FUNCTION + (at % FUNCTIONS)) as Sbdf;
  }

  /** Puts a function into a domain, which is made if need be, and lets the units take what that invalidates. */
  give(domain: number, unit: number, device: Sbdf): number {
    const { driver } = this;
    if (!driver.tables.exists(domain as Domid)) driver.tables.create(domain as Domid);
    const errno = driver.attach(CPU, domain as Domid, unit as UnitIndex, device);
    for (let progress = driver.flush.step(CPU); progress !== Progress.done; progress = driver.flush.step(CPU)) {
      if (progress === Progress.blocked) for (const one of this.#units) while (one.step());
    }
    return errno;
  }
}
