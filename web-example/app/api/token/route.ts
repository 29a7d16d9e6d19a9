// A token for the direct route, in a cookie that goes to the bridge: cookies know hosts and not ports, so one that this server
// sets reaches the bridge on the same host. Scripts never see it.

import { cookies } from "next/headers";

import { answer } from "@/server/answers";
import { cookieRules, TOKEN_PATH } from "@/server/session";
import { settings } from "@/server/settings";
import { mintReader } from "@/server/tokens";

export function POST(request: Request): Promise<Response> {
  return answer(request, async ({ team, person }) => {
    const { tokenCookie, tokenTtlSeconds } = settings();
    const token = await mintReader({ userId: person.id, teamId: team.id });
    (await cookies()).set(tokenCookie, token, { ...(await cookieRules()), path: TOKEN_PATH, maxAge: tokenTtlSeconds });
    return new Response(null, { status: 204 });
  });
}
