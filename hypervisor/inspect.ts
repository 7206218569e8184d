// A machine decoded into a plain frozen tree, for people, tests and the viewer.

import { Pin } from '../grant/index.ts';
import type { Mfn } from '../machine/frame-number.ts';
import { FrameType } from '../machine/frame-table.ts';
import type { Domid, UnitIndex } from '../machine/ids.ts';
import { Pending } from '../machine/pending.ts';
import { entryFrame, entryPages, isLeaf } from '../passthrough/index.ts';
import type { Control } from './control.ts';
import type { Hypervisor } from './hypervisor.ts';
import type { Parts } from './parts.ts';

export interface MachineView {
  readonly control: Control;
  readonly nowUs: number;
  /** Allocated frames of domains, by mfn. */
  readonly frames: Readonly<
    Record<
      string,
      { readonly owner: number; readonly references: number; readonly type: string; readonly typeCount: number }
    >
  >;
  /** Grant entries with a non-zero word or pins, per granter and ref. */
  readonly grants: Readonly<
    Record<
      string,
      { readonly flags: number; readonly grantee: number; readonly frame: number; readonly pins: PinView | null }
    >
  >;
  /** Live handles, per mapper and handle. */
  readonly handles: Readonly<
    Record<string, { readonly granter: number; readonly ref: number; readonly flags: number }>
  >;
  /** What each domain's devices reach by its tables: dfn to frame and rights. */
  readonly devices: Readonly<Record<string, string>>;
  readonly units: readonly UnitView[];
  readonly vcpus: readonly { readonly op: number; readonly phase: number; readonly index: number }[];
}

interface PinView {
  readonly mapper: number;
  readonly frame: number;
  readonly hostWrite: number;
  readonly hostRead: number;
  readonly deviceWrite: number;
  readonly deviceRead: number;
}

export interface UnitView {
  readonly unit: number;
  readonly queued: number;
  readonly translating: boolean;
  /** Did per domain that has one. */
  readonly dids: Readonly<Record<string, number>>;
}

function freeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null && !Object.isFrozen(value)) {
    Object.values(value).forEach(freeze);
    Object.freeze(value);
  }
  return value;
}

const typeNames = Object.fromEntries(Object.entries(FrameType).map(([name, value]) => [value, name]));

/** Decodes everything. Costs time in proportion to the machine: meant for small ones. */
export function inspect(machine: Hypervisor): MachineView {
  const { parts, control } = machine;
  const domains = control.root.domains.flatMap((domain) => (domain ? [domain.domain as Domid] : []));
  return freeze({
    control: control.root,
    nowUs: parts.clock.nowUs,
    frames: frameViews(parts),
    grants: Object.fromEntries(domains.flatMap((domain) => grantViews(parts, domain))),
    handles: Object.fromEntries(domains.flatMap((domain) => handleViews(parts, domain))),
    devices: Object.fromEntries(domains.flatMap((domain) => deviceViews(parts, domain))),
    units: parts.units.map((unit) => ({
      unit: unit.index,
      queued: unit.queued,
      translating: unit.translating,
      dids: Object.fromEntries(
        domains.flatMap((domain) => {
          const did = parts.driver.ids[unit.index as UnitIndex]!.didOf(domain);
          return did < 0 ? [] : [[domain, did]];
        }),
      ),
    })),
    vcpus: Array.from({ length: machine.config.vcpus }, (_, vcpu) => {
      const record = parts.pending.record(vcpu);
      const idle = parts.pending.isIdle(vcpu);
      const word = (at: number) => (idle ? 0 : record[at]!);
      return { op: word(Pending.op), phase: word(Pending.phase), index: word(Pending.index) };
    }),
  });
}

function frameViews(parts: Parts): MachineView['frames'] {
  const views: Record<string, MachineView['frames'][string]> = {};
  for (let at = 0; at < parts.frames.frames; at += 1) {
    if (!parts.frames.isAllocated(at)) continue;
    const frame = at as Mfn;
    views[at] = {
      owner: parts.frames.owner(frame),
      references: parts.frames.references(frame),
      type: typeNames[parts.frames.type(frame)] ?? 'unknown',
      typeCount: parts.frames.typeCount(frame),
    };
  }
  return views;
}

function grantViews(parts: Parts, granter: Domid): [string, MachineView['grants'][string]][] {
  const { grants } = parts;
  const views: [string, MachineView['grants'][string]][] = [];
  for (let ref = 0; ref < grants.entries(granter); ref += 1) {
    const flags = grants.sharedFlags(granter, ref);
    const pins = grants.pins(granter, ref);
    if (flags === 0 && pins === 0) continue;
    const counter = (pin: { readonly shift: number }) => (pins >>> pin.shift) & 0xff;
    views.push([
      `${granter}/${ref}`,
      {
        flags: flags & 0xffff,
        grantee: flags >>> 16,
        frame: grants.sharedGfn(granter, ref),
        pins:
          pins === 0
            ? null
            : {
                mapper: grants.activeMapper(granter, ref),
                frame: grants.activeFrame(granter, ref),
                hostWrite: counter(Pin.hostWrite),
                hostRead: counter(Pin.hostRead),
                deviceWrite: counter(Pin.deviceWrite),
                deviceRead: counter(Pin.deviceRead),
              },
      },
    ]);
  }
  return views;
}

function handleViews(parts: Parts, mapper: Domid): [string, MachineView['handles'][string]][] {
  const maptrack = parts.grants.maptrack(mapper);
  return maptrack
    .live()
    .map((handle) => [
      `${mapper}/${handle}`,
      { granter: maptrack.domain(handle), ref: maptrack.ref(handle), flags: maptrack.flags(handle) },
    ]);
}

/** Every page of a domain's device tables, those of large leaves one by one; found by walking them. */
function deviceViews(parts: Parts, domain: Domid): [string, string][] {
  const { tables } = parts.driver;
  if (!tables.exists(domain)) return [];
  const views: [string, string][] = [];
  const visit = (table: number, level: number, first: number) => {
    for (let entry = 0; entry < 512; entry += 1) {
      const low = parts.frames.readWord(table, entry * 2);
      if ((low & 3) === 0) continue;
      const frame = entryFrame(low, parts.frames.readWord(table, entry * 2 + 1));
      const pages = entryPages(level);
      const dfn = first + entry * pages;
      if (!isLeaf(level, low)) {
        visit(frame, level - 1, dfn);
        continue;
      }
      const rights = (low & 2) !== 0 ? 'rw' : 'r';
      for (let page = 0; page < pages; page += 1) views.push([`${domain}/${dfn + page}`, `${frame + page} ${rights}`]);
    }
  };
  visit(tables.root(domain), tables.levels, 0);
  return views;
}
