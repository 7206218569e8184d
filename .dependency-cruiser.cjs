/** The import rules of the house (docs/architecture.md). Imports point down only; no cycles, type-only ones included. */
const folders = ['machine', 'grant', 'passthrough', 'hypervisor', 'verify', 'benchmarks', 'cli', 'viewer'];

/** Each folder and the folders it may import, itself aside. */
const mayImport = {
  machine: [],
  grant: ['machine'],
  passthrough: ['machine'],
  hypervisor: ['machine', 'grant', 'passthrough'],
  verify: ['machine', 'grant', 'passthrough', 'hypervisor'],
  benchmarks: ['machine', 'grant', 'passthrough', 'hypervisor'],
  viewer: ['machine', 'hypervisor', 'verify', 'benchmarks'],
  cli: ['machine', 'grant', 'passthrough', 'hypervisor', 'verify', 'benchmarks', 'viewer'],
};

/** What measures the speed of verify may import it; nothing else beside it may. */
const MEASURES = '^benchmarks/speed/conform[.]bench[.]ts$';

const layering = folders.map((folder) => ({
  name: `${folder}-imports-down-only`,
  severity: 'error',
  from: { path: `^${folder}/`, pathNot: MEASURES },
  to: {
    path: `^(${folders.filter((other) => other !== folder && !mayImport[folder].includes(other)).join('|') || 'none'})/`,
  },
}));

module.exports = {
  forbidden: [
    ...layering,
    { name: 'no-cycles', severity: 'error', from: {}, to: { circular: true } },
    {
      name: 'hardware-knows-no-hypervisor',
      comment: 'The silicon knows nothing of domains, drivers or policies.',
      severity: 'error',
      from: { path: '^passthrough/hardware/' },
      to: { path: '^passthrough/(driver|policy|platform|vfio)/' },
    },
    {
      name: 'policy-never-sees-a-cache',
      severity: 'error',
      from: { path: '^passthrough/policy/' },
      to: { path: '^passthrough/(hardware|driver|platform|vfio)/' },
    },
    {
      name: 'node-only-at-the-edges',
      severity: 'error',
      from: { path: '^(machine|grant|passthrough|hypervisor|verify(?!/files))/' },
      to: { dependencyTypes: ['core'] },
    },
    {
      name: 'immer-only-in-control-state',
      severity: 'error',
      from: { pathNot: '^(hypervisor/(control|snapshot)|tests)' },
      to: { path: 'node_modules/immer' },
    },
    {
      name: 'no-tests-in-sources',
      severity: 'error',
      from: { pathNot: '^(tests|examples)/' },
      to: { path: '^tests/' },
    },
    { name: 'resolvable', severity: 'error', from: {}, to: { couldNotResolve: true } },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.json' },
    enhancedResolveOptions: {
      exportsFields: ['exports'],
      conditionNames: ['import', 'node', 'default', 'types'],
      extensions: ['.ts', '.js', '.json'],
    },
  },
};
