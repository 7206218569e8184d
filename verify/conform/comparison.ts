// What was recorded against what the model did, field by field, as the table of fields says.

import type { FieldType, RecordedDescriptor, RecordedFault } from './recording/field-values.ts';
import { type FieldSpec, type FieldTable, recordFields } from './recording/record-fields.ts';
import type { Disagreement, Observed, Tally } from './tally.ts';

/** What the model did, in the form of a record. A field that is left out is not compared here, for a reason. */
export interface Observation {
  readonly [field: string]: unknown;
}

interface ComparedField {
  readonly name: string;
  /** `kind.field`. */
  readonly counter: string;
  readonly type: FieldType;
}

interface ComparedKind {
  readonly fields: readonly ComparedField[];
  readonly elements: readonly ComparedField[];
}

const kinds = new Map<string, ComparedKind>(
  Object.entries(recordFields).map(([kind, table]) => {
    const { ops, ...fields } = table as FieldTable;
    const elements = Array.isArray(ops) ? (ops[0] as FieldTable) : {};
    return [kind, { fields: comparedFields(kind, fields), elements: comparedFields(kind, elements) }];
  }),
);

function comparedFields(kind: string, table: FieldTable): ComparedField[] {
  return Object.entries(table).flatMap(([name, spec]) => {
    if (typeof spec !== 'string') return [];
    const [role, type] = (spec as FieldSpec).split(' ') as [string, string];
    if (role !== 'compared') return [];
    return [{ name, counter: `${kind}.${name}`, type: type.replace('?', '') as FieldType }];
  });
}

const NONE: Observation = {};

type Report = (counter: string, field: string, expected: Observed, got: Observed) => void;

/** Compares an observation with the record of `kind` in `line`, and counts. */
export class Comparison {
  readonly #tally: Tally;
  readonly #describe: ((disagreement: Disagreement) => void) | undefined;

  /** @param describe called for each disagreement, while the model is still in the state after the operation */
  constructor(tally: Tally, describe?: (disagreement: Disagreement) => void) {
    this.#tally = tally;
    this.#describe = describe;
  }

  /**
   * @param observed the operation's results
   * @param effects what it did beside them
   * @param rest what is left of fields of the record of which a part was adopted
   */
  compare(
    line: number,
    kind: string,
    record: Observation,
    observed: Observation,
    effects: Observation = NONE,
    rest: Observation = NONE,
  ): void {
    const { fields, elements } = kinds.get(kind)!;
    const report: Report = (counter, field, expected, got) => {
      const disagreement = { line, op: kind, field, expected, got };
      this.#tally.disagree(counter, disagreement);
      this.#describe?.(disagreement);
    };
    for (const field of fields) {
      const { name } = field;
      const expected = rest[name] ?? record[name];
      const got = effects[name] ?? observed[name];
      if (got !== undefined || name in observed) this.#field(field, name, expected, got, report);
      else if (expected !== undefined) this.#tally.skip(field.counter);
    }
    if (elements.length === 0) return;
    const recorded = record.ops as readonly Observation[];
    const seen = observed.ops as readonly Observation[];
    for (let at = 0; at < recorded.length; at += 1) {
      const element = recorded[at]!;
      const got = seen[at]!;
      for (const field of elements) {
        const { name } = field;
        const value = got[name];
        if (value === undefined && !(name in got)) this.#tally.skip(field.counter);
        else this.#field(field, element[name] === value ? name : `ops[${at}].${name}`, element[name], value, report);
      }
    }
  }

  /** The model cannot do what the record asks for: one disagreement, of a field that the record does not have. */
  refuse(line: number, kind: string, why: string): void {
    const disagreement = { line, op: kind, field: 'input', expected: 'carried out', got: why };
    this.#tally.disagree(`${kind}.input`, disagreement);
    this.#describe?.(disagreement);
  }

  #field(field: ComparedField, name: string, expected: unknown, got: unknown, report: Report): void {
    switch (field.type) {
      case 'descriptors':
        return this.#list(field, name, expected, got, sameDescriptor, report);
      case 'hexes':
        return this.#list(field, name, expected, got, Object.is, report);
      case 'owners':
        return this.#set(field, name, 1, expected, got, report);
      case 'changes':
        return this.#set(field, name, 2, expected, got, report);
      case 'contents':
        return this.#set(field, name, 2, expected, got, report);
      case 'faults':
        return this.#fault(field, name, expected, got, report);
      default:
        if (expected === undefined && got === undefined) return;
        if (expected === got) this.#tally.agree(field.counter);
        else report(field.counter, name, observed(expected), observed(got));
    }
  }

  /**
   * Item by item; a missing and a surplus one count as disagreements. A hole in `got` is not compared: there the model
   * has what was recorded, because it took it over.
   */
  #list(
    field: ComparedField,
    name: string,
    expected: unknown,
    got: unknown,
    same: (a: never, b: never) => boolean,
    report: Report,
  ): void {
    const recorded = (expected ?? []) as readonly unknown[];
    const seen = (got ?? []) as readonly unknown[];
    const count = Math.max(recorded.length, seen.length);
    for (let at = 0; at < count; at += 1) {
      if (at < recorded.length && at < seen.length && seen[at] === undefined) this.#tally.skip(field.counter);
      else if (at < recorded.length && at < seen.length && same(recorded[at] as never, seen[at] as never))
        this.#tally.agree(field.counter);
      else report(field.counter, `${name}[${at}]`, observed(recorded[at]), observed(seen[at]));
    }
  }

  /** As sets, by the first `keys` members of each item. Each item of either side counts once. */
  #set(field: ComparedField, name: string, keys: number, expected: unknown, got: unknown, report: Report): void {
    const recorded = (expected ?? []) as readonly (readonly Observed[])[];
    const seen = (got ?? []) as readonly (readonly Observed[])[];
    if (recorded.length === seen.length && recorded.every((item, at) => sameItem(item, seen[at]!))) {
      for (let at = 0; at < recorded.length; at += 1) this.#tally.agree(field.counter);
      return;
    }
    const keyOf = (item: readonly Observed[]) => item.slice(0, keys).join(',');
    const left = new Map(seen.map((item) => [keyOf(item), item]));
    for (const item of recorded) {
      const key = keyOf(item);
      const other = left.get(key);
      left.delete(key);
      if (other && sameItem(item, other)) this.#tally.agree(field.counter);
      else report(field.counter, `${name}[${key}]`, item.slice(keys), other ? other.slice(keys) : null);
    }
    for (const [key, item] of left) report(field.counter, `${name}[${key}]`, null, item.slice(keys));
  }

  /** One field: whether there was a fault, and the same one. Further ones are not recorded. */
  #fault(field: ComparedField, name: string, expected: unknown, got: unknown, report: Report): void {
    const [recorded] = (expected ?? []) as readonly RecordedFault[];
    const [seen] = (got ?? []) as readonly RecordedFault[];
    const isSame =
      recorded && seen ? FAULT_MEMBERS.every((member) => recorded[member] === seen[member]) : recorded === seen;
    if (isSame) this.#tally.agree(field.counter);
    else report(field.counter, name, observed(recorded), observed(seen));
  }
}

const FAULT_MEMBERS = ['sid', 'reason', 'addr', 'write'] as const;

/** Of a dev-iotlb descriptor, how many invalidations may be outstanding says nothing about what is invalidated. */
const UNCOMPARED = 'maxinvs';

/** Whether two descriptors say the same, member by member. */
export function sameDescriptor(a: RecordedDescriptor, b: RecordedDescriptor): boolean {
  for (const key in a) if (key !== UNCOMPARED && a[key] !== b[key]) return false;
  for (const key in b) if (key !== UNCOMPARED && !(key in a)) return false;
  return true;
}

const sameItem = (a: readonly Observed[], b: readonly Observed[]): boolean => a.every((value, at) => value === b[at]);

const observed = (value: unknown): Observed => (value === undefined ? null : (value as Observed));
