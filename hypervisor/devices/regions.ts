// Reserved regions: firmware wants them mapped one to one for their devices, whoever has these. A domain counts for how
// many of its devices it has a region, and maps it page by page. xen: x86/iommu.c iommu_identity_mapping;
// arch/x86/mm/p2m.c set_identity_p2m_entry, clear_identity_p2m_entry.

import { Errno } from '../../machine/errno.ts';
import type { Dfn, Gfn, Mfn } from '../../machine/frame-number.ts';
import type { Domid, Vcpu } from '../../machine/ids.ts';
import { P2mType } from '../memory/p2m.ts';
import type { OperationContext } from '../operations/context.ts';

const READ_WRITE = 3;

/** For how many devices of a domain a region is mapped. */
export function regionCount({ control }: OperationContext, domain: Domid, region: number): number {
  const { regions } = control.root.domains[domain]!;
  return regions.find((one) => one.region === region)?.count ?? 0;
}

/** One device more of a domain, or one fewer, that a region is for. At 0 the domain knows the region no more. */
export function countRegion({ control }: OperationContext, domain: Domid, region: number, by: 1 | -1): void {
  control.change(
    `region ${region} of domain ${domain}: ${by > 0 ? 'one device more' : 'one device fewer'}`,
    (draft) => {
      const of = draft.domains[domain]!;
      const known = of.regions.find((one) => one.region === region);
      if (known) known.count += by;
      else of.regions.push({ region, count: by });
      of.regions = of.regions.filter(({ count }) => count > 0);
    },
  );
}

/**
 * Lets a domain's devices at one page of a region. Where a translated domain has something else at that gfn, it is
 * refused, or with `relaxed` left as it is.
 * @returns 0, -EBUSY, -ENOMEM, -EFAULT.
 */
export function mapPage(context: OperationContext, vcpu: Vcpu, domain: Domid, page: number, relaxed: boolean): number {
  const { driver, p2m } = context.parts;
  const frame = page as Mfn;
  if (!isTranslated(context, domain)) return driver.map(vcpu, domain, page as Dfn, frame, READ_WRITE);
  const gfn = page as Gfn;
  const type = p2m.type(domain, gfn);
  if (type === P2mType.direct) return 0;
  if (type !== P2mType.hole) return relaxed ? 0 : Errno.EBUSY;
  const errno = driver.map(vcpu, domain, page as Dfn, frame, READ_WRITE);
  // Beyond the gfns that are kept there is nothing else that the page could collide with.
  if (errno === 0 && page < p2m.gfns) p2m.set(domain, gfn, frame, P2mType.direct);
  return errno;
}

/** Takes one page of a region away again. What a translated domain has there besides stays. 0, -ENXIO. */
export function unmapPage(context: OperationContext, vcpu: Vcpu, domain: Domid, page: number): number {
  const { driver, p2m } = context.parts;
  const isKept = isTranslated(context, domain) && page < p2m.gfns;
  if (isKept && p2m.type(domain, page as Gfn) !== P2mType.direct) return 0;
  if (driver.unmap(vcpu, domain, page as Dfn, 0) < 0) return Errno.ENXIO;
  if (isKept) p2m.set(domain, page as Gfn, 0 as Mfn, P2mType.hole);
  return 0;
}

function isTranslated({ control }: OperationContext, domain: Domid): boolean {
  return control.root.domains[domain]!.kind === 'hvm';
}
