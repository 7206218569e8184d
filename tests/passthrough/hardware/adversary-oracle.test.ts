// Goal: what the adversary says a device may reach is exactly what the definition says, for any sequence of events.
// Method: random writes, frees, reuses and invalidations on a tiny three-level address space; after each of them the
// may-sets are compared with a device that walks everything and forgets nothing (greedy-device.ts).

import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import type { Mfn } from '../../../machine/frame-number.ts';
import { GreedyDevice } from './greedy-device.ts';
import {
  answers,
  type ContextInvalidation,
  contextWords,
  DEVICE,
  type Invalidation,
  iotlbWords,
  OTHER_DEVICE,
  page,
  Rig,
  RW,
} from './tables.ts';

/** Eight pages: two at each of the last index, the middle one and the first. */
const PAGES = [0, 1].flatMap((third) => [0, 1].flatMap((second) => [0, 1].map((first) => page(third, second, first))));
/** Frames that serve as tables, as data, as either after a reuse. */
const POOL = 6;

type Event =
  | {
      readonly kind: 'table';
      readonly at: number;
      readonly index: number;
      readonly to: number;
      readonly rights: number;
    }
  | { readonly kind: 'leaf'; readonly at: number; readonly index: number; readonly to: number; readonly rights: number }
  | { readonly kind: 'large'; readonly at: number; readonly index: number; readonly rights: number }
  | { readonly kind: 'absent'; readonly at: number; readonly index: number }
  | { readonly kind: 'reuse'; readonly at: number }
  | { readonly kind: 'iotlb'; readonly of: Invalidation }
  | { readonly kind: 'complete' }
  | { readonly kind: 'context'; readonly source: number; readonly did: number; readonly table: number }
  | { readonly kind: 'noContext'; readonly source: number }
  | { readonly kind: 'contextCache'; readonly of: ContextInvalidation };

const frame = fc.nat(POOL - 1);
const index = fc.nat(1);
const anyRights = fc.constantFrom(1, 3);
const tableOf = (rights: fc.Arbitrary<number>) =>
  fc.record({ kind: fc.constant('table' as const), at: frame, index, to: frame, rights });
const leafOf = (rights: fc.Arbitrary<number>) =>
  fc.record({ kind: fc.constant('leaf' as const), at: frame, index, to: fc.nat(99), rights });
const largeOf = (rights: fc.Arbitrary<number>) =>
  fc.record({ kind: fc.constant('large' as const), at: frame, index, rights });
const absent = fc.record({ kind: fc.constant('absent' as const), at: frame, index });
const reuse = fc.record({ kind: fc.constant('reuse' as const), at: frame });
const invalidation = (dids: readonly number[]) =>
  fc.record({
    granularity: fc.constantFrom(
      'page' as const,
      'page' as const,
      'page' as const,
      'domain' as const,
      'global' as const,
    ),
    did: fc.constantFrom(...dids),
    dfn: fc.constantFrom(...PAGES),
    order: fc.constantFrom(0, 0, 1, 9, 10, 18),
    hint: fc.boolean(),
  });
const iotlb = (dids: readonly number[]) => fc.record({ kind: fc.constant('iotlb' as const), of: invalidation(dids) });

/** The events that change one address space, and invalidations of it. */
const oneSpace = (rights: fc.Arbitrary<number>): fc.Arbitrary<Event> =>
  fc.oneof(
    { weight: 4, arbitrary: tableOf(rights) },
    { weight: 4, arbitrary: leafOf(rights) },
    { weight: 1, arbitrary: largeOf(rights) },
    { weight: 3, arbitrary: absent },
    { weight: 1, arbitrary: reuse },
    { weight: 4, arbitrary: iotlb([1]) },
  );

class Run {
  readonly rig: Rig;
  readonly greedy: GreedyDevice;
  readonly sources: readonly number[];
  readonly #pool: readonly Mfn[];
  readonly #contexts: Mfn;
  #inFlight = false;

  constructor(options: { readonly cachingMode: boolean; readonly sources: readonly number[] }) {
    const { cachingMode, sources } = options;
    this.rig = new Rig({ units: [{ cachingMode }] });
    this.sources = sources;
    const root = this.rig.start();
    this.#contexts = this.rig.contextTable(root);
    this.#pool = Array.from({ length: POOL }, () => this.rig.table());
    this.rig.context(this.#contexts, DEVICE, { table: this.#pool[0]!, did: 1 });
    this.#build();
    // From here on it is as after a boot: nothing is cached.
    this.rig.contextCache({ granularity: 'global' });
    this.rig.iotlb({ granularity: 'global' });
    this.greedy = new GreedyDevice({
      frames: this.rig.frames,
      contexts: this.#contexts,
      sources,
      pages: PAGES,
      cachingMode,
    });
  }

  /** A tree to begin with: pool frame 0 above 1 and 2, these above 3, 4 and 5, and leaves in those. */
  #build(): void {
    const pool = this.#pool;
    for (const [at, index, to] of [
      [0, 0, 1],
      [0, 1, 2],
      [1, 0, 3],
      [1, 1, 4],
      [2, 0, 5],
    ] as const) {
      this.rig.entry(pool[at]!, index, pool[to]!, RW);
    }
    for (const at of [3, 4, 5]) for (const index of [0, 1]) this.rig.entry(pool[at]!, index, 80 + at * 2 + index, RW);
  }

  do(event: Event): void {
    switch (event.kind) {
      case 'iotlb':
        return this.#submit(iotlbWords(event.of), { iotlb: event.of });
      case 'contextCache':
        return this.#submit(contextWords(event.of), { context: event.of });
      case 'complete':
        return this.complete();
      default:
        this.#write(event);
        this.greedy.changed();
    }
  }

  #write(event: Exclude<Event, { kind: 'iotlb' | 'contextCache' | 'complete' }>): void {
    const { rig } = this;
    switch (event.kind) {
      case 'table':
        return rig.entry(this.#pool[event.at]!, event.index, this.#pool[event.to]!, event.rights);
      case 'leaf':
        return rig.entry(this.#pool[event.at]!, event.index, event.to, event.rights);
      case 'large':
        // Aligned for 1 GiB and so for 2 MiB; as an entry of the lowest level bit 7 counts for nothing.
        return rig.entry(this.#pool[event.at]!, event.index, 0x40000, event.rights, { superpage: 1 });
      case 'absent':
        return rig.absent(this.#pool[event.at]!, event.index);
      case 'reuse':
        return this.#reuse(this.#pool[event.at]!);
      case 'context':
        return rig.context(this.#contexts, event.source, { table: this.#pool[event.table]!, did: event.did });
      default:
        return rig.clearContext(this.#contexts, event.source);
    }
  }

  /** The frame goes back to the allocator, is cleared there, and is handed out again. */
  #reuse(mfn: Mfn): void {
    this.rig.freeTable(mfn);
    expect(this.rig.table()).toBe(mfn);
  }

  #submit(words: readonly number[], of: Parameters<GreedyDevice['fetched']>[0]): void {
    if (this.#inFlight) this.complete();
    this.rig.submit(words);
    this.rig.unit.step();
    this.greedy.fetched(of);
    this.#inFlight = true;
  }

  complete(): void {
    if (!this.#inFlight) return;
    this.rig.unit.step();
    this.greedy.completed();
    this.#inFlight = false;
  }

  each(check: (found: string[], dfn: number, source: number) => void): void {
    for (const source of this.sources) {
      for (const dfn of PAGES) check(answers(this.rig.may(dfn, source)), dfn, source);
    }
  }
}

/** Without the rights: whether frames, and faults, are the same. */
const withoutRights = (found: readonly string[]) => [
  ...new Set(found.map((text) => (text.startsWith('fault') ? text : text.split(' ')[0]!))),
];
/** The answers that no answer of the others allows: the same frame with at least the same rights, or the same fault. */
const notAllowedBy = (some: readonly string[], others: readonly string[]) =>
  some.filter((text) => {
    const [frame, rights] = text.split(' ') as [string, string];
    if (frame === 'fault') return !others.includes(text);
    return !others.some(
      (other) => other.startsWith(`${frame} `) && [...rights].every((right) => other.includes(right)),
    );
  });
const sequenceOf = (one: fc.Arbitrary<Event>) => fc.array(one, { minLength: 1, maxLength: 40 });
const complete = fc.constant<Event>({ kind: 'complete' });
const context = (dids: readonly (readonly [number, number])[]) =>
  fc
    .tuple(fc.constantFrom(DEVICE, OTHER_DEVICE), fc.constantFrom(...dids))
    .map(([source, [did, table]]): Event => ({ kind: 'context', source, did, table }));
const noContext = fc.record({ kind: fc.constant('noContext' as const), source: fc.constantFrom(DEVICE, OTHER_DEVICE) });
const contextCache = fc.record({
  kind: fc.constant('contextCache' as const),
  of: fc.record({
    granularity: fc.constantFrom('global' as const, 'domain' as const, 'device' as const),
    did: fc.nat(2),
    source: fc.constantFrom(DEVICE, OTHER_DEVICE),
    functionMask: fc.constantFrom(0, 0, 3),
  }),
});

/** Two devices, contexts that come and go, and (did, root table) pairs that they may name. */
const twoDevices = (dids: readonly (readonly [number, number])[]): fc.Arbitrary<Event> =>
  fc.oneof(
    { weight: 4, arbitrary: oneSpace(fc.constant(RW)) },
    { weight: 2, arbitrary: iotlb([1, 2]) },
    { weight: 2, arbitrary: context(dids) },
    { weight: 1, arbitrary: noContext },
    { weight: 2, arbitrary: contextCache },
    { weight: 2, arbitrary: complete },
  );

describe('one address space, each invalidation complete before anything else happens', () => {
  test.prop([fc.boolean(), sequenceOf(oneSpace(fc.constant(RW)))], { numRuns: 150 })(
    'the may-sets equal the definition when every entry is read and write',
    (cachingMode, sequence) => {
      const run = new Run({ cachingMode, sources: [DEVICE] });
      for (const event of sequence) {
        run.do(event);
        run.complete();
        run.each((found, dfn, source) => {
          expect(found, `page ${dfn} after ${JSON.stringify(event)}`).toEqual(run.greedy.may(dfn, source, 'path'));
        });
      }
    },
  );

  test.prop([fc.boolean(), sequenceOf(oneSpace(anyRights))], { numRuns: 150 })(
    'the frames equal the definition, and no right is beyond that of the leaf, when tables above are weaker',
    (cachingMode, sequence) => {
      const run = new Run({ cachingMode, sources: [DEVICE] });
      for (const event of sequence) {
        run.do(event);
        run.complete();
        run.each((found, dfn, source) => {
          expect(withoutRights(found)).toEqual(withoutRights(run.greedy.may(dfn, source, 'path')));
          expect(notAllowedBy(found, run.greedy.may(dfn, source, 'own'))).toEqual([]);
        });
      }
    },
  );
});

const everything = (found: readonly string[]) => [...found];
/** Faults left out: what a walk below another device's table runs into is not counted as this device's fault. */
const framesAlone = (found: readonly string[]) => found.filter((text) => !text.startsWith('fault'));

/** Every event leaves at least what the definition allows; after global invalidations of both kinds exactly that. */
function checkNothingMissing(run: Run, sequence: readonly Event[], seen = everything): void {
  for (const event of sequence) {
    run.do(event);
    run.each((found, dfn, source) => {
      const missing = seen(run.greedy.may(dfn, source, 'path')).filter((text) => !found.includes(text));
      expect(missing, `device ${source}, page ${dfn} after ${JSON.stringify(event)}`).toEqual([]);
    });
  }
  run.do({ kind: 'contextCache', of: { granularity: 'global' } });
  run.do({ kind: 'iotlb', of: { granularity: 'global' } });
  run.complete();
  run.each((found, dfn, source) => expect(seen(found)).toEqual(seen(run.greedy.may(dfn, source, 'path'))));
}

describe('nothing that the definition allows is missing', () => {
  test.prop([fc.boolean(), sequenceOf(fc.oneof({ weight: 5, arbitrary: oneSpace(fc.constant(RW)) }, complete))], {
    numRuns: 100,
  })('with invalidations in flight', (cachingMode, sequence) => {
    checkNothingMissing(new Run({ cachingMode, sources: [DEVICE] }), sequence);
  });

  test.prop(
    [
      fc.boolean(),
      sequenceOf(
        twoDevices([
          [1, 0],
          [2, 1],
        ]),
      ),
    ],
    { numRuns: 100 },
  )('with contexts that come and go, each did with a table of its own', (cachingMode, sequence) => {
    checkNothingMissing(new Run({ cachingMode, sources: [DEVICE, OTHER_DEVICE] }), sequence);
  });

  test.prop(
    [
      fc.boolean(),
      sequenceOf(
        twoDevices([
          [1, 0],
          [2, 1],
          [2, 2],
        ]),
      ),
    ],
    { numRuns: 100 },
  )('with a did that two devices carry over different tables', (cachingMode, sequence) => {
    checkNothingMissing(new Run({ cachingMode, sources: [DEVICE, OTHER_DEVICE] }), sequence, framesAlone);
  });
});
