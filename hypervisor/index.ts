// The package root: a machine, its operations, its snapshots.

export { GNTMAP, GrantStatus, GTF, grantStatusName } from '../grant/index.ts';
export { Errno, errnoName } from '../machine/errno.ts';
export { HypervisorBug, InputError } from '../machine/errors.ts';
export type { Wide } from '../machine/frame-number.ts';
export { Progress } from '../machine/pending.ts';
export { type FlushPolicy, type LruShape, policies, policyNamed, type Release } from '../passthrough/index.ts';
export type { Control, ControlChange, Crash, DeviceControl, DomainControl } from './control.ts';
export type {
  ArgumentPlace,
  CopyElementInput,
  ElementResult,
  GrantOp,
  MapElementInput,
  UnmapElementInput,
} from './door/grant-op.ts';
export type { FrameRange, MemoryLayout, MemoryOp } from './door/memory-op.ts';
export type { DmaResult, Op, OpResult } from './door/op.ts';
export { batchEffects, type RefusedEffect, refusedEffects, StatePart } from './door/refused-effects.ts';
export type { VcpuOpName } from './door/vcpu-ops.ts';
export { Hypervisor } from './hypervisor.ts';
export { inspect, type MachineView, type UnitView } from './inspect.ts';
export { P2mType, p2mDeviceRights } from './memory/p2m.ts';
export { PV_WINDOW_BASE } from './memory/pv-tables.ts';
export type {
  DeviceDescription,
  DeviceType,
  GrantSettings,
  IommuOptions,
  MachineConfig,
  MachineOptions,
  UnitDescription,
} from './options.ts';
export { type Rules, type RulesName, ruleFacts, rulePresets, rulesNamed } from './rules.ts';
export { diff, fingerprint, fork, release, rollback, type Snapshot, snapshot } from './snapshot.ts';
