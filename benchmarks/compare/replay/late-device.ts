// A device that comes late: now and then it touches a page that was unmapped a while ago.

import { uniformInt } from 'pure-rand/distribution/uniformInt';
import { xoroshiro128plus } from 'pure-rand/generator/xoroshiro128plus';

/** It remembers this many pages that were unmapped last. */
export const LATE_PAGES = 256;

/** A page as it was mapped. */
export interface UnmappedPage {
  domain: number;
  dfn: number;
  frame: number;
  rights: number;
}

/** Touches at seeded random times, with exponential gaps, of pages chosen uniformly among those unmapped last. */
export class LateDevice {
  readonly #random: ReturnType<typeof xoroshiro128plus>;
  readonly #meanGapUs: number;
  readonly #pages: UnmappedPage[] = [];
  #unmapped = 0;
  /** When the next touch comes. */
  nextUs: number;

  /** @param ratePerSecond mean number of touches per second; 0: none */
  constructor(options: { readonly seed: number; readonly ratePerSecond: number; readonly startUs: number }) {
    const { seed, ratePerSecond, startUs } = options;
    this.#random = xoroshiro128plus((seed ^ Math.imul(Math.floor(seed / 2 ** 32), 0x9e3779b1)) | 0);
    this.#meanGapUs = ratePerSecond > 0 ? 1_000_000 / ratePerSecond : Number.POSITIVE_INFINITY;
    this.nextUs = startUs + this.#gapUs();
  }

  #gapUs(): number {
    const uniform = uniformInt(this.#random, 1, 2 ** 31 - 1) / 2 ** 31;
    return Math.ceil(-Math.log(uniform) * this.#meanGapUs);
  }

  /** A page was unmapped. */
  remember(domain: number, dfn: number, frame: number, rights: number): void {
    const at = this.#unmapped % LATE_PAGES;
    this.#unmapped += 1;
    const page = this.#pages[at];
    if (page) Object.assign(page, { domain, dfn, frame, rights });
    else this.#pages.push({ domain, dfn, frame, rights });
  }

  /** The page that the next touch goes to; null when nothing was unmapped yet. Sets the time of the touch after it. */
  take(): UnmappedPage | null {
    this.nextUs += this.#gapUs();
    // One draw for each touch, so that all policies see the same times.
    const choice = uniformInt(this.#random, 0, LATE_PAGES - 1);
    return this.#pages[choice % this.#pages.length] ?? null;
  }
}
