// A PV guest with a device maps a page of another guest; the device reaches it for as long as the mapping lives.
//
// Outside of this repository the import is `from 'xen-passthrough-model'`.

import { GNTMAP, GTF, Hypervisor, PV_WINDOW_BASE } from '../hypervisor/index.ts';

export function main(): string[] {
  const device = '0000:03:00.0';
  const machine = new Hypervisor({ domains: 2, devices: [{ device, unit: 0 }], policy: 'strict-page' });
  machine.step({ op: 'create_domain', domain: 0, kind: 'pv', frames: 8, iommu: true });
  machine.step({ op: 'create_domain', domain: 1, kind: 'pv', frames: 8 });
  machine.step({ op: 'assign_device', device, domain: 0 });

  // Domain 1 offers its first frame under grant ref 8; domain 0 maps it at the first page of its window.
  const frame = machine.control.root.domains[1]!.ram.first;
  machine.step({ op: 'grant_write', domain: 1, ref: 8, flags: GTF.permit_access, grantee: 0, frame });
  const element = { hostAddress: PV_WINDOW_BASE, flags: GNTMAP.host_map, ref: 8, domain: 1 };
  const [mapped] = machine.step({ op: 'map_grant_ref', domain: 0, elements: [element] }).elements!;

  const write = { op: 'dma', device, address: mapped!.busAddress!, access: 'write', value: 42 } as const;
  const before = machine.step(write).dma!;
  const back = { handle: mapped!.handle!, hostAddress: PV_WINDOW_BASE };
  machine.step({ op: 'unmap_grant_ref', domain: 0, elements: [back] });
  const after = machine.step(write).dma!;
  return [
    `while mapped: the write reaches frame ${before.frame}, which domain 1 granted as ${frame}`,
    `after unmap:  fault ${after.fault!.reason}, ${after.fault!.name}`,
    `the unit carried out ${machine.units[0]!.counter('pageInvalidations')} page-selective invalidation`,
  ];
}

if (process.argv[1]?.includes('01-share-a-page')) process.stdout.write(`${main().join('\n')}\n`);
