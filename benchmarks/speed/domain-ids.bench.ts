// Domain ids: how many guests there may be with ids of each unit and with shared ones, and what ids cost as there are
// more of them. xen: the patch "VT-d: per-iommu domain-id" of 2009 (b9c20c7878).

import { Errno } from '../../machine/errno.ts';
import type { Domid, UnitIndex } from '../../machine/ids.ts';
import type { DomainIdSpaces } from '../../passthrough/index.ts';
import type { FigureTable, SpeedCase } from './speed-case.ts';
import { FUNCTIONS, nicsFor, SriovPlatform } from './sriov-platform.ts';

const UNITS = [1, 2, 4, 8, 16] as const;
const SMALL_DIDS = [16, 256] as const;
const SIZES = [16, 64, 256, 1024, 4096, 16384, 65536] as const;
const count = (dids: number) => dids.toLocaleString('en-US');
/** Domids of guests end here. xen: DOMID_FIRST_RESERVED. */
const DOMIDS = 0x7ff0;

/** Which functions a guest is given: one of one unit, the units in turn, or one of each. */
type Share = 'one' | 'each';

/** Guests that are given functions until the first is refused with -EBUSY. The hardware domain is none of them. */
export function guestsUntilBusy(units: number, dids: number, domainIds: DomainIdSpaces, share: Share): number {
  const platform = new SriovPlatform({ units, dids, domainIds, domains: units * dids + 2 });
  const all = Array.from({ length: units }, (_, unit) => unit);
  for (let guest = 0; ; guest += 1) {
    const place = share === 'each' ? guest : Math.floor(guest / units);
    if (place >= platform.functions) throw new RangeError(`${guest} guests: expected dids to run out before functions`);
    for (const unit of share === 'each' ? all : [guest % units]) {
      const errno = platform.give(guest + 1, unit, platform.virtualFunction(place));
      if (errno === Errno.EBUSY) return guest;
      if (errno !== 0) throw new RangeError(`guest ${guest}: errno ${errno}`);
    }
  }
}

function capacity(name: string, share: Share, note: string): FigureTable {
  return {
    name,
    note,
    rows: () =>
      SMALL_DIDS.flatMap((dids) =>
        UNITS.map((units) => ({
          dids,
          units,
          functions: units * nicsFor(dids) * FUNCTIONS,
          shared: guestsUntilBusy(units, dids, 'shared', share),
          perUnit: guestsUntilBusy(units, dids, 'per-unit', share),
        })),
      ),
  };
}

export const domainIdTables: readonly FigureTable[] = [
  capacity('domain-ids/guests', 'one', 'guests until -EBUSY, a virtual function each, of the units in turn'),
  capacity('domain-ids/guests-everywhere', 'each', 'guests until -EBUSY, a virtual function of every unit each'),
];

/** One unit all of whose dids are in use but one. The hardware domain has one of them. */
function crowded(dids: number): SriovPlatform {
  const platform = new SriovPlatform({ units: 1, dids, domainIds: 'per-unit', domains: Math.min(dids, DOMIDS) });
  const [ids] = platform.driver.ids;
  for (let domain = 2; domain < Math.min(dids, DOMIDS); domain += 1) ids!.obtain(domain as Domid);
  return platform;
}

function assigns(dids: number): SpeedCase {
  const items = 256;
  return {
    name: `domain-ids/assign/${dids}`,
    note:
      `a device to a guest and back, with its invalidations; ${count(dids)} dids, ` +
      (dids < 65536 ? 'one of them free' : 'each the domid'),
    items,
    prepare() {
      const platform = crowded(dids);
      const { driver } = platform;
      const device = platform.virtualFunction(0);
      return {
        run() {
          let refused = 0;
          for (let round = 0; round < items; round += 1) {
            refused += driver.ids[0]!.headroom() + platform.give(1, 0, device) + platform.give(0, 0, device);
            driver.leave(1 as Domid, 0 as UnitIndex);
          }
          if (refused !== 0) throw new RangeError(`domain-ids/assign/${dids}: refused`);
        },
      };
    },
  };
}

function lookUps(dids: number): SpeedCase {
  const items = 4096;
  return {
    name: `domain-ids/look-up/${dids}`,
    note: `the did of a random domain, and the domain of that did; ${count(dids)} dids`,
    items,
    prepare() {
      const ids = crowded(dids).driver.ids[0]!;
      const domains = Math.min(dids, DOMIDS);
      let random = 12345;
      return {
        run() {
          let strangers = 0;
          for (let i = 0; i < items; i += 1) {
            random = (Math.imul(random, 1664525) + 1013904223) >>> 0;
            const domain = (random >>> 8) % domains;
            // Domain 1 has no did where they are handed out.
            if (domain !== 1 && ids.domainOf(ids.didOf(domain as Domid)) !== domain) strangers += 1;
          }
          if (strangers > 0) throw new RangeError(`domain-ids/look-up/${dids}: ${strangers} domains without a did`);
        },
      };
    },
  };
}

export const domainIdCases: readonly SpeedCase[] = [...SIZES.map(assigns), ...SIZES.map(lookUps)];
