// Goal: the machine of the policy suite does what it is told, so that the suite is about something.
// Method: each command once, with its effect looked at.

import { describe, expect, test } from 'vitest';
import { never, strictPage } from '../../../passthrough/policy/index.ts';
import { PolicyMachine } from './policy-machine.ts';

describe('the machine of the policy suite', () => {
  test('does every kind of command with effect', () => {
    const machine = new PolicyMachine(strictPage, 'afterFlush');
    machine.do(0, { kind: 'grantMap', ref: 0, readOnly: false, half: 'host' });
    machine.do(0, { kind: 'grantMap', ref: 1, readOnly: true, half: 'device' });
    machine.do(0, { kind: 'grantUnmap', which: [0, 0] });
    for (const vcpu of [0, 1]) machine.do(vcpu, { kind: 'dmaMap', at: 2, pages: 3, access: 'rw' });
    for (const vcpu of [0, 1]) machine.do(vcpu, { kind: 'dmaUnmap', at: 2, pages: 2 });
    machine.do(1, { kind: 'tick', us: 5 });
    expect(Object.fromEntries(machine.done)).toEqual({ grantMap: 2, grantUnmap: 1, dmaMap: 2, dmaUnmap: 2, tick: 1 });
    expect([machine.stale(), machine.heldBack(), machine.unusable]).toEqual([[], [], []]);
  });

  test('sees stale grants and stale ranges', () => {
    const machine = new PolicyMachine(never, 'onReturn');
    machine.do(0, { kind: 'grantMap', ref: 0, readOnly: false, half: 'host' });
    machine.do(0, { kind: 'grantUnmap', which: [0] });
    expect(machine.staleReleased()).toHaveLength(2);
    machine.do(0, { kind: 'dmaMap', at: 0, pages: 2, access: 'r' });
    machine.do(0, { kind: 'dmaUnmap', at: 0, pages: 2 });
    expect(machine.staleReleased()).toHaveLength(4);
  });

  test('sees a lost right to write alone', () => {
    const machine = new PolicyMachine(never, 'onReturn');
    machine.do(0, { kind: 'grantMap', ref: 0, readOnly: true, half: 'host' });
    machine.do(0, { kind: 'grantMap', ref: 0, readOnly: false, half: 'host' });
    machine.do(0, { kind: 'grantUnmap', which: [1] });
    expect(machine.staleReleased()).toEqual([expect.stringMatching(/rights 2$/)]);
  });
});
