/** How a login is renewed: once at a time, before the next connection, and again where that failed. Time moves by hand. */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import type { Options } from "../event-stream";
import { Recorded } from "./harness";

const EXPIRING = "event: bridge.expiring\ndata: {}\n\n";
const EXPIRED = 'event: bridge.bye\ndata: {"reason":"expired"}\n\n';

/** A server in this process, that asks for the newest token, and a token server that answers when the test says so. */
class Login {
  /** The token of each request. */
  readonly asked: string[] = [];
  /** Those who wait for a new token. */
  readonly renewing: { fulfil(): Promise<void>; reject(): Promise<void> }[] = [];
  readonly recorded: Recorded;
  #test: TestContext;
  #token = 1;
  #accepted = 1;
  #stream!: ReadableStreamDefaultController<Uint8Array>;

  constructor(test: TestContext, options: Options = {}) {
    test.mock.timers.enable({ apis: ["setTimeout", "Date"] });
    this.#test = test;
    this.recorded = new Recorded(test, "http://127.0.0.1/events", {
      headers: () => ({ Authorization: `${this.#token}` }),
      onExpiring: () => this.#renew(),
      fetch: async (_, init) => this.#answer(new Headers(init!.headers).get("Authorization")!),
      ...options,
    });
  }

  #answer(token: string): Response {
    this.asked.push(token);
    if (Number(token) < this.#accepted) return new Response(null, { status: 401 });
    const body = new ReadableStream<Uint8Array>({ start: (stream) => void (this.#stream = stream) });
    return new Response(body, { headers: { "Content-Type": "text/event-stream" } });
  }

  #renew(): Promise<void> {
    return new Promise((resolve, reject) => {
      const then = (settle: () => void) => () => (settle(), settled());
      this.renewing.push({
        fulfil: then(() => {
          this.#token += 1;
          resolve();
        }),
        reject: then(() => reject(new Error("the token server is away"))),
      });
    });
  }

  send(text: string): Promise<void> {
    this.#stream.enqueue(new TextEncoder().encode(text));
    return settled();
  }

  end(): Promise<void> {
    this.#stream.close();
    return settled();
  }

  /** From now on the present token is refused. */
  expire(): void {
    this.#accepted = this.#token + 1;
  }

  async pass(milliseconds: number): Promise<void> {
    this.#test.mock.timers.tick(milliseconds);
    await settled();
  }
}

/** Everything has happened that needs no timer. */
function settled(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

test("a renewal that fails after a refusal is tried again, and the stream goes on", async (test) => {
  const login = new Login(test);
  login.expire();
  await settled();
  assert.deepEqual(login.asked, ["1"]);
  await login.renewing[0]!.reject();
  const [state, { error }] = login.recorded.states.at(-1)!;
  assert.equal(state, "waiting");
  assert.match(String(error), /token server/);
  await login.pass(20);
  assert.deepEqual(login.asked, ["1", "1"]);
  assert.equal(login.recorded.stream.state, "connecting");
  await login.renewing[1]!.fulfil();
  assert.equal(login.recorded.stream.state, "open");
  assert.deepEqual(login.asked, ["1", "1", "2"]);
});

test("when the login has ended it is renewed first, however long that takes, and then the stream goes on at once", async (test) => {
  const login = new Login(test);
  await settled();
  await login.send("retry: 0\n\nid: 1-00000001\n\n");
  await login.pass(5_000);
  login.expire();
  await login.send(EXPIRED);
  await login.end();
  await login.pass(30_000);
  assert.deepEqual(login.asked, ["1"]);
  await login.renewing[0]!.fulfil();
  assert.deepEqual(login.asked, ["1", "2"]);
  assert.deepEqual(login.recorded.order, ["connecting", "open", "connecting", "open"]);
  assert.equal(login.renewing.length, 1);
});

test("a renewal that fails when the login has ended is waited for, and tried again after the refusal", async (test) => {
  const login = new Login(test);
  await settled();
  login.expire();
  await login.send(EXPIRED);
  await login.end();
  await login.renewing[0]!.reject();
  assert.match(String(login.recorded.states.at(-1)![1].error), /token server/);
  assert.equal(login.recorded.stream.state, "waiting");
  await login.pass(20);
  await login.renewing[1]!.fulfil();
  assert.equal(login.recorded.stream.state, "open");
  assert.deepEqual(login.asked, ["1", "1", "2"]);
});

test("while the login is renewed nobody asks for it a second time: neither at its end nor at a refusal", async (test) => {
  for (const ending of [EXPIRED, ""]) {
    const login = new Login(test, { silenceMs: 1_000 });
    await settled();
    await login.send(`retry: 0\n\n${EXPIRING}`);
    login.expire();
    await login.send(ending);
    if (!ending) await login.end();
    // What began before the end goes on: here it takes longer than the silence that ends a connection.
    await login.pass(1_000);
    await login.pass(20);
    assert.deepEqual(login.asked, ["1", "1"]);
    await login.renewing[0]!.fulfil();
    assert.equal(login.recorded.stream.state, "open");
    assert.deepEqual([login.asked, login.renewing.length], [["1", "1", "2"], 1]);
    // The next one is another.
    await login.send(EXPIRING);
    assert.equal(login.renewing.length, 2);
    login.recorded.stream.close();
    test.mock.timers.reset();
  }
});
