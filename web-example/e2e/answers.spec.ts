/** What Chromium's EventSource makes of each answer, and that a page can live with those that the bridge gives. */
import { readFileSync } from "node:fs";
import { get, type IncomingMessage } from "node:http";
import path from "node:path";

import { JWT_SECRET, token } from "./harness/bridge";
import { BROKEN_LINK, expect, test } from "./harness/fixtures";
import { Listener } from "./harness/listener";
import { type Answer } from "./harness/pages";
import { REPOSITORY } from "./harness/run";

/** What Chromium says of an answer that is no stream. */
const REFUSED = /Failed to load resource: the server responded with a status of/;

test("any answer but a 200 of the right type ends an EventSource for good, and an end or no answer does not", async ({
  page,
  pages,
  expectComplaints,
}) => {
  expectComplaints(REFUSED, BROKEN_LINK, /EventSource's response has a MIME type/);
  const asked = new Map<string, number>();
  const counted = (answer: Answer): Answer => {
    return (request, response) => {
      asked.set(request.url ?? "", (asked.get(request.url ?? "") ?? 0) + 1);
      answer(request, response);
    };
  };
  const stream = { "Content-Type": "text/event-stream" };
  const refusals = [204, 205, 400, 401, 403, 404, 405, 406, 429, 500, 502, 503];
  const fatal: Record<string, Answer> = {
    "/page": (_, response) => response.writeHead(200, { "Content-Type": "text/html" }).end("data: 1\n\n"),
  };
  for (const status of refusals) {
    fatal[`/${status}`] = (_, response) => response.writeHead(status, { ...stream, "Retry-After": "0" }).end();
  }
  const passing: Record<string, Answer> = {
    "/ends": (_, response) => response.writeHead(200, stream).end("retry: 10\n\n"),
    "/breaks": (_, response) => response.writeHead(200, stream).write("retry: 10\n\n", () => response.destroy()),
  };
  const answers = Object.fromEntries(Object.entries({ ...fatal, ...passing }).map(([url, answer]) => [url, counted(answer)]));
  const server = await pages(answers);
  await page.goto(server.origin);

  const returning = await Promise.all(Object.keys(passing).map((url) => Listener.open(page, url)));
  for (const url of Object.keys(fatal)) {
    const listener = await Listener.open(page, url);
    await expect.poll(() => listener.state(), url).toBe("closed");
    expect(await listener.counts(), url).toEqual({ opened: 0, failed: 1 });
  }
  for (const url of Object.keys(passing)) await expect.poll(() => asked.get(url), url).toBeGreaterThan(2);
  for (const listener of returning) await listener.close();
  // While those came back again and again, these asked once.
  for (const url of Object.keys(fatal)) expect(asked.get(url), url).toBe(1);
});

test("a page without a login learns by a 401 what is wrong, and goes on where it was once it has one", async ({
  page,
  context,
  serve,
  produce,
  expectComplaints,
}) => {
  expectComplaints(REFUSED);
  const bridge = await serve({ AUTH_MODE: "jwt", AUTH_JWT_SECRET: JWT_SECRET, AUTH_COOKIE: "events", AUTH_LEEWAY_SECONDS: "0" });
  const producer = await produce();
  const signIn = (claims: Record<string, unknown>) =>
    context.addCookies([{ name: "events", value: token({ sub: "42", teams: ["7"], ...claims }), url: bridge.origin, httpOnly: true }]);
  await page.goto(`${bridge.origin}/healthz`);

  const anonymous = await Listener.open(page, bridge.events());
  await expect.poll(() => anonymous.state()).toBe("closed");
  const answer = await page.evaluate(async () => {
    const response = await fetch("/events", { headers: { Accept: "text/event-stream" } });
    return { status: response.status, type: response.headers.get("Content-Type"), problem: (await response.json()) as unknown };
  });
  expect(answer).toMatchObject({ status: 401, type: "application/problem+json", problem: { status: 401 } });

  // A token that ends soon: the page is told before and when it ends, and what it tries then is a 401.
  await signIn({ exp: Math.floor(Date.now() / 1000) + 12 });
  const short = await Listener.open(page, bridge.events(), { events: ["bridge.expiring", "bridge.bye"] });
  await expect.poll(async () => (await short.messages()).map(({ type }) => type)).toEqual(["bridge.expiring"]);
  await producer.publish("team.7.note", "first");
  await expect.poll(() => short.state()).toBe("closed");
  expect(await short.bodies()).toEqual([{}, "first", { reason: "expired" }]);
  const lastEventId = (await short.messages())[1]?.lastEventId ?? "";

  await producer.publish("team.7.note", "second");
  await signIn({});
  const again = await Listener.open(page, bridge.events(`last_event_id=${lastEventId}`));
  await expect.poll(() => again.bodies()).toEqual(["second"]);
});

test("who asks for what its token does not grant gives up for good, and is told which audience it was", async ({
  page,
  context,
  serve,
  expectComplaints,
}) => {
  expectComplaints(REFUSED);
  const bridge = await serve({ AUTH_MODE: "jwt", AUTH_JWT_SECRET: JWT_SECRET, AUTH_COOKIE: "events" });
  await context.addCookies([{ name: "events", value: token({ sub: "42", teams: ["7"] }), url: bridge.origin, httpOnly: true }]);
  await page.goto(`${bridge.origin}/healthz`);
  for (const [query, status] of [
    ["team_id=8", 403],
    ["team_id=7&user_id=43", 403],
    ["all=true", 403],
    ["team=7", 400],
  ] as const) {
    const listener = await Listener.open(page, bridge.events(query));
    await expect.poll(() => listener.state(), query).toBe("closed");
    const problem = await page.evaluate(async (url) => {
      const response = await fetch(url, { headers: { Accept: "text/event-stream" } });
      return { status: response.status, ...((await response.json()) as { detail: string }) };
    }, bridge.events(query));
    expect(problem.status, query).toBe(status);
    expect(problem.detail, query).toMatch(/\w+/);
  }
});

test("README's script comes back after a 503 with its last id, and nothing is missing", async ({
  page,
  serve,
  produce,
  pages,
  link,
  expectComplaints,
}) => {
  expectComplaints(REFUSED, BROKEN_LINK);
  const elsewhere = await pages();
  const bridge = await serve({ HTTP_CORS_ORIGINS: elsewhere.origin, HTTP_MAX_CONNECTIONS: "1" });
  const producer = await produce();
  const cable = await link(bridge.port);
  await page.clock.install();
  await page.goto(elsewhere.origin);
  await page.evaluate(() => {
    const shown: unknown[] = [];
    const waits: unknown[] = [];
    const { setTimeout } = window;
    Object.assign(window, {
      shown,
      show: (body: unknown) => shown.push(body),
      reload: () => shown.push("reload"),
      waits,
      setTimeout: (...timer: Parameters<typeof setTimeout>) => {
        waits.push(timer[1]);
        return setTimeout(...timer);
      },
    });
  });
  await page.addScriptTag({ content: readmeScript().replace("https://events.example.com", cable.origin) });
  const shown = () => page.evaluate(() => (window as unknown as { shown: unknown[] }).shown);
  const waits = () => page.evaluate(() => (window as unknown as { waits: unknown[] }).waits);
  await expect.poll(() => bridge.connections()).toBe(1);
  await producer.publishNumbers("team.7.note", 1, 3);
  await expect.poll(shown).toEqual([1, 2, 3]);
  await page.clock.pauseAt(await page.evaluate(() => Date.now() + 10_000));

  // Somebody else takes the only place while the page's link is down, so that the page finds none when the link is back.
  await cable.refuse();
  // On a connection of its own: one that is kept for later takes a place too, until after the page has come back by itself.
  const ask = () => new Promise<IncomingMessage>((resolve, reject) => get(bridge.events("team_id=8"), { agent: false }, resolve).on("error", reject));
  let somebody = await ask();
  await expect
    .poll(async () => {
      if (somebody.statusCode === 200) return 200;
      somebody.destroy();
      somebody = await ask();
      return somebody.statusCode;
    })
    .toBe(200);
  await producer.publishNumbers("team.7.note", 4, 6);
  await cable.accept();
  await expect.poll(() => cable.passages.some(({ answered }) => /^HTTP\/1.1 503 .*\r\nretry-after: \d+\r\n/is.test(answered))).toBe(true);
  // The script has been told, and waits; its time stands still until there is room.
  await expect.poll(waits).toEqual([5000]);
  somebody.destroy();
  await expect.poll(() => bridge.metric("sse_bridge_sockets")).toBe(0);

  await page.clock.fastForward("00:05");
  await expect.poll(shown).toEqual([1, 2, 3, 4, 5, 6]);
});

/** The script of README's "Errors", as a page would have it. */
function readmeScript(): string {
  const readme = readFileSync(path.join(REPOSITORY, "README.md"), "utf8");
  const script = [...readme.matchAll(/```javascript\n(.*?)```/gs)].map(([, text]) => text ?? "").find((text) => text.includes("new EventSource"));
  if (!script) throw new Error("README has no script with an EventSource");
  return script;
}
