// Device scopes as what they stand for: functions, and buses behind bridges. xen: dmar.c acpi_parse_dev_scope

import { ScopeType } from '../dmar-layout.ts';
import type { DmarScope } from '../dmar-table.ts';
import { type Bdf, type BusRange, busOf, type PciTopology } from './pci-topology.ts';

/** A scope, or half of one, that only a topology can resolve. */
export interface Unresolved {
  readonly scope: DmarScope;
  /** The lowest bus that it can stand for: each bridge on the way leads to a higher one. */
  readonly fromBus: number;
  /** Device and function of what it names; null for all that is behind a bridge. */
  readonly devfn: number | null;
}

/** What the scopes of one structure stand for. */
export interface ScopeReach {
  /** Functions named, bridges among them, in the order of the table. */
  readonly devices: readonly { readonly bdf: Bdf; readonly scope: DmarScope }[];
  readonly buses: readonly { readonly range: BusRange; readonly scope: DmarScope }[];
  readonly unresolved: readonly Unresolved[];
}

const SCOPE_NAMES: Readonly<Record<number, string>> = {
  [ScopeType.endpoint]: 'endpoint',
  [ScopeType.bridge]: 'bridge',
  [ScopeType.ioapic]: 'ioapic',
  [ScopeType.hpet]: 'hpet',
  [ScopeType.namespaceDevice]: 'acpi',
};

const hex = (value: number, digits: number): string => value.toString(16).padStart(digits, '0');

/** `endpoint 00:1f.7`; `bridge 00:1c.0/02.0` for one behind a bridge; `ioapic 2 at f0:1f.0` with its id. */
export function scopeText({ type, enumerationId, startBus, path }: DmarScope): string {
  const place = `${hex(startBus, 2)}:${path.map(([device, fn]) => `${hex(device, 2)}.${fn.toString(16)}`).join('/')}`;
  if (type === ScopeType.endpoint || type === ScopeType.bridge) return `${SCOPE_NAMES[type]} ${place}`;
  return `${SCOPE_NAMES[type] ?? `type ${type}`} ${enumerationId} at ${place}`;
}

/** Xen counts I/O APICs and HPETs among the devices of a scope, but nothing that it does not know. */
const COUNTED: ReadonlySet<number> = new Set([ScopeType.endpoint, ScopeType.bridge, ScopeType.ioapic, ScopeType.hpet]);

/** The scopes of a structure, resolved as far as `topology` lets. */
export function scopeReach(segment: number, scopes: readonly DmarScope[], topology: PciTopology | null): ScopeReach {
  const devices: { bdf: Bdf; scope: DmarScope }[] = [];
  const buses: { range: BusRange; scope: DmarScope }[] = [];
  const unresolved: Unresolved[] = [];
  for (const scope of scopes) {
    if (!COUNTED.has(scope.type)) continue;
    const bus = lastBus(segment, scope, topology);
    const devfn = devfnOf(scope.path.at(-1)!);
    const fromBus = scope.startBus + scope.path.length - 1;
    if (bus === null) unresolved.push({ scope, fromBus, devfn });
    else devices.push({ bdf: bus * 0x100 + devfn, scope });
    if (scope.type !== ScopeType.bridge) continue;
    if (bus === null || !topology) {
      unresolved.push({ scope, fromBus: fromBus + 1, devfn: null });
    } else {
      const range = topology.busesBehind(segment, bus * 0x100 + devfn);
      if (range) buses.push({ range, scope });
    }
  }
  return { devices, buses, unresolved };
}

/** Whether what a topology would resolve might be this function. */
export const mayBe = ({ fromBus, devfn }: Unresolved, bdf: Bdf): boolean =>
  busOf(bdf) >= fromBus && (devfn === null || devfn === (bdf & 0xff));

/** The bus of the last step of a path, null where only a topology tells. */
function lastBus(segment: number, { startBus, path }: DmarScope, topology: PciTopology | null): number | null {
  let bus = startBus;
  for (const step of path.slice(0, -1)) {
    const range = topology?.busesBehind(segment, bus * 0x100 + devfnOf(step));
    if (!range) return null;
    bus = range[0];
  }
  return bus;
}

/** As Xen takes what a path says: five bits and three. */
const devfnOf = ([device, fn]: readonly [number, number]): number => ((device & 31) << 3) | (fn & 7);
