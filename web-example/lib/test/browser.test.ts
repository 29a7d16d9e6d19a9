/** In a real Chromium, against the real bridge: one connection for all tabs, pausing, the React hook, the native EventSource. */
import assert from "node:assert/strict";
import { createServer, type IncomingMessage, request, type ServerResponse } from "node:http";
import { after, before, type TestContext, test } from "node:test";
import { build } from "esbuild";
import { type Browser, type BrowserContext, chromium, type Page } from "playwright-core";
import type { Options } from "../event-stream";
import type { NativeOptions } from "../native";
import { Bridge, until } from "./harness";
import type { Said } from "./page";

const SHARE = "user-42";
const SILENCE_MS = 2_500;

let browser: Browser;
let script: string;

before(async () => {
  const bundle = await build({
    entryPoints: ["test/page.tsx"],
    bundle: true,
    write: false,
    format: "esm",
    jsx: "automatic",
    define: { "process.env.NODE_ENV": '"development"' },
  });
  script = bundle.outputFiles[0]!.text;
  browser = await chromium.launch({
    executablePath: process.env["CHROMIUM"] ?? "/usr/bin/chromium",
    args: process.getuid?.() === 0 ? ["--no-sandbox"] : [],
  });
});

after(() => browser.close());

/** An origin with the page, and before the bridge: what it asks for there passes through, so that it can be counted and refused. */
class Site {
  readonly bridge: Bridge;
  readonly context: BrowserContext;
  /** The ids that requests for a stream bore, `""` for none. */
  readonly asked: string[] = [];
  /** How many streams are open now. */
  open = 0;
  /** The answers to `/burst`, streams that the tests write. */
  readonly bursts: ServerResponse[] = [];
  /** What the next requests for a stream are answered, in place of the bridge. */
  refusals: number[] = [];
  #origin = "";

  private constructor(bridge: Bridge, context: BrowserContext) {
    this.bridge = bridge;
    this.context = context;
  }

  static async start(test: TestContext, heartbeatSeconds = 1): Promise<Site> {
    const site = new Site(await Bridge.dev(test, { SSE_HEARTBEAT_SECONDS: `${heartbeatSeconds}` }), await browser.newContext());
    const server = createServer((asked, answer) => site.#answer(asked, answer));
    server.listen(0, "127.0.0.1");
    await until(() => server.listening, "the site listens");
    const address = server.address();
    assert.ok(address && typeof address === "object");
    site.#origin = `http://127.0.0.1:${address.port}`;
    test.after(async () => {
      await site.context.close();
      server.closeAllConnections();
      server.close();
    });
    return site;
  }

  #answer(asked: IncomingMessage, answer: ServerResponse): void {
    const url = new URL(asked.url ?? "/", this.#origin);
    // For a page without an origin everything is another origin's.
    answer.setHeader("Access-Control-Allow-Origin", "*");
    if (url.pathname === "/sandbox") answer.setHeader("Content-Security-Policy", "sandbox allow-scripts");
    if (url.pathname === "/client.js") return void answer.setHeader("Content-Type", "text/javascript").end(script);
    if (url.pathname === "/burst") {
      this.asked.push(asked.headers["last-event-id"]?.toString() ?? "");
      answer.writeHead(200, { "Content-Type": "text/event-stream" }).flushHeaders();
      return void this.bursts.push(answer);
    }
    if (url.pathname !== "/events") {
      return void answer.setHeader("Content-Type", "text/html").end('<!doctype html><script type="module" src="/client.js"></script>');
    }
    this.asked.push(asked.headers["last-event-id"]?.toString() ?? url.searchParams.get("last_event_id") ?? "");
    const refusal = this.refusals.shift();
    if (refusal) return void answer.writeHead(refusal).end();
    this.open += 1;
    const upstream = request({ port: this.bridge.port, path: asked.url, headers: asked.headers }, (from) => {
      answer.writeHead(from.statusCode ?? 502, from.headers);
      from.on("error", () => answer.destroy()).pipe(answer);
    });
    upstream.on("error", () => answer.destroy()).end();
    answer.on("close", () => {
      this.open -= 1;
      upstream.destroy();
    });
  }

  async tab(path = "/"): Promise<Tab> {
    const page = await this.context.newPage();
    // Its load event comes after its module.
    await page.goto(this.#origin + path);
    return new Tab(page);
  }

  /** A tab whose stream is shared, once it is open and knows where it is. */
  async shared(options: Options = {}): Promise<Tab> {
    const tab = await this.tab();
    await tab.open({ share: SHARE, ...options });
    await tab.is("open");
    await until(() => tab.lastEventId(), "an id");
    return tab;
  }

  async publish(from: number, to: number): Promise<void> {
    for (let number = from; number < to; number += 1) await this.bridge.publish(number);
  }
}

class Tab {
  readonly page: Page;

  constructor(page: Page) {
    this.page = page;
  }

  open(options: Options = {}): Promise<void> {
    return this.page.evaluate((options) => client.open("/events?team_id=7", options), options);
  }

  openNative(options: NativeOptions = {}): Promise<void> {
    return this.page.evaluate((options) => client.openNative("/events?team_id=7", options), options);
  }

  /** What the component has rendered. */
  async shown(): Promise<Record<string, any>> {
    return JSON.parse((await this.page.textContent("output"))!);
  }

  said(): Promise<Said> {
    return this.page.evaluate(() => client.said);
  }

  lastEventId(): Promise<string> {
    return this.page.evaluate(() => (client.stream ?? client.native)!.lastEventId);
  }

  async is(state: string): Promise<void> {
    await until(() => this.page.evaluate(() => (client.stream ?? client.native)!.state).then((now) => now === state), state);
  }

  /** Exactly these numbers, each once and in order, no gap, and no error on the page. */
  async has(from: number, to: number): Promise<void> {
    const wanted = Array.from({ length: to - from }, (_, number) => from + number);
    let said = await this.said();
    try {
      await until(async () => (said = await this.said()).events.length >= wanted.length, "events");
    } finally {
      assert.deepEqual(said.events.map(Number), wanted);
    }
    assert.deepEqual([said.gaps, said.errors], [[], []]);
  }
}

test("tabs share one connection: one leads, all get every event once", async (test) => {
  const site = await Site.start(test);
  const tabs = [await site.shared(), await site.shared(), await site.shared()];
  await site.publish(0, 50);
  for (const tab of tabs) await tab.has(0, 50);
  assert.deepEqual(site.asked, [""]);
  const ids = await Promise.all(tabs.map((tab) => tab.lastEventId()));
  assert.equal(new Set(ids).size, 1);
  // Another name is another stream.
  await site.shared({ share: "user-43" });
  assert.equal(site.open, 2);
});

test("the leader closes its stream, and the next its tab: another takes over with nothing missing and nothing twice", async (test) => {
  const site = await Site.start(test);
  const [first, second, third, fourth] = [await site.shared(), await site.shared(), await site.shared(), await site.shared()];
  const traffic = site.publish(0, 300);
  await until(async () => (await third.said()).events.length > 60, "some events");
  await first.page.evaluate(() => client.stream!.close());
  await until(async () => (await third.said()).events.length > 160, "some more");
  await second.page.close();
  await traffic;
  await third.has(0, 300);
  await fourth.has(0, 300);
  // All may have come before the second was closed: then nothing above waits for who follows it.
  await until(() => site.asked.length >= 3 && site.open === 1, () => `one connection, the third, of ${site.asked}`);
});

test("a leader that crashes is followed by another, where it was", async (test) => {
  const site = await Site.start(test);
  const first = await site.shared();
  const second = await site.shared();
  await site.publish(0, 5);
  await second.has(0, 5);
  const traffic = site.publish(5, 100);
  void first.page.goto("chrome://crash").catch(() => {});
  await traffic;
  await second.has(0, 100);
});

test("a leader that says nothing any more, as a page that hangs, is replaced, and follows once it is back", async (test) => {
  const site = await Site.start(test);
  const first = await site.shared({ silenceMs: SILENCE_MS });
  const second = await site.shared({ silenceMs: SILENCE_MS });
  await site.publish(0, 5);
  await second.has(0, 5);
  const devTools = await site.context.newCDPSession(first.page);
  await devTools.send("Debugger.enable");
  const asked = site.asked.length;
  await devTools.send("Debugger.pause");
  await until(() => site.asked.length > asked, "the second connects");
  await site.publish(5, 10);
  await second.has(0, 10);
  await devTools.send("Debugger.resume");
  await site.publish(10, 15);
  await second.has(0, 15);
  await first.has(0, 15);
  await until(() => site.open === 1, "one connection");
});

test("a tab that opens late gets what comes from then on, and knows where that is", async (test) => {
  const site = await Site.start(test);
  const first = await site.shared();
  await site.publish(0, 5);
  await first.has(0, 5);
  const late = await site.shared();
  assert.equal(await late.lastEventId(), await first.lastEventId());
  await site.publish(5, 10);
  await late.has(5, 10);
  await first.has(0, 10);
  assert.equal(site.asked.length, 1);
});

test("a tab that opens late with an older id catches up by itself, and then follows", async (test) => {
  const site = await Site.start(test);
  const first = await site.shared();
  const lastEventId = await first.lastEventId();
  await site.publish(0, 20);
  await first.has(0, 20);
  const late = await site.shared({ lastEventId });
  await site.publish(20, 40);
  await late.has(0, 40);
  await first.has(0, 40);
  await until(() => site.open === 1, "it follows");
  assert.deepEqual(site.asked, ["", lastEventId]);
  await site.publish(40, 45);
  await late.has(0, 45);
  assert.equal(site.open, 1);
});

test("a tab with an id of another time is told of a gap, and the others are not", async (test) => {
  const site = await Site.start(test);
  const first = await site.shared();
  await site.publish(0, 5);
  await first.has(0, 5);
  const late = await site.shared({ lastEventId: "999999-0badbeef" });
  await until(async () => (await late.said()).gaps.length, "the gap");
  await until(() => site.open === 1, "it follows");
  await site.publish(5, 10);
  await first.has(0, 10);
  await until(async () => (await late.said()).events.at(-1) === "9", "the last one, by way of the first tab");
  const said = await late.said();
  assert.deepEqual(said.gaps, ["unknown"]);
  assert.deepEqual(said.events.slice(-5).map(Number), [5, 6, 7, 8, 9]);
});

test("news that does not follow what a tab has seen is not taken: it asks the bridge", async (test) => {
  const site = await Site.start(test);
  const first = await site.shared();
  const second = await site.shared();
  await site.publish(0, 5);
  await second.has(0, 5);
  const other = await site.tab();
  const tell = (after: string, id: string) =>
    other.page.evaluate(
      ([name, after, id]) => {
        const news = { blocks: [{ id, type: "message", data: "99" }], after, state: "open", detail: { attempt: 0 } };
        new BroadcastChannel(name!).postMessage(news);
      },
      [`${SHARE} /events?team_id=7`, after, id],
    );
  // What it has seen already, from a leader of before.
  await tell("0-00000000", "1-00000000");
  for (const after of ["", "unknown", "900000-00000000"]) {
    const asked = site.asked.length;
    await tell(after, "900001-00000000");
    await until(() => site.asked.length === asked + 1, `a connection of its own, for news after ${after}`);
    await until(() => site.open === 1, "it follows again");
  }
  await site.publish(5, 10);
  await first.has(0, 10);
  await second.has(0, 10);
});

test("closing a shared stream from within any callback leaves nothing behind, and the lock is free", async (test) => {
  const site = await Site.start(test);
  const tab = await site.tab();
  await tab.page.evaluate((share) => {
    // It joins, leads, and is open: each is a state to close it in.
    for (const last of [1, 2, 3]) {
      let states = 0;
      const onState = () => (states += 1) === last && stream.close();
      const stream: { close(): void } = client.make("/events?team_id=7", { share: share + last, onState });
    }
  }, SHARE);
  await until(() => tab.page.evaluate(async () => (await navigator.locks.query()).held!.length === 0), "nobody leads");
  await until(() => site.open === 0, "no connection");
  for (const last of [1, 2, 3]) {
    const next = await site.shared({ share: SHARE + last });
    await site.publish(0, 1);
    await next.has(0, 1);
  }
  assert.deepEqual((await tab.said()).errors, []);
});

test("in a page without an origin, which may not have locks, a shared stream has a connection of its own", async (test) => {
  const site = await Site.start(test);
  const tabs = [await site.tab("/sandbox"), await site.tab("/sandbox")];
  for (const tab of tabs) {
    await tab.open({ share: SHARE });
    await tab.is("open");
  }
  await site.publish(0, 3);
  for (const tab of tabs) await tab.has(0, 3);
  assert.equal(site.open, 2);
});

test("a bridge that comes back without its memory tells all tabs of one gap, and all go on", async (test) => {
  const site = await Site.start(test);
  const tabs = [await site.shared(), await site.shared()];
  await site.publish(0, 50);
  for (const tab of tabs) await tab.has(0, 50);
  await site.bridge.stop("SIGKILL");
  const again = await Bridge.dev(test, {}, site.bridge.port);
  for (const tab of tabs) await until(async () => (await tab.said()).gaps.length, "the gap");
  for (let number = 50; number < 55; number += 1) await again.publish(number);
  for (const tab of tabs) {
    await until(async () => (await tab.said()).events.length >= 55, "what comes after");
    const said = await tab.said();
    assert.deepEqual(said.events.map(Number), Array.from({ length: 55 }, (_, number) => number));
    assert.deepEqual([said.gaps, said.errors], [["unknown"], []]);
  }
});

test("a follower can ask for a new connection, and what ends the leader's for good ends it for all until then", async (test) => {
  const site = await Site.start(test);
  const first = await site.shared();
  const second = await site.shared();
  site.refusals = [401];
  await second.page.evaluate(() => client.stream!.reconnect());
  await first.is("closed");
  await second.is("closed");
  assert.equal(site.asked.length, 2);
  await second.page.evaluate(() => client.stream!.reconnect());
  await first.is("open");
  await second.is("open");
  await site.publish(0, 3);
  await first.has(0, 3);
  await second.has(0, 3);
  // A page that was just opened is a reason to try again.
  site.refusals = [401];
  await first.page.evaluate(() => client.stream!.reconnect());
  await second.is("closed");
  const third = await site.shared();
  await first.is("open");
  await third.is("open");
});

test("a hidden page lets its connection go, and goes on where it was when it is seen again", async (test) => {
  for (const share of [undefined, SHARE]) {
    const site = await Site.start(test);
    const tab = await site.tab();
    await tab.open({ pauseWhenHidden: true, ...(share && { share }) });
    await tab.is("open");
    await site.publish(0, 3);
    await tab.has(0, 3);
    await hide(tab.page, true);
    await tab.is("paused");
    await until(() => site.open === 0, "the connection is given back");
    await site.publish(3, 6);
    await hide(tab.page, false);
    await tab.is("open");
    await site.publish(6, 9);
    await tab.has(0, 9);
    assert.deepEqual((await tab.said()).states.filter((state) => state !== "connecting"), ["open", "paused", "open"]);
    await tab.page.evaluate(() => client.stream!.close());
    await hide(tab.page, true);
    await hide(tab.page, false);
    await tab.is("closed");
    await until(() => site.open === 0, "closed for good");
  }
});

test("a leader that is hidden and paused hands over to a tab that is seen", async (test) => {
  const site = await Site.start(test);
  const first = await site.shared({ pauseWhenHidden: true });
  const second = await site.shared({ pauseWhenHidden: true });
  await site.publish(0, 3);
  await second.has(0, 3);
  await hide(first.page, true);
  await first.is("paused");
  await until(() => site.asked.length === 2, "the other connects");
  await site.publish(3, 6);
  await second.has(0, 6);
  await hide(first.page, false);
  await first.is("open");
  await site.publish(6, 9);
  await first.has(0, 9);
  await second.has(0, 9);
  await until(() => site.open === 1, "one connection");
});

test("useEvents renders states, the latest events by name and gaps, and connects once, in strict mode too", async (test) => {
  const site = await Site.start(test);
  const tab = await site.tab();
  await tab.page.evaluate(() => client.mount("/events?team_id=7"));
  const shown = () => tab.shown();
  const click = (name: string) => tab.page.getByRole("button", { name }).click();
  await until(async () => (await shown()).state === "open", "open");
  assert.equal(site.asked.length, 1);
  assert.deepEqual((await tab.said()).states, ["connecting", "open"]);
  await site.bridge.publish({ job: 9 }, "job.status");
  await site.bridge.publish(1);
  await site.bridge.publish(2);
  await until(async () => (await shown()).seen.length === 3, "three events");
  const view = await shown();
  assert.deepEqual(view.seen, ["job 9", "1", "2"]);
  assert.deepEqual(view.latest["job.status"].data, { job: 9 });
  assert.equal(view.latest.message.data, 2);
  assert.equal(view.lastEventId, view.latest.message.id);
  site.refusals = [503];
  await click("reconnect");
  await until(async () => site.asked.length === 3 && (await shown()).state === "open", "open again");
  assert.equal(site.asked[1], view.lastEventId);
  assert.equal((await shown()).attempt, 0);
  // Another URL is another stream: it begins anew, and the first one is gone.
  await click("other");
  await until(async () => site.open === 1 && (await shown()).state === "open", "the other stream");
  assert.deepEqual((await shown()).latest, {});
  assert.equal(site.asked[3], "");
  await click("none");
  await until(() => site.open === 0, "no connection");
  assert.equal((await shown()).state, "closed");
  await tab.page.evaluate(() => client.unmount());
  // That nobody looks any more is no state to tell anybody of.
  const { errors, states } = await tab.said();
  assert.deepEqual([errors, states.includes("closed")], [[], false]);
});

test("useEvents renders once for all events that come together", async (test) => {
  const site = await Site.start(test);
  const tab = await site.tab();
  await tab.page.evaluate(() => client.mount("/burst"));
  await until(async () => (await tab.shown()).state === "open", "open");
  const before = await tab.page.evaluate(() => client.commits());
  const many = Array.from({ length: 100 }, (_, number) => `id: ${number}-00000000\ndata: ${number}\n\n`).join("");
  site.bursts[0]!.write(many);
  await until(async () => (await tab.shown()).latest.message?.data === 99, "the last one");
  assert.equal((await tab.shown()).seen.length, 100);
  // A component may render a second time, as this one's state changes with each event too.
  assert.ok((await tab.page.evaluate(() => client.commits())) - before <= 4);
});

test("useEvents that is hidden and shown again goes on behind the last checkpoint, also where no event was rendered with it", async (test) => {
  const site = await Site.start(test);
  const tab = await site.tab();
  await tab.page.evaluate(() => client.mount("/burst"));
  for (const [count, ids] of [["", "100"], ["100", "105"]].entries()) {
    const [before, next] = ids as [string, string];
    await until(async () => (await tab.shown()).state === "open", "open");
    assert.equal(site.asked.at(-1), before && `${before}-00000000`);
    // The event bears no id and shows that the checkpoint, in the same packet, has come.
    site.bursts.at(-1)!.write(`data: ${count}\n\nid: ${next}-00000000\n\n`);
    await until(async () => (await tab.shown()).seen.length === count + 1, "the event");
    await tab.page.evaluate(() => client.show("/burst", false));
    await until(() => site.bursts.at(-1)!.destroyed, "the connection is given back");
    await tab.page.evaluate(() => client.show("/burst", true));
    await until(() => site.asked.length === count + 2, "another connection");
  }
  assert.equal(site.asked.at(-1), "105-00000000");
  assert.equal((await tab.shown()).lastEventId, "105-00000000");
});

test("over the native EventSource, an answer that ends it for good is survived, with nothing missing", async (test) => {
  const site = await Site.start(test);
  const tab = await site.tab();
  site.refusals = [503, 401, 503];
  await tab.openNative({ types: ["job.status"] });
  await tab.is("open");
  assert.equal(site.asked.length, 4);
  await site.publish(0, 3);
  await tab.has(0, 3);
  const lastEventId = await tab.lastEventId();
  site.refusals = [503];
  await tab.page.evaluate(() => client.native!.reconnect());
  await site.publish(3, 6);
  await tab.has(0, 6);
  assert.equal(site.asked.at(-1), lastEventId);
  // An event of another team moves the id, by way of a heartbeat.
  const before = await tab.lastEventId();
  await site.bridge.publish(0, undefined, "team.8.x");
  await until(async () => (await tab.lastEventId()) !== before, "a heartbeat with a newer id");
  await tab.page.evaluate(() => client.native!.close());
  await until(() => site.open === 0, "closed");
  assert.deepEqual((await tab.said()).errors, []);
});

test("over the native EventSource the place is known before the first event and heartbeat, and kept at an answer that ends it", async (test) => {
  const site = await Site.start(test, 20);
  const tab = await site.tab();
  await tab.openNative();
  const first = await until(() => tab.lastEventId(), "the id of the first checkpoint");
  site.refusals = [502];
  await tab.page.evaluate(() => client.native!.reconnect());
  await until(() => site.asked.length >= 2, "the request that is refused");
  await site.publish(0, 3);
  await tab.has(0, 3);
  assert.deepEqual(site.asked, ["", first, first]);
});

/** Says what a browser says when another tab comes to the front: without a window it never hides a page by itself. */
async function hide(page: Page, isHidden: boolean): Promise<void> {
  await page.evaluate((isHidden) => {
    Object.defineProperty(document, "hidden", { configurable: true, get: () => isHidden });
    document.dispatchEvent(new Event("visibilitychange"));
  }, isHidden);
}
