// Tells the team something: `{"text":"…"}`.

import { answer, members, problem } from "@/server/answers";
import { postNotice } from "@/server/board";

const MAX_CHARACTERS = 200;

export function POST(request: Request): Promise<Response> {
  return answer(request, async ({ team, person }) => {
    const { text } = await members(request);
    const said = typeof text === "string" ? text.trim() : "";
    if (said === "" || said.length > MAX_CHARACTERS) return problem(422, `A notice has 1 to ${MAX_CHARACTERS} characters.`);
    postNotice(team, person.name, said);
    return new Response(null, { status: 202 });
  });
}
