// Snapshots of a machine: taken cheaply, rolled back to exactly, forked, compared.

import { type Patch, produceWithPatches } from 'immer';
import { fingerprint as hashState } from '../machine/heap/fingerprint.ts';
import type { Mark } from '../machine/heap/heap.ts';
import type { Control } from './control.ts';
import { Hypervisor } from './hypervisor.ts';
import type { MachineView } from './inspect.ts';

/** A moment of one machine. Valid until it, or an earlier one, is released. */
export interface Snapshot {
  readonly control: Control;
  /** Changes of the control state made before it. */
  readonly changes: number;
  readonly mark: Mark;
}

/**
 * Remembers this moment, in time that depends on what is in flight only. From now on old words are kept, until
 * {@link release}.
 */
export function snapshot(machine: Hypervisor): Snapshot {
  return { control: machine.control.root, changes: machine.control.journal.length, mark: machine.parts.heap.mark() };
}

/** Goes back to a moment: operations in flight, caches and queues too. The snapshot stays valid. */
export function rollback(machine: Hypervisor, to: Snapshot): void {
  machine.parts.heap.rollback(to.mark);
  machine.control.root = to.control;
  machine.control.journal.length = to.changes;
}

/** Gives a snapshot up: what was done since stays. */
export function release(machine: Hypervisor, taken: Snapshot): void {
  machine.parts.heap.release(taken.mark);
}

/** A second machine in the same state, which goes its own way. Costs a copy of every word ever written. */
export function fork(machine: Hypervisor): Hypervisor {
  const twin = new Hypervisor(machine.config);
  twin.parts.heap.copyFrom(machine.parts.heap);
  twin.control.root = machine.control.root;
  twin.control.journal.push(...machine.control.journal);
  return twin;
}

/** Sixteen hex digits that two states of like machines share if, and but for chance only if, they behave alike. */
export function fingerprint(machine: Hypervisor): string {
  return hashState(machine.parts.heap, JSON.stringify(machine.control.root));
}

/** What differs between two machines, or two moments, as immer patches from `before` to `after`. */
export function diff(before: MachineView, after: MachineView): readonly Patch[] {
  const [, patches] = produceWithPatches(before, (draft) => {
    assign(draft as unknown as Tree, after as unknown as Tree);
  });
  return patches;
}

type Tree = { [key: string]: unknown };

function isTree(value: unknown): value is Tree {
  return typeof value === 'object' && value !== null;
}

/** Makes one tree equal to another, touching only what differs, so that the patches are the difference. */
function assign(into: Tree, from: Tree): void {
  if (Array.isArray(into) && Array.isArray(from) && into.length > from.length) into.length = from.length;
  for (const key of Object.keys(into)) if (!(key in from)) delete into[key];
  for (const [key, value] of Object.entries(from)) {
    const old = into[key];
    if (isTree(old) && isTree(value) && Array.isArray(old) === Array.isArray(value)) assign(old, value);
    else if (old !== value) into[key] = value;
  }
}
