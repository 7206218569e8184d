// After the build of a checkout: puts the package's own command where `npx passthrough` looks first. npm links the
// commands of dependencies only; without this, npx would install the checkout into its cache and build it once more.

import { chmodSync, mkdirSync, rmSync, symlinkSync } from 'node:fs';

// Windows wants shims instead of links. There npx falls back to its cache, which works too.
if (process.platform !== 'win32') {
  const root = new URL('../', import.meta.url);
  const link = new URL('node_modules/.bin/passthrough', root);
  mkdirSync(new URL('./', link), { recursive: true });
  chmodSync(new URL('dist/cli/main.js', root), 0o755);
  rmSync(link, { force: true });
  symlinkSync('../../dist/cli/main.js', link);
}
