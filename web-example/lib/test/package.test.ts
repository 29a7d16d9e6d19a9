/** What goes over the network to every user, and what is published. */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";
import { createElement } from "react";
import { renderToString } from "react-dom/server";
import { useEvents } from "../use-events";

/** An entry as an application's bundler has it, and the packages that it asks for. */
async function bundle(entry: string): Promise<{ bytes: number; packages: string[] }> {
  const { outputFiles, metafile } = await build({
    entryPoints: [entry],
    bundle: true,
    minify: true,
    write: false,
    metafile: true,
    packages: "external",
    format: "esm",
    target: "es2022",
  });
  const imports = Object.values(metafile.outputs).flatMap(({ imports }) => imports.map(({ path }) => path));
  return { bytes: gzipSync(outputFiles[0]!.contents, { level: 9 }).length, packages: imports };
}

test("EventStream, with all that it can do, takes less than 3,000 bytes and needs no package", async (test) => {
  const { bytes, packages } = await bundle("event-stream.ts");
  test.diagnostic(`event-stream.ts: ${bytes} bytes`);
  assert.ok(bytes < 3_000, `${bytes}`);
  assert.deepEqual(packages, []);
});

test("the hook needs React and nothing else, and the native one nothing and little", async (test) => {
  const hook = await bundle("use-events.ts");
  const native = await bundle("native.ts");
  test.diagnostic(`use-events.ts: ${hook.bytes} bytes, native.ts: ${native.bytes} bytes`);
  assert.deepEqual(hook.packages, ["react"]);
  assert.ok(hook.bytes < 3_800, `${hook.bytes}`);
  assert.deepEqual(native.packages, []);
  assert.ok(native.bytes < 1_200, `${native.bytes}`);
});

test("what is published is there, with its types, and loads where there is no browser", async () => {
  execFileSync("npm", ["run", "build"], { stdio: "pipe" });
  const { exports } = JSON.parse(readFileSync("package.json", "utf8")) as { exports: Record<string, Record<string, string>> };
  for (const files of Object.values(exports)) {
    for (const file of Object.values(files)) assert.ok(existsSync(file), file);
  }
  assert.match(readFileSync("dist/use-events.js", "utf8"), /^"use client"/);
  const load = (file: string) => import(pathToFileURL(path.resolve(file)).href);
  const { EventStream } = await load("dist/event-stream.js");
  new EventStream("http://127.0.0.1:1/").close();
  assert.equal(typeof (await load("dist/native.js")).nativeEventStream, "function");
  assert.equal(typeof (await load("dist/use-events.js")).useEvents, "function");
});

test("what is published has its types also where imports are resolved as Node does", () => {
  execFileSync("npm", ["run", "build"], { stdio: "pipe" });
  const consumer = path.resolve("build/consumer");
  const installed = path.join(consumer, "node_modules/@sse-bridge/client");
  mkdirSync(installed, { recursive: true });
  for (const part of ["package.json", "dist"]) cpSync(part, path.join(installed, part), { recursive: true });
  const compilerOptions = { strict: true, noEmit: true, target: "es2022", lib: ["dom", "es2022"], types: [], skipLibCheck: false };
  const lines = [
    'import { EventStream, type State } from "@sse-bridge/client";',
    'import { nativeEventStream } from "@sse-bridge/client/native";',
    'import { useEvents } from "@sse-bridge/client/react";',
    'export const state: State = new EventStream("/events").state;',
    'export const native: string = nativeEventStream("/events").lastEventId;',
    'export const job: number | undefined = useEvents<{ job: number }>("/events").latest.job?.data;',
    // What has no types of its own is anything, and nothing would be wrong with these.
    "// @ts-expect-error",
    'export const noState: number = useEvents("/events").state;',
    "// @ts-expect-error",
    'nativeEventStream("/events", { onEvent: (event) => event.nothing });',
  ];
  writeFileSync(path.join(consumer, "package.json"), '{ "type": "module" }');
  writeFileSync(path.join(consumer, "consumer.ts"), lines.join("\n"));
  for (const module of ["node16", "nodenext"]) {
    writeFileSync(path.join(consumer, "tsconfig.json"), JSON.stringify({ compilerOptions: { ...compilerOptions, module } }));
    const { status, stdout } = spawnSync("npx", ["tsc", "--project", consumer], { encoding: "utf8" });
    assert.equal(status, 0, `${module}: ${stdout}`);
  }
});

test("on the server the hook renders as connecting, where it is told to begin, and makes no connection", () => {
  const Jobs = ({ url }: { url: string | null }) => {
    const { state, lastEventId } = useEvents(url, { lastEventId: "7-00000007" });
    return createElement("p", null, `${state} ${lastEventId}`);
  };
  // The address has no origin, so that a request would fail.
  assert.equal(renderToString(createElement(Jobs, { url: "/events" })), "<p>connecting 7-00000007</p>");
  assert.equal(renderToString(createElement(Jobs, { url: null })), "<p>closed 7-00000007</p>");
});
