// What is odd about a table that can still be read. Firmware in the field has most of these; Linux warns and goes on.

import { PAGE_SIZE } from '../../machine/frame-number.ts';
import { DMAR_HEADER, type RecordLayout, ScopeType } from './dmar-layout.ts';
import type { DmarReservedRegion, DmarScope, DmarUnit, DmarWarning } from './dmar-table.ts';

const PAGE_MASK = BigInt(PAGE_SIZE - 1);
const ALL_ONES = '0xffffffffffffffff';
const LAST_SCOPE_TYPE = ScopeType.namespaceDevice;
const { revision, hostAddressWidth } = DMAR_HEADER.fields;

/** Revision other than the two seen in the field (1 and 2); a width of 0, for which Xen turns VT-d off. */
export function headerWarnings(header: { revision: number; hostAddressWidth: number }): DmarWarning[] {
  const found: DmarWarning[] = [];
  if (header.revision !== 1 && header.revision !== 2) {
    found.push({
      code: 'DMAR_REVISION',
      offset: revision.offset,
      message: `table revision ${header.revision}, expected 1 or 2`,
    });
  }
  if (header.hostAddressWidth === 0) {
    found.push({
      code: 'DMAR_WIDTH',
      offset: hostAddressWidth.offset,
      message: 'host address width 0, expected the width in bits less one',
    });
  }
  return found;
}

/** Registers nowhere (address 0 or all ones: Xen refuses the unit) or off the page. `at` is the structure's byte. */
export function unitWarnings(unit: DmarUnit, at: number): DmarWarning[] {
  const base = unit.registerBase;
  if (base === '0x0' || base === ALL_ONES) {
    return [{ code: 'DMAR_UNIT_BASE', offset: at, message: `unit with register base ${base}` }];
  }
  if ((BigInt(base) & PAGE_MASK) !== 0n) {
    return [
      { code: 'DMAR_UNIT_BASE', offset: at, message: `register base ${base}, expected a multiple of ${PAGE_SIZE}` },
    ];
  }
  return [];
}

/** The sanity check of Linux (`rmrr_sanity_check`): whole pages, limit above base; and a base other than 0. */
export function regionWarnings(region: DmarReservedRegion, at: number): DmarWarning[] {
  const [base, limit] = [BigInt(region.base), BigInt(region.limit)];
  const range = `reserved region ${region.base}..${region.limit}`;
  const found: DmarWarning[] = [];
  const warn = (message: string) => found.push({ code: 'DMAR_RMRR_RANGE', offset: at, message: `${range} ${message}` });
  if (base === 0n) warn('starts at address 0');
  if (limit < base) warn('ends before it starts');
  if ((base & PAGE_MASK) !== 0n || ((limit + 1n) & PAGE_MASK) !== 0n) warn('does not cover whole pages');
  return found;
}

/** A type that nobody knows; device or function numbers that no PCI bus has. */
export function scopeWarnings(scope: DmarScope, at: number): DmarWarning[] {
  const found: DmarWarning[] = [];
  if (scope.type === 0 || scope.type > LAST_SCOPE_TYPE) {
    found.push({
      code: 'DMAR_SCOPE_TYPE',
      offset: at,
      message: `device scope of unknown type ${scope.type}, expected 1 to ${LAST_SCOPE_TYPE}`,
    });
  }
  for (const [device, fn] of scope.path) {
    if (device <= 31 && fn <= 7) continue;
    found.push({
      code: 'DMAR_SCOPE_PATH',
      offset: at,
      message: `path entry ${device},${fn}: expected a device up to 31 and a function up to 7`,
    });
  }
  return found;
}

/** Bytes that should be zero and are not: a newer format than this one, or damage. */
export function reservedWarnings(layout: RecordLayout, view: DataView, at: number): DmarWarning[] {
  const found: DmarWarning[] = [];
  for (const { kind, offset, bytes } of Object.values(layout.fields)) {
    if (kind !== 'reserved') continue;
    for (let i = at + offset; i < at + offset + bytes; i++) {
      const value = view.getUint8(i);
      if (value === 0) continue;
      found.push({
        code: 'DMAR_RESERVED',
        offset: i,
        message: `reserved byte of the ${layout.name} is 0x${value.toString(16).padStart(2, '0')}, expected 0`,
      });
      break;
    }
  }
  return found;
}
