// The two ends of a phase that flushes, shared by every operation that changes device access.

import type { Mfn } from '../../machine/frame-number.ts';
import type { Domid, Vcpu } from '../../machine/ids.ts';
import { Progress, Step } from '../../machine/pending.ts';
import { type DeviceAccess, Reuse } from '../ports.ts';

/** Carries the flush on, one piece; when nothing is left of it, goes on with phase `next`. */
export function flushThen(device: DeviceAccess, vcpu: Vcpu, here: number, next: number): number {
  const progress = device.flush(vcpu);
  return progress === Progress.done ? next : progress === Progress.blocked ? Step.blocked : here;
}

/** Carries the flush on, then lets what it held back happen, one by one; then goes on with phase `next`. */
export function completeAll(device: DeviceAccess, vcpu: Vcpu, here: number, next: number): number {
  const flushed = flushThen(device, vcpu, here, next);
  if (flushed !== next) return flushed;
  return device.completeOne(vcpu) === Progress.more ? here : next;
}

/** Carries on until what a domain's devices lost of a frame is flushed; `next` when it is, or when nothing is to do. */
export function settleThen(
  device: DeviceAccess,
  vcpu: Vcpu,
  domain: Domid,
  frame: Mfn,
  here: number,
  next: number,
): number {
  const ready = device.settle(vcpu, domain, frame);
  if (ready === Reuse.waiting) return Step.blocked;
  if (ready === Reuse.asked) return here;
  return ready === Reuse.flushing ? flushThen(device, vcpu, here, here) : next;
}
