// Status codes of grant operations. xen: public/grant_table.h, GNTST_*.

export const GrantStatus = {
  okay: 0,
  general_error: -1,
  bad_domain: -2,
  bad_gntref: -3,
  bad_handle: -4,
  bad_virt_addr: -5,
  bad_dev_addr: -6,
  no_device_space: -7,
  permission_denied: -8,
  bad_page: -9,
  bad_copy_arg: -10,
  address_too_big: -11,
  eagain: -12,
  no_space: -13,
} as const;
export type GrantStatus = (typeof GrantStatus)[keyof typeof GrantStatus];

const names = new Map<number, string>(Object.entries(GrantStatus).map(([name, value]) => [value, name]));

/** `-9` gives `bad_page`. */
export function grantStatusName(status: number): string {
  return names.get(status) ?? `status ${status}`;
}
