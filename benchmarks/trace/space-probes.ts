// The address space of an access: the driver's callback, probed, comes before the access on the same CPU.

/** What the probes of a driver's map or unmap callback said, for one access. */
export interface SpaceProbe {
  readonly space: string;
  /** First device frame. */
  readonly start: number;
  /** Protection bits: 1 read, 2 write; 0 for an unmap. */
  readonly prot: number;
  /** The frame after the last one that the calls so far cover, and when the last call was (microseconds). */
  end: number;
  timeUs: number;
}

/** How many unanswered probes a CPU may have: an interrupt can come between a probe and its access. */
const DEPTH = 4;

/** An access that comes later than this after its probe is not its access: the task failed or went to another CPU. */
const LIFE_US = 100_000;

/** Probes that wait for their access, per CPU. */
export class SpaceProbes {
  readonly #waiting = new Map<number, SpaceProbe[]>();

  /** A callback was called. A call that goes on where the one before it ended belongs to the same access. */
  add(cpu: number, timeUs: number, space: string, start: number, pages: number, prot: number): void {
    let probes = this.#waiting.get(cpu);
    if (probes === undefined) {
      probes = [];
      this.#waiting.set(cpu, probes);
    }
    const last = probes.at(-1);
    if (last !== undefined && last.end === start && last.space === space && timeUs - last.timeUs <= LIFE_US) {
      last.end = start + pages;
      last.timeUs = timeUs;
      return;
    }
    if (probes.length === DEPTH) probes.shift();
    probes.push({ space, start, prot, end: start + pages, timeUs });
  }

  /** The probe of the access that starts at a frame, or null. Younger ones never got an access and are forgotten. */
  take(cpu: number, timeUs: number, start: number): SpaceProbe | null {
    const probes = this.#waiting.get(cpu);
    if (probes === undefined) return null;
    for (let at = probes.length - 1; at >= 0; at -= 1) {
      const probe = probes[at] as SpaceProbe;
      if (probe.start !== start) continue;
      probes.length = at;
      return timeUs - probe.timeUs <= LIFE_US ? probe : null;
    }
    return null;
  }
}
