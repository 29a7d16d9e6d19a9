// What the environment says, read once and judged at the first request.

import "server-only";

import { randomBytes } from "node:crypto";

function url(name: string, fallback: string): URL {
  const value = process.env[name] || fallback;
  if (!URL.canParse(value)) throw new Error(`${name} is not a URL: ${value}`);
  return new URL(value);
}

function secret(): string {
  const given = process.env.AUTH_JWT_SECRET;
  if (!given) return randomBytes(32).toString("hex");
  if (Buffer.byteLength(given) < 32) throw new Error("AUTH_JWT_SECRET has fewer than 32 bytes: openssl rand -hex 32");
  return given;
}

function seconds(name: string, fallback: number, least: number): number {
  const value = Number(process.env[name] || fallback);
  if (!Number.isInteger(value) || value < least) throw new Error(`${name} is not a whole number of at least ${least}`);
  return value;
}

function read() {
  return {
    bridgeUrl: url("BRIDGE_URL", "http://127.0.0.1:8080"),
    bridgePublicUrl: process.env.BRIDGE_PUBLIC_URL ? url("BRIDGE_PUBLIC_URL", "") : null,
    secret: secret(),
    tokenCookie: process.env.AUTH_COOKIE || "board_token",
    // The bridge warns 30 seconds before a token ends: a shorter one would be renewed all the time.
    tokenTtlSeconds: seconds("TOKEN_TTL_SECONDS", 300, 35),
  };
}

// Next.js bundles each route by itself and reloads them in development: what the process has once lives on `globalThis`.
const here = globalThis as { boardSettings?: ReturnType<typeof read> };

export function settings() {
  return (here.boardSettings ??= read());
}
