// Random operations for property tests with fast-check, which the caller brings along (an optional peer).

import type * as FastCheck from 'fast-check';
import { GNTMAP, GTF } from '../../grant/index.ts';
import { type Hypervisor, type Op, PV_WINDOW_BASE } from '../../hypervisor/index.ts';
import { PAGES, ramOf } from './small-machine.ts';

/** Refs that random operations play with. */
const REFS = 4;

/** One random operation for {@link smallMachine}. Time only moves on by `tick` when the sequence is run in order. */
export function opArbitrary(fc: typeof FastCheck, machine: Hypervisor): FastCheck.Arbitrary<Op> {
  const vcpu = fc.nat({ max: 1 });
  const ref = fc.nat({ max: REFS - 1 }).map((at) => 8 + at);
  const page = fc.nat({ max: PAGES - 1 });
  const granter = fc.constantFrom(1, 2, 3);
  const mapper = fc.constantFrom(0, 0, 2, 3, 1);
  const address = (domain: number, at: number) => (domain === 3 ? at * 4096 : PV_WINDOW_BASE + at * 4096);
  const flags = fc.constantFrom(
    GNTMAP.host_map,
    GNTMAP.host_map,
    GNTMAP.host_map | GNTMAP.readonly,
    GNTMAP.host_map | GNTMAP.readonly,
    GNTMAP.device_map,
    GNTMAP.device_map | GNTMAP.host_map,
    0,
  );
  const grantWrite = fc
    .record({
      domain: granter,
      ref,
      flags: fc.constantFrom(GTF.permit_access, GTF.permit_access, GTF.permit_access | GTF.readonly, GTF.invalid),
      grantee: fc.constantFrom(0, 0, 2, 3),
      at: fc.nat({ max: 2 }),
    })
    .map(
      ({ at, ...write }): Op => ({
        op: 'grant_write',
        ...write,
        frame: write.domain === 3 ? at : ramOf(machine, write.domain) + at,
      }),
    );
  const map = fc
    .record({
      vcpu,
      domain: mapper,
      elements: fc.array(fc.record({ flags, ref, domain: granter, page }), { minLength: 1, maxLength: 3 }),
    })
    .map(
      ({ vcpu: on, domain, elements }): Op => ({
        op: 'map_grant_ref',
        vcpu: on,
        domain,
        elements: elements.map(({ page: at, ...element }) => ({ ...element, hostAddress: address(domain, at) })),
      }),
    );
  const handle = fc.nat({ max: 3 });
  const unmap = fc
    .record({
      vcpu,
      domain: mapper,
      elements: fc.array(
        fc.record({
          handle,
          page,
          half: fc.constantFrom('host', 'host', 'device', 'both'),
          at: fc.nat({ max: 2 }),
          of: granter,
        }),
        { minLength: 1, maxLength: 3 },
      ),
    })
    .map(
      ({ vcpu: on, domain, elements }): Op => ({
        op: 'unmap_grant_ref',
        vcpu: on,
        domain,
        elements: elements.map(({ handle: live, page: at, half, at: frame, of }) => ({
          handle: live,
          ...(half === 'device' ? {} : { hostAddress: address(domain, at) }),
          ...(half === 'host' ? {} : { busAddress: (ramOf(machine, of) + frame) * 4096 }),
        })),
      }),
    );
  // One handle tried at every page of the window: where it lies is not known, and a wrong page is refused.
  const sweep = fc.record({ vcpu, domain: mapper, handle }).map(
    ({ vcpu: on, domain, handle: live }): Op => ({
      op: 'unmap_grant_ref',
      vcpu: on,
      domain,
      elements: Array.from({ length: PAGES }, (_, at) => ({ handle: live, hostAddress: address(domain, at) })),
    }),
  );
  const device = fc.constantFrom('0000:01:00.0', '0000:02:00.0', '0000:03:00.0');
  const access = fc.constantFrom<'read' | 'write'>('read', 'write');
  const dma = fc
    .record({
      op: fc.constantFrom<'dma' | 'dma_translate'>('dma', 'dma', 'dma_translate'),
      device,
      access,
      frame: fc.nat({ max: machine.config.frames - 1 }),
    })
    .map(({ frame, ...rest }): Op => ({ ...rest, address: frame * 4096 }));
  return fc.oneof(
    { arbitrary: grantWrite, weight: 1 },
    { arbitrary: map, weight: 6 },
    { arbitrary: unmap, weight: 3 },
    { arbitrary: sweep, weight: 5 },
    { arbitrary: dma, weight: 2 },
    { arbitrary: fc.record({ op: fc.constant('dma_perform' as const), slot: fc.nat({ max: 3 }) }), weight: 1 },
    { arbitrary: fc.record({ op: fc.constant('hardware' as const), unit: fc.nat({ max: 1 }) }), weight: 1 },
    {
      arbitrary: fc.record({
        op: fc.constant('assign_device' as const),
        vcpu,
        device,
        domain: fc.constantFrom(0, 2, 3),
      }),
      weight: 1,
    },
    { arbitrary: fc.record({ op: fc.constant('deassign_device' as const), vcpu, device }), weight: 1 },
  );
}

/** A tick of a CPU's flush timer, some milliseconds on. */
export function tickAfter(machine: Hypervisor, vcpu: number, us: number): Op {
  return { op: 'tick', vcpu, nowUs: machine.nowUs + us };
}
