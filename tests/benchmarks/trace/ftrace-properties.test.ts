import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { InputError } from '../../../machine/errors.ts';
import { importText, line, RECORDED } from './ftrace-text.ts';

describe('any ftrace text', () => {
  const tolerated = (text: Uint8Array) => {
    try {
      importText(text);
    } catch (error) {
      expect(error).toBeInstanceOf(InputError);
    }
  };
  const bytes = Buffer.from(RECORDED);

  it('a trace that is cut, or has foreign bytes in it, parses or is an InputError', () => {
    fc.assert(
      fc.property(fc.nat(bytes.length), (length) => tolerated(bytes.subarray(0, length))),
      { numRuns: 500 },
    );
    const patch = fc.tuple(
      fc.nat(bytes.length - 1),
      fc.oneof(fc.nat(255), fc.constantFrom(...Buffer.from('\n -[]:x0#'))),
    );
    fc.assert(
      fc.property(fc.array(patch, { minLength: 1, maxLength: 8 }), (patches) => {
        const damaged = Buffer.from(bytes);
        for (const [at, value] of patches) damaged[at] = value;
        tolerated(damaged);
      }),
      { numRuns: 2000 },
    );
  });

  it('any bytes parse or are an InputError', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 400 }), tolerated), { numRuns: 1000 });
  });

  it('the size of the pieces changes nothing', () => {
    const whole = importText(bytes);
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 700 }), (size) => {
        expect(importText(bytes, size)).toEqual(whole);
      }),
    );
  });

  it('addresses and sizes are read exactly', () => {
    const frames = fc.bigInt({ min: 0n, max: 2n ** 45n - 1n });
    fc.assert(
      fc.property(frames, frames, frames, (from, to, some) => {
        const pages = 1n + (some % (2n ** 45n - (from | to)));
        const [iova, end, paddr] = [from << 12n, (from + pages) << 12n, to << 12n].map((value) => value.toString(16));
        const text = line(`map: IOMMU: iova=0x${iova} - 0x${end} paddr=0x${paddr} size=${pages << 12n}`);
        const expected = { dfn: Number(from), mfn: Number(to), pages: Number(pages) };
        expect(importText(text).events).toMatchObject([expected]);
      }),
    );
  });
});
