// Memory: references and types of frames recounted, p2m against frames, device tables against both.

import { GNTMAP, pageReferences, typeReferences } from '../../grant/index.ts';
import { type Hypervisor, P2mType, p2mDeviceRights } from '../../hypervisor/index.ts';
import type { Dfn, Gfn, Mfn } from '../../machine/frame-number.ts';
import { FrameType } from '../../machine/frame-table.ts';
import { DOMID_FIRST_RESERVED, type Domid } from '../../machine/ids.ts';
import { domainsOf, handlesOf, holdsBack, type Invariant } from './invariant.ts';
import { tableEntries } from './table-entries.ts';

/** References to a frame, and to its type. */
interface Counts {
  pages: number;
  types: number;
}

/** What refers to each frame, found without a look at its counts. */
function recount(machine: Hypervisor): Counts[] {
  const { frames, pvTables } = machine.parts;
  const counts = Array.from({ length: frames.frames }, (): Counts => ({ pages: 0, types: 0 }));
  const add = (frame: number, pages: number, types: number) => {
    const at = counts[frame];
    if (!at) return;
    at.pages += pages;
    at.types += types;
  };
  const isHvm = (frame: number) =>
    frames.isAllocated(frame) && machine.control.root.domains[frames.owner(frame as Mfn)]?.kind === 'hvm';
  for (let at = 0; at < frames.frames; at += 1) {
    if (!frames.isAllocated(at)) continue;
    const frame = at as Mfn;
    // A page of the hypervisor's is writable for good, even when its domain has given it back.
    add(frame, frames.isHeld(frame) ? 1 : 0, frames.isXenHeap(frame) ? 1 : 0);
    if (frames.isPinned(frame)) add(frame, 1, 1);
  }
  for (const { level, frame, writable } of tableEntries(machine)) {
    add(frame, 1, level > 1 || (writable && !isHvm(frame)) ? 1 : 0);
  }
  for (const mapper of domainsOf(machine)) {
    const { kind } = machine.control.root.domains[mapper]!;
    const root = pvTables.root(mapper);
    if (root >= 0) add(root, 1, 1);
    for (const { granter, flags, frame } of handlesOf(machine, mapper)) {
      // A PV mapper's host half is a page-table entry, and was counted as one.
      const held = kind === 'pv' ? flags & ~GNTMAP.host_map : flags;
      const granterIsPv = machine.control.root.domains[granter]?.kind === 'pv';
      add(frame, pageReferences(held), typeReferences(held, mapper === granter, granterIsPv));
    }
  }
  return counts;
}

/** P3. No reference is lost, none is missing; at rest, with nothing held back. */
export const referencesAreHeld: Invariant = {
  id: 'P3',
  sentence:
    "A domain's frame has the references, and its type the count, that allocation, tables, pins and grants hold.",
  check(machine) {
    if (holdsBack(machine)) return [];
    const { frames } = machine.parts;
    return recount(machine).flatMap(({ pages, types }, at) => {
      const frame = at as Mfn;
      if (!frames.isAllocated(at) || frames.owner(frame) >= DOMID_FIRST_RESERVED) return [];
      const [has, typed] = [frames.references(frame), frames.typeCount(frame)];
      if (has === pages && typed === types) return [];
      return [`frame ${at}: ${has} references and type count ${typed}, held are ${pages} and ${types}`];
    });
  },
};

/** P6. The way back from a frame leads to the gfn that it is RAM at. */
export const waysBackAgree: Invariant = {
  id: 'P6',
  sentence: 'A frame that is RAM at a gfn is so at that gfn only, and the way back says so.',
  check({ parts: { p2m }, control }) {
    return control.root.domains.flatMap((domain) => {
      if (domain?.kind !== 'hvm') return [];
      const broken: string[] = [];
      for (let at = 0; at < p2m.gfns; at += 1) {
        const gfn = at as Gfn;
        if (p2m.type(domain.domain as Domid, gfn) !== P2mType.ram) continue;
        const frame = p2m.frame(domain.domain as Domid, gfn);
        if (p2m.gfnOf(frame) !== gfn) broken.push(`domain ${domain.domain} gfn ${at}: frame ${frame} is elsewhere`);
      }
      return broken;
    });
  },
};

/** M2. XSA-288: devices follow the type of frames, whatever its count. */
export const ownFramesFollowTypes: Invariant = {
  id: 'M2',
  sentence: "A PV domain's devices reach its own frames, to write, if and only if their type is writable.",
  check(machine) {
    const { frames, driver } = machine.parts;
    return domainsOf(machine).flatMap((domain) => {
      const { grantView, state } = machine.control.root.domains[domain]!;
      if (!grantView.syncOwnFrames || state === 'dying') return [];
      const broken: string[] = [];
      for (let at = frames.nextOwned(domain, 0, frames.frames); at >= 0; ) {
        const isMapped = frames.type(at as Mfn) === FrameType.writable && !frames.isXenHeap(at as Mfn);
        const { rights } = driver.lookup(domain, at as number as Dfn);
        // Without a reference it waits for a flush, unmapped, or is lost: devices could not be kept from it.
        const isThere = frames.references(at as Mfn) > 0 || frames.isXenHeap(at as Mfn);
        if (isThere && rights !== (isMapped ? 3 : 0)) {
          broken.push(`domain ${domain} frame ${at}: type ${frames.type(at as Mfn)}, device rights ${rights}`);
        }
        at = frames.nextOwned(domain, at + 1, frames.frames);
      }
      return broken;
    });
  },
};

/** M4. A translated domain's devices see what its p2m says. */
export const devicesSeeTheP2m: Invariant = {
  id: 'M4',
  sentence: "An HVM domain's device entry at a gfn is what its p2m entry says.",
  check({ parts: { p2m, driver }, control }) {
    return control.root.domains.flatMap((found) => {
      if (found?.kind !== 'hvm' || !found.iommu || found.deviceTables !== 'ram') return [];
      const domain = found.domain as Domid;
      const broken: string[] = [];
      for (let at = 0; at < p2m.gfns; at += 1) {
        const type = p2m.type(domain, at as Gfn);
        const wanted = p2mDeviceRights(type);
        const { rights, frame } = driver.lookup(domain, at as Dfn);
        if (rights !== wanted || (wanted !== 0 && frame !== p2m.frame(domain, at as Gfn)))
          broken.push(`domain ${domain} gfn ${at}: type ${type}, device rights ${rights} to frame ${frame}`);
      }
      return broken;
    });
  },
};

/** M6. PV device frames are machine frames. */
export const pvDeviceFramesAreMachineFrames: Invariant = {
  id: 'M6',
  sentence: "A PV domain's device frames are machine frames.",
  check(machine) {
    return domainsOf(machine).flatMap((domain) => {
      const { kind, iommu, deviceTables } = machine.control.root.domains[domain]!;
      if (kind === 'hvm' || !iommu || deviceTables !== 'ram') return [];
      const broken: string[] = [];
      for (let dfn = 0; dfn < machine.config.frames; dfn += 1) {
        const { rights, frame } = machine.parts.driver.lookup(domain, dfn as Dfn);
        if (rights !== 0 && (frame as number) !== dfn) broken.push(`domain ${domain} dfn ${dfn}: frame ${frame}`);
      }
      return broken;
    });
  },
};
