// Replaying a workload through a machine.

export { LATE_PAGES } from './late-device.ts';
export {
  type DeviceAccesses,
  type InvalidationCounts,
  type ReplayOptions,
  type ReplayResult,
  replay,
} from './replay.ts';
export {
  type PlacedDevice,
  type ReplayCaches,
  type ReplayPlatform,
  replayCpus,
} from './replay-machine.ts';
export type { InvalidationWork, WorkCounts } from './work-counts.ts';
