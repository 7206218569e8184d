// Goal: frames have one owner, counted references and one type at a time; free ones are empty.
// Method: the rules of Xen's page_info one by one; the broken invariants P1 and P3 thrown by their ids.

import { describe, expect, test } from 'vitest';
import { HypervisorBug } from '../../machine/errors.ts';
import type { Mfn } from '../../machine/frame-number.ts';
import { FrameTable, FrameType, type FrameWatcher } from '../../machine/frame-table.ts';
import { Heap } from '../../machine/heap/heap.ts';
import { domid } from '../../machine/ids.ts';

const [ALICE, BOB] = [domid(1), domid(2)];

function makeFrames(count = 8): FrameTable {
  return new FrameTable(new Heap(), { frames: count, privateFrames: 1 });
}

function allocated(): { readonly frames: FrameTable; readonly frame: Mfn } {
  const frames = makeFrames();
  return { frames, frame: frames.allocate(ALICE) as Mfn };
}

const bug = (id: string) => expect.objectContaining({ name: 'HypervisorBug', invariant: id });

describe('allocation', () => {
  test('gives the lowest free frame to its owner, with one reference and no type', () => {
    const { frames, frame } = allocated();
    expect(frame).toBe(0);
    expect([frames.owner(frame), frames.references(frame), frames.typeCount(frame)]).toEqual([ALICE, 1, 0]);
    expect(frames.type(frame)).toBe(FrameType.none);
    expect(frames.isXenHeap(frame)).toBe(false);
    expect(frames.isXenHeap(frames.allocate(ALICE, { xenHeap: true }) as Mfn)).toBe(true);
    expect([0, 1, 2, 99].map((at) => frames.isAllocated(at))).toEqual([true, true, false, false]);
  });

  test('says so when memory is exhausted, and goes on when a frame is free again', () => {
    const frames = makeFrames(2);
    expect([frames.allocate(ALICE), frames.allocate(BOB), frames.allocate(BOB)]).toEqual([0, 1, -1]);
    frames.dropReferences(0 as Mfn, 1, 0);
    frames.free(0 as Mfn);
    expect(frames.allocate(BOB)).toBe(0);
    expect(frames.owner(0 as Mfn)).toBe(BOB);
  });

  test('of no frames at all is refused', () => {
    for (const count of [0, -1, 1.5]) expect(() => makeFrames(count)).toThrow(RangeError);
  });

  test("leaves out the frames that are the hypervisor's own", () => {
    const frames = makeFrames(4);
    const own = frames.addPrivate(new Uint32Array(1024));
    expect([3, own].map((frame) => frames.isMemory(frame))).toEqual([true, false]);
    frames.writeWord(own, 5, 50);
    expect(frames.readWord(own, 5)).toBe(50);
  });
});

describe('references', () => {
  test('tell which was the last', () => {
    const { frames, frame } = allocated();
    expect(frames.takeReferences(frame, 2, 0)).toBe(true);
    expect(frames.references(frame)).toBe(3);
    expect([frames.dropReferences(frame, 2, 0), frames.dropReferences(frame, 1, 0)]).toEqual([false, true]);
  });

  test('are taken with references to the writable type, all or none', () => {
    const { frames, frame } = allocated();
    expect(frames.takeReferences(frame, 2, 2), 'of no type yet').toBe(false);
    frames.resetType(frame, FrameType.writable);
    expect(frames.takeReferences(frame, 2, 2)).toBe(true);
    expect([frames.type(frame), frames.typeCount(frame), frames.references(frame)]).toEqual([FrameType.writable, 2, 3]);
    expect(frames.dropReferences(frame, 2, 2)).toBe(false);
    frames.getType(frame, FrameType.l1PageTable);
    expect(frames.takeReferences(frame, 1, 1)).toBe(false);
    expect([frames.type(frame), frames.typeCount(frame), frames.references(frame)]).toEqual([
      FrameType.l1PageTable,
      1,
      1,
    ]);
    expect(frames.takeReferences(frame, 1, 0), 'a reference of no type').toBe(true);
    expect(() => frames.dropReferences(frame, 1, 2)).toThrow(bug('P3'));
  });

  test('below zero are a bug, P1', () => {
    const { frames, frame } = allocated();
    frames.dropReferences(frame, 1, 0);
    expect(() => frames.dropReferences(frame, 1, 0)).toThrow(bug('P1'));
    expect(() => frames.dropReferences(frame, 1, 0)).toThrow(HypervisorBug);
  });

  test('keep a frame from being freed, P1', () => {
    const { frames, frame } = allocated();
    expect(() => frames.free(frame)).toThrow(bug('P1'));
  });
});

describe('types', () => {
  test('are taken again while they are the same', () => {
    const { frames, frame } = allocated();
    expect(frames.getType(frame, FrameType.writable)).toBe(true);
    expect(frames.getType(frame, FrameType.writable)).toBe(true);
    expect([frames.type(frame), frames.typeCount(frame)]).toEqual([FrameType.writable, 2]);
  });

  test('cannot change while the count is not 0, and can afterwards', () => {
    const { frames, frame } = allocated();
    frames.getType(frame, FrameType.writable);
    expect(frames.getType(frame, FrameType.l1PageTable)).toBe(false);
    frames.putType(frame);
    expect(frames.type(frame)).toBe(FrameType.writable);
    expect(frames.getType(frame, FrameType.l1PageTable)).toBe(true);
    expect(frames.type(frame)).toBe(FrameType.l1PageTable);
  });

  test('below zero are a bug, P3', () => {
    const { frames, frame } = allocated();
    expect(() => frames.putType(frame)).toThrow(bug('P3'));
  });
});

describe('contents', () => {
  test('are read and written by word, by entry and by wide entry', () => {
    const { frames, frame } = allocated();
    frames.writeWord(frame, 1023, 7);
    frames.writeEntry(frame, 1, 8, 9);
    frames.writeWideEntry(frame, 1, 10, 11, 12, 13);
    expect([1023, 2, 3, 4, 5, 6, 7].map((word) => frames.readWord(frame, word))).toEqual([7, 8, 9, 10, 11, 12, 13]);
    expect(frames.readWord(1, 0)).toBe(0);
  });

  test('of a freed frame are cleared, with its type and owner', () => {
    const { frames, frame } = allocated();
    for (const word of [0, 1, 513, 1023]) frames.writeWord(frame, word, 5);
    frames.getType(frame, FrameType.writable);
    frames.putType(frame);
    frames.dropReferences(frame, 1, 0);
    frames.free(frame);
    for (let word = 0; word < 1024; word += 1) if (frames.readWord(frame, word) !== 0) expect.fail(`word ${word}`);
    expect(frames.isAllocated(frame)).toBe(false);
    expect([frames.type(frame), frames.owner(frame)]).toEqual([FrameType.none, 0]);
  });
});

describe('a watcher', () => {
  function watched() {
    const { frames, frame } = allocated();
    const other = frames.allocate(ALICE) as Mfn;
    const told: string[] = [];
    const watcher: FrameWatcher = {
      beforeWrite: (at, word, words) => told.push(`before ${at} ${word}+${words}: ${frames.readWord(at, word)}`),
      afterWrite: (at, word, words) => told.push(`after ${at} ${word}+${words}: ${frames.readWord(at, word)}`),
    };
    frames.watchWith(watcher);
    frames.setWatchWord(frame, 1);
    return { frames, frame, other, told };
  }

  test('is told before and after each write to a frame that it watches, and of no other', () => {
    const { frames, frame, other, told } = watched();
    frames.writeWord(other, 0, 5);
    frames.writeWord(frame, 9, 5);
    frames.writeEntry(frame, 2, 6, 0);
    frames.writeWideEntry(frame, 3, 7, 0, 0, 0);
    expect(told).toEqual([
      'before 0 9+1: 0',
      'after 0 9+1: 5',
      'before 0 4+2: 0',
      'after 0 4+2: 6',
      'before 0 12+4: 0',
      'after 0 12+4: 7',
    ]);
  });

  test('goes on watching a frame that was freed, and sees it cleared', () => {
    const { frames, frame, told } = watched();
    frames.writeWord(frame, 8, 5);
    told.length = 0;
    frames.dropReferences(frame, 1, 0);
    frames.free(frame);
    expect(told).toEqual(['before 0 8+2: 5', 'after 0 8+2: 0']);
    expect(frames.watchWord(frame)).toBe(1);
  });
});
