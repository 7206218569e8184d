import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['tests/**/*.test.ts'],
    setupFiles: ['tests/seed.ts'],
    testTimeout: 60_000,
    maxWorkers: 2,
    // No module keeps state between tests, so that files can share what they import.
    isolate: false,
  },
});
