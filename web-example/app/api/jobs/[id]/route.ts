// One job: `{"action":"retry"}` or `{"action":"cancel"}`.

import { answer, members, problem } from "@/server/answers";
import { cancelJob, retryJob } from "@/server/board";

export function POST(request: Request, { params }: { params: Promise<{ id: string }> }): Promise<Response> {
  return answer(request, async ({ team, person }) => {
    const { action } = await members(request);
    if (action !== "retry" && action !== "cancel") return problem(422, "`action` is `retry` or `cancel`.");
    const id = Number((await params).id);
    const job = action === "retry" ? retryJob(team, person, id) : cancelJob(team, person, id);
    return typeof job === "string" ? problem(409, job) : new Response(null, { status: 202 });
  });
}
