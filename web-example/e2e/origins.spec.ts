/** Pages of the bridge's own origin, of one that it was told of, and of others: who may listen, and with whose login. */
import { JWT_SECRET, token, type Bridge } from "./harness/bridge";
import { expect, test } from "./harness/fixtures";
import { Listener } from "./harness/listener";
import { header } from "./harness/link";
import { type BrowserContext } from "@playwright/test";

/** What Chromium says of an answer that a page may not read, and of one that is an error. */
const REFUSED = /blocked by CORS policy|net::ERR_FAILED|the server responded with a status of/;

const WITH_LOGIN = { AUTH_MODE: "jwt", AUTH_JWT_SECRET: JWT_SECRET, AUTH_COOKIE: "events" };

/** Signs user 42 of team 7 in, with a cookie that no script can read. */
async function signIn(context: BrowserContext, bridge: Bridge): Promise<void> {
  const value = token({ sub: "42", teams: ["7"] });
  await context.addCookies([{ name: "events", value, url: bridge.origin, httpOnly: true, sameSite: "Lax" }]);
}

test("a page of the bridge's own origin listens by its cookie, which it cannot read", async ({ page, context, serve, produce }) => {
  const bridge = await serve(WITH_LOGIN);
  const producer = await produce();
  await signIn(context, bridge);
  await page.goto(`${bridge.origin}/healthz`);
  const listener = await Listener.open(page, bridge.events());
  await expect.poll(() => listener.state()).toBe("open");
  await producer.publish("team.8.note", "of another team");
  await producer.publish("user.43.note", "of another user");
  await producer.publish("team.7.note", "of my team");
  await producer.publish("user.42.note", "mine");
  await producer.publish("broadcast.all", "everybody's");
  await expect.poll(() => listener.bodies()).toEqual(["of my team", "mine", "everybody's"]);
  expect(await page.evaluate(() => document.cookie)).toBe("");
});

test("a page of a named origin listens by its cookie if it asks with credentials, and not without", async ({
  page,
  context,
  serve,
  produce,
  pages,
  expectComplaints,
}) => {
  expectComplaints(REFUSED);
  const named = await pages();
  const bridge = await serve({ ...WITH_LOGIN, HTTP_CORS_ORIGINS: named.origin });
  const producer = await produce();
  await signIn(context, bridge);
  await page.goto(named.origin);
  const without = await Listener.open(page, bridge.events());
  await expect.poll(() => without.state()).toBe("closed");
  const listener = await Listener.open(page, bridge.events(), { withCredentials: true });
  await expect.poll(() => listener.state()).toBe("open");
  await producer.publish("user.42.note", "mine");
  await expect.poll(() => listener.bodies()).toEqual(["mine"]);
});

test("a page of another origin gets nothing, with or without the visitor's cookie", async ({
  page,
  context,
  serve,
  pages,
  link,
  expectComplaints,
}) => {
  expectComplaints(REFUSED);
  const [named, other] = [await pages(), await pages()];
  const bridge = await serve({ ...WITH_LOGIN, HTTP_CORS_ORIGINS: named.origin });
  const cable = await link(bridge.port);
  await signIn(context, bridge);
  await page.goto(other.origin);
  for (const withCredentials of [false, true]) {
    const listener = await Listener.open(page, `${cable.origin}/events`, { withCredentials });
    await expect.poll(() => listener.state()).toBe("closed");
    expect(await listener.counts()).toEqual({ opened: 0, failed: 1 });
  }
  // Not only that the page may not read it: nothing was streamed, though the cookie came along the second time.
  expect(cable.statuses()).toEqual([401, 403]);
  expect(cable.requests().map((head) => header(head, "Cookie") !== undefined)).toEqual([false, true]);
});

test("a page of another site cannot use the visitor's cookie, even where its origin is named", async ({
  page,
  context,
  serve,
  pages,
  link,
  expectComplaints,
}) => {
  expectComplaints(REFUSED);
  const named = await pages();
  // Another site, not only another origin: "localhost" and "127.0.0.1" share no registrable domain.
  const origin = `http://localhost:${named.port}`;
  const bridge = await serve({ ...WITH_LOGIN, HTTP_CORS_ORIGINS: origin });
  const cable = await link(bridge.port);
  await signIn(context, bridge);
  await page.goto(origin);
  const listener = await Listener.open(page, `${cable.origin}/events`, { withCredentials: true });
  await expect.poll(() => listener.state()).toBe("closed");
  expect(cable.statuses()).toEqual([401]);
  expect(cable.requests().map((head) => header(head, "Cookie"))).toEqual([undefined]);
});

test("where every origin may read, a page listens without credentials, and Chromium refuses it with them", async ({
  page,
  serve,
  produce,
  pages,
  expectComplaints,
}) => {
  expectComplaints(REFUSED);
  const other = await pages();
  const bridge = await serve({ HTTP_CORS_ORIGINS: "*" });
  const producer = await produce();
  await page.goto(other.origin);
  const withCredentials = await Listener.open(page, bridge.events("team_id=7"), { withCredentials: true });
  await expect.poll(() => withCredentials.state()).toBe("closed");
  const listener = await Listener.open(page, bridge.events("team_id=7"));
  await expect.poll(() => listener.state()).toBe("open");
  await producer.publish("team.7.note", "for all pages");
  await expect.poll(() => listener.bodies()).toEqual(["for all pages"]);
});

test("a page that sends its token and its last id as headers is let through the preflight of a named origin only", async ({
  page,
  serve,
  produce,
  pages,
  expectComplaints,
}) => {
  expectComplaints(REFUSED);
  const [named, other] = [await pages(), await pages()];
  const bridge = await serve({ ...WITH_LOGIN, HTTP_CORS_ORIGINS: named.origin });
  const producer = await produce();
  await producer.publishNumbers("team.7.note", 1, 2);
  /** What a page reads of the stream up to some text; or why it could not. */
  const read = ({ url, token, upTo }: { url: string; token: string; upTo: string }) =>
    fetch(url, { headers: { Authorization: `Bearer ${token}`, "Last-Event-ID": "no-such-id" } }).then(
      async (response) => {
        const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
        let text = "";
        while (!text.includes(upTo)) text += (await reader.read()).value ?? "";
        await reader.cancel();
        return text;
      },
      (error: unknown) => String(error),
    );
  const asked = { url: bridge.events(), token: token({ sub: "42", teams: ["7"] }), upTo: "data: 2\n\n" };
  await page.goto(named.origin);
  expect(await page.evaluate(read, asked)).toMatch(/event: bridge\.gap\n.*data: 1\n\n.*data: 2\n\n/s);
  await page.goto(other.origin);
  expect(await page.evaluate(read, asked)).toBe("TypeError: Failed to fetch");
});
