/** Bundles the tests and runs them: `npm test`, or `npm test -- wire` for those whose file's name has that word. */
import { spawnSync } from "node:child_process";
import { readdirSync, rmSync } from "node:fs";
import { build } from "esbuild";

const words = process.argv.slice(2);
const names = readdirSync("test").filter((name) => /\.test\.tsx?$/.test(name) && words.every((word) => name.includes(word)));
if (names.length === 0) throw new Error(`no test file has ${words} in its name`);

rmSync("build", { recursive: true, force: true });
await build({
  entryPoints: names.map((name) => `test/${name}`),
  outdir: "build",
  bundle: true,
  packages: "external",
  platform: "node",
  format: "esm",
  outExtension: { ".js": ".mjs" },
  sourcemap: "inline",
});
const files = names.map((name) => `build/${name.replace(/\.tsx?$/, ".mjs")}`);
const { status } = spawnSync(process.execPath, ["--enable-source-maps", "--test", "--test-reporter=spec", ...files], { stdio: "inherit" });
process.exit(status ?? 1);
