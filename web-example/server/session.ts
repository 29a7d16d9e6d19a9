// Who asks. The session is an HttpOnly cookie: scripts of the page never see it.

import "server-only";

import { cookies, headers } from "next/headers";

import { member, type Person, type Team } from "./accounts";
import { first } from "./forwarded";
import { settings } from "./settings";
import { SESSION_SECONDS, mintSession, readSession } from "./tokens";

const COOKIE = "board_session";

/** Where the cookie goes that holds a token for the bridge: nowhere but to its streams. */
export const TOKEN_PATH = "/events";

export interface Session {
  person: Person;
  team: Team;
}

export async function currentSession(): Promise<Session | null> {
  const token = (await cookies()).get(COOKIE)?.value;
  const identity = token ? await readSession(token) : null;
  return identity && member(identity.teamId, identity.userId);
}

export async function beginSession(session: Session): Promise<void> {
  const token = await mintSession({ userId: session.person.id, teamId: session.team.id });
  (await cookies()).set(COOKIE, token, { ...(await cookieRules()), path: "/", maxAge: SESSION_SECONDS });
}

export async function endSession(): Promise<void> {
  const jar = await cookies();
  jar.delete(COOKIE);
  // What the direct route shows the bridge would be good for some minutes more.
  jar.delete({ name: settings().tokenCookie, path: TOKEN_PATH });
}

/** `Secure` wherever the browser came by TLS, which a proxy in front says in `X-Forwarded-Proto`. */
export async function cookieRules() {
  const secure = first((await headers()).get("x-forwarded-proto")) === "https";
  return { httpOnly: true, sameSite: "lax", secure } as const;
}
