/** What goes over the network to every user, and what is published. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
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

test("on the server the hook renders as connecting, where it is told to begin, and makes no connection", () => {
  const Jobs = ({ url }: { url: string | null }) => {
    const { state, lastEventId } = useEvents(url, { lastEventId: "7-00000007" });
    return createElement("p", null, `${state} ${lastEventId}`);
  };
  // The address has no origin, so that a request would fail.
  assert.equal(renderToString(createElement(Jobs, { url: "/events" })), "<p>connecting 7-00000007</p>");
  assert.equal(renderToString(createElement(Jobs, { url: null })), "<p>closed 7-00000007</p>");
});
