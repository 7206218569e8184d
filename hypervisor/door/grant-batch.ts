// Batches of grant operations between the door and guest memory: elements in, outcomes out.

import { CopyElement, CopyEndWords, GNTCOPY, MapElement, TransferElement, UnmapElement } from '../../grant/index.ts';
import { Errno } from '../../machine/errno.ts';
import type { Wide } from '../../machine/frame-number.ts';
import type { Vcpu } from '../../machine/ids.ts';
import { ARGUMENT_WORDS, ARGUMENTS, Pending } from '../../machine/pending.ts';
import { wide, wideHigh, wideLow, word32 } from '../../machine/wide.ts';
import { fieldCount, refuseUnknown } from './field-checks.ts';
import type {
  CopyElementInput,
  CopyEnd,
  ElementResult,
  GrantBatchOp,
  MapElementInput,
  ReplaceElementInput,
  TransferElementInput,
  UnmapElementInput,
} from './grant-op.ts';
import type { OpResult } from './op.ts';
import { ELEMENT_FIELDS, END_FIELDS } from './op-fields.ts';
import { domainWord } from './vcpu-ops.ts';

const { count: COUNT, index: INDEX, result: RESULT } = Pending;
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

/**
 * The elements of a batch go into the record's arguments.
 * @throws TypeError for a field that its place cannot hold.
 */
export function placeBatch(record: Uint32Array, op: GrantBatchOp): void {
  switch (op.op) {
    case 'map_grant_ref':
      return placeMapElements(record, op.elements);
    case 'unmap_grant_ref':
      return placeUnmapElements(record, op.elements);
    case 'unmap_and_replace':
      return placeReplaceElements(record, op.elements);
    case 'copy':
      return placeCopyElements(record, op.elements);
    default:
      return placeTransferElements(record, op.elements);
  }
}

function placeMapElements(record: Uint32Array, elements: readonly MapElementInput[]): void {
  let at = ARGUMENTS;
  for (let index = 0; index < elements.length; index += 1) {
    const element = elementAt(elements, index, 'map_grant_ref');
    const { hostAddress, flags, ref, domain } = element;
    if (fieldCount(element) !== (hostAddress === undefined ? 3 : 4)) refuseElement(element, index, 'map_grant_ref');
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

/** What elements that end a mapping have in common: the handle, where it was mapped, and no outcome yet. */
function placeEnded(
  record: Uint32Array,
  at: number,
  hostAddress: UnmapElementInput['hostAddress'],
  handle: number,
): void {
  placeWide(record, at + HOST_LOW, hostAddress, 'hostAddress');
  record[at + HANDLE_IN] = word32(handle, 'handle');
  for (let word = STATUS_OUT; word < ARGUMENT_WORDS; word += 1) record[at + word] = 0;
}

function placeUnmapElements(record: Uint32Array, elements: readonly UnmapElementInput[]): void {
  let at = ARGUMENTS;
  for (let index = 0; index < elements.length; index += 1) {
    const element = elementAt(elements, index, 'unmap_grant_ref');
    const { hostAddress, busAddress, handle } = element;
    const given = 1 + Number(hostAddress !== undefined) + Number(busAddress !== undefined);
    if (fieldCount(element) !== given) refuseElement(element, index, 'unmap_grant_ref');
    placeWide(record, at + BUS_LOW, busAddress, 'busAddress');
    placeEnded(record, at, hostAddress, handle);
    at += ARGUMENT_WORDS;
  }
}

function placeReplaceElements(record: Uint32Array, elements: readonly ReplaceElementInput[]): void {
  let at = ARGUMENTS;
  for (let index = 0; index < elements.length; index += 1) {
    const element = elementAt(elements, index, 'unmap_and_replace');
    const { hostAddress, newAddress, handle } = element;
    const given = 1 + Number(hostAddress !== undefined) + Number(newAddress !== undefined);
    if (fieldCount(element) !== given) refuseElement(element, index, 'unmap_and_replace');
    placeWide(record, at + BUS_LOW, newAddress, 'newAddress');
    placeEnded(record, at, hostAddress, handle);
    at += ARGUMENT_WORDS;
  }
}

function placeCopyElements(record: Uint32Array, elements: readonly CopyElementInput[]): void {
  let at = ARGUMENTS;
  for (let index = 0; index < elements.length; index += 1) {
    const element = elementAt(elements, index, 'copy');
    const { source, destination, length, flags } = element;
    if (fieldCount(element) !== 4) refuseElement(element, index, 'copy');
    record.fill(0, at, at + ARGUMENT_WORDS);
    placeEnd(record, at + CopyElement.source, source, 'source');
    placeEnd(record, at + CopyElement.destination, destination, 'destination');
    record[at + CopyElement.lengthAndFlags] = (half(length, 'length') | (half(flags, 'flags') << 16)) >>> 0;
    at += ARGUMENT_WORDS;
  }
}

function placeEnd(record: Uint32Array, at: number, end: CopyEnd, name: string): void {
  if (typeof end !== 'object' || end === null) throw new TypeError(`copy: ${name}: expected an object`);
  if ((end.ref === undefined) === (end.frame === undefined))
    throw new TypeError(`copy: ${name}: expected one of ref and frame`);
  if (fieldCount(end) !== 3) refuseUnknown(end, END_FIELDS, 'copy', name);
  if (end.frame === undefined) {
    record[at + CopyEndWords.low] = word32(end.ref!, `${name}.ref`);
    record[at + CopyEndWords.high] = 0;
  } else placeWide(record, at + CopyEndWords.low, end.frame, `${name}.frame`);
  record[at + CopyEndWords.domainAndOffset] =
    (domainWord(end.domain) | (half(end.offset, `${name}.offset`) << 16)) >>> 0;
}

function placeTransferElements(record: Uint32Array, elements: readonly TransferElementInput[]): void {
  let at = ARGUMENTS;
  for (let index = 0; index < elements.length; index += 1) {
    const element = elementAt(elements, index, 'transfer');
    const { frame, domain, ref } = element;
    if (fieldCount(element) !== 3) refuseElement(element, index, 'transfer');
    record.fill(0, at, at + ARGUMENT_WORDS);
    if (frame === undefined) throw new TypeError('frame: expected the number of a frame');
    placeWide(record, at + TransferElement.frameLow, frame, 'frame');
    record[at + TransferElement.domain] = domainWord(domain);
    record[at + TransferElement.ref] = word32(ref, 'ref');
    at += ARGUMENT_WORDS;
  }
}

/** A 16-bit field. */
function half(value: number, name: string): number {
  if (!Number.isInteger(value) || value < 0 || value > 0xffff) {
    throw new TypeError(`${name} ${String(value)}: expected an integer from 0 to 65535`);
  }
  return value;
}

function elementAt<T>(elements: readonly T[], index: number, op: string): T {
  const element = elements[index];
  if (typeof element !== 'object' || element === null)
    throw new TypeError(`${op}: element ${index}: expected an object`);
  return element;
}

/** An element does not have the number of fields that it should have: is it for one that there is not? */
function refuseElement(element: object, index: number, op: GrantBatchOp['op']): void {
  refuseUnknown(element, ELEMENT_FIELDS[op], op, `elements[${index}]`);
}

/** The two words of an address; 0 where it is left out. */
function placeWide(record: Uint32Array, at: number, value: Wide | undefined, name: string): void {
  const low = value === undefined ? 0 : wideLow(value, name);
  record[at] = low;
  // Exact, and cheaper than to look at a number once more.
  record[at + 1] =
    typeof value === 'number' ? (value - low) / 2 ** 32 : value === undefined ? 0 : wideHigh(value, name);
}

/** Where each kind of element has its status: a word, and how far up in it. */
const STATUS_PLACE: Readonly<Record<GrantBatchOp['op'], { readonly word: number; readonly shift: number }>> = {
  map_grant_ref: { word: DOMAIN_STATUS, shift: 16 },
  unmap_grant_ref: { word: STATUS_OUT, shift: 0 },
  unmap_and_replace: { word: STATUS_OUT, shift: 0 },
  copy: { word: CopyElement.status, shift: 0 },
  transfer: { word: TransferElement.status, shift: 0 },
};

/** The outcome: elements as far as they were written, and what is left if something more urgent came in between. */
export function batchResults(name: GrantBatchOp['op'], record: Uint32Array, vcpu: Vcpu): OpResult {
  const { word, shift } = STATUS_PLACE[name];
  const result = record[RESULT]! | 0;
  const done = record[INDEX]!;
  const elements: ElementResult[] = [];
  for (let index = 0; index < done; index += 1) {
    const at = ARGUMENTS + index * ARGUMENT_WORDS;
    const status = ((record[at + word]! >>> shift) << 16) >> 16;
    if (name === 'map_grant_ref' && status === 0) {
      const busAddress = wide(record[at + BUS_OUT_LOW]!, record[at + BUS_OUT_HIGH]!);
      elements.push({ status, handle: record[at + HANDLE_OUT]!, busAddress });
    } else elements.push({ status });
  }
  if (result !== Errno.ERESTART) return { result, elements };
  return { result, elements, continuation: continuation(name, record, vcpu, done) };
}

/** The call on the elements that are left, from guest memory. */
function continuation(name: GrantBatchOp['op'], record: Uint32Array, vcpu: Vcpu, from: number): GrantBatchOp {
  const left = Array.from({ length: record[COUNT]! - from }, (_, index) => ARGUMENTS + (from + index) * ARGUMENT_WORDS);
  const call = {
    op: name,
    vcpu,
    domain: record[Pending.domain]!,
    elements: left.map((at) => readElement(name, record, at)),
    ...(record[Pending.unreadable] === 0 ? {} : { unreadableFrom: record[Pending.unreadable]! - 1 - from }),
    ...(record[Pending.unwritable] === 0 ? {} : { unwritableFrom: record[Pending.unwritable]! - 1 - from }),
  };
  return call as GrantBatchOp;
}

function readElement(name: GrantBatchOp['op'], record: Uint32Array, at: number): unknown {
  const at64 = (word: number) => wide(record[at + word]!, record[at + word + 1]!);
  const end = (word: number, byRef: boolean) => ({
    ...(byRef ? { ref: record[at + word + CopyEndWords.low]! } : { frame: at64(word) }),
    domain: record[at + word + CopyEndWords.domainAndOffset]! & 0xffff,
    offset: record[at + word + CopyEndWords.domainAndOffset]! >>> 16,
  });
  switch (name) {
    case 'map_grant_ref':
      return {
        hostAddress: at64(HOST_LOW),
        flags: record[at + FLAGS]!,
        ref: record[at + REF]!,
        domain: record[at + DOMAIN_STATUS]! & 0xffff,
      };
    case 'unmap_grant_ref':
      return { hostAddress: at64(HOST_LOW), busAddress: at64(BUS_LOW), handle: record[at + HANDLE_IN]! };
    case 'unmap_and_replace':
      return { hostAddress: at64(HOST_LOW), newAddress: at64(BUS_LOW), handle: record[at + HANDLE_IN]! };
    case 'copy': {
      const word = record[at + CopyElement.lengthAndFlags]!;
      const flags = word >>> 16;
      return {
        source: end(CopyElement.source, (flags & GNTCOPY.source_gref) !== 0),
        destination: end(CopyElement.destination, (flags & GNTCOPY.dest_gref) !== 0),
        length: word & 0xffff,
        flags,
      };
    }
    default:
      return {
        frame: at64(TransferElement.frameLow),
        domain: record[at + TransferElement.domain]!,
        ref: record[at + TransferElement.ref]!,
      };
  }
}
