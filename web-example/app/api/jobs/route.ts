// Starts jobs: `{"kind":"build"}`, and `"count"` for several.

import { isKind } from "@/model/events";
import { answer, members, problem } from "@/server/answers";
import { startJob } from "@/server/board";

export function POST(request: Request): Promise<Response> {
  return answer(request, async ({ team, person }) => {
    const { kind, count = 1 } = await members(request);
    if (!isKind(kind)) return problem(422, "`kind` is not one of the board's kinds of job.");
    if (typeof count !== "number" || !Number.isInteger(count) || count < 1 || count > 5) {
      return problem(422, "`count` is 1 to 5.");
    }
    for (let started = 0; started < count; started += 1) {
      const job = startJob(team, person, kind);
      if (typeof job === "string") return problem(429, job, { "Retry-After": "5" });
    }
    return new Response(null, { status: 202 });
  });
}
