// What the door does not let in: every field of every operation missing, of a wrong type, or out of range, is a
// TypeError or RangeError that names it, and nothing has changed.

import { describe, expect, it } from 'vitest';
import type { Op } from '../../../hypervisor/index.ts';
import { A, B, DEV, GuestScene } from '../../grant/guest-scene.ts';
import { type Sample, samples, WRONG } from './op-samples.ts';

function scene(): GuestScene {
  const s = new GuestScene({
    rules: 'xen4_17',
    devices: [DEV, '0000:04:00.0'].map((device) => ({ device, unit: 0 })),
  });
  s.do({ op: 'create_domain', domain: 4, kind: 'pv', frames: 2, iommu: true, deviceTables: 'empty' });
  s.grant(8);
  return s;
}

const NOTHING = Symbol('left out');

/** A copy of an operation with something else at a path. */
function spoilt(op: Op, path: string, value: unknown): Op {
  const copy = structuredClone(op) as unknown as Record<string, unknown>;
  const keys = path.split('.');
  const last = keys.pop()!;
  const holder = keys.reduce((at, key) => at[key] as Record<string, unknown>, copy);
  if (value === NOTHING) delete holder[last];
  else holder[last] = value;
  return copy as unknown as Op;
}

function wrongValues(kind: string): readonly unknown[] {
  const name = kind.startsWith('one of') ? 'one of' : kind;
  if (name === 'wide') return [...WRONG.number!.filter((value) => value !== '5'), ...WRONG.wide!, '5'];
  if (name === 'word or null') return wrongValues('word').filter((value) => value !== null);
  const isNumber = ['domid', 'domain', 'half', 'word', 'index', 'vcpu'].includes(name);
  return [...(isNumber ? WRONG.number! : []), ...WRONG[name]!];
}

/** Every way in which an operation can be spoilt: the field's name, and what it holds then. */
function spoilings({ fields }: Sample): [string, unknown][] {
  return Object.entries(fields).flatMap(([path, kind]) => {
    const isOptional = kind.endsWith('?');
    const values = wrongValues(isOptional ? kind.slice(0, -1) : kind);
    const isElement = /\.\d+$/.test(path);
    return [...(isOptional || isElement ? [] : [NOTHING]), ...values].map((value): [string, unknown] => [path, value]);
  });
}

/** The operation, and every object in it, by its place. */
function objectsOf(op: Op): [string, object][] {
  const elements = 'elements' in op ? (op.elements as readonly object[]) : [];
  const inside = (place: string, object: object): [string, object][] => [
    [place, object],
    ...Object.entries(object).flatMap(([name, value]): [string, object][] =>
      typeof value === 'object' && value !== null && !Array.isArray(value) ? [[name, value]] : [],
    ),
  ];
  return [...inside('', op), ...elements.flatMap((element, at) => inside(`elements[${at}]`, element))];
}

/** A copy of an operation with one field more, as JSON would bring it, in the object at a place. */
function withField(op: Op, place: string, name: string, value: unknown): Op {
  const copy = structuredClone(op);
  const [, object] = objectsOf(copy).find(([at]) => at === place)!;
  Object.defineProperty(object, name, { value, enumerable: true, writable: true, configurable: true });
  return copy;
}

function messageOf(act: () => unknown): string {
  try {
    act();
  } catch (error) {
    if (error instanceof TypeError) return error.message;
    throw error;
  }
  return 'nothing was thrown';
}

const shown = (value: unknown) => (typeof value === 'symbol' ? 'left out' : (JSON.stringify(value) ?? String(value)));

describe.each(Object.entries(samples))('%s', (_, sample) => {
  it('is accepted as it is', () => {
    const s = scene();
    expect(() => s.step(sample.make(s))).not.toThrow();
  });

  it('is refused with a field that is not what it must be, by the name of the field', () => {
    const s = scene();
    const op = sample.make(s);
    const before = s.fingerprint;
    const problems: string[] = [];
    for (const [path, value] of spoilings(sample)) {
      const named = path
        .split('.')
        .filter((key) => !/^\d+$/.test(key))
        .at(-1)!;
      const note = (what: string) => problems.push(`${path} ${shown(value)}: ${what}`);
      try {
        const { result } = s.step(spoilt(op, path, value));
        note(`accepted, result ${result}`);
      } catch (error) {
        const { message } = error as Error;
        if (!(error instanceof TypeError || error instanceof RangeError)) note(`threw ${String(error)}`);
        else if (!message.includes(named) || /Cannot read|not iterable|not a function/.test(message)) note(message);
      }
      if (s.machine.isBusy(0 as never)) note('left an operation in progress');
    }
    expect(problems).toEqual([]);
    expect(s.fingerprint).toBe(before);
  });

  it('is refused with a field that there is not, by the names of both and of those that there are', () => {
    const s = scene();
    const op = sample.make(s);
    const before = s.fingerprint;
    const top = Object.keys(sample.fields).filter((path) => !path.includes('.'));
    for (const [place, object] of objectsOf(op)) {
      for (const name of ['domian', 'toString', '__proto__', '0']) {
        for (const value of [1, undefined]) {
          const field = `unknown field ${JSON.stringify(name)}: expected `;
          const message = messageOf(() => s.step(withField(op, place, name, value)));
          expect(message.startsWith(`${[op.op, place].filter((part) => part).join(': ')}: ${field}`), message).toBe(
            true,
          );
          const known = place === '' ? ['op', ...top] : Object.keys(object);
          expect(message.split(field)[1]!.split(', ')).toEqual(expect.arrayContaining(known));
        }
      }
    }
    expect([s.fingerprint, s.machine.isBusy(0 as never)]).toEqual([before, false]);
  });
});

describe('fields that may be there', () => {
  it('may be there and undefined', () => {
    const s = scene();
    const call = { domain: A, vcpu: undefined, argument: undefined, preemptAfter: undefined };
    const element = { flags: 2, ref: 8, domain: B, hostAddress: undefined };
    expect(s.step({ op: 'map_grant_ref', ...call, elements: [element] } as unknown as Op).elements).toHaveLength(1);
    const end = { domain: B, offset: 0, ref: 8, frame: undefined };
    const copy = { source: end, destination: end, length: 0, flags: 3 };
    expect(s.step({ op: 'copy', ...call, elements: [copy] } as unknown as Op).elements).toHaveLength(1);
    const size = { op: 'query_size', domain: A, target: A, count: undefined };
    expect(s.step(size as unknown as Op).result).toBe(0);
  });

  it('are not those of another operation', () => {
    const s = scene();
    const refused = (op: object) => messageOf(() => s.step(op as Op));
    expect(refused({ op: 'dma_perform', slot: 0, vcpu: 0 })).toBe(
      'dma_perform: unknown field "vcpu": expected op, slot',
    );
    const write = { op: 'grant_write', domain: B, ref: 8, flags: 1, grantee: A, layout: 2 };
    expect(refused({ ...write, subPage: { offset: 0, length: 1, size: 1 } })).toBe(
      'grant_write: subPage: unknown field "size": expected offset, length',
    );
    expect(refused({ ...write, transitive: { domain: 1, ref: 1, by: 1 } })).toBe(
      'grant_write: transitive: unknown field "by": expected domain, ref',
    );
    expect(refused({ op: 'store', frame: s.frame(A), offset: 0, fill: { byte: 0, length: 1, count: 1 } })).toBe(
      'store: fill: unknown field "count": expected byte, length',
    );
    expect(refused({ op: 'create_domain', domain: 5, kind: 'pv', memory: { rams: [] } })).toMatch(
      /^create_domain: memory: unknown field "rams": expected ram, pageTables, mapped, /,
    );
  });
});
