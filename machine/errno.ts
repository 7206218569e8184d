// Errnos as a Xen hypercall returns them: negative, with Xen's numbers (xen: public/errno.h).

/** Negative errno values. */
export const Errno = {
  EPERM: -1,
  ENOENT: -2,
  ESRCH: -3,
  EIO: -5,
  ENXIO: -6,
  E2BIG: -7,
  EBADF: -9,
  EAGAIN: -11,
  ENOMEM: -12,
  EACCES: -13,
  EFAULT: -14,
  EBUSY: -16,
  EEXIST: -17,
  EXDEV: -18,
  ENODEV: -19,
  EINVAL: -22,
  ENOSPC: -28,
  ERANGE: -34,
  ENOSYS: -38,
  EILSEQ: -84,
  ERESTART: -85,
  EOPNOTSUPP: -95,
  EADDRINUSE: -98,
  ETIMEDOUT: -110,
} as const;

export type Errno = (typeof Errno)[keyof typeof Errno];

const names = new Map<number, string>(Object.entries(Errno).map(([name, value]) => [value, name]));

/** `-22` gives `EINVAL`; a value that is no errno gives its digits. */
export function errnoName(value: number): string {
  return names.get(value) ?? String(value);
}
