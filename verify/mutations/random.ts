// A seeded source of numbers, the same on every machine.

import { uniformInt } from 'pure-rand/distribution/uniformInt';
import { xoroshiro128plus } from 'pure-rand/generator/xoroshiro128plus';

export interface RandomSource {
  /** An integer from 0 to one less than `limit`. */
  below(limit: number): number;
  pick<Item>(items: readonly Item[]): Item;
  /** True once in `times`. */
  oneIn(times: number): boolean;
}

/** @param stream numbers of another stream have nothing to do with one another */
export function randomSource(seed: number, stream = 0): RandomSource {
  const generator = xoroshiro128plus((seed ^ Math.imul(stream + 1, 0x9e3779b1)) | 0);
  const below = (limit: number) => uniformInt(generator, 0, limit - 1);
  return { below, pick: (items) => items[below(items.length)]!, oneIn: (times) => below(times) === 0 };
}
