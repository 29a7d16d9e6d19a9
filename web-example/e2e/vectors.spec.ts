/** The vectors that the encoder and the clients are tested with are what Chromium makes of those bytes. */
import { readFileSync } from "node:fs";
import path from "node:path";

import { expect, test } from "./harness/fixtures";
import { Listener, type Message } from "./harness/listener";
import { type Answer } from "./harness/pages";
import { REPOSITORY } from "./harness/run";

interface Vector {
  name: string;
  wire: string;
  messages: Message[];
  lastEventId: string;
  retry: number | null;
}

const VECTORS = JSON.parse(readFileSync(path.join(REPOSITORY, "tests/vectors/sse/streams.json"), "utf8")) as Vector[];

test("Chromium dispatches the messages of each vector, and comes back with its last event id", async ({ page, pages }) => {
  const returned = new Map<string, string>();
  const answer = (wire: string): Answer => {
    let asked = 0;
    return (request, response) => {
      asked += 1;
      // 204 ends an EventSource; an end of the first answer has it come back, saying where it is.
      if (asked > 1) {
        returned.set(request.url ?? "", String(request.headers["last-event-id"] ?? ""));
        response.writeHead(204).end();
        return;
      }
      response.writeHead(200, { "Content-Type": "text/event-stream" }).end(wire);
    };
  };
  const server = await pages(Object.fromEntries(VECTORS.map(({ wire }, number) => [`/${number}`, answer(wire)])));
  await page.goto(server.origin);
  const listeners = await Promise.all(
    VECTORS.map(({ messages }, number) => Listener.open(page, `/${number}`, { events: namesOf(messages) })),
  );
  for (const [number, { name, messages, lastEventId }] of VECTORS.entries()) {
    await expect.poll(() => returned.get(`/${number}`), name).toBe(lastEventId);
    expect(await listeners[number]?.messages(), name).toEqual(messages);
  }
});

function namesOf(messages: Message[]): string[] {
  return [...new Set(messages.map(({ type }) => type))].filter((type) => type !== "message");
}
