// Which mappings of a trace are live, by the frame they start at.

/** How much of an unmapped range was live. */
export type Coverage = 'all' | 'part' | 'none';

/**
 * The live mappings of a trace.
 *
 * Kept by start frame and nothing else, because `iommu:map` and `iommu:unmap` name no address space: two spaces that
 * use one frame number fall together here, and a mapping that is unmapped in parts ends with its first part.
 */
export class LiveMappings {
  readonly #pagesAt = new Map<number, number>();
  #pages = 0;

  /** Frames mapped and not unmapped; a mapping that a later one replaced still counts. */
  get pages(): number {
    return this.#pages;
  }

  /** Adds a mapping. @returns whether one was live at the same start. */
  add(start: number, pages: number): boolean {
    const replaced = this.#pagesAt.has(start);
    this.#pagesAt.set(start, pages);
    this.#pages += pages;
    return replaced;
  }

  /** Removes the mappings that follow one another from `start` on, up to `pages` frames further. */
  remove(start: number, pages: number): Coverage {
    const end = start + pages;
    let at = start;
    while (at < end) {
      const held = this.#pagesAt.get(at);
      if (held === undefined) break;
      this.#pagesAt.delete(at);
      this.#pages -= held;
      at += held;
    }
    if (at === start) return 'none';
    return at < end ? 'part' : 'all';
  }
}
