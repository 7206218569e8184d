// Goal: what a unit takes is told in order and reads as it was written. Method: descriptors and commands by hand.

import { describe, expect, test } from 'vitest';
import { FrameTable } from '../../../machine/frame-table.ts';
import { Heap } from '../../../machine/heap/heap.ts';
import { DmaInFlight } from '../../../passthrough/hardware/dma.ts';
import {
  type Capabilities,
  decodeCapabilities,
  defaultCapabilities,
  defaultLruShape,
  encodeCapabilities,
  type Invalidation,
  invalidationOf,
  Register,
  VtdUnit,
} from '../../../passthrough/hardware/index.ts';

describe('an invalidation reads', () => {
  test.each<[string, readonly number[], Invalidation]>([
    ['context of a device', [0x00010031, 0x0130, 0, 0], { t: 'cc', g: 'device', did: 1, sid: '01:06.0', fm: 0 }],
    ['all contexts', [0x11, 0, 0, 0], { t: 'cc', g: 'global', did: 0 }],
    ['IOTLB of a did', [0xfffe00e2, 0, 0, 0], { t: 'iotlb', g: 'domain', dw: 1, dr: 1, did: 65534 }],
    [
      'IOTLB of pages',
      [0x000100f2, 0, 0x3e5b5009, 0x12],
      { t: 'iotlb', g: 'page', dw: 1, dr: 1, did: 1, addr: '0x123e5b5000', am: 9, ih: 0 },
    ],
    ['device TLB of a page', [3, 0x500, 0x3ec36000, 0], { t: 'dev-iotlb', sid: '0x500', addr: '0x3ec36000', s: 0 }],
    [
      'device TLB of everything',
      [3, 0x500, 0xfffff001, 0x7fffffff],
      { t: 'dev-iotlb', sid: '0x500', addr: '0x7ffffffffffff000', s: 1 },
    ],
    ['wait', [0x65, 1, 0x1000, 0], { t: 'wait', if: 0, sw: 1, fn: 1, data: 1 }],
    ['what no descriptor is', [0xf, 1, 2, 3], { t: 'other', words: [15, 1, 2, 3] }],
  ])('%s', (_, words, record) => {
    expect(invalidationOf(words, false)).toEqual(record);
  });

  test('with the way it came, if that was a register', () => {
    expect(invalidationOf([0xe2, 0, 0, 0], true)).toMatchObject({ t: 'iotlb', g: 'domain', via: 'reg' });
    expect(invalidationOf([0x31, 0x30, 0, 0], true)).toMatchObject({ t: 'cc', sid: '00:06.0', via: 'reg' });
  });
});

function unitWith(capabilities: Partial<Capabilities>) {
  const heap = new Heap();
  const frames = new FrameTable(heap, { frames: 16, privateFrames: 1 });
  const registers = encodeCapabilities({ ...defaultCapabilities, ...capabilities });
  const unit = new VtdUnit({
    index: 0,
    heap,
    frames,
    dma: new DmaInFlight(heap, 1),
    registers,
    capabilities: decodeCapabilities(registers),
    caches: { lru: defaultLruShape },
  });
  const taken: Invalidation[] = [];
  unit.observer = {
    taken: (_, w0, w1, w2, w3, byRegister) => taken.push(invalidationOf([w0, w1, w2, w3], byRegister)),
  };
  const submit = (...words: [number, number, number, number]) => {
    const tail = unit.queueTail;
    unit.writeOwnQueue(tail, ...words);
    unit.writeRegister(Register.IQT, (tail + 1) << 4);
  };
  unit.writeRegister(Register.IQA, (unit.ownQueueFrame << 12) >>> 0, 0);
  unit.writeRegister(Register.GCMD, 0x04000000);
  return { unit, taken, submit };
}

describe('a unit tells its observer', () => {
  test('of descriptors as it takes them, and of commands of its registers', () => {
    const { unit, taken, submit } = unitWith({ deviceTlb: true });
    submit(0xe2, 0, 0, 0);
    submit(3, 0x500, 0x1000, 0);
    unit.writeRegister(Register.CCMD, 0x00300001, 0xe0000000);
    expect(taken).toEqual([]);
    while (unit.step());
    expect(taken.map((one) => [one.t, 'via' in one])).toEqual([
      ['cc', true],
      ['iotlb', false],
      ['dev-iotlb', false],
    ]);
  });

  test('of no device-TLB descriptor where it knows none: that is an error in the queue', () => {
    const { unit, taken, submit } = unitWith({});
    submit(3, 0x500, 0x1000, 0);
    while (unit.step());
    expect(taken).toEqual([]);
    expect(unit.faults.queueStopped).toBe(true);
  });
});
