// The state around a disagreement, limited to what the operation names.

import type { ElementOf, RecordedLine } from './recording/record-fields.ts';
import type { MachineProbe, SharedEntry } from './replay/machine-probe.ts';

const DOMID_SELF = 0x7ff0;
const PIN_NAMES = ['host write', 'host read', 'device write', 'device read'];

/** Lines about the entries, pins, handles and device mappings that a record names, as they are in the model now. */
export function explain(probe: MachineProbe, record: RecordedLine, field: string): string[] {
  const only = /^ops\[(\d+)\]/.exec(field)?.[1];
  const lines: string[] = [];
  const pick = <T>(ops: readonly T[]): readonly T[] => (only === undefined ? ops.slice(0, 4) : [ops[Number(only)]!]);
  switch (record.o) {
    case 'map':
      for (const element of pick(record.ops)) lines.push(...aboutMap(probe, record.d, element));
      break;
    case 'unmap':
    case 'unmap_and_replace':
      for (const { h } of pick<{ readonly h: number }>(record.ops)) lines.push(aboutHandle(probe, record.d, h));
      break;
    case 'copy':
      for (const element of pick(record.ops)) {
        if (element.sg === 1) lines.push(...aboutRef(probe, owner(record.d, element.sdom), Number(element.s)));
        if (element.dg === 1) lines.push(...aboutRef(probe, owner(record.d, element.ddom), Number(element.dd)));
      }
      break;
    case 'transfer':
      for (const { mfn, dom, ref } of pick(record.ops)) {
        lines.push(aboutFrame(probe, Number(mfn)), ...aboutRef(probe, owner(record.d, dom), ref));
      }
      break;
    case 'swap_grant_ref':
      for (const { a, b } of record.ops) lines.push(...[a, b].flatMap((ref) => aboutRef(probe, record.d, ref)));
      break;
    case 'entry':
      lines.push(...aboutRef(probe, record.d, record.ref));
      break;
    case 'setup_table':
    case 'get_status_frames':
    case 'query_size':
    case 'get_version':
      for (const { dom } of record.ops) lines.push(aboutTable(probe, owner(record.d, dom)));
      break;
    case 'set_version':
      lines.push(aboutTable(probe, record.d));
      break;
    case 'mmuext':
      lines.push(aboutFrame(probe, Number(record.mfn)));
      break;
    default:
  }
  const changed = /^gt\[(\d+),(\d+)\]/.exec(field);
  if (changed) lines.push(...aboutRef(probe, Number(changed[1]), Number(changed[2])));
  return lines.filter((line) => line !== '');
}

const owner = (caller: number, domain: number): number => (domain === DOMID_SELF ? caller : domain);
const hex = (value: number): string => `0x${value.toString(16)}`;

function aboutMap(probe: MachineProbe, mapper: number, { dom, ref }: ElementOf<'map'>): string[] {
  const granter = owner(mapper, dom);
  const entry = probe.entry(granter, ref);
  const lines = aboutRef(probe, granter, ref);
  return entry ? [...lines, aboutDevice(probe, mapper, entry.frame[0])] : lines;
}

function aboutRef(probe: MachineProbe, domain: number, ref: number): string[] {
  const entry = probe.entry(domain, ref);
  if (!entry) return [`domain ${domain} has no ref ${ref}`];
  return [`domain ${domain} ref ${ref}: ${entryText(entry)}; ${pinText(probe, domain, ref)}`];
}

function entryText({ flags, grantee, status, frame }: SharedEntry): string {
  return `flags ${hex(flags)} status ${hex(status)}, for domain ${grantee}, frame ${hex(frame[0])}`;
}

function pinText(probe: MachineProbe, domain: number, ref: number): string {
  const pins = probe.pins(domain, ref);
  if (pins === 0) return 'not pinned';
  const counts = PIN_NAMES.map((name, at) => `${(pins >>> (8 * at)) & 0xff} ${name}`);
  return `pinned to frame ${hex(probe.activeFrame(domain, ref))}: ${counts.join(', ')}`;
}

const aboutHandle = (probe: MachineProbe, mapper: number, handle: number): string =>
  `handle ${handle} of domain ${mapper}: ${probe.handle(mapper, handle) ?? 'not live'}`;

function aboutDevice(probe: MachineProbe, domain: number, dfn: number): string {
  const entry = probe.deviceEntry(domain, dfn);
  if (!entry) return `domain ${domain} has no device tables`;
  const rights = ['nothing', 'reads', 'writes', 'reads and writes'][entry.rights & 3]!;
  return `devices of domain ${domain} at ${hex(dfn)}: ${rights}${entry.rights === 0 ? '' : ` of ${hex(entry.frame)}`}`;
}

function aboutFrame(probe: MachineProbe, frame: number): string {
  const found = probe.owner(frame);
  return `frame ${hex(frame)}: ${found === null ? 'free, or no frame' : `of domain ${found}`}`;
}

const aboutTable = (probe: MachineProbe, domain: number): string =>
  probe.isAlive(domain)
    ? `table of domain ${domain}: version ${probe.version(domain)}, ${probe.tableFrames(domain).shared.length} frames`
    : `no domain ${domain}`;
