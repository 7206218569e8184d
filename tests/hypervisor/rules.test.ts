// What versions do otherwise: section 7.1 of the reference (the series of May 2008), 1.3 (pin limit), and that every
// decision and every value of it is documented.

import { beforeEach, describe, expect, it } from 'vitest';
import { ruleFacts, rulePresets, rulesNamed } from '../../hypervisor/index.ts';
import { A, B, DEVICE, GuestScene, HOST, page, RO } from '../grant/guest-scene.ts';

let s: GuestScene;
let m: number;
beforeEach(() => {
  s = new GuestScene({ rules: 'xen2008', windowPages: 256 });
  m = s.frame(B);
  s.grant(8);
  s.grant(9);
});

const at = (index: number, flags: number = HOST, ref = 8) => s.map(flags, { ref, hostAddress: page(index) });
const gone = (handle: number) => s.unmap({ handle, hostAddress: page(handle) });

describe('7.1 xen2008: devices follow the writable pins of an entry (806da17f3d)', () => {
  it('a writable map lets them in, its end keeps them out, with a flush', () => {
    expect(s.during(() => at(0))).toEqual([]);
    expect(s.rights(A, m)).toBe('rw');
    expect(s.during(() => gone(0))).toEqual([`page ${m} of ${A}`]);
    expect(s.rights(A, m)).toBe('-');
  });

  it('a read-only map gives them nothing, and a writable one gives all or nothing', () => {
    at(0, HOST | RO);
    expect([s.rights(A, m), s.dma(m)]).toEqual(['-', 'readNotPermitted']);
    at(1);
    expect(s.rights(A, m)).toBe('rw');
    // No demotion: the reader that is left does not count.
    expect(s.during(() => gone(1))).toEqual([`page ${m} of ${A}`]);
    expect([s.rights(A, m), s.pins(8)]).toEqual(['-', '0/1/0/0']);
  });

  it('only the first and the last writable pin count, whichever half has it', () => {
    at(0);
    at(1);
    at(2, HOST | DEVICE);
    expect(s.during(() => [gone(0), gone(1)])).toEqual([]);
    expect(s.unmap({ handle: 2, hostAddress: page(2) })).toBe(0);
    expect(s.rights(A, m)).toBe('rw');
    expect(s.during(() => s.unmap({ handle: 2, busAddress: m * 4096 }))).toEqual([`page ${m} of ${A}`]);
  });

  it('counts what ends in the same batch', () => {
    at(0);
    at(1);
    const elements = [0, 1].map((handle) => ({ handle, hostAddress: page(handle) }));
    const submitted = s.during(() => s.do({ op: 'unmap_grant_ref', domain: A, elements }));
    expect([submitted, s.rights(A, m)]).toEqual([[`page ${m} of ${A}`], '-']);
  });

  it('two entries of one frame interfere: the end of one takes the frame from both', () => {
    at(0, HOST, 8);
    at(1, HOST, 9);
    expect(s.during(() => gone(0))).toEqual([`page ${m} of ${A}`]);
    expect([s.rights(A, m), s.pins(9)]).toEqual(['-', '1/0/0/0']);
    // The other one's end finds nothing to take.
    expect(s.during(() => gone(1))).toEqual([]);
  });

  it('is otherwise now: live handles count per frame, each by its rights', () => {
    s = new GuestScene();
    s.grant(8);
    s.grant(9);
    at(0, HOST, 8);
    at(1, HOST | RO, 9);
    gone(0);
    expect(s.rights(A, m)).toBe('r');
  });
});

describe('1.3 pinLimit: which full counter refuses', () => {
  it('any of the four before 2021, one that would be counted up since (8cec5d065c)', () => {
    const fill = () => Array.from({ length: 128 }, (_, index) => at(index).status).every((status) => status === 0);
    expect(fill()).toBe(true);
    expect([at(200).status, at(200, HOST | RO).status, at(200, DEVICE).status]).toEqual([-1, -1, -1]);
    // An entry of another ref has counters of its own.
    expect(at(200, HOST | RO, 9).status).toBe(0);
    s = new GuestScene({ windowPages: 256 });
    s.grant(8);
    expect(fill()).toBe(true);
    expect([at(200).status, at(200, HOST | RO).status, at(201, DEVICE).status]).toEqual([-1, 0, 0]);
  });

  it('holds for copies, too', () => {
    for (let index = 0; index < 128; index += 1) at(index);
    const source = { ref: 8, domain: B, offset: 0 };
    const destination = { frame: s.frame(A), domain: 0x7ff0, offset: 0 };
    const read = { source, destination, length: 1, flags: 1 };
    expect(s.copy([read])).toEqual([-1]);
    s = new GuestScene({ windowPages: 256 });
    s.grant(8);
    for (let index = 0; index < 128; index += 1) at(index);
    expect(s.copy([read])).toEqual([0]);
  });
});

describe('the facts about rules', () => {
  const fields = ruleFacts.map(({ field }) => field);

  it.each(Object.entries(rulePresets))('know every field of %s, and its value', (name, rules) => {
    expect(rules.name).toBe(name);
    const decisions = Object.entries({ ...rules.grants, ...rules.memory, ...rules.passthrough });
    expect(decisions.map(([field]) => field).sort()).toEqual([...fields].sort());
    for (const [field, value] of decisions) {
      const { values } = ruleFacts.find((fact) => fact.field === field)!;
      expect(Object.keys(values), field).toContain(value);
    }
  });

  it('say of each value what it means and where that is from, and have no field twice', () => {
    expect(new Set(fields).size).toBe(fields.length);
    for (const { field, sentence, values } of ruleFacts) {
      expect(sentence.length, field).toBeGreaterThan(10);
      expect(Object.keys(values).length, field).toBeGreaterThan(1);
      for (const [value, says] of Object.entries(values)) expect(says, `${field}: ${value}`).toMatch(/\(.+\)$/);
    }
  });

  it('have each value in some preset, so that nothing is documented that nobody runs', () => {
    const used = Object.values(rulePresets).flatMap(({ grants, memory, passthrough }) =>
      Object.entries({ ...grants, ...memory, ...passthrough }),
    );
    for (const { field, values } of ruleFacts) {
      const inPresets = new Set(used.filter(([name]) => name === field).map(([, value]) => value as string));
      expect([...inPresets].sort(), field).toEqual(Object.keys(values).sort());
    }
  });

  it('are found by the name of a preset, and by no other', () => {
    expect(rulesNamed('xen4_17')).toBe(rulePresets.xen4_17);
    for (const name of ['xen4_18', 'toString', '']) expect(() => rulesNamed(name)).toThrow(/xen4_17, xen4_23, xen2008/);
    expect(() => new GuestScene({ rules: 'xen' as never })).toThrow(RangeError);
  });
});
