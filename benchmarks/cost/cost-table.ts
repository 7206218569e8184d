// What operations cost: every number of the cost model, with its unit, its range and where it comes from.
//
// Figures of different sources come from
// different machines: they give the shape and the order of magnitude of a comparison, not the speed of one machine.

export type CostUnit = 'cycles' | 'ns' | 'count' | 'GHz';

/** One number of the cost model. */
export interface CostParameter {
  readonly id: string;
  readonly title: string;
  /** `cycles` of the CPU, `ns` of elapsed time (what a device or an invalidation takes), `count`, or `GHz`. */
  readonly unit: CostUnit;
  readonly value: number;
  /** Values that are accepted; at least as wide as what sources report. */
  readonly range: readonly [low: number, high: number];
  /** Who measured it, where and when; or `assumption: ...` and what it rests on. */
  readonly source: string;
  /** The figure was read in its source, or in one that quotes it. Otherwise: from memory, or an assumption. */
  readonly verified: boolean;
}

const riommu = 'Malka et al., rIOMMU, ASPLOS 2015, table 1 (Mellanox 40 GbE, Xeon E3-1220, netperf stream)';
const fastAndSafe = 'Rubin et al., F&S, SOSP 2024 (Xeon Gold 6234, ConnectX-5 100 GbE)';
const pcieBench = 'Neugebauer et al., pcie-bench, SIGCOMM 2018, raw data (six Xeons)';
const linuxQueue = 'Linux drivers/iommu/dma-iommu.c';
const sm8150 = 'Ranjan, linux-arm-kernel list 2021 (commit 9299d9e2307d), Qualcomm SM8150';

/** The table. Units come last in the names. */
export const costParameters = [
  // The CPU's side of map and unmap.
  {
    id: 'cpuGhz',
    title: 'CPU clock, by which cycles become time',
    unit: 'GHz',
    value: 3.1,
    range: [0.5, 6],
    source: 'the machine of the rIOMMU table, Xeon E3-1220',
    verified: false,
  },
  {
    id: 'iovaAllocCycles',
    title: 'I/O virtual address: allocate from a cache of the CPU',
    unit: 'cycles',
    value: 92,
    range: [0, 4000],
    source: `${riommu}, column strict+`,
    verified: false,
  },
  {
    id: 'iovaAllocTreeCycles',
    title: 'I/O virtual address: allocate from the tree, when the cache is empty',
    unit: 'cycles',
    value: 3986,
    range: [92, 20_000],
    source: `${riommu}, column strict; Malka et al., EIOVAR, FAST 2015, say it grows with what is mapped`,
    verified: false,
  },
  {
    id: 'iovaFindCycles',
    title: 'I/O virtual address: find at unmap',
    unit: 'cycles',
    value: 249,
    range: [0, 2000],
    source: `${riommu}, column strict`,
    verified: false,
  },
  {
    id: 'iovaFreeCycles',
    title: 'I/O virtual address: free at unmap',
    unit: 'cycles',
    value: 159,
    range: [0, 2000],
    source: `${riommu}, column strict`,
    verified: false,
  },
  {
    id: 'pageTableUpdateMapCycles',
    title: 'Page-table update of a map, one page',
    unit: 'cycles',
    value: 588,
    range: [50, 8000],
    source: `${riommu}, column strict; a call of 64 pages on Linux 6.12 takes 587 ns`,
    verified: false,
  },
  {
    id: 'pageTableUpdateUnmapCycles',
    title: 'Page-table update of an unmap, one page',
    unit: 'cycles',
    value: 438,
    range: [50, 8000],
    source: `${riommu}, column strict; a call of 64 pages on Linux 6.12 takes 822 ns`,
    verified: false,
  },
  {
    id: 'mapOtherCycles',
    title: 'Everything else of a map',
    unit: 'cycles',
    value: 44,
    range: [0, 2000],
    source: `${riommu}, column strict`,
    verified: false,
  },
  {
    id: 'unmapOtherCycles',
    title: 'Everything else of an unmap that waits for its invalidation',
    unit: 'cycles',
    value: 26,
    range: [0, 2000],
    source: `${riommu}, column strict`,
    verified: false,
  },
  {
    id: 'deferredBookkeepingCycles',
    title: 'Everything else of an unmap that is put into a flush queue (instead of unmapOtherCycles)',
    unit: 'cycles',
    value: 205,
    range: [0, 2000],
    source: `${riommu}, column defer`,
    verified: false,
  },
  {
    id: 'lockCycles',
    title: 'A lock taken and dropped that nobody else wants',
    unit: 'cycles',
    value: 40,
    range: [0, 1000],
    source: 'assumption: two atomic operations on a line in the own cache; no source splits it from the rest',
    verified: false,
  },
  {
    id: 'cpuTlbFlushCycles',
    title: 'CPU TLB flush of one other CPU, by interrupt',
    unit: 'cycles',
    value: 2000,
    range: [100, 50_000],
    source:
      'assumption: no source gives a figure; its effect is sourced (LKML 2012: blkback without persistent grants ' +
      'falls from 650 K IOPS at 5 guests to 400 K at 10)',
    verified: false,
  },
  {
    id: 'packetCycles',
    title: 'Network stack, one packet, without an IOMMU',
    unit: 'cycles',
    value: 1816,
    range: [200, 50_000],
    source: 'Malka et al., rIOMMU, ASPLOS 2015, text',
    verified: false,
  },

  // Invalidations.
  {
    id: 'invalidationSyncCycles',
    title: 'Submit one page-selective invalidation and wait for it',
    unit: 'cycles',
    value: 2127,
    range: [1500, 9000],
    source: `${riommu}, column strict, as a later survey quotes it; intel_iommu_tlb_sync on Linux 6.12 takes 2067 ns`,
    verified: true,
  },
  {
    id: 'descriptorSubmitCycles',
    title: 'Put one descriptor into the queue, without waiting',
    unit: 'cycles',
    value: 9,
    range: [0, 2000],
    source: `${riommu}, column defer, row "iotlb inv"`,
    verified: false,
  },
  {
    id: 'extraDescriptorNs',
    title: 'Each further page-selective descriptor behind the same wait',
    unit: 'ns',
    value: 60,
    range: [0, 1000],
    source: `assumption for VT-d: half of the 126 ns per page fitted to an SMMUv2 (${sm8150})`,
    verified: false,
  },
  {
    id: 'domainFlushNs',
    title: 'Submit one domain-selective invalidation and wait for it',
    unit: 'ns',
    value: 3094,
    range: [300, 100_000],
    source: `${sm8150}: fitted, per 2 MiB unmapped with one flush by address space, the table walk included; an SMMU`,
    verified: true,
  },
  {
    id: 'globalFlushNs',
    title: 'Submit one global invalidation and wait for it',
    unit: 'ns',
    value: 3094,
    range: [300, 100_000],
    source: 'assumption: as a domain-selective one; what it costs more are the misses that follow',
    verified: false,
  },
  {
    id: 'deviceTlbFlushNs',
    title: 'Submit one device-TLB invalidation and wait for the device',
    unit: 'ns',
    value: 1000,
    range: [100, 100_000],
    source: 'assumption: a round trip over PCI Express, about twice the 0.5 us of a read',
    verified: false,
  },
  {
    id: 'doorbellTrapNs',
    title: 'Exit to the host at each write to the tail register of a virtual unit',
    unit: 'ns',
    value: 4900,
    range: [500, 69_000],
    source: 'xlab-uiuc, Fast-and-Safe-IO-Memory-Protection, branch lock-contention: 4.3 to 5.5 us, 69 us with 16 cores',
    verified: true,
  },
  {
    id: 'flushQueueEntries',
    title: 'Unmaps that a flush queue holds, per CPU',
    unit: 'count',
    value: 256,
    range: [1, 1_048_576],
    source: `${linuxQueue}: IOVA_DEFAULT_FQ_SIZE; 250 in 2008, 32768 in a single queue`,
    verified: true,
  },
  {
    id: 'flushQueueTimeoutNs',
    title: 'Longest wait in a flush queue',
    unit: 'ns',
    value: 10_000_000,
    range: [1000, 10_000_000_000],
    source: `${linuxQueue}: IOVA_DEFAULT_FQ_TIMEOUT, 10 ms; 1000 ms for a single queue`,
    verified: true,
  },

  // The device's side.
  {
    id: 'iotlbEntries',
    title: 'IOTLB entries',
    unit: 'count',
    value: 128,
    range: [1, 65_536],
    source: `${pcieBench}: 112 to 128 effective entries`,
    verified: true,
  },
  {
    id: 'iotlbUsableEntries',
    title: 'IOTLB entries that the stream of one device can use',
    unit: 'count',
    value: 120,
    range: [1, 65_536],
    source: `${pcieBench}: fits every read-latency curve within 2.8 %`,
    verified: true,
  },
  {
    id: 'walkCacheLevel4Entries',
    title: 'Paging-structure cache: entries of level 4 (512 GiB each)',
    unit: 'count',
    value: 4,
    range: [0, 65_536],
    source: 'assumption: sizes are not public; of no weight where a workload spans less than 512 GiB',
    verified: false,
  },
  {
    id: 'walkCacheLevel3Entries',
    title: 'Paging-structure cache: entries of level 3 (1 GiB each)',
    unit: 'count',
    value: 16,
    range: [0, 65_536],
    source: 'assumption: sizes are not public',
    verified: false,
  },
  {
    id: 'walkCacheLevel2Entries',
    title: 'Paging-structure cache: entries of level 2 (2 MiB each)',
    unit: 'count',
    value: 64,
    range: [0, 65_536],
    source: `${fastAndSafe}: sizes are not public, 64 to 128 likely`,
    verified: true,
  },
  {
    id: 'missNs',
    title: 'IOTLB miss of a read, upper levels cached',
    unit: 'ns',
    value: 290,
    range: [50, 5000],
    source: `${pcieBench}: 229 to 302 ns, 290 on Broadwell`,
    verified: true,
  },
  {
    id: 'walkReadNs',
    title: 'One memory read of a page walk',
    unit: 'ns',
    value: 197,
    range: [20, 2000],
    source: `${fastAndSafe}: lm, fitted`,
    verified: true,
  },
  {
    id: 'pageDmaNs',
    title: 'DMA of 4 KiB without a miss',
    unit: 'ns',
    value: 65,
    range: [1, 10_000],
    source: `${fastAndSafe}: l0, fitted`,
    verified: true,
  },
  {
    id: 'parallelWalkers',
    title: 'Page walks in flight at once',
    unit: 'count',
    value: 5,
    range: [1, 64],
    source: `${pcieBench}: 17.6 to 19.6 M walks/s make 4 to 6`,
    verified: true,
  },

  // Workloads.
  {
    id: 'descriptorPages',
    title: 'Pages in one receive descriptor',
    unit: 'count',
    value: 64,
    range: [1, 512],
    source: `${fastAndSafe}: ConnectX-5 receive ring`,
    verified: true,
  },
  {
    id: 'ringEntries',
    title: 'Packets in a receive ring',
    unit: 'count',
    value: 256,
    range: [1, 65_536],
    source: `${fastAndSafe}: 256 to 2048`,
    verified: true,
  },
] as const satisfies readonly CostParameter[];
