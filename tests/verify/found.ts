// What it means that a property found a planted mistake.

import { expect } from 'vitest';

/**
 * The property came to false. One that threw found nothing: the mistake, or the machine that it was planted in, is not
 * what the test takes it for.
 */
export function expectFound({ failed, errorInstance }: { failed: boolean; errorInstance: unknown }): void {
  const error = 'Error: Property failed by returning false';
  expect({ failed, error: String(errorInstance) }).toEqual({ failed: true, error });
}
