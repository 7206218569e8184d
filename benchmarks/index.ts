// The subpath `xen-passthrough-model/benchmarks`: traces, cost model, comparison of policies.

export * from './compare/index.ts';
export {
  type CostId,
  type CostModel,
  type CostParameter,
  type CostProvenance,
  type CostUnit,
  costParameters,
  defaultCostModel,
  provenance,
  withCosts,
} from './cost/cost-parameters.ts';
export {
  type FtraceOptions,
  FtraceReader,
  importFtrace,
  type TraceConsumer,
  type TraceEvent,
  type TraceInvalidation,
  type TraceMap,
  type TraceMark,
  type TraceOther,
  type TraceRights,
  type TraceSummary,
  type TraceUnmap,
  type UnknownLine,
} from './trace/ftrace.ts';
