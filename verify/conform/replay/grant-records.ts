// Records of grant hypercalls: from each to an operation, and from its result to what the record would say.

import type { ArgumentPlace, CopyElementInput, Op } from '../../../hypervisor/index.ts';
import { wide } from '../../../machine/wide.ts';
import type { FieldValues } from '../recording/field-values.ts';
import type { ElementOf, RecordedLine } from '../recording/record-fields.ts';
import { frameOf, hexOf, wideOf } from './hex-value.ts';
import { frameAt } from './machine-plan.ts';
import { STATUS_INDEX } from './memory-records.ts';
import type { Handlers, Outcome, ReplayContext, ShownFrame } from './replay-context.ts';

/** Fields that Xen has not written hold what the recorder had put there. */
const UNTOUCHED = { status: 0x7777, version: 0x7777, handle: 0xdeadbeef, address: '0xdeaddeaddead000', size: 0 };
const NO_FRAME = '0xffffffffffffffff';
/** Frames of a list that a record shows. */
const SHOWN_FRAMES = 8;
const DOMID_SELF = 0x7ff0;

type Pointer = FieldValues['pointer'];

/** What a pointer of the recorder's is, by the words of the records. */
const PLACES: Readonly<Record<Pointer, ArgumentPlace>> = {
  ok: 'mapped',
  null: 'unmapped',
  unmapped: 'unmapped',
  noncanonical: 'forbidden',
  xen: 'forbidden',
};
const placeOf = (pointer: Pointer): ArgumentPlace => PLACES[pointer];

const targetOf = (caller: number, domain: number): number => (domain === DOMID_SELF ? caller : domain);

/** `rc`, and the status of each element. */
function withStatuses({ result, elements }: Outcome, recorded: readonly unknown[]) {
  const ops = recorded.map((_, at) => ({ st: elements?.[at]?.status ?? UNTOUCHED.status }));
  return { observed: { rc: result, ops } };
}

/** Frames of a list: those that the hypervisor wrote, and the recorder's filling. `undefined`: adopted from here. */
function listed(context: ReplayContext, at: number, outcome: Outcome, count: number): (string | undefined)[] {
  const written = outcome.status === 0 ? (outcome.frames ?? []) : [];
  return Array.from({ length: Math.min(count, SHOWN_FRAMES) }, (_, index) => {
    const frame = written[index];
    if (frame === undefined) return NO_FRAME;
    return context.adopted.has(at, frame) ? undefined : hexOf(frame);
  });
}

/** The frames that a table grows by: as the record lists them; for gfns, as the domain's gfn map has them. */
function newFrames(context: ReplayContext, at: number, domain: number, frames: readonly string[], have: number) {
  const found = context.domains.get(domain);
  const shown = found?.hvm === 1 ? found.gtmfn.map((gfn) => frameAt(found, gfn)) : frames.map(frameOf);
  return shown.slice(have).flatMap((frame) => (frame === null ? [] : [{ at, frame }]));
}

/** Machine frames of a domain's status frames from number `have` on, as they are seen after `at`. */
function statusFramesAfter(context: ReplayContext, at: number, domain: number, have: number): ShownFrame[] {
  const { records } = context.recording;
  const found = context.probe.isHvm(domain)
    ? statusFramesMapped(records, at, domain)
    : statusFramesListed(records, at, domain, have);
  return found.slice(have);
}

/** Those of the frames that can be asked for. */
const framesIn = ({ probe }: ReplayContext, shown: readonly ShownFrame[]): number[] =>
  shown.flatMap(({ frame }) => (probe.isFree(frame) ? [frame] : []));

/** Notes which of the frames that records show became part of a table. */
function noteGrowth({ adopted }: ReplayContext, shown: readonly ShownFrame[], table: readonly number[], have: number) {
  for (const { at, frame } of shown) if (table.indexOf(frame) >= have) adopted.note(at, frame);
}

/** The first list of a PV domain's status frames after `at` that is longer than `have`, before its version changes. */
function statusFramesListed(records: readonly RecordedLine[], at: number, domain: number, have: number): ShownFrame[] {
  for (let next = at + 1; next < records.length; next += 1) {
    const record = records[next]!;
    if (record.o === 'set_version' && record.d === domain && record.rc === 0) return [];
    if (record.o !== 'get_status_frames') continue;
    const [element] = record.ops;
    if (element?.st !== 0 || element.nr <= have) continue;
    if (targetOf(record.d, element.dom) !== domain) continue;
    return element.frames.filter((frame) => frame !== NO_FRAME).map((frame) => ({ at: next, frame: frameOf(frame) }));
  }
  return [];
}

/** An HVM domain puts its status frames at gfns, where dom0 finds them. */
function statusFramesMapped(records: readonly RecordedLine[], at: number, domain: number): ShownFrame[] {
  const frames: ShownFrame[] = [];
  let awaited: { readonly index: number; readonly gfn: string } | null = null;
  for (let next = at + 1; next < records.length; next += 1) {
    const record = records[next]!;
    if (record.o === 'set_version' && record.d === domain && record.rc === 0) break;
    if (record.o === 'add_to_physmap' && record.d === domain && record.rc === 0 && record.idx >= STATUS_INDEX) {
      awaited = { index: record.idx - STATUS_INDEX, gfn: record.gfn };
    } else if (record.o === 'p2m' && record.d === domain && record.gfn === awaited?.gfn && record.mfn !== null) {
      if (awaited.index === frames.length) frames.push({ at: next, frame: frameOf(record.mfn) });
      awaited = null;
    }
  }
  return frames;
}

function copyElement(element: ElementOf<'copy'>): CopyElementInput {
  const { sg, s, sdom, soff, dg, dd, ddom, doff, len, flags } = element;
  return { source: copyEnd(sg, s, sdom, soff), destination: copyEnd(dg, dd, ddom, doff), length: len, flags };
}

const copyEnd = (isRef: number, place: `0x${string}`, domain: number, offset: number): CopyElementInput['source'] =>
  isRef === 1 ? { ref: Number(place), domain, offset } : { frame: wideOf(place), domain, offset };

/** The frame that one end of a copy is, found as Xen finds it; null where there is none. */
function frameOfEnd(context: ReplayContext, caller: number, isRef: number, place: string, domain: number) {
  let owner = targetOf(caller, domain);
  if (isRef !== 1) return mfnOf(context, owner, frameOf(place));
  let ref = Number(place);
  for (let hop = 0; hop < 5; hop += 1) {
    const entry = context.probe.entry(owner, ref);
    if (!entry) return null;
    if (context.probe.pins(owner, ref) !== 0) return context.probe.activeFrame(owner, ref);
    if ((entry.flags & 3) !== 3) return mfnOf(context, owner, entry.frame[0] + entry.frame[1] * 0x100000000);
    ({ domain: owner, ref } = entry.next);
  }
  return null;
}

const mfnOf = ({ probe }: ReplayContext, owner: number, frame: number): number | null =>
  probe.isHvm(owner) ? probe.frameAtGfn(owner, frame) : frame;

export const grantHandlers: Handlers = {
  map(context, { d, ops }) {
    const outcome = context.step({
      op: 'map_grant_ref',
      domain: d,
      elements: ops.map(({ flags, ref, dom, host }) => ({ flags, ref, domain: dom, hostAddress: wideOf(host) })),
    });
    const seen = ops.map((_, at) => {
      const element = outcome.elements?.[at];
      return {
        st: element?.status ?? UNTOUCHED.status,
        h: element?.handle ?? UNTOUCHED.handle,
        dev: element?.busAddress === undefined ? UNTOUCHED.address : hexOf(element.busAddress),
      };
    });
    return { observed: { rc: outcome.result, ops: seen } };
  },

  unmap(context, { d, ops }) {
    const outcome = context.step({
      op: 'unmap_grant_ref',
      domain: d,
      elements: ops.map(({ host, dev, h }) => ({ hostAddress: wideOf(host), busAddress: wideOf(dev), handle: h })),
    });
    return withStatuses(outcome, ops);
  },

  unmap_and_replace(context, { d, ops }) {
    const outcome = context.step({
      op: 'unmap_and_replace',
      domain: d,
      elements: ops.map((x) => ({ hostAddress: wideOf(x.host), newAddress: wideOf(x.new), handle: x.h })),
    });
    return withStatuses(outcome, ops);
  },

  copy(context, { d, ops, mem }) {
    const { contents } = context;
    const ends = ops.map(({ sg, s, sdom, dg, dd, ddom }) => ({
      source: frameOfEnd(context, d, sg, s, sdom),
      destination: frameOfEnd(context, d, dg, dd, ddom),
    }));
    const outcome = context.step({ op: 'copy', domain: d, elements: ops.map(copyElement) });
    const adopted = new Set<number>();
    for (const [at, { source, destination }] of ends.entries()) {
      if (outcome.elements?.[at]?.status !== 0 || ops[at]!.len === 0) continue;
      if (source === null || destination === null || !contents.isKnown(destination)) continue;
      if (!contents.isKnown(source) || adopted.has(source)) adopted.add(destination);
    }
    const recorded = contents.adopt(mem ?? [], adopted, (frame, offset, bytes) =>
      context.step({ op: 'store', frame, offset, bytes }),
    );
    if (mem && recorded.length < mem.length) context.tally.skip('copy.mem', mem.length - recorded.length);
    const { observed } = withStatuses(outcome, ops);
    return { observed: { ...observed, mem: contents.changes() }, recorded: { mem: recorded } };
  },

  transfer(context, { d, ops }) {
    const elements = ops.map(({ mfn, dom, ref }) => ({ frame: wideOf(mfn), domain: dom, ref }));
    return withStatuses(context.step({ op: 'transfer', domain: d, elements }), ops);
  },

  swap_grant_ref(context, { d, ops }) {
    const elements = ops.map(({ a, b }) => ({ a, b }));
    return withStatuses(context.step({ op: 'swap_grant_ref', domain: d, elements }), ops);
  },

  cache_flush(context, { d, ops }) {
    const elements = ops.map(({ a, off, len, op }) => ({
      address: wideOf(a),
      offset: off,
      length: len,
      operation: op,
    }));
    const { result } = context.step({ op: 'cache_flush', domain: d, elements });
    return { observed: { rc: result, ops: ops.map(() => ({})) } };
  },

  setup_table(context, { d, n, ops }, at) {
    const { dom, nr, ptr, frames } = ops[0]!;
    const target = targetOf(d, dom);
    const { shared, status } = context.probe.tableFrames(target);
    const have = shared.length;
    const grown = newFrames(context, at, target, frames, have);
    const grownStatus = nr > have && status.length > 0 ? statusFramesAfter(context, at, target, status.length) : [];
    const outcome = context.step({
      op: 'setup_table',
      domain: d,
      target: dom,
      frames: nr,
      list: placeOf(ptr),
      allocate: framesIn(context, grown),
      allocateStatus: framesIn(context, grownStatus),
      ...(n === 1 ? {} : { count: n }),
    });
    const after = context.probe.tableFrames(target);
    for (const frame of after.shared) context.contents.know(frame);
    if (after.shared.length !== have) context.entries.tablesChanged(target);
    noteGrowth(context, grown, after.shared, have);
    noteGrowth(context, grownStatus, after.status, status.length);
    // Where the list cannot be written, the recorder has none to read.
    const seen = ptr === 'ok' ? listed(context, at, outcome, nr) : [];
    return {
      observed: { rc: outcome.result, ops: [{ st: outcome.status ?? UNTOUCHED.status, frames: seen }] },
    };
  },

  get_status_frames(context, { d, n, ops }, at) {
    const { dom, nr } = ops[0]!;
    const call: Op = { op: 'get_status_frames', domain: d, target: dom, frames: nr, list: 'mapped' };
    const outcome = context.step(n === 1 ? call : { ...call, count: n });
    const frames = listed(context, at, outcome, nr);
    return { observed: { rc: outcome.result, ops: [{ st: outcome.status ?? UNTOUCHED.status, frames }] } };
  },

  query_size(context, { d, n, ops }) {
    const { dom } = ops[0]!;
    const call: Op = { op: 'query_size', domain: d, target: dom };
    const { result, status, size } = context.step(n === 1 ? call : { ...call, count: n });
    const seen = {
      st: status ?? UNTOUCHED.status,
      nr: size?.frames ?? UNTOUCHED.size,
      max: size?.maxFrames ?? UNTOUCHED.size,
    };
    return { observed: { rc: result, ops: [seen] } };
  },

  get_version(context, { d, n, ops }) {
    const call: Op = { op: 'get_version', domain: d, target: ops[0]!.dom };
    const { result, version } = context.step(n === 1 ? call : { ...call, count: n });
    return { observed: { rc: result, ops: [{ version: version ?? UNTOUCHED.version }] } };
  },

  set_version(context, { d, n, ops }, at) {
    const { req } = ops[0]!;
    const shown = req === 2 ? statusFramesAfter(context, at, d, 0) : [];
    const have = context.probe.tableFrames(d).status.length;
    const call: Op = { op: 'set_version', domain: d, version: req, allocate: framesIn(context, shown) };
    const { result, version } = context.step(n === 1 ? call : { ...call, count: n });
    noteGrowth(context, shown, context.probe.tableFrames(d).status, have);
    context.entries.tablesChanged(d);
    return { observed: { rc: result, ops: [{ version: version ?? req }] } };
  },

  raw(context, { d, cmd, n, ptr }) {
    const call: Op = { op: 'grant_table_op', domain: d, command: cmd, count: n, argument: placeOf(ptr) };
    return { observed: { rc: context.step(call).result } };
  },

  gset(context, { d, v, ref, flags, domid, frame, off, len, tdom, tref }) {
    const isTransitive = v === 2 && (flags & 3) === 3;
    const isSubPage = v === 2 && !isTransitive && (flags & SUB_PAGE) !== 0;
    context.prepare({
      op: 'grant_write',
      domain: d,
      ref,
      layout: v === 1 ? 1 : 2,
      flags,
      grantee: domid,
      ...(isTransitive ? { transitive: { domain: tdom, ref: tref } } : { frame: wideOf(frame) }),
      ...(isSubPage && { subPage: { offset: off, length: len } }),
    });
    context.entries.guestWrote(d, ref);
    return undefined;
  },

  entry({ probe, entries }, { d, ref }) {
    const entry = probe.entry(d, ref);
    if (!entry) return { observed: { flags: null, st: null, frame: null } };
    const st = entries.seesStatus(d) ? entry.status : 0;
    return { observed: { flags: entry.flags, st, frame: hexOf(wide(...entry.frame)) } };
  },
};

/** xen: GTF_sub_page. */
const SUB_PAGE = 0x100;
