// What a version of Xen does otherwise than others: decisions as data, with their sources.

import type { GrantRules } from '../grant/index.ts';
import { type Check, type Fields, oneWord, record, text } from './door/field-checks.ts';

/** Decisions about memory. */
export interface MemoryRules {
  /** A privileged domain maps a gfn of another where a grant is mapped. */
  readonly foreignMapOfGrant: 'by-owner' | 'refused';
}

/** Decisions about units and devices. */
export interface PassthroughRules {
  /** What an assignment is refused with when no domain id is left. */
  readonly didsExhausted: 'EBUSY' | 'EFAULT';
  /** What becomes of a device that does not answer an invalidation of its TLB. */
  readonly deviceTlbTimeout: 'spins' | 'disabled';
}

/** Decisions of a version. */
export interface Rules {
  readonly name: string;
  readonly grants: GrantRules;
  readonly memory: MemoryRules;
  readonly passthrough: PassthroughRules;
}

type Decisions = GrantRules & MemoryRules & PassthroughRules;

/** A decision: its values, what they mean and where that is from. */
export interface RuleFact<Field extends keyof Decisions = keyof Decisions> {
  readonly field: Field;
  readonly sentence: string;
  readonly values: Readonly<Record<Decisions[Field], string>>;
}

function fact<Field extends keyof Decisions>(entry: RuleFact<Field>): RuleFact {
  return entry as unknown as RuleFact;
}

/** Every decision, with each value's source. */
export const ruleFacts: readonly RuleFact[] = [
  fact({
    field: 'deviceRights',
    sentence: "what lets a PV mapper's devices at a granted frame",
    values: {
      'live-handles': "the mapper's live handles on the frame, each by its rights (2010: 680e96b343, 84d7979493)",
      'writable-pins': 'the writable pins of one entry; read-only grants give none (2008: 806da17f3d)',
    },
  }),
  fact({
    field: 'pinLimit',
    sentence: 'which full pin counter refuses a use',
    values: {
      incremented: 'one that the use would count up (2021: 8cec5d065c)',
      any: 'any of the four (before)',
    },
  }),
  fact({
    field: 'copyZeroLength',
    sentence: 'a copy of no bytes',
    values: {
      done: 'done without a look at anything (2024: a4a790f432; recorded of 4.23-unstable)',
      checked: 'checked like any other (before: __gnttab_copy of 2008, 61730c75ce; recorded of 4.17.7)',
    },
  }),
  fact({
    field: 'copyFrameCheck',
    sentence: "a copy's frame of a domain other than DOMID_SELF is refused",
    values: {
      'both-first': 'of both ends, before either domain is looked up (2006: 55939a45fa; so in 2008, 61730c75ce)',
      'before-lookup': 'before that domain is looked up, end by end (2015: 3c72f8c2cf; recorded of 4.23-unstable)',
      'at-claim': 'where that end is claimed, both domains found and perhaps the source claimed (4.17.7, as recorded)',
    },
  }),
  fact({
    field: 'copyPageBorder',
    sentence: 'a copy that leaves its page is refused',
    values: {
      first: 'before anything else is looked at (2006: b8b9cf77b2; so in 2008, 61730c75ce)',
      claimed: 'when both ends are claimed (2015: 3c72f8c2cf; recorded of 4.17.7 and 4.23-unstable)',
    },
  }),
  fact({
    field: 'badFrame',
    sentence: 'a map or copy of a frame that the domain which names it does not have',
    values: {
      bad_page: 'is a bad page (2012: d8cbecb1ee; recorded of 4.17.7 and 4.23-unstable)',
      general_error: 'is a general error (before: __gnttab_map_grant_ref and __gnttab_copy of 2008, 61730c75ce)',
    },
  }),
  fact({
    field: 'cacheFlush',
    sentence: 'GNTTABOP_cache_flush on x86',
    values: {
      done: 'done (2014: 18e8d22fe7; recorded of 4.17.7)',
      absent: 'no such operation (before, and since 2025: 5642a6055c; recorded of 4.23-unstable)',
    },
  }),
  fact({
    field: 'foreignMapOfGrant',
    sentence: 'a privileged domain maps a gfn of another where that has mapped a grant',
    values: {
      'by-owner':
        'done if the frame is of that domain all the same (recorded of 4.17.7; so in mod_l1_entry of 2008, 61730c75ce)',
      refused: 'refused (2025: a8325f981c; recorded of 4.23-unstable)',
    },
  }),
  fact({
    field: 'didsExhausted',
    sentence: 'an assignment for which the unit has no domain id left',
    values: {
      EBUSY: 'is refused with -EBUSY (2021: bbcea43d83)',
      EFAULT: 'is refused with -EFAULT (2009: b9c20c7878; before, the id past the last was taken: 61730c75ce)',
    },
  }),
  fact({
    field: 'deviceTlbTimeout',
    sentence: 'a device that does not answer an invalidation of its TLB',
    values: {
      spins: 'is waited for, for ever (2021: XSA-373, 7c893abc4e)',
      disabled:
        'loses its ATS and is broken, and its domain is crashed, if it is a guest (2016: 1b39e1085c; before, any ' +
        'wait that took too long was a panic)',
    },
  }),
];

/** The versions that ship. */
export const rulePresets = {
  /** Debian's 4.17.7 with its security fixes, as recorded. */
  xen4_17: {
    name: 'xen4_17',
    grants: {
      deviceRights: 'live-handles',
      pinLimit: 'incremented',
      copyZeroLength: 'checked',
      copyFrameCheck: 'at-claim',
      copyPageBorder: 'claimed',
      badFrame: 'bad_page',
      cacheFlush: 'done',
    },
    memory: { foreignMapOfGrant: 'by-owner' },
    passthrough: { didsExhausted: 'EBUSY', deviceTlbTimeout: 'spins' },
  },
  /** 4.23-unstable of August 2026, as recorded; with XSA-523 fixed. */
  xen4_23: {
    name: 'xen4_23',
    grants: {
      deviceRights: 'live-handles',
      pinLimit: 'incremented',
      copyZeroLength: 'done',
      copyFrameCheck: 'before-lookup',
      copyPageBorder: 'claimed',
      badFrame: 'bad_page',
      cacheFlush: 'absent',
    },
    memory: { foreignMapOfGrant: 'refused' },
    passthrough: { didsExhausted: 'EBUSY', deviceTlbTimeout: 'spins' },
  },
  /**
   * The PV passthrough series of May 2008 with the fixes of its first week (61730c75ce). What was otherwise then, too,
   * and is not here: HVM domains could not map grants (b37d30c8fc, 2009); device tables were there only while a device
   * was assigned, and held what the physmap held, whatever a page's type; nothing was in quarantine (for that:
   * `iommu.quarantine: 'none'`); device TLBs were not used (what is said of them is what came
   * first).
   */
  xen2008: {
    name: 'xen2008',
    grants: {
      deviceRights: 'writable-pins',
      pinLimit: 'any',
      copyZeroLength: 'checked',
      copyFrameCheck: 'both-first',
      copyPageBorder: 'first',
      badFrame: 'general_error',
      cacheFlush: 'absent',
    },
    memory: { foreignMapOfGrant: 'by-owner' },
    passthrough: { didsExhausted: 'EFAULT', deviceTlbTimeout: 'disabled' },
  },
} as const satisfies Record<string, Rules>;

export type RulesName = keyof typeof rulePresets;

/** @throws RangeError naming the presets that there are. */
export function rulesNamed(name: string): Rules {
  if (Object.hasOwn(rulePresets, name)) return rulePresets[name as RulesName];
  throw new RangeError(`rules ${JSON.stringify(name)}: expected ${Object.keys(rulePresets).join(', ')}`);
}

function valuesOf<Decided extends object>(preset: Decided): Fields<Decided> {
  const checks = Object.keys(preset).map((field): [string, Check] => {
    const { values } = ruleFacts.find((one) => one.field === field)!;
    return [field, oneWord(...Object.keys(values))];
  });
  return Object.fromEntries(checks) as Fields<Decided>;
}

/** What decisions of one's own may be: every one of them, with a value that it has. */
export const ruleChecks: Fields<Rules> = {
  name: text,
  grants: record(valuesOf(rulePresets.xen4_23.grants)),
  memory: record(valuesOf(rulePresets.xen4_23.memory)),
  passthrough: record(valuesOf(rulePresets.xen4_23.passthrough)),
};
