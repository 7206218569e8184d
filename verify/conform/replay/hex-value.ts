// 64-bit values: `0x...` in recordings, numbers or such strings at the machine's door.

import type { Wide } from '../../../machine/frame-number.ts';
import { type Sbdf, sbdfText } from '../../../machine/ids.ts';

/** As the door takes it. */
export function wideOf(hex: `0x${string}`): Wide {
  const value = Number(hex);
  return Number.isSafeInteger(value) ? value : hex;
}

/** As recordings have it. */
export function hexOf(value: Wide): string {
  return typeof value === 'number' ? `0x${value.toString(16)}` : value;
}

/** A frame number; what no frame number can hold stays beyond every machine. */
export const frameOf = (hex: string): number => Number(hex);

/** `0000:00:06.0` of segment << 16 | bus << 8 | device << 3 | function. */
export const sbdfOf = (bdf: number): string => sbdfText(bdf as Sbdf);
