// One seed for every property, so that a run of the tests is the same each time. PASSTHROUGH_SEED sets another; the
// word `fresh` draws one for each property (`npm run soak`).

import fc from 'fast-check';

const asked = process.env.PASSTHROUGH_SEED ?? '1';
if (asked !== 'fresh') {
  const seed = Number(asked);
  if (!Number.isInteger(seed)) throw new Error(`PASSTHROUGH_SEED: expected an integer or fresh, got ${asked}`);
  fc.configureGlobal({ ...fc.readConfigureGlobal(), seed });
}
