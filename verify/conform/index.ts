// Recordings of real Xen held against the model.

export { Comparison, type Observation } from './comparison.ts';
export {
  type Conformance,
  type ConformedRecording,
  type ConformOptions,
  conformanceOf,
  conformRecording,
} from './conform.ts';
export { type FieldRole, type RecordKind, recordFields } from './recording/record-fields.ts';
export { parseRecording, type Recording } from './recording/recording.ts';
export { type Disagreement, type FileConformance, Tally } from './tally.ts';
