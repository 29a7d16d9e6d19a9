// What the routes for scripts have in common: problem details (RFC 9457), and who may ask.

import "server-only";

import { currentSession, type Session } from "./session";

export function problem(status: number, detail: string, headers: HeadersInit = {}): Response {
  return new Response(JSON.stringify({ status, detail }), {
    status,
    headers: { "Cache-Control": "no-store", ...Object.fromEntries(new Headers(headers)), "Content-Type": "application/problem+json" },
  });
}

/** Answers a signed-in person's request. One that changes something must come from a page of this origin. */
export async function answer(request: Request, to: (session: Session) => Response | Promise<Response>): Promise<Response> {
  const site = request.headers.get("sec-fetch-site");
  if (request.method !== "GET" && site !== null && site !== "same-origin") {
    return problem(403, "This is for pages of this origin.");
  }
  const session = await currentSession();
  return session ? to(session) : problem(401, "Sign in first.");
}

/** The members of a JSON body, or nothing where it is none. */
export async function members(request: Request): Promise<Record<string, unknown>> {
  const body: unknown = await request.json().catch(() => null);
  return typeof body === "object" && body !== null ? (body as Record<string, unknown>) : {};
}
