// Tokens: who is signed in here (a cookie that only this server reads), and what the bridge is shown.

import "server-only";

import { createHmac } from "node:crypto";
import { SignJWT, jwtVerify } from "jose";

import { settings } from "./settings";

export interface Identity {
  userId: string;
  teamId: string;
}

export const SESSION_SECONDS = 8 * 60 * 60;

// Another key than the bridge's: a session is no token for the bridge, and the other way round.
function sessionKey(): Uint8Array {
  return createHmac("sha256", settings().secret).update("board session").digest();
}

function bridgeKey(): Uint8Array {
  return new TextEncoder().encode(settings().secret);
}

export function mintSession({ userId, teamId }: Identity): Promise<string> {
  return new SignJWT({ team: teamId })
    .setProtectedHeader({ alg: "HS256" })
    .setSubject(userId)
    .setIssuedAt()
    .setExpirationTime(`${SESSION_SECONDS}s`)
    .sign(sessionKey());
}

export async function readSession(token: string): Promise<Identity | null> {
  try {
    const { payload } = await jwtVerify(token, sessionKey(), { algorithms: ["HS256"] });
    return payload.sub && typeof payload.team === "string" ? { userId: payload.sub, teamId: payload.team } : null;
  } catch {
    return null; // forged, past, or signed before a restart with a secret that was made up
  }
}

/** What a browser shows the bridge: its user's events and its team's, to read, for some minutes. */
export function mintReader({ userId, teamId }: Identity): Promise<string> {
  return mint(userId, settings().tokenTtlSeconds, { teams: [teamId], permissions: ["events:read"] });
}

/** What this server shows the bridge. It never leaves this server. */
export function mintPublisher(): Promise<string> {
  return mint("board", 60, { permissions: ["events:publish"] });
}

function mint(subject: string, seconds: number, claims: Record<string, string[]>): Promise<string> {
  return new SignJWT(claims)
    .setProtectedHeader({ alg: "HS256", typ: "JWT" })
    .setSubject(subject)
    .setIssuedAt()
    .setExpirationTime(`${seconds}s`)
    .sign(bridgeKey());
}
