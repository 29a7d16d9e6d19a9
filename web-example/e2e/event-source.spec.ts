/** The browser's own EventSource and the bridge: what a page is told, and what it is not. */
import { BROKEN_LINK, expect, test } from "./harness/fixtures";
import { Listener } from "./harness/listener";
import { header } from "./harness/link";

test("events reach their team's page in order, named ones under their name, and no other team's page", async ({
  page,
  context,
  serve,
  produce,
}) => {
  const bridge = await serve();
  const producer = await produce();
  await page.goto(`${bridge.origin}/healthz`);
  const ours = await Listener.open(page, bridge.events("team_id=7"), { events: ["job.status"] });
  const otherPage = await context.newPage();
  await otherPage.goto(`${bridge.origin}/healthz`);
  const theirs = await Listener.open(otherPage, bridge.events("team_id=8"), { events: ["job.status"] });
  await expect.poll(() => bridge.connections()).toBe(2);

  await producer.publish("team.7.note", { text: "größe 事件🚀" });
  await producer.publish("team.7.job.9.status", { job: 9, state: "done" }, { type: "job.status" });
  await producer.publish("user.42.note", "private");
  await producer.publish("broadcast.all", "to everybody");

  await expect.poll(() => theirs.bodies()).toEqual(["to everybody"]);
  await expect.poll(() => ours.bodies()).toHaveLength(3);
  const messages = await ours.messages();
  expect(messages.map(({ type, data }) => [type, JSON.parse(data)])).toEqual([
    ["message", { text: "größe 事件🚀" }],
    ["job.status", { job: 9, state: "done" }],
    ["message", "to everybody"],
  ]);
  for (const { lastEventId } of messages) expect(lastEventId).toMatch(/^\d+-[0-9a-f]{8}$/);
});

test("a body of many lines arrives with its lines, and one of 200 KB whole", async ({ page, serve, produce }) => {
  const bridge = await serve({ PAYLOAD_FORMAT: "text" });
  const producer = await produce();
  await page.goto(`${bridge.origin}/healthz`);
  const listener = await Listener.open(page, bridge.events("team_id=7"));
  await expect.poll(() => listener.state()).toBe("open");

  const large = "0123456789".repeat(20_000);
  await producer.publish("team.7.note", ["two\nlines", large]);
  await producer.publishText("team.7.note", "first\n\n: third\nid: 5-00000000\n");

  await expect.poll(async () => (await listener.messages()).length).toBe(2);
  const [first, second] = await listener.messages();
  expect(JSON.parse(first?.data ?? "")).toEqual(["two\nlines", large]);
  expect(second?.data).toBe("first\n\n: third\nid: 5-00000000\n");
});

test("a checkpoint moves a quiet page's last event id, dispatches nothing, and the page comes back with it", async ({
  page,
  serve,
  produce,
  link,
  expectComplaints,
}) => {
  expectComplaints(BROKEN_LINK);
  const bridge = await serve({ SSE_HEARTBEAT_SECONDS: "1" });
  const producer = await produce();
  const cable = await link(bridge.port);
  await page.goto(`${cable.origin}/healthz`);
  // Both are for something rarer than what is published: only checkpoints can tell them how far the log has come.
  const quiet = await Listener.open(page, `${cable.origin}/events?team_id=7&event=rare`, { events: ["rare"] });
  const watchful = await Listener.open(page, `${cable.origin}/events?team_id=7&event=rare&heartbeat=event`, {
    events: ["rare", "bridge.heartbeat"],
  });
  const everything = await Listener.open(page, `${cable.origin}/events?team_id=7`);
  await expect.poll(() => bridge.connections()).toBe(3);

  await producer.publishNumbers("team.7.note", 1, 20);
  await expect.poll(() => everything.messages()).toHaveLength(20);
  const newest = (await everything.messages()).at(-1)?.lastEventId;

  const stream = () => cable.passages.find(({ asked }) => asked.includes("event=rare HTTP"))?.answered ?? "";
  await expect.poll(() => checkpoints(stream())).toContain(newest);
  // A heartbeat bears no id: it shows the one that the checkpoint before it left.
  await expect.poll(async () => (await watchful.messages()).at(-1)).toEqual({ type: "bridge.heartbeat", data: "{}", lastEventId: newest });
  expect(await quiet.messages()).toEqual([]);

  await everything.close();
  const before = cable.requests().length;
  cable.cut();
  await expect.poll(() => quiet.counts()).toMatchObject({ opened: 2 });
  await expect.poll(() => watchful.counts()).toMatchObject({ opened: 2 });
  const returned = cable.requests().slice(before);
  expect(returned.map((head) => header(head, "Last-Event-ID"))).toEqual([newest, newest]);

  await producer.publish("team.7.note", "for me", { type: "rare" });
  await expect.poll(() => quiet.bodies()).toEqual(["for me"]);
});

/** The ids that stand alone in a block of a stream. */
function checkpoints(stream: string): string[] {
  return [...stream.matchAll(/(?:^|\n)id: (\S+)\n\n/g)].map(([, id]) => id ?? "");
}
