// The cost model: a value for every parameter of the table, and where each value comes from.
//
// Reports print that, so that nobody has to guess what a figure rests on.

import { type CostParameter, type CostUnit, costParameters } from './cost-table.ts';

export { type CostParameter, type CostUnit, costParameters } from './cost-table.ts';

/** The name of a number of the cost model. */
export type CostId = (typeof costParameters)[number]['id'];

/** A value for every parameter, in the unit of its row. Frozen. */
export type CostModel = Readonly<Record<CostId, number>>;

/** A row of a report: a value and what it rests on. */
export interface CostProvenance {
  readonly id: CostId;
  readonly title: string;
  readonly unit: CostUnit;
  readonly value: number;
  readonly source: string;
  /** False for an overridden value: whoever gave it has to vouch for it. */
  readonly verified: boolean;
  readonly overridden: boolean;
}

const rows: readonly (CostParameter & { readonly id: CostId })[] = costParameters;
const rowOf = new Map<string, CostParameter>(rows.map((row) => [row.id, row]));

/** The model with every parameter at its default. */
export function defaultCostModel(): CostModel {
  return Object.freeze(Object.fromEntries(rows.map(({ id, value }) => [id, value])) as Record<CostId, number>);
}

/**
 * A cost model with some values changed.
 *
 * @param overrides Values by parameter, each in the unit of its row. Undefined leaves a parameter as it is.
 * @throws RangeError that names the parameter and what was expected: an id of the table, a number in its range, an
 *   integer where it counts something.
 */
export function withCosts(
  overrides: { readonly [id in CostId]?: number | undefined },
  base: CostModel = defaultCostModel(),
): CostModel {
  const model: Record<string, number> = { ...base };
  for (const [id, value] of Object.entries(overrides)) {
    const row = rowOf.get(id);
    if (row === undefined) throw new RangeError(`cost ${id}: expected one of ${[...rowOf.keys()].join(', ')}`);
    if (value !== undefined) model[id] = checked(row, value);
  }
  return Object.freeze(model as Record<CostId, number>);
}

function checked(row: CostParameter, value: unknown): number {
  const [low, high] = row.range;
  const fits = typeof value === 'number' && value >= low && value <= high;
  if (fits && (row.unit !== 'count' || Number.isInteger(value))) return value;
  const number = row.unit === 'count' ? 'an integer' : 'a number';
  throw new RangeError(`cost ${row.id} ${String(value)}: expected ${number} from ${low} to ${high} (${row.unit})`);
}

/** Every parameter of a model with its source, in the order of the table. For reports. */
export function provenance(model: CostModel): CostProvenance[] {
  return rows.map((row) => {
    const value = model[row.id];
    const overridden = value !== row.value;
    const source = overridden ? `set by the caller; the default is ${row.value} (${row.source})` : row.source;
    return {
      id: row.id,
      title: row.title,
      unit: row.unit,
      value,
      source,
      verified: row.verified && !overridden,
      overridden,
    };
  });
}
