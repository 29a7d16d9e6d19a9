/** Makes `dist`, which is what is published: `npm run build`. */
import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { build } from "esbuild";

rmSync("dist", { recursive: true, force: true });
execFileSync("npx", ["tsc", "--project", "tsconfig.build.json"], { stdio: "inherit" });
// Where imports are resolved as Node does they need an extension, and the sources have none: copied into an application they
// are resolved by its bundler, of which not every one finds `x.ts` behind `x.js`.
for (const name of readdirSync("dist")) {
  const types = readFileSync(`dist/${name}`, "utf8");
  writeFileSync(`dist/${name}`, types.replace(/(from |import\()"(\.\/[\w-]+)"/g, '$1"$2.js"'));
}
await build({
  entryPoints: ["event-stream.ts", "native.ts", "use-events.ts"],
  bundle: true,
  splitting: true,
  packages: "external",
  format: "esm",
  target: "es2022",
  outdir: "dist",
});
