/** How a connection is kept: which answers are final, how long it waits, what it sends, and that nothing is left of it. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { backOff } from "../connection";
import { EventStream, type Options } from "../event-stream";
import { Answers, Recorded, Server, settled, until } from "./harness";

const EVENT = "id: 1-00000001\nevent: job.status\ndata: 1\n\n";
const BYE = (reason: string) => `event: bridge.bye\ndata: {"reason":"${reason}"}\n\n`;
const EXPIRING = "event: bridge.expiring\ndata: {}\n\n";

/** All there is of timers and sockets that keep this process alive. */
const timers = () => process.getActiveResourcesInfo().filter((kind) => kind === "Timeout").length;

test("it asks for an event stream, with the headers it is given, uncached, and without an id where it has none", async (test) => {
  const server = await Server.start(test, (exchange) => exchange.stream());
  const recorded = new Recorded(test, server.url, { headers: { Authorization: "Bearer abc", Accept: "text/plain" } });
  await recorded.is("open");
  const { headers, target } = await server.request(1);
  assert.equal(target, "/events");
  assert.equal(headers.get("accept"), "text/event-stream");
  assert.equal(headers.get("authorization"), "Bearer abc");
  assert.equal(headers.get("cache-control"), "no-cache");
  assert.equal(headers.has("last-event-id"), false);
});

test("an event reaches onEvent and the listeners of its name, with its id, its type, what was parsed and what came", async (test) => {
  const server = await Server.start(test, (exchange) => exchange.stream('id: 7-00000007\nevent: job.status\ndata: {"job":9}\n\n'));
  const recorded = new Recorded(test, server.url);
  const heard: unknown[] = [];
  const other: unknown[] = [];
  recorded.stream.on("job.status", (event) => heard.push(event));
  recorded.stream.on("message", (event) => other.push(event));
  const left = recorded.stream.on("job.status", (event) => other.push(event));
  left();
  await recorded.data(1);
  const event = { id: "7-00000007", type: "job.status", data: { job: 9 }, raw: '{"job":9}' };
  assert.deepEqual(recorded.events, [event]);
  assert.deepEqual(heard, [event]);
  assert.deepEqual(other, []);
});

test("when the stream ends it comes back after a wait, with the last id, and says what it does", async (test) => {
  const server = await Server.start(test, (exchange, count) => {
    exchange.stream(["", EVENT, "", "id: 2-00000002\n\ndata: 2\n\n"][count]);
    if (count < 3) exchange.end();
  });
  const recorded = new Recorded(test, server.url);
  assert.deepEqual(await recorded.data(2), ["1", "2"]);
  assert.deepEqual(
    server.requests.map(({ lastEventId }) => lastEventId),
    [undefined, "1-00000001", "1-00000001"],
  );
  const back = ["waiting", "connecting", "open"];
  assert.deepEqual(recorded.order, ["connecting", "open", "1-00000001 job.status", ...back, ...back, "2-00000002 message"]);
  assert.deepEqual(
    recorded.states.map(([, { attempt }]) => attempt),
    [0, 0, 1, 1, 0, 1, 1, 0],
  );
  assert.ok(recorded.states[2]![1].retryInMs! >= 1);
});

test("a block that the end of the stream cut short is not dispatched, and its id is not believed", async (test) => {
  const server = await Server.start(test, (exchange, count) => {
    exchange.stream(count === 1 ? `${EVENT}id: 2-00000002\ndata: 2\n` : "id: 2-00000002\ndata: 2\n\n");
    if (count === 1) exchange.end();
  });
  const recorded = new Recorded(test, server.url);
  assert.deepEqual(await recorded.data(2), ["1", "2"]);
  assert.equal(server.requests[1]!.lastEventId, "1-00000001");
});

test("it begins where it is told, and a checkpoint or an event without an id is what the standard says", async (test) => {
  const server = await Server.start(test, (exchange, count) => {
    if (count === 1) exchange.stream("data: without\n\nid: 9-00000009\n\n").end();
    else exchange.stream();
  });
  const recorded = new Recorded(test, server.url, { lastEventId: "8-00000008", parse: String });
  await server.request(2);
  assert.equal(server.requests[0]!.lastEventId, "8-00000008");
  assert.equal(recorded.events[0]!.id, "8-00000008");
  assert.equal(server.requests[1]!.lastEventId, "9-00000009");
});

test("an id that is not ASCII is sent as UTF-8, as the standard says", async (test) => {
  const server = await Server.start(test, (exchange) => exchange.stream());
  new Recorded(test, server.url, { lastEventId: "größe" });
  assert.equal(Buffer.from((await server.request(1)).lastEventId!, "latin1").toString("utf8"), "größe");
});

test("a broken connection, and one that is refused, are tried again", async (test) => {
  const server = await Server.start(test, (exchange, count) => {
    if (count === 1) exchange.cut();
    else if (count === 2) exchange.stream(EVENT.slice(0, 9)).cut();
    else exchange.stream(EVENT);
  });
  const recorded = new Recorded(test, server.url);
  await recorded.data(1);
  assert.ok(recorded.states.find(([state]) => state === "waiting")![1].error instanceof Error);
  const refused = new Recorded(test, "http://127.0.0.1:1/events");
  await until(() => refused.states.filter(([state]) => state === "waiting").length > 3, "tries");
  assert.ok(refused.states.at(-1)![1].attempt > 3);
});

for (const status of [204, 205, 400, 403, 404, 405, 406, 410, 401]) {
  test(`${status} is final, until reconnect is called`, async (test) => {
    const server = await Server.start(test, (exchange, count) => (count === 1 ? exchange.answer(status) : exchange.stream(EVENT)));
    const recorded = new Recorded(test, server.url);
    const detail = await recorded.is("closed");
    assert.equal(detail.status, status);
    assert.equal(timers(), 0);
    assert.equal(server.requests.length, 1);
    recorded.stream.reconnect();
    await recorded.data(1);
  });
}

for (const status of [408, 425, 429, 500, 502, 503, 504]) {
  test(`${status} is tried again`, async (test) => {
    const server = await Server.start(test, (exchange, count) => (count < 3 ? exchange.answer(status) : exchange.stream(EVENT)));
    const recorded = new Recorded(test, server.url);
    await recorded.data(1);
    assert.deepEqual(
      recorded.states.map(([state, { attempt, status }]) => [state, attempt, status]),
      [
        ["connecting", 0, undefined],
        ["waiting", 1, status],
        ["connecting", 1, undefined],
        ["waiting", 2, status],
        ["connecting", 2, undefined],
        ["open", 0, undefined],
      ],
    );
  });
}

test("a 200 that is no event stream is final, as a page to log in at would be", async (test) => {
  const server = await Server.start(test, (exchange) => exchange.answer(200, { "Content-Type": "text/html" }, "<p>Log in"));
  const recorded = new Recorded(test, server.url);
  const { error, status } = await recorded.is("closed");
  assert.equal(status, 200);
  assert.match(String(error), /text\/html in place of text\/event-stream/);
});

test("the content type is read as a type: case and parameters do not count, a longer word does", async (test) => {
  for (const type of ["Text/Event-Stream", "text/event-stream;charset=utf-8", "text/event-stream ; charset=utf-8"]) {
    const server = await Server.start(test, (exchange) => exchange.stream(EVENT, type));
    await new Recorded(test, server.url).data(1);
  }
  const server = await Server.start(test, (exchange) => exchange.stream(EVENT, "text/event-streams"));
  await new Recorded(test, server.url).is("closed");
});

test("Retry-After is obeyed, in seconds and as a date, with jitter on top", async (test) => {
  const inAnHour = new Date(Date.now() + 3_600_000).toUTCString();
  const untilThen = () => Date.parse(inAnHour) - Date.now();
  const none = () => 0;
  for (const [header, wait] of [["7", () => 7_000], [inAnHour, untilThen], ["0", none], ["soon", none], ["-5", none]] as const) {
    const server = await Server.start(test, (exchange) => exchange.answer(503, { "Retry-After": header }));
    const most = wait();
    const recorded = new Recorded(test, server.url, { minRetryMs: 200, maxRetryMs: 300 });
    const { retryInMs } = await recorded.is("waiting");
    // A date is nearer by the time that the answer is read, which is between these two.
    const least = wait();
    assert.ok(retryInMs! >= least + 200 && retryInMs! <= most + 300, `${header}: ${retryInMs} of ${least} to ${most}`);
    recorded.stream.close();
  }
});

test("a Retry-After of a year is waited for, and not over in an instant as a timer that overflows", async (test) => {
  const server = await Server.start(test, (exchange) => exchange.answer(503, { "Retry-After": "31536000" }));
  const recorded = new Recorded(test, server.url);
  const { retryInMs } = await recorded.is("waiting");
  assert.equal(retryInMs, 2 ** 31 - 1);
  assert.equal(server.requests.length, 1);
});

test("the wait doubles from the server's retry up to the longest, and is anywhere below", () => {
  const options = { minRetryMs: 100, maxRetryMs: 8_000 };
  for (const [attempt, ceiling] of [[0, 1_000], [1, 2_000], [2, 4_000], [3, 8_000], [4, 8_000], [60, 8_000], [2_000, 8_000]] as const) {
    const waits = Array.from({ length: 400 }, () => backOff(1_000, attempt, options));
    assert.ok(Math.min(...waits) >= 100 && Math.min(...waits) < 100 + ceiling / 10, `${attempt}`);
    assert.ok(Math.max(...waits) <= ceiling && Math.max(...waits) > ceiling * 0.9, `${attempt}`);
  }
  assert.equal(backOff(0, 0, options), 100);
  assert.equal(backOff(1_000, 0, { minRetryMs: 9_000, maxRetryMs: 8_000 }), 9_000);
});

test("the server's retry is the base", async (test) => {
  const server = await Server.start(test, (exchange) => exchange.stream("retry: 100000\n\n").end());
  const waits: number[] = [];
  // Without it none would be above 2,000; with it one in fifty is not, and five of five never.
  for (let count = 0; count < 5; count += 1) {
    const recorded = new Recorded(test, server.url, { maxRetryMs: 1e9 });
    waits.push((await recorded.is("waiting")).retryInMs!);
    recorded.stream.close();
  }
  assert.ok(waits.some((wait) => wait > 2_000), `${waits}`);
  assert.ok(waits.every((wait) => wait <= 100_000), `${waits}`);
});

test("a link on which nothing comes any more is given up and made anew; a comment keeps it", async (test) => {
  const { timers } = test.mock;
  timers.enable({ apis: ["setTimeout"] });
  const server = new Answers();
  const recorded = new Recorded(test, "http://127.0.0.1/events", { silenceMs: 1_000, fetch: server.fetch });
  await settled();
  const send = await server.stream();
  await send(EVENT);
  for (let beats = 0; beats < 8; beats += 1) {
    timers.tick(999);
    await send(":\n\n");
  }
  assert.equal(recorded.stream.state, "open");
  assert.equal(server.requests[0]!.signal.aborted, false);
  timers.tick(999);
  assert.equal(recorded.stream.state, "open");
  timers.tick(1);
  assert.equal(recorded.stream.state, "waiting");
  assert.match(String(recorded.states.at(-1)![1].error), /silent for 1000 ms/);
  assert.equal(server.requests[0]!.signal.aborted, true);
  // The longest that it waits here.
  timers.tick(20);
  await settled();
  await (await server.stream())("data: 2\n\n");
  assert.deepEqual(recorded.order, ["connecting", "open", "1-00000001 job.status", "waiting", "connecting", "open", "1-00000001 message"]);
  assert.equal(server.requests.length, 2);
});

test("a server that takes the connection and does not answer is given up too, and so is a token that never comes", async (test) => {
  const { timers } = test.mock;
  timers.enable({ apis: ["setTimeout"] });
  const server = new Answers();
  let asked = 0;
  const headers = () => ((asked += 1) === 2 ? new Promise<HeadersInit>(() => {}) : {});
  const recorded = new Recorded(test, "http://127.0.0.1/events", { silenceMs: 1_000, headers, fetch: server.fetch });
  // The first has no answer, and the second no token.
  for (const attempt of [1, 2]) {
    await settled();
    timers.tick(999);
    assert.equal(recorded.stream.state, "connecting");
    timers.tick(1);
    assert.equal(recorded.stream.state, "waiting");
    assert.match(String(recorded.states.at(-1)![1].error), /silent for 1000 ms/);
    assert.deepEqual([asked, server.requests.length], [attempt, 1]);
    assert.equal(server.requests[0]!.signal.aborted, true);
    timers.tick(20);
  }
  await settled();
  await (await server.stream())(EVENT);
  assert.deepEqual([asked, server.requests.length], [3, 2]);
  assert.equal(recorded.events.length, 1);
});

test("with a silence of 0 a quiet link is kept", async (test) => {
  const server = await Server.start(test, (exchange) => exchange.stream());
  const recorded = new Recorded(test, server.url, { silenceMs: 0 });
  await recorded.is("open");
  assert.equal(timers(), 0);
});

test("headers are asked for at every connection, and where they cannot be had it is tried again", async (test) => {
  const server = await Server.start(test, (exchange, count) => {
    exchange.stream(EVENT);
    if (count === 1) exchange.end();
  });
  let asked = 0;
  const headers = async () => {
    asked += 1;
    if (asked === 2) throw new Error("the token server is away");
    return { Authorization: `Bearer ${asked}` };
  };
  const recorded = new Recorded(test, server.url, { headers });
  await recorded.data(2);
  assert.deepEqual(
    server.requests.map((exchange) => exchange.headers.get("authorization")),
    ["Bearer 1", "Bearer 3"],
  );
  assert.ok(recorded.states.some(([state, { error }]) => state === "waiting" && /token server/.test(String(error))));
});

test("a 401 or 403 is tried once with fresh headers, and is final if that is refused too", async (test) => {
  for (const status of [401, 403]) {
    let asked = 0;
    const headers = () => ({ Authorization: `Bearer ${(asked += 1)}` });
    const server = await Server.start(test, (exchange, count) => {
      if (count % 2 === 0 && count < 6) exchange.stream(EVENT).end();
      else exchange.answer(status);
    });
    // Refused and healed, twice over; then refused twice in a row.
    const recorded = new Recorded(test, server.url, { headers });
    assert.equal((await recorded.is("closed")).status, status);
    assert.equal(server.requests.length, 6);
    assert.equal(asked, 6);
    assert.equal(recorded.events.length, 2);
  }
});

test("a login by cookie that was refused is renewed by onExpiring, once", async (test) => {
  let renewals = 0;
  const server = await Server.start(test, (exchange, count) => (count === 1 ? exchange.answer(401) : exchange.stream(EVENT)));
  const recorded = new Recorded(test, server.url, { onExpiring: async () => void (renewals += 1) });
  await recorded.data(1);
  assert.equal(renewals, 1);
});

test("before the login ends it is renewed, and the stream goes on at once where it was", async (test) => {
  let token = "first";
  const server = await Server.start(test, (exchange, count) => {
    exchange.stream(count === 1 ? `retry: 0\n\n${EVENT}` : "id: 2-00000002\ndata: 2\n\n");
  });
  const recorded = new Recorded(test, server.url, {
    headers: () => ({ Authorization: token }),
    onExpiring: async () => {
      await new Promise((resolve) => setTimeout(resolve, 20));
      token = "second";
    },
  });
  await recorded.data(1);
  await until(() => performance.now() > server.requests[0]!.at + 10, "a connection that is not quite new");
  server.requests[0]!.send(EXPIRING);
  assert.deepEqual(await recorded.data(2), ["1", "2"]);
  assert.equal(server.requests[1]!.headers.get("authorization"), "second");
  assert.equal(server.requests[1]!.lastEventId, "1-00000001");
  assert.deepEqual(recorded.order, ["connecting", "open", "1-00000001 job.status", "connecting", "open", "2-00000002 message"]);
});

test("a token that is always about to end makes no loop without a pause", async (test) => {
  const server = await Server.start(test, (exchange) => exchange.stream(`retry: 60000\n\n${EXPIRING}`));
  const recorded = new Recorded(test, server.url, { headers: () => ({}), minRetryMs: 5_000, maxRetryMs: 5_000 });
  assert.equal((await recorded.is("waiting")).retryInMs, 5_000);
  assert.equal(server.requests.length, 1);
});

test("a renewal that fails leaves the stream as it is, and bridge.bye gives it another chance", async (test) => {
  const reported = test.mock.method(console, "error", () => {});
  let renewals = 0;
  const server = await Server.start(test, (exchange, count) => {
    if (count > 1) exchange.stream("data: 2\n\n");
    else exchange.stream(EXPIRING).send(EVENT);
  });
  const onExpiring = () => {
    renewals += 1;
    if (renewals === 1) throw new Error("no network");
  };
  const recorded = new Recorded(test, server.url, { onExpiring });
  await recorded.data(1);
  assert.equal(recorded.stream.state, "open");
  assert.equal(reported.mock.callCount(), 1);
  server.requests[0]!.send(BYE("expired")).end();
  await recorded.data(2);
  assert.equal(renewals, 2);
});

test("without a way to renew, bridge.expiring changes nothing", async (test) => {
  const server = await Server.start(test, (exchange) => exchange.stream(EXPIRING).send(EVENT));
  const recorded = new Recorded(test, server.url, { headers: { Authorization: "Bearer abc" } });
  await recorded.data(1);
  assert.deepEqual(recorded.order, ["connecting", "open", "1-00000001 job.status"]);
});

test("bridge.bye of a drain is followed by a return, and of a login that was revoked by none", async (test) => {
  const server = await Server.start(test, (exchange, count) => {
    if (count === 1) exchange.stream(BYE("drain")).end();
    else exchange.stream(EVENT).send(BYE("revoked"));
  });
  const recorded = new Recorded(test, server.url, { headers: () => ({}) });
  const byes: unknown[] = [];
  recorded.stream.on("bridge.bye", ({ data }) => byes.push(data));
  const detail = await recorded.is("closed");
  assert.deepEqual(byes, [{ reason: "drain" }, { reason: "revoked" }]);
  assert.equal(detail.status, undefined);
  assert.match(String(detail.error), /revoked/);
  await until(() => server.requests[1]!.isGone, "the connection is given back");
  assert.equal(server.requests.length, 2);
  assert.equal(timers(), 0);
  // Events of the bridge itself are none of the producers'.
  assert.equal(recorded.events.length, 1);
});

test("a gap is told before any later event", async (test) => {
  const gap = 'event: bridge.gap\ndata: {"reason":"slow","missed":12}\n\n';
  const server = await Server.start(test, (exchange) => exchange.stream(`${EVENT}${gap}id: 20-00000014\ndata: 2\n\n`));
  const recorded = new Recorded(test, server.url);
  await recorded.data(2);
  assert.deepEqual(recorded.gaps, [{ reason: "slow", missed: 12 }]);
  assert.deepEqual(recorded.order.slice(2), ["1-00000001 job.status", "gap", "20-00000014 message"]);
});

test("what a callback throws, or parse, is reported and hurts neither the stream nor the other listeners", async (test) => {
  const reported = test.mock.method(console, "error", () => {});
  const server = await Server.start(test, (exchange) => exchange.stream(`data: no JSON\n\n${EVENT}data: 2\n\n`));
  const fail = (): never => {
    throw new Error("of a listener");
  };
  const recorded = new Recorded(test, server.url, { onEvent: fail, onState: fail });
  const heard: unknown[] = [];
  recorded.stream.on("job.status", fail);
  recorded.stream.on("job.status", ({ data }) => heard.push(data));
  await recorded.data(2);
  assert.deepEqual(heard, [1]);
  // Two states, two events, a listener, and what was no JSON.
  assert.equal(reported.mock.callCount(), 6);
});

test("parse makes the data of producers' events, and the bridge's own stay what they are", async (test) => {
  const server = await Server.start(test, (exchange) => exchange.stream('event: bridge.gap\ndata: {"reason":"slow","missed":1}\n\nevent: a\ndata: x\n\n'));
  const recorded = new Recorded(test, server.url, { parse: (data, type) => `${type}=${data}` });
  await recorded.data(1);
  assert.equal(recorded.events[0]!.data, "a=x");
  assert.equal(recorded.gaps[0]!.missed, 1);
});

test("close lets the request go, says so, and leaves no timer and no later callback", async (test) => {
  const before = timers();
  const server = await Server.start(test, (exchange) => exchange.stream(EVENT));
  const recorded = new Recorded(test, server.url);
  await recorded.data(1);
  recorded.stream.close();
  recorded.stream.close();
  recorded.stream.reconnect();
  assert.equal(recorded.stream.state, "closed");
  const said = recorded.order.length;
  server.requests[0]!.send(EVENT);
  await until(() => server.requests[0]!.isGone, "the server sees it go");
  assert.equal(recorded.order.length, said);
  assert.equal(recorded.order.filter((word) => word === "closed").length, 1);
  assert.equal(timers(), before);
  assert.equal(server.requests.length, 1);
});

test("close works while it waits, while a token is fetched, and before anything was sent", async (test) => {
  const server = await Server.start(test, (exchange) => exchange.answer(503, { "Retry-After": "3600" }));
  const waiting = new Recorded(test, server.url);
  await waiting.is("waiting");
  waiting.stream.close();
  let give = (_: HeadersInit): void => {};
  const fetching = new Recorded(test, server.url, { headers: () => new Promise((resolve) => (give = resolve)) });
  await fetching.is("connecting");
  await until(() => fetching.order.length, "the first state");
  fetching.stream.close();
  give({});
  const early = new Recorded(test, server.url);
  early.stream.close();
  await new Promise(setImmediate);
  assert.deepEqual(early.order, ["closed"]);
  assert.equal(server.requests.length, 1);
  assert.equal(timers(), 0);
});

test("a signal closes it, also one that has aborted already", async (test) => {
  const server = await Server.start(test, (exchange) => exchange.stream(EVENT));
  const controller = new AbortController();
  const recorded = new Recorded(test, server.url, { signal: controller.signal });
  await recorded.data(1);
  controller.abort();
  assert.equal(recorded.stream.state, "closed");
  await until(() => server.requests[0]!.isGone, "the server sees it go");
  const late = new Recorded(test, server.url, { signal: controller.signal });
  await late.is("closed");
  await until(() => late.order.length, "a word");
  assert.deepEqual(late.order, ["closed"]);
  assert.equal(server.requests.length, 1);
});

test("closing from within any callback ends it there: nothing that came in the same packet is delivered", async (test) => {
  const server = await Server.start(test, (exchange) => exchange.stream(`${EVENT}data: 2\n\n`));
  const cases: [string, (close: () => void) => Options][] = [
    ["connecting", (close) => ({ onState: close })],
    ["open", (close) => ({ onState: (state) => state === "open" && close() })],
    ["1-00000001 job.status", (close) => ({ onEvent: close })],
  ];
  for (const [last, options] of cases) {
    let asked = 0;
    const headers = () => ({ "X-Asked": `${(asked += 1)}` });
    const recorded: Recorded = new Recorded(test, server.url, { headers, ...options(() => recorded.stream.close()) });
    await recorded.is("closed");
    await new Promise(setImmediate);
    assert.equal(asked, last === "connecting" ? 0 : 1);
    assert.deepEqual(recorded.order.slice(-2), [last, "closed"]);
    assert.equal(timers(), 0, last);
  }
});

test("whoever closes it is the last to hear of an event: the other listeners for the same one are not called", async (test) => {
  const gap = 'event: bridge.gap\ndata: {"reason":"slow","missed":1}\n\n';
  for (const [sent, type] of [[EVENT, "job.status"], [gap, "bridge.gap"]] as const) {
    const server = await Server.start(test, (exchange) => exchange.stream(sent));
    for (const closer of ["callback", "parse", "listener"]) {
      if (closer === "parse" && sent === gap) continue;
      const close = (who: string) => closer === who && recorded.stream.close();
      const recorded: Recorded = new Recorded(test, server.url, {
        ...(sent === EVENT && { parse: (data) => (close("parse"), data) }),
        onEvent: () => close("callback"),
        onGap: () => close("callback"),
      });
      for (const last of [1, 2]) {
        recorded.stream.on(type, () => {
          recorded.order.push(`listener ${last}`);
          close("listener");
        });
      }
      await recorded.is("closed");
      await until(() => server.requests.at(-1)!.isGone, "the connection is given back");
      assert.equal(recorded.order.at(-1), "closed", `${recorded.order}`);
    }
  }
});

test("reconnect in the middle of a packet delivers the rest of it once, and goes on behind it", async (test) => {
  const server = await Server.start(test, (exchange, count) => {
    exchange.stream(count === 1 ? `${EVENT}id: 2-00000002\ndata: 2\n\n` : "id: 3-00000003\ndata: 3\n\n");
  });
  const recorded: Recorded = new Recorded(test, server.url, {
    onEvent: ({ id }) => id === "1-00000001" && recorded.stream.reconnect(),
  });
  assert.deepEqual(await recorded.data(3), ["1", "2", "3"]);
  assert.equal(server.requests[1]!.lastEventId, "2-00000002");
});

test("reconnect replaces a wait and a request that is under way, and there is one connection only", async (test) => {
  const server = await Server.start(test, (exchange, count) => {
    if (count === 1) exchange.answer(503, { "Retry-After": "3600" });
    else if (count > 2) exchange.stream(EVENT);
  });
  const recorded = new Recorded(test, server.url);
  await recorded.is("waiting");
  recorded.stream.reconnect();
  await server.request(2);
  recorded.stream.reconnect();
  await recorded.data(1);
  await until(() => server.requests[1]!.isGone, "the one under way is let go");
  assert.equal(server.requests.length, 3);
  assert.equal(recorded.events.length, 1);
});

test("a fetch of one's own is called as a plain function, with what the request needs", async (test) => {
  const server = await Server.start(test, (exchange) => exchange.stream(EVENT));
  const asked: RequestInit[] = [];
  function own(this: unknown, url: string | URL | Request, init?: RequestInit): Promise<Response> {
    assert.equal(this, undefined);
    asked.push(init!);
    return fetch(url, init);
  }
  const recorded = new Recorded(test, server.url, { fetch: own, credentials: "include" });
  await recorded.data(1);
  assert.equal(asked[0]!.credentials, "include");
  assert.equal(asked[0]!.cache, "no-store");
  assert.ok(asked[0]!.signal);
});

test("where there is no page, as in a worker, there is none to be hidden", async (test) => {
  const server = await Server.start(test, (exchange) => exchange.stream(EVENT));
  await new Recorded(test, server.url, { pauseWhenHidden: true }).data(1);
});

test("where there are no Web Locks, a shared stream has a connection of its own", async (test) => {
  // Node has them from 24.5 on.
  const { navigator } = globalThis;
  Object.defineProperty(globalThis, "navigator", { configurable: true, value: undefined });
  test.after(() => Object.defineProperty(globalThis, "navigator", { configurable: true, value: navigator }));
  const server = await Server.start(test, (exchange) => exchange.stream(EVENT));
  const both = [1, 2].map(() => new Recorded(test, server.url, { share: "user-42" }));
  for (const recorded of both) await recorded.data(1);
  assert.equal(server.requests.length, 2);
});

test("importing it does nothing, and neither does a stream that is closed at once", () => {
  const stream = new EventStream("http://127.0.0.1:1/");
  stream.close();
  assert.equal(stream.state, "closed");
  assert.equal(timers(), 0);
});
