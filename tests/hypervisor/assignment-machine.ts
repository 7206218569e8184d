// A machine with the devices of the recorded runs, and a short text for what its unit is sent.

import { adoptDevices } from '../../hypervisor/devices/adoption.ts';
import { releaseDevices } from '../../hypervisor/devices/release.ts';
import { Hypervisor, type MachineOptions, type Op, type OpResult } from '../../hypervisor/index.ts';
import type { IommuOptions } from '../../hypervisor/options.ts';
import type { Domid, Vcpu } from '../../machine/ids.ts';
import { Pending, Step } from '../../machine/pending.ts';
import { type Capabilities, type Invalidation, invalidationOf } from '../../passthrough/index.ts';

export const CPU = 0 as Vcpu;
/** DOMID_IO: the quarantine. */
export const QUARANTINE = 0x7ff1;

/** The devices of the recordings, one more with ATS behind a root port. */
export const DEVICES: NonNullable<MachineOptions['devices']> = [
  { device: '0000:00:00.0', unit: 0, type: 'host-bridge' },
  { device: '0000:00:05.0', unit: 0, type: 'pci-endpoint' },
  { device: '0000:00:06.0', unit: 0, type: 'pci-endpoint' },
  { device: '0000:00:06.1', unit: 0, type: 'pci-endpoint' },
  { device: '0000:00:08.0', unit: 0, type: 'root-port', secondary: 1, subordinate: 1 },
  { device: '0000:00:0a.0', unit: 0, type: 'root-port', secondary: 3, subordinate: 4 },
  { device: '0000:01:00.0', unit: 0, type: 'endpoint' },
  { device: '0000:03:00.0', unit: 0, type: 'pcie-to-pci-bridge', secondary: 4, subordinate: 4 },
  { device: '0000:04:01.0', unit: 0, type: 'pci-endpoint' },
  { device: '0000:04:02.0', unit: 0, type: 'pci-endpoint' },
  { device: '0000:05:00.0', unit: 0, type: 'endpoint', ats: true },
];

/** `CC 1 00:06.0`, `DSI 1`, `PSI 1 0x5000`, `DEV 0x500 0x5000`, `W`; commands of registers with `reg` in front. */
function short(of: Invalidation): string {
  const via = 'via' in of ? 'reg ' : '';
  if (of.t === 'cc') return `${via}CC ${of.did} ${of.sid}`;
  if (of.t === 'iotlb') return via + (of.g === 'page' ? `PSI ${of.did} ${of.addr}` : `DSI ${of.did}`);
  if (of.t === 'dev-iotlb') return `DEV ${of.sid} ${of.s === 1 ? 'all' : of.addr}`;
  return of.t === 'wait' ? 'W' : JSON.stringify(of);
}

export interface AssignmentOptions {
  readonly unit?: Partial<Capabilities>;
  readonly iommu?: Partial<IommuOptions>;
  /** Domain 0 is the hardware domain; so by default. */
  readonly hardware?: boolean;
  readonly machine?: MachineOptions;
}

/** Domains 0 to 2 with device tables, 3 without; the identity dids of the recorded unit. */
export class AssignmentMachine {
  readonly machine: Hypervisor;
  #sent: string[] = [];

  constructor(options: AssignmentOptions = {}) {
    this.machine = new Hypervisor({
      domains: 5,
      frames: 256,
      gfns: 16,
      windowPages: 8,
      units: [{ capabilities: { domainIds: 65536, ...options.unit } }],
      devices: DEVICES,
      ...(options.iommu ? { iommu: options.iommu } : {}),
      ...options.machine,
    });
    for (let domain = 0; domain < 4; domain += 1) {
      this.machine.step({ op: 'create_domain', domain, kind: 'pv', frames: 2, iommu: domain < 3 });
    }
    if (options.hardware ?? true) adoptDevices(this.machine.context, 0 as Domid);
    for (const unit of this.machine.units) {
      unit.observer = {
        taken: (_, w0, w1, w2, w3, byRegister) => this.#sent.push(short(invalidationOf([w0, w1, w2, w3], byRegister))),
      };
    }
  }

  /** The return value and what the units were sent: waits are told only where `all` asks for them. */
  do(op: Op, all = false): [number, string] {
    this.#sent = [];
    const { result }: OpResult = this.machine.step(op);
    return [result, this.#told(all)];
  }

  #told(all: boolean): string {
    return this.#sent.filter((one) => all || one !== 'W').join(', ');
  }

  assign(device: string, domain: number): [number, string] {
    return this.do({ op: 'assign_device', device: `0000:${device}`, domain });
  }

  deassign(device: string, domain?: number): [number, string] {
    return this.do({ op: 'deassign_device', device: `0000:${device}`, ...(domain === undefined ? {} : { domain }) });
  }

  /** What the destruction of a domain does to its devices. */
  release(domain: number): [number, string] {
    this.#sent = [];
    const { machine } = this;
    const { parts } = machine;
    const record = parts.pending.open(CPU, 1, domain, 0);
    for (let phase = 0; phase !== Step.done; ) {
      const next = releaseDevices(machine.context, CPU, domain as Domid, phase);
      if (next !== Step.blocked) phase = next;
      else for (const unit of machine.units) while (unit.step());
    }
    const result = record[Pending.result]! | 0;
    parts.pending.close(CPU);
    return [result, this.#told(false)];
  }

  owner(device: string): number | null {
    return this.machine.control.root.devices.find((one) => one.device === `0000:${device}`)!.owner;
  }
}
