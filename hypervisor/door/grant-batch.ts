// Batches of grant operations between the door and guest memory: elements in, outcomes out.

import { MapElement, UnmapElement } from '../../grant/index.ts';
import type { Wide } from '../../machine/frame-number.ts';
import { ARGUMENT_WORDS, ARGUMENTS, Pending } from '../../machine/pending.ts';
import { wide, wideHigh, wideLow, word32 } from '../../machine/wide.ts';
import type { ElementResult, MapElementInput, UnmapElementInput } from './grant-op.ts';
import { domainWord } from './vcpu-ops.ts';

const { count: COUNT } = Pending;
const {
  hostLow: HOST_LOW,
  flags: FLAGS,
  ref: REF,
  domainAndStatus: DOMAIN_STATUS,
  handle: HANDLE_OUT,
  busLow: BUS_OUT_LOW,
  busHigh: BUS_OUT_HIGH,
} = MapElement;
const { busLow: BUS_LOW, handle: HANDLE_IN, status: STATUS_OUT } = UnmapElement;

/** @throws TypeError for a field that its place cannot hold. */
export function placeMapElements(record: Uint32Array, elements: readonly MapElementInput[]): void {
  let at = ARGUMENTS;
  for (let index = 0; index < elements.length; index += 1) {
    const { hostAddress, flags, ref, domain } = elementAt(elements, index, 'map_grant_ref');
    placeWide(record, at + HOST_LOW, hostAddress, 'hostAddress');
    record[at + FLAGS] = word32(flags, 'flags');
    record[at + REF] = word32(ref, 'ref');
    record[at + DOMAIN_STATUS] = domainWord(domain);
    record[at + HANDLE_OUT] = 0;
    record[at + BUS_OUT_LOW] = 0;
    record[at + BUS_OUT_HIGH] = 0;
    at += ARGUMENT_WORDS;
  }
}

/** @throws TypeError for a field that its place cannot hold. */
export function placeUnmapElements(record: Uint32Array, elements: readonly UnmapElementInput[]): void {
  let at = ARGUMENTS;
  for (let index = 0; index < elements.length; index += 1) {
    const { hostAddress, busAddress, handle } = elementAt(elements, index, 'unmap_grant_ref');
    placeWide(record, at + HOST_LOW, hostAddress, 'hostAddress');
    placeWide(record, at + BUS_LOW, busAddress, 'busAddress');
    record[at + HANDLE_IN] = word32(handle, 'handle');
    for (let word = STATUS_OUT; word < ARGUMENT_WORDS; word += 1) record[at + word] = 0;
    at += ARGUMENT_WORDS;
  }
}

function elementAt<T>(elements: readonly T[], index: number, op: string): T {
  const element = elements[index];
  if (typeof element !== 'object' || element === null)
    throw new TypeError(`${op}: element ${index}: expected an object`);
  return element;
}

/** The two words of an address; 0 where there is none. */
function placeWide(record: Uint32Array, at: number, value: Wide | undefined, name: string): void {
  const given = value ?? 0;
  record[at] = wideLow(given, name);
  record[at + 1] = wideHigh(given, name);
}

export function mapResults(record: Uint32Array): ElementResult[] {
  const results: ElementResult[] = [];
  const end = ARGUMENTS + record[COUNT]! * ARGUMENT_WORDS;
  for (let at = ARGUMENTS; at < end; at += ARGUMENT_WORDS) {
    const status = record[at + DOMAIN_STATUS]! >> 16;
    if (status !== 0) results.push({ status });
    else {
      const busAddress = wide(record[at + BUS_OUT_LOW]!, record[at + BUS_OUT_HIGH]!);
      results.push({ status, handle: record[at + HANDLE_OUT]!, busAddress });
    }
  }
  return results;
}

export function unmapResults(record: Uint32Array): ElementResult[] {
  const results: ElementResult[] = [];
  const end = ARGUMENTS + record[COUNT]! * ARGUMENT_WORDS;
  for (let at = ARGUMENTS; at < end; at += ARGUMENT_WORDS) {
    results.push({ status: (record[at + STATUS_OUT]! << 16) >> 16 });
  }
  return results;
}
