// What the machine under the bench can do: the words of a grant changed and undone in one function, without a model.

import type { SpeedCase } from './speed-case.ts';

const GRANTS = 65536;
// One array: per grant flags and pins, per handle its grant and the next free one, per frame references and type, and a
// table entry of two words. Then the head of the free handles.
const GRANT = 0;
const HANDLE = GRANT + GRANTS * 2;
const FRAME = HANDLE + GRANTS * 2;
const ENTRY = FRAME + GRANTS * 2;
const FREE = ENTRY + GRANTS * 2;

const words = new Uint32Array(FREE + 1);
const log = new Uint32Array(1 << 16);
let logged = 0;

function write(address: number, value: number): void {
  log[logged] = address;
  log[logged + 1] = words[address]!;
  logged += 2;
  words[address] = value;
}

function map(ref: number): number {
  const handle = words[FREE]!;
  write(FREE, words[HANDLE + handle * 2 + 1]!);
  write(HANDLE + handle * 2, ref | 0x80000000);
  write(GRANT + ref * 2 + 1, words[GRANT + ref * 2 + 1]! + 1);
  write(GRANT + ref * 2, words[GRANT + ref * 2]! | 8);
  write(FRAME + ref * 2, words[FRAME + ref * 2]! + 1);
  write(FRAME + ref * 2 + 1, words[FRAME + ref * 2 + 1]! + 1);
  write(ENTRY + ref * 2, (ref << 12) | 3);
  write(ENTRY + ref * 2 + 1, ref >>> 20);
  return handle;
}

function unmap(handle: number): void {
  const ref = words[HANDLE + handle * 2]! & 0x7fffffff;
  write(ENTRY + ref * 2, 0);
  write(ENTRY + ref * 2 + 1, 0);
  write(FRAME + ref * 2 + 1, words[FRAME + ref * 2 + 1]! - 1);
  write(FRAME + ref * 2, words[FRAME + ref * 2]! - 1);
  write(GRANT + ref * 2 + 1, words[GRANT + ref * 2 + 1]! - 1);
  write(GRANT + ref * 2, words[GRANT + ref * 2]! & ~8);
  write(HANDLE + handle * 2, 0);
  write(HANDLE + handle * 2 + 1, words[FREE]!);
  write(FREE, handle);
}

export const baselines: readonly SpeedCase[] = [
  {
    name: 'baseline/grant-words',
    note: 'no model: 17 logged words in one function, random of 65,536 (see README.md)',
    items: 1024,
    prepare() {
      words.fill(0);
      for (let handle = 0; handle < GRANTS; handle += 1) words[HANDLE + handle * 2 + 1] = (handle + 1) % GRANTS;
      let random = 12345;
      return {
        run() {
          for (let pair = 0; pair < 1024; pair += 1) {
            random ^= random << 13;
            random ^= random >>> 17;
            random ^= random << 5;
            unmap(map(random & (GRANTS - 1)));
          }
          logged = 0;
        },
      };
    },
  },
];
