// What is no memory: who may map it, and who may choose how the processor caches. xen: arch/x86/dom0_build.c
// dom0_setup_permissions; arch/x86/mm.c get_page_from_l1e, l1_disallow_mask.

import type { DomainView } from '../../grant/index.ts';
import { Errno } from '../../machine/errno.ts';
import { DOMID_IO, type Domid } from '../../machine/ids.ts';
import type { FrameRange } from '../door/memory-op.ts';

/** Writes here are interrupts: 0xfee00000 to 0xfeefffff. */
const INTERRUPT_MESSAGES: FrameRange = [0xfee00, 0xfeeff];
/** The number of no frame: all bits of an entry's address. */
const NO_FRAME = 2 ** 40 - 1;

export class IoMemory {
  readonly #kept: readonly FrameRange[];
  readonly #memory: readonly FrameRange[];
  readonly #view: (domain: Domid) => DomainView | null;
  readonly #hasDevices: (domain: Domid) => boolean;

  /** @param memory frames of memory that count as I/O memory. */
  constructor(
    kept: readonly FrameRange[],
    memory: readonly FrameRange[],
    view: (domain: Domid) => DomainView | null,
    hasDevices: (domain: Domid) => boolean,
  ) {
    this.#kept = [INTERRUPT_MESSAGES, ...kept];
    this.#memory = memory;
    this.#view = view;
    this.#hasDevices = hasDevices;
  }

  /** Whether a frame of memory is nobody's, and mapped without references. xen: DOMID_IO as its owner. */
  holds(frame: number): boolean {
    return this.#memory.some(([first, last]) => frame >= first && frame <= last);
  }

  /** Why a domain may not map a frame as another's, or as DOMID_IO's: both need the right to it. 0: it may. */
  refusal(mapper: Domid, owner: Domid, frame: number): number {
    const isGranted = owner === DOMID_IO || this.#mayReach(owner, frame);
    if (isGranted && this.#mayReach(mapper, frame)) return 0;
    return frame === NO_FRAME ? Errno.EINVAL : Errno.EPERM;
  }

  /** The hardware domain has all of it but what the hypervisor keeps to itself; guests have none. */
  #mayReach(domain: Domid, frame: number): boolean {
    if (!this.#view(domain)?.privileged) return false;
    return this.#kept.every(([first, last]) => frame < first || frame > last);
  }

  /** Whether entries of a domain's tables may say how the processor caches: it has I/O memory, or a device. */
  mayChooseCaching(domain: Domid): boolean {
    return (this.#view(domain)?.privileged ?? false) || this.#hasDevices(domain);
  }
}
