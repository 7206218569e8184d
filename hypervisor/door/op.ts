// Operations: plain JSON data, the one way to make a machine do anything; and what comes back.

import type { Wide } from '../../machine/frame-number.ts';
import type { ElementResult, GrantOp } from './grant-op.ts';
import type { MemoryOp } from './memory-op.ts';

export type Op =
  | GrantOp
  | MemoryOp
  /**
   * Gives a device, with all of its DMA, to a domain, or puts it into quarantine (0x7ff1). `relaxed`
   * (XEN_DOMCTL_DEV_RDM_RELAXED): also if its reserved region is another's, too, or collides with memory of an HVM
   * domain. `flags`, here and in the two that follow: those beside it, none of which there is (-EINVAL).
   */
  | {
      readonly op: 'assign_device';
      readonly vcpu?: number;
      readonly device: string;
      readonly domain: number;
      readonly relaxed?: boolean;
      readonly flags?: number;
    }
  /** Whether a device could be assigned, to `domain` if one is named: 0, or -EINVAL. */
  | {
      readonly op: 'test_assign_device';
      readonly device: string;
      readonly domain?: number;
      readonly flags?: number;
    }
  /**
   * Takes a device away from its domain (from `domain`, if that is its owner): flushed, then in quarantine or with the
   * hardware domain again.
   */
  | {
      readonly op: 'deassign_device';
      readonly vcpu?: number;
      readonly device: string;
      readonly domain?: number;
      readonly flags?: number;
    }
  /** A device is taken out of the machine, whoever has it; and put back, for the hardware domain. */
  | { readonly op: 'remove_device'; readonly vcpu?: number; readonly device: string }
  | { readonly op: 'add_device'; readonly vcpu?: number; readonly device: string }
  /** A unit is taken out of the machine, and with it every device behind it. */
  | { readonly op: 'remove_unit'; readonly vcpu?: number; readonly unit: number }
  /** The hypervisor reads the units' fault records: a device with too many faults is disabled. How many there were. */
  | { readonly op: 'handle_faults' }
  /** The bus master bit of a device, as its owner writes it: a device without it accesses no memory. */
  | { readonly op: 'set_bus_master'; readonly device: string; readonly on: boolean }
  /** A domain's kernel lets its devices reach `pages` of its own frames at device frame `dfn` (a DMA API). */
  | {
      readonly op: 'dma_map';
      readonly vcpu?: number;
      readonly domain: number;
      readonly dfn: number;
      readonly frame: number;
      readonly pages: number;
      readonly access: 'r' | 'rw';
    }
  /** The opposite. Pages without access are passed over. */
  | {
      readonly op: 'dma_unmap';
      readonly vcpu?: number;
      readonly domain: number;
      readonly dfn: number;
      readonly pages: number;
    }
  /**
   * A device access, translated and performed. `choose` picks among what an adversarial unit may answer (0: the
   * tables).
   */
  | DmaOp<'dma'>
  /** The first half of an access: translated, and held until `dma_perform`. */
  | DmaOp<'dma_translate'>
  | { readonly op: 'dma_perform'; readonly slot: number }
  /** One step of a unit's own: fetch or complete an invalidation. */
  | { readonly op: 'hardware'; readonly unit: number }
  /** From now on a device's own TLB acknowledges invalidations, or does not. */
  | { readonly op: 'device_tlb'; readonly device: string; readonly answers: boolean }
  /** Time passes, and a virtual CPU's flush timer is looked at. */
  | { readonly op: 'tick'; readonly vcpu?: number; readonly nowUs: number };

interface DmaOp<Name extends string> {
  readonly op: Name;
  readonly device: string;
  /** The id that the request carries, where it is not the device's own: one that stands for it on its bridge. */
  readonly requester?: string;
  readonly address: Wide;
  readonly access: 'read' | 'write';
  /** Word that a write stores, at the address rounded down to 4 bytes. */
  readonly value?: number;
  /** Instead: bytes (hex) that a write stores, or how many a read fetches, within one page. */
  readonly bytes?: string;
  readonly length?: number;
  readonly choose?: number;
}

export interface DmaResult {
  /** The machine frame reached, or the fault. */
  readonly frame?: number;
  readonly fault?: { readonly reason: number; readonly name: string };
  /** What a read found: the word, or the bytes (hex) where a length was given. */
  readonly value?: number;
  readonly bytes?: string;
  /** Where `dma_translate` holds the access. */
  readonly slot?: number;
  /** The device is no bus master, and did nothing. */
  readonly disabled?: true;
}

export interface OpResult {
  /** Return value: 0 or a count, or a negative errno. */
  readonly result: number;
  readonly elements?: readonly ElementResult[];
  /** Status of a hypercall on one structure, where the hypervisor wrote one. */
  readonly status?: number;
  /** Frames of a table (setup_table, get_status_frames), or that an operation handed out. */
  readonly frames?: readonly Wide[];
  /** Frames of the table now, and at most (query_size). */
  readonly size?: { readonly frames: number; readonly maxFrames: number };
  /** Version of the table in force, where the hypervisor wrote it (set_version, get_version). */
  readonly version?: number;
  /** What is left of a hypercall that was interrupted, for the guest's processor to repeat. */
  readonly continuation?: Op;
  readonly dma?: DmaResult;
  /** Domains that this operation crashed, its own or others, and why. Each is named once, by one operation. */
  readonly crashed?: readonly { readonly domain: number; readonly reason: string }[];
}
