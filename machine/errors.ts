// The ways in which something can be wrong, other than a refusal (refusals are statuses and errnos; see errno.ts).

/**
 * The model broke one of its own invariants: our defect, never the caller's.
 * The message starts with the invariant's id, as in `docs/invariants.md`.
 */
export class HypervisorBug extends Error {
  override readonly name = 'HypervisorBug';
  /** Id of the broken invariant, for example `G8`. */
  readonly invariant: string;

  constructor(invariant: string, message: string) {
    super(`${invariant}: ${message}`);
    this.invariant = invariant;
  }
}

/** Where in an input something is wrong. Exactly one of `line` (from 1) and `offset` (bytes from 0) is usual. */
export interface InputPlace {
  readonly file: string;
  readonly line?: number;
  readonly offset?: number;
}

/** An input file that cannot be used: what is wrong, where, and what was expected instead. */
export class InputError extends Error {
  override readonly name = 'InputError';
  /** Stable, machine-readable reason, for example `DMAR_LENGTH`. */
  readonly code: string;
  readonly place: InputPlace;

  constructor(code: string, place: InputPlace, message: string) {
    super(`${placeName(place)}: ${message}`);
    this.code = code;
    this.place = place;
  }
}

function placeName(place: InputPlace): string {
  if (place.line !== undefined) return `${place.file}:${place.line}`;
  if (place.offset !== undefined) return `${place.file}: byte ${place.offset} (0x${place.offset.toString(16)})`;
  return place.file;
}
