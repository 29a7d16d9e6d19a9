/** A page whose EventSource lost its stream: it comes back by itself, and nothing is missing and nothing comes twice. */
import { BROKEN_LINK, expect, test } from "./harness/fixtures";
import { Listener } from "./harness/listener";
import { numbers } from "./harness/producer";
import { RabbitMq, START_LIMIT_SECONDS } from "./harness/rabbitmq";

test.beforeEach(({ expectComplaints }) => expectComplaints(BROKEN_LINK));

test("over three kills of the bridge under traffic a page gets every event once, in order", async ({ page, serve, produce, pages }) => {
  const elsewhere = await pages();
  const bridge = await serve({ HTTP_CORS_ORIGINS: elsewhere.origin });
  const producer = await produce();
  await page.goto(elsewhere.origin);
  const listener = await Listener.open(page, bridge.events("team_id=7"), { events: ["bridge.gap"] });
  await expect.poll(() => listener.state()).toBe("open");

  for (const kill of [0, 1, 2]) {
    // The kill comes while events are on their way; some are published while nobody is there to take them.
    const underWay = producer.publishNumbers("team.7.note", kill * 300 + 1, kill * 300 + 200);
    await expect.poll(async () => (await listener.messages()).length).toBeGreaterThan(kill * 300);
    await bridge.kill();
    await underWay;
    await producer.publishNumbers("team.7.note", kill * 300 + 201, kill * 300 + 300);
    await bridge.start();
    await expect.poll(async () => (await listener.messages()).length).toBeGreaterThanOrEqual((kill + 1) * 300);
  }

  await producer.publish("team.7.note", 901);
  await expect.poll(async () => (await listener.bodies()).at(-1)).toBe(901);
  expect(await listener.bodies()).toEqual(numbers(1, 901));
  expect((await listener.counts()).opened).toBe(4);
});

test("over a kill of the broker a page keeps its stream, and over one of broker and bridge it gets every event once", async ({
  page,
  serve,
  produce,
  pages,
}) => {
  // A node of its own, that starts three times and is come back to twice: each may take its time before the test runs out of its own.
  test.setTimeout((5 * START_LIMIT_SECONDS + 60) * 1000);
  const onceItIsBack = { timeout: START_LIMIT_SECONDS * 1000 };
  const broker = await RabbitMq.start();
  try {
    const elsewhere = await pages();
    const bridge = await serve({ HTTP_CORS_ORIGINS: elsewhere.origin }, broker.url);
    await broker.save();
    await page.goto(elsewhere.origin);
    const steady = await Listener.open(page, bridge.events("team_id=7"), { events: ["bridge.gap"] });
    await expect.poll(() => steady.state()).toBe("open");
    const before = await produce(broker.url);
    await before.publishNumbers("team.7.note", 1, 200);
    await expect.poll(() => steady.bodies()).toEqual(numbers(1, 200));

    await broker.kill();
    await expect.poll(() => bridge.metric("sse_bridge_broker_up")).toBe(0);
    // An entitled page is let in while the broker is away: any other answer than 200 would end its EventSource for good.
    const newcomer = await Listener.open(page, bridge.events("team_id=7"), { events: ["bridge.gap"] });
    await expect.poll(() => newcomer.state()).toBe("open");

    await broker.start();
    // RabbitMQ 3.10 confirms and loses what is published before the stream's writer is up again; the bridge consumes once it is.
    await expect.poll(() => bridge.metric("sse_bridge_broker_up"), onceItIsBack).toBe(1);
    const between = await produce(broker.url);
    await between.publishNumbers("team.7.note", 201, 300);
    await expect.poll(() => steady.bodies()).toEqual(numbers(1, 300));
    await expect.poll(() => newcomer.bodies()).toEqual(numbers(201, 300));
    expect(await steady.counts()).toEqual({ opened: 1, failed: 0 });

    await bridge.kill();
    await between.publishNumbers("team.7.note", 301, 400);
    await broker.kill();
    await broker.start();
    await bridge.start();
    const after = await produce(broker.url);
    await after.publishNumbers("team.7.note", 401, 500);
    await expect.poll(() => steady.bodies(), onceItIsBack).toEqual(numbers(1, 500));
    await expect.poll(() => newcomer.bodies()).toEqual(numbers(201, 500));
  } finally {
    await broker.kill();
  }
});

test("a bridge that drains says so, and its pages come back to the next one with nothing missing", async ({ page, serve, produce, pages }) => {
  const elsewhere = await pages();
  const bridge = await serve({ HTTP_CORS_ORIGINS: elsewhere.origin });
  const producer = await produce();
  await page.goto(elsewhere.origin);
  const listener = await Listener.open(page, bridge.events("team_id=7"), { events: ["bridge.gap", "bridge.bye"] });
  await expect.poll(() => listener.state()).toBe("open");
  await producer.publishNumbers("team.7.note", 1, 100);
  await expect.poll(() => listener.bodies()).toHaveLength(100);

  await bridge.drain();
  await producer.publishNumbers("team.7.note", 101, 200);
  await bridge.start();

  await expect.poll(() => listener.bodies()).toEqual([...numbers(1, 100), { reason: "drain" }, ...numbers(101, 200)]);
});

test("a page that comes back with an id that means nothing is told of a gap before anything else", async ({ page, serve, produce }) => {
  const bridge = await serve();
  const producer = await produce();
  await producer.publishNumbers("team.7.note", 1, 3);
  await page.goto(`${bridge.origin}/healthz`);
  const listener = await Listener.open(page, bridge.events("team_id=7&last_event_id=no-such-id"), { events: ["bridge.gap"] });
  await expect.poll(() => listener.bodies()).toEqual([{ reason: "unknown", missed: null }, 1, 2, 3]);
});
