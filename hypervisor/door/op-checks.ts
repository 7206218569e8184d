// What the door looks at before an operation begins: that it has the fields of its kind and no others, and that each
// can be what it says. Elements of batches that run in micro-steps are checked as they are placed, once.

import {
  type Check,
  checkFields,
  domid,
  type FieldList,
  fieldCount,
  fieldList,
  index,
  list,
  place,
  refuseUnknown,
  word,
} from './field-checks.ts';
import type { GrantBatchOp } from './grant-op.ts';
import type { Op } from './op.ts';
import { OP_FIELDS } from './op-fields.ts';
import type { VcpuOp } from './vcpu-ops.ts';

type Of<Name extends Op['op']> = Extract<Op, { readonly op: Name }>;

const FIELD_LISTS: ReadonlyMap<unknown, FieldList> = new Map(
  Object.entries(OP_FIELDS).map(([name, fields]) => [name, fieldList(fields, ['op'])]),
);

/** What fields may not say together. */
const TOGETHER: { readonly [Name in Op['op']]?: (op: Of<Name>) => void } = {
  grant_write({ layout, frame }) {
    if (layout !== 2 && frame !== undefined) word(frame, 'frame');
  },
  store({ bytes, fill }) {
    if ((bytes === undefined) === (fill === undefined)) throw new TypeError('bytes, fill: expected one of the two');
  },
};

/**
 * The same for batches that run in micro-steps, written out, as for the DMA API below: they are what most machines do
 * most of the time, and what is left out costs one comparison here.
 */
function checkBatch(op: GrantBatchOp, vcpus: number): void {
  domid(op.domain, 'domain');
  list(op.elements, 'elements');
  const given =
    3 +
    checkGiven(index, op.vcpu, 'vcpu') +
    checkGiven(place, op.argument, 'argument') +
    checkGiven(index, op.unreadableFrom, 'unreadableFrom') +
    checkGiven(index, op.unwritableFrom, 'unwritableFrom') +
    checkGiven(index, op.preemptAfter, 'preemptAfter');
  checkEnd(op, given, vcpus);
}

function checkDmaRange(op: Of<'dma_map' | 'dma_unmap'>, vcpus: number): void {
  domid(op.domain, 'domain');
  index(op.dfn, 'dfn');
  index(op.pages, 'pages');
  let given = 4 + checkGiven(index, op.vcpu, 'vcpu');
  if (op.op === 'dma_map') {
    word(op.frame, 'frame');
    if (op.access !== 'r' && op.access !== 'rw') OP_FIELDS.dma_map.access(op.access, 'access');
    given += 2;
  }
  checkEnd(op, given, vcpus);
}

function checkEnd(op: VcpuOp, given: number, vcpus: number): void {
  if (op.vcpu !== undefined && op.vcpu >= vcpus) refuseVcpu(op.vcpu, vcpus);
  if (fieldCount(op) !== given) refuseUnknown(op, ['op', ...Object.keys(OP_FIELDS[op.op])], op.op);
}

/** Checks a field that may be left out. @returns how many fields that is. */
function checkGiven(check: Check, value: unknown, name: string): number {
  if (value === undefined) return 0;
  check(value, name);
  return 1;
}

function refuseVcpu(vcpu: number, vcpus: number): never {
  throw new RangeError(`vcpu ${vcpu}: expected 0 to ${vcpus - 1}`);
}

/**
 * Checks what an operation holds; that it can be done is for others to say.
 * @throws TypeError, RangeError naming the field; if there is none of that name, those that there are.
 */
export function checkOp(op: Op, vcpus: number): void {
  switch (op?.op) {
    case 'map_grant_ref':
    case 'unmap_grant_ref':
    case 'unmap_and_replace':
    case 'copy':
    case 'transfer':
      return checkBatch(op, vcpus);
    case 'dma_map':
    case 'dma_unmap':
      return checkDmaRange(op, vcpus);
    default:
      return checkOther(op, vcpus);
  }
}

function checkOther(op: Op, vcpus: number): void {
  const name: unknown = op?.op;
  const fields = FIELD_LISTS.get(name);
  if (fields === undefined) throw new TypeError(`unknown operation ${JSON.stringify(name)}`);
  checkFields(op, fields, op.op);
  if ('vcpu' in op && op.vcpu !== undefined && op.vcpu >= vcpus) refuseVcpu(op.vcpu, vcpus);
  (TOGETHER[op.op] as ((op: Op) => void) | undefined)?.(op);
}
