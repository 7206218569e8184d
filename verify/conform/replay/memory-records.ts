// Records of domains and their memory.

import type { Op } from '../../../hypervisor/index.ts';
import { Errno } from '../../../machine/errno.ts';
import { DOMID_SELF } from '../../../machine/ids.ts';
import type { RecordedLine, RecordOf } from '../recording/record-fields.ts';
import { frameOf, hexOf, wideOf } from './hex-value.ts';
import { domainOp, domainRecord } from './machine-plan.ts';
import type { Handlers, ReplayContext, ShownFrame } from './replay-context.ts';

const PAGE_BYTES = 4096;
/** xen: XENMEM_*. */
const INCREASE = 0;
const DECREASE = 1;
/** xen: MMUEXT_UNPIN_TABLE; lower commands pin a table of the next level. */
const UNPIN = 4;
const PIN_L4 = 3;
/** xen: XENMAPIDX_grant_table_status. */
export const STATUS_INDEX = 0x80000000;
/** Times that a hypercall is repeated that says it is not done. */
const REPEATS_MAX = 1000;

/** Frames that the domain gets: those that dom0 then finds at the gfns. */
function framesFoundAfter(records: readonly RecordedLine[], at: number, domain: number, gfns: readonly string[]) {
  const frames: ShownFrame[] = [];
  for (const gfn of gfns) {
    const ahead = records.slice(at + 1, at + 1 + LOOK_AHEAD);
    const place = ahead.findIndex((next) => next.o === 'p2m' && next.d === domain && next.gfn === gfn);
    const found = ahead[place] as RecordOf<'p2m'> | undefined;
    if (!found?.mfn) return [];
    frames.push({ at: at + 1 + place, frame: frameOf(found.mfn) });
  }
  return frames;
}
/** Records in which the frame of a populated gfn is looked for. */
const LOOK_AHEAD = 16;

const allocated = (shown: readonly ShownFrame[]) =>
  shown.length > 0 ? { allocate: shown.map(({ frame }) => frame) } : {};

/** Fills a domain's data frames as the recorder had. */
function fillData(context: ReplayContext, record: RecordOf<'domain'>): void {
  const { len, base } = record.dataFill;
  for (const [index, name] of record.data.entries()) {
    const frame = dataFrame(context, record, name);
    if (frame === null) continue;
    context.prepare({ op: 'store', frame, offset: 0, fill: { byte: (base + index) & 0xff, length: len } });
    context.contents.know(frame);
  }
}

function dataFrame({ probe }: ReplayContext, { id, hvm }: RecordOf<'domain'>, name: string): number | null {
  const frame = hvm === 1 ? probe.frameAtGfn(id, frameOf(name)) : frameOf(name);
  return frame !== null && probe.isMemory(frame) ? frame : null;
}

/** What the record says of the domain's table, which the model has by now. */
function checkTable(context: ReplayContext, { id, version, gtmfn }: RecordOf<'domain'>): void {
  const { probe } = context;
  const frames = probe.isHvm(id) ? gtmfn.map((gfn) => probe.frameAtGfn(id, frameOf(gfn))) : gtmfn.map(frameOf);
  const have = probe.tableFrames(id).shared;
  if (probe.version(id) !== version) context.fail(`version of the table: ${probe.version(id)}`);
  if (frames.join() !== have.join()) context.fail(`frames of the table: ${have.map(hexOf)}`);
}

function openWindow(context: ReplayContext, domain: number, frame: number, writable: boolean): void {
  const address = context.windowAt;
  const owner = domain === 0 ? DOMID_SELF : domain;
  context.prepare({ op: 'map_foreign', domain: 0, address, owner, frame, writable });
}

export const memoryHandlers: Handlers = {
  createdomain(context, record, at) {
    const found = domainRecord(context.recording, record.id, at);
    if (found) context.domains.set(record.id, found);
    return { observed: { rc: context.step(domainOp(context.recording, record, found)).result } };
  },

  populate(context, record) {
    const { id, n = 0, order, mfn } = record;
    // The domain was built with this memory: what it lacks could not be given.
    if (!record.in) return { observed: { rc: Math.min(n, context.probe.totalPages(id)) } };
    const op: Op = {
      op: 'populate_physmap',
      domain: id,
      gfns: record.in.map(frameOf),
      order: order ?? 0,
      ...(mfn !== undefined && { allocate: [frameOf(mfn)] }),
    };
    return { observed: { rc: context.step(op).result } };
  },

  // The domain was built with its page tables pinned.
  pin_l4: ({ probe }, { id }) => ({
    observed: { rc: probe.domain(id)?.state === 'alive' && !probe.isHvm(id) ? 0 : Errno.ESRCH },
  }),

  win(context, { va, frame, dom, rw }) {
    context.windowAt = Number(va);
    context.entries.windowMoved(context.windowAt, dom ?? 0, frame === null ? null : frameOf(frame));
    if (frame !== null) {
      openWindow(context, dom ?? 0, frameOf(frame), rw === 1);
      const place = frameOf(frame);
      const { probe } = context;
      context.windows.set(
        `${dom} ${place}`,
        probe.isHvm(dom ?? 0) ? (probe.frameAtGfn(dom ?? 0, place) ?? place) : place,
      );
    } else
      context.prepare({
        op: 'map_foreign',
        domain: 0,
        address: Number(va),
        owner: DOMID_SELF,
        frame: null,
        writable: false,
      });
    return undefined;
  },

  watch(context, { d, first, n }) {
    const record = context.domains.get(d);
    const names = record?.data.slice(first, first + n) ?? [];
    if (names.length !== n) context.fail(`domain ${d} has ${record?.data.length ?? 0} data frames`);
    for (const name of names) {
      context.windowAt += PAGE_BYTES;
      openWindow(context, d, frameOf(name), false);
      const frame = dataFrame(context, record!, name);
      if (frame !== null) context.contents.watch(d, name, frame);
    }
    return undefined;
  },

  domain(context, record) {
    checkTable(context, record);
    fillData(context, record);
    context.entries.watch(record.id, record.gtmfn.length);
    return { observed: { tot_pages: context.probe.totalPages(record.id) } };
  },

  info: ({ probe }, { d }) => ({ observed: { tot_pages: probe.totalPages(d) } }),

  map_foreign(context, { d, va, frame, dom, rw }) {
    const op: Op = {
      op: 'map_foreign',
      domain: d,
      address: wideOf(va),
      owner: dom,
      frame: frameOf(frame),
      writable: rw === 1,
    };
    return { observed: { rc: context.step(op).result } };
  },

  /** dom0 maps the gfn, and drops it again. */
  p2m(context, { d, gfn }, at) {
    const address = context.windowAt + PAGE_BYTES;
    const window = { op: 'map_foreign', domain: 0, address, owner: d, writable: false } as const;
    const { result, frames } = context.step({ ...window, frame: frameOf(gfn) });
    const [frame] = frames ?? [];
    if (result !== 0 || frame === undefined) return { observed: { mfn: null, rc: result } };
    context.step({ ...window, frame: null });
    const observed = { rc: undefined };
    return { observed: context.adopted.has(at, frame) ? observed : { ...observed, mfn: hexOf(frame) } };
  },

  destroydomain(context, { id }) {
    const op: Op = { op: 'destroy_domain', domain: id };
    const { result } = context.step(op);
    // The recorder repeated it until it was done, and looked at the dying domain's entries no more.
    let left = result === Errno.ERESTART ? REPEATS_MAX : 0;
    while (left > 0) left = context.step(op).result === Errno.ERESTART ? left - 1 : 0;
    context.entries.forget(id);
    return { observed: { rc: result } };
  },

  update_va_mapping(context, { d, va, pte }) {
    const op: Op = { op: 'update_va_mapping', domain: d, address: wideOf(va), entry: wideOf(pte) };
    return { observed: { rc: context.step(op).result } };
  },

  unmap_own(context, { d, va }) {
    const op: Op = { op: 'update_va_mapping', domain: d, address: wideOf(va), entry: 0 };
    return { observed: { rc: context.step(op).result } };
  },

  mmuext(context, { d, cmd, mfn }) {
    const frame = frameOf(mfn);
    const op: Op =
      cmd === UNPIN
        ? { op: 'unpin_table', domain: d, frame }
        : { op: 'pin_table', domain: d, frame, level: (cmd + 1) as 1 | 2 | 3 | 4 };
    const { result } = context.step(op);
    // What the hypervisor writes into a top table depends on the machine.
    if (cmd === PIN_L4 && result === 0) context.contents.forget(frame);
    return { observed: { rc: result } };
  },

  memory_op(context, record, at) {
    const { d, cmd, order = 0, out } = record;
    const list = record.in.map(frameOf);
    if (cmd === DECREASE) {
      const frames = list.flatMap((first) => Array.from({ length: 1 << order }, (_, page) => first + page));
      const { result } = context.step({ op: 'decrease_reservation', domain: d, frames });
      // The list is only read: what is in it afterwards is what was put in.
      return { observed: { rc: typeof result === 'number' ? result >> order : result, out: record.in } };
    }
    // Into the list of a domain without gfns of its own Xen writes the frames.
    const isListed = !context.probe.isHvm(d);
    const found = cmd === INCREASE ? [] : framesFoundAfter(context.recording.records, at, d, record.in);
    const shown = isListed ? out.map((frame) => ({ at, frame: frameOf(frame) })) : found;
    const name = cmd === INCREASE ? 'increase_reservation' : 'populate_physmap';
    const { result, frames } = context.step({ op: name, domain: d, gfns: list, order, ...allocated(shown) });
    const got = frames?.map(Number) ?? [];
    for (const first of got) for (let page = 0; page < 1 << order; page += 1) context.contents.forget(first + page);
    for (const { at: place, frame } of shown) if (got.includes(frame)) context.adopted.note(place, frame);
    const left = record.in.map((item, index) => {
      const frame = isListed ? got[index] : undefined;
      if (frame === undefined) return item;
      return context.adopted.has(at, frame) ? undefined : hexOf(frame);
    });
    return { observed: { rc: result, out: left } };
  },

  add_to_physmap(context, { d, space, idx, gfn }, at) {
    // A table that grows for it gets the frame that dom0 then finds there.
    const have = context.probe.tableFrames(d).shared.length;
    const isThere = idx < have || idx >= STATUS_INDEX;
    const [shown] = isThere ? [] : framesFoundAfter(context.recording.records, at, d, [gfn]);
    const op: Op = { op: 'add_to_physmap', domain: d, space, index: idx, gfn: frameOf(gfn) };
    const { result } = context.step(shown && context.probe.isFree(shown.frame) ? { ...op, allocate: shown.frame } : op);
    const { shared } = context.probe.tableFrames(d);
    if (shown && shared.indexOf(shown.frame) >= have) context.adopted.note(shown.at, shown.frame);
    if (!isThere) context.entries.tablesChanged(d);
    return { observed: { rc: result } };
  },

  remove_from_physmap(context, { d, gfn }) {
    const { result } = context.step({ op: 'remove_from_physmap', domain: d, gfn: frameOf(gfn) });
    return { observed: { rc: result } };
  },
};
