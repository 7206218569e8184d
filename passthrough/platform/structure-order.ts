// The structures of a table one after another: a decoded table has a list for each type.

/**
 * Items in the order of a table: as `order` names their types; those that it does not mention come last, by number of
 * type.
 */
export function inTableOrder<Item>(
  byType: Iterable<readonly [type: number, items: readonly Item[]]>,
  order: readonly number[],
): Item[] {
  const lists = [...byType];
  const left = new Map(lists.map(([type, items]) => [type, { items, next: 0 }]));
  const named = order.flatMap((type): Item[] => {
    const list = left.get(type);
    return list && list.next < list.items.length ? [list.items[list.next++]!] : [];
  });
  const others = [...left].sort(([a], [b]) => a - b).flatMap(([, { items, next }]) => items.slice(next));
  return [...named, ...others];
}
