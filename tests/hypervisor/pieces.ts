// An operation by its micro-steps.

import { isVcpuOp } from '../../hypervisor/door/vcpu-ops.ts';
import { type Hypervisor, type Op, type OpResult, Progress } from '../../hypervisor/index.ts';

/** Does an operation in pieces, the units running when it cannot go on; `between` looks at each state on the way. */
export function inPieces(machine: Hypervisor, op: Op, between: () => void = () => {}): OpResult {
  if (!isVcpuOp(op)) return machine.step(op);
  const vcpu = machine.begin(op);
  if (typeof vcpu !== 'number') return vcpu;
  for (let progress = machine.microStep(vcpu); progress !== Progress.done; progress = machine.microStep(vcpu)) {
    if (progress === Progress.blocked) for (const unit of machine.units) while (unit.step());
    between();
  }
  return machine.finish(vcpu);
}
