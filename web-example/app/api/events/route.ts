// The stream of the page's own origin: passes the bridge's answer through as it comes. What a person may read is decided here
// from the session, and by the bridge from the token; the query only narrows it.

import { answer, problem } from "@/server/answers";
import { settings } from "@/server/settings";
import type { Session } from "@/server/session";
import { mintReader } from "@/server/tokens";

export const dynamic = "force-dynamic";

/** What would widen a stream beyond the session; `sse-bridge dev`, which has no login, would believe it. */
const REFUSED = ["all", "tenant_id", "channel", "access_token"];

/** What of the bridge's answer is for the browser; the rest is between this server and the bridge. */
const PASSED_ON = ["content-type", "cache-control", "retry-after", "x-accel-buffering", "x-content-type-options"];

export function GET(request: Request): Promise<Response> {
  return answer(request, (session) => stream(request, session));
}

async function stream(request: Request, session: Session): Promise<Response> {
  const target = new URL("/events", settings().bridgeUrl);
  target.search = new URL(request.url).search;
  const refusal = narrowed(target.searchParams, session);
  if (refusal) return refusal;

  const headers = new Headers({
    Accept: "text/event-stream",
    Authorization: `Bearer ${await mintReader({ userId: session.person.id, teamId: session.team.id })}`,
  });
  const lastEventId = request.headers.get("last-event-id");
  if (lastEventId) headers.set("Last-Event-ID", lastEventId);

  try {
    // Aborts with the browser's request: no stream outlives its page.
    const upstream = await fetch(target, { headers, signal: request.signal, cache: "no-store", redirect: "error" });
    const passedOn = new Headers();
    for (const name of PASSED_ON) {
      const value = upstream.headers.get(name);
      if (value !== null) passedOn.set(name, value);
    }
    return new Response(upstream.body, { status: upstream.status, headers: passedOn });
  } catch (error) {
    if (!request.signal.aborted) console.error(`The bridge cannot be reached at ${target.origin}: ${reason(error)}`);
    return problem(503, "The bridge cannot be reached. It is tried again.", { "Retry-After": "2" });
  }
}

/** The cause that `fetch` hides behind "fetch failed". */
function reason(error: unknown): unknown {
  const cause = error instanceof Error ? error.cause : undefined;
  return cause instanceof Error && cause.message !== "" ? cause.message : ((cause as { code?: string })?.code ?? error);
}

/** Leaves no audience but the session's own in the query, or answers why it will not. */
function narrowed(query: URLSearchParams, { person, team }: Session): Response | null {
  const refused = REFUSED.find((name) => query.has(name));
  if (refused) return problem(403, `\`${refused}\` is not for you to say here.`);
  if (query.getAll("user_id").some((id) => id !== person.id)) return problem(403, "That is another person.");
  if (query.getAll("team_id").some((id) => id !== team.id)) return problem(403, `You are signed in to ${team.name}.`);
  if (!query.has("user_id") && !query.has("team_id")) {
    query.append("user_id", person.id);
    query.append("team_id", team.id);
  }
  return null;
}
