/** How the browser tests run: Debian's Chromium without a window, against the real bridge and a real RabbitMQ. */
import { defineConfig } from "@playwright/test";

export default defineConfig({
  testDir: "e2e",
  // The repository's own folder for what is made, so that nothing is left among the sources.
  outputDir: "../target/browser-tests",
  globalSetup: "./e2e/global-setup.ts",
  reporter: "list",
  forbidOnly: true,
  retries: 0,
  workers: 2,
  fullyParallel: false,
  timeout: 60_000,
  expect: { timeout: 20_000 },
  use: {
    launchOptions: { executablePath: process.env["CHROMIUM"] ?? "/usr/bin/chromium" },
    actionTimeout: 20_000,
    screenshot: "only-on-failure",
  },
});
