// tick: the flush timer of a virtual CPU.

import { completeAll } from '../../grant/index.ts';
import type { Vcpu } from '../../machine/ids.ts';
import { Step } from '../../machine/pending.ts';
import type { OperationContext } from './context.ts';

/** What the policy asks for, then what that releases. */
export function stepTick(context: OperationContext, vcpu: Vcpu, phase: number): number {
  if (phase !== 0) return completeAll(context.access, vcpu, 1, Step.done);
  context.parts.driver.flush.tick(vcpu);
  return 1;
}
