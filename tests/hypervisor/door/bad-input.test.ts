// What the door does not let in: every field of every operation missing, of a wrong type, or out of range, is a
// TypeError or RangeError that names it, and nothing has changed.

import { describe, expect, it } from 'vitest';
import type { Op } from '../../../hypervisor/index.ts';
import { DEV, GuestScene } from '../../grant/guest-scene.ts';
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
});
