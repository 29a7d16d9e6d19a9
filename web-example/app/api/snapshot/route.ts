// The present state, for a page that has just opened its stream, or was told of a gap.

import { answer } from "@/server/answers";
import { snapshot } from "@/server/board";

export const dynamic = "force-dynamic";

export function GET(request: Request): Promise<Response> {
  return answer(request, ({ team, person }) =>
    Response.json(snapshot(team.id, person.id), { headers: { "Cache-Control": "no-store" } }),
  );
}
