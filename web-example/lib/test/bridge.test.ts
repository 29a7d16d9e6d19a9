/** Against the real bridge: what it says, how it ends, and that nothing is missing or comes twice. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Bridge, Recorded, until } from "./harness";

test("events arrive with their names, ids and data, and those of another team do not but for a checkpoint", async (test) => {
  const bridge = await Bridge.dev(test, { SSE_HEARTBEAT_SECONDS: "1" });
  const recorded = new Recorded(test, bridge.url());
  await recorded.is("open");
  await bridge.publish({ job: 9, state: "done" }, "job.status");
  await bridge.publish({ text: "größe 🚀\n" });
  await bridge.publish({ job: 1 }, "job.status", "team.8.job.1.status");
  await recorded.data(2);
  assert.deepEqual(
    recorded.events.map(({ type, data }) => [type, data]),
    [
      ["job.status", { job: 9, state: "done" }],
      ["message", { text: "größe 🚀\n" }],
    ],
  );
  const last = recorded.events[1]!.id;
  await until(() => recorded.stream.lastEventId !== last, "a checkpoint behind the other team's event");
  assert.equal(recorded.events.length, 2);
});

test("a quiet bridge is heard at every heartbeat, and none of that is an event", async (test) => {
  const bridge = await Bridge.dev(test, { SSE_HEARTBEAT_SECONDS: "1" });
  let heard = 0;
  const counting = new TransformStream<Uint8Array, Uint8Array>({
    transform: (bytes, controller) => {
      heard += 1;
      controller.enqueue(bytes);
    },
  });
  const listen: typeof fetch = async (url, init) => {
    const answer = await fetch(url, init);
    return new Response(answer.body!.pipeThrough(counting), answer);
  };
  // That whatever is heard keeps a connection is tested in connection.test.ts, where no machine is too slow for it.
  const recorded = new Recorded(test, bridge.url(), { fetch: listen });
  await until(() => recorded.stream.lastEventId, "the first checkpoint");
  const atFirst = heard;
  await until(() => heard >= atFirst + 3, () => `three heartbeats, of which ${heard - atFirst} came`);
  assert.deepEqual(recorded.order, ["connecting", "open"]);
});

test("under traffic, with a connection that is cut again and again, nothing is missing and nothing comes twice", async (test) => {
  const bridge = await Bridge.dev(test);
  const recorded = new Recorded(test, bridge.url());
  await recorded.is("open");
  await until(() => recorded.stream.lastEventId, "the first checkpoint");
  const count = 400;
  for (let number = 0; number < count; number += 1) {
    await bridge.publish(number);
    if (number % 7 === 0) recorded.stream.reconnect();
  }
  const data = await recorded.data(count);
  assert.deepEqual(
    data.map(Number),
    Array.from({ length: count }, (_, number) => number),
  );
  assert.ok(recorded.order.filter((word) => word === "connecting").length > 20);
  assert.deepEqual(recorded.gaps, []);
});

test("a stream that begins at an id gets all that came since", async (test) => {
  const bridge = await Bridge.dev(test);
  const first = new Recorded(test, bridge.url());
  await first.is("open");
  for (const number of [1, 2, 3]) await bridge.publish(number);
  await first.data(3);
  first.stream.close();
  const second = new Recorded(test, bridge.url(), { lastEventId: first.events[0]!.id });
  assert.deepEqual(await second.data(2), ["2", "3"]);
});

test("a bridge that is drained says so and is come back to; one that has forgotten says that as a gap", async (test) => {
  const bridge = await Bridge.dev(test);
  const recorded = new Recorded(test, bridge.url());
  const byes: unknown[] = [];
  recorded.stream.on("bridge.bye", ({ data }) => byes.push(data));
  await bridge.publish(1);
  await recorded.is("open");
  await bridge.publish(2);
  await recorded.data(1);
  await bridge.stop("SIGTERM");
  await until(() => byes.length, "a farewell");
  // Who comes back while it still drains is told so again.
  for (const bye of byes) assert.deepEqual(bye, { reason: "drain" });
  await until(() => recorded.states.some(([, { attempt }]) => attempt > 2), "tries while nobody is there");
  const again = await Bridge.dev(test, {}, bridge.port);
  await recorded.is("open");
  await until(() => recorded.gaps.length, "a gap");
  await again.publish(3);
  await until(() => recorded.events.at(-1)!.data === 3, "what comes after");
  // Its broker is in memory: the id is of another process.
  assert.deepEqual(recorded.gaps, [{ reason: "unknown", missed: null }]);
  assert.equal(recorded.order.indexOf("gap") < recorded.order.indexOf(`${recorded.events.at(-1)!.id} message`), true);
});

test("a bridge that is killed is come back to", async (test) => {
  const bridge = await Bridge.dev(test);
  const recorded = new Recorded(test, bridge.url());
  await recorded.is("open");
  await bridge.stop("SIGKILL");
  await recorded.is("waiting");
  const again = await Bridge.dev(test, {}, bridge.port);
  await recorded.is("open");
  await again.publish(1);
  assert.deepEqual(await recorded.data(1), ["1"]);
});

test("what is kept no longer is told as a gap before what is left", async (test) => {
  const bridge = await Bridge.dev(test, { SSE_CHANNEL_CAPACITY: "4" });
  const first = new Recorded(test, bridge.url());
  await first.is("open");
  await bridge.publish(0);
  await first.data(1);
  first.stream.close();
  for (let number = 1; number < 20; number += 1) await bridge.publish(number);
  const second = new Recorded(test, bridge.url(), { lastEventId: first.events[0]!.id });
  await until(() => second.events.at(-1)?.data === 19, "the newest");
  assert.equal(second.gaps.length, 1);
  assert.equal(second.gaps[0]!.reason, "expired");
  assert.equal(second.order[2], "gap");
  const left = second.events.map(({ data }) => data);
  assert.deepEqual(
    left,
    Array.from({ length: left.length }, (_, number) => 20 - left.length + number),
  );
});

test("a full bridge is waited for as long as its Retry-After says, and come back to", async (test) => {
  const bridge = await Bridge.dev(test, { HTTP_MAX_CONNECTIONS: "1" });
  const first = new Recorded(test, bridge.url());
  await first.is("open");
  const second = new Recorded(test, bridge.url());
  const { status, retryInMs } = await second.is("waiting");
  assert.equal(status, 503);
  assert.ok(retryInMs! >= 10_000, `${retryInMs}`);
  first.stream.close();
  await until(() => {
    if (second.stream.state === "waiting") second.stream.reconnect();
    return second.stream.state === "open";
  }, "there is room again");
});

test("too many streams of one address are a 429 with a time to come back", async (test) => {
  const bridge = await Bridge.dev(test, { HTTP_MAX_CONNECTIONS_PER_IP: "1" });
  await new Recorded(test, bridge.url()).is("open");
  const { status, retryInMs } = await new Recorded(test, bridge.url()).is("waiting");
  assert.equal(status, 429);
  assert.ok(retryInMs! >= 1_000, `${retryInMs}`);
});

test("a wrong request is final at once, and says with which status", async (test) => {
  const bridge = await Bridge.dev(test);
  for (const [query, status] of [["team=7", 400], ["all=false&broadcast=false", 403]] as const) {
    assert.equal((await new Recorded(test, bridge.url(query)).is("closed")).status, status);
  }
  assert.equal((await new Recorded(test, bridge.url().replace("/events", "/none")).is("closed")).status, 404);
});

test("a token is renewed when the bridge says that it ends, without a gap between the connections", async (test) => {
  // Who opened less than one `retry` ago waits before it comes back: it is to be shorter than the 5 s before the warning.
  const bridge = await Bridge.serve(test, { SSE_RETRY_MS: "100" });
  let token = bridge.token("36s");
  const recorded = new Recorded(test, bridge.url(), {
    headers: () => ({ Authorization: `Bearer ${token}` }),
    onExpiring: () => void (token = bridge.token("1h")),
  });
  const expiring: unknown[] = [];
  recorded.stream.on("bridge.expiring", ({ data }) => expiring.push(data));
  await until(() => recorded.states.length >= 4, () => `another connection, after ${recorded.order.join(", ")}`);
  assert.deepEqual(recorded.order, ["connecting", "open", "connecting", "open"]);
  assert.deepEqual(expiring, [{}]);
});

test("a token that is past is replaced by what headers gives next; without that it is the end", async (test) => {
  const bridge = await Bridge.serve(test, { AUTH_LEEWAY_SECONDS: "0" });
  // Its times are whole seconds: of 6 there are 5 at least left, for both to open with it.
  const short = bridge.token("6s");
  const headers = { Authorization: `Bearer ${short}` };
  const fixed = new Recorded(test, bridge.url(), { headers });
  const tokens = [short];
  const renewing = new Recorded(test, bridge.url(), {
    headers: () => ({ Authorization: `Bearer ${tokens.shift() ?? bridge.token("1h")}` }),
  });
  const { status } = await fixed.is("closed");
  assert.equal(status, 401);
  await until(() => renewing.order.filter((word) => word === "open").length > 1, "open with another token");
  assert.equal(renewing.order.includes("closed"), false);
});

test("who is revoked is told, and does not come back", async (test) => {
  const bridge = await Bridge.serve(test);
  const token = bridge.token("1h");
  const recorded = new Recorded(test, bridge.url(), { headers: () => ({ Authorization: `Bearer ${token}` }) });
  await recorded.is("open");
  await bridge.revoke();
  assert.match(String((await recorded.is("closed")).error), /revoked/);
  // Trying again is for who has logged in again: this token was issued before the revocation.
  recorded.stream.reconnect();
  await until(() => recorded.states.length > 3, "an answer");
  assert.equal((await recorded.is("closed")).status, 401);
});
