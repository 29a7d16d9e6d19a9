/** A tab that follows, alone: the lock is another's, and the test is the leader. How real tabs share is in `browser.test.ts`. */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import type { Options } from "../event-stream";
import { Recorded, until } from "./harness";

const URL = "http://127.0.0.1/events";

/** A tab, and how often it asked for the lock. */
class Follower {
  readonly recorded: Recorded;
  locksAsked = 0;
  #channel: BroadcastChannel;

  constructor(test: TestContext, options: Options) {
    const request = (_: string, { signal }: LockOptions): Promise<void> => {
      this.locksAsked += 1;
      return new Promise((_, reject) => signal?.addEventListener("abort", () => reject(signal.reason)));
    };
    const { navigator } = globalThis;
    Object.defineProperty(globalThis, "navigator", { configurable: true, value: { locks: { request } } });
    const share = test.name;
    this.#channel = new BroadcastChannel(`${share} ${URL}`);
    this.recorded = new Recorded(test, URL, { share, ...options });
    test.after(() => {
      this.#channel.close();
      Object.defineProperty(globalThis, "navigator", { configurable: true, value: navigator });
    });
  }

  tell(news: { after: string; blocks?: object[]; state?: string; detail?: object }): void {
    this.#channel.postMessage({ blocks: [], state: "open", detail: { attempt: 0 }, ...news });
  }
}

test("a leader that waits for as long as a timer can is waited for, without a timer that overflows", async (test) => {
  const asked = test.mock.method(globalThis, "setTimeout");
  const tab = new Follower(test, {});
  await tab.recorded.is("connecting");
  await until(() => tab.locksAsked, "it stands in the queue");
  asked.mock.resetCalls();
  tab.tell({ after: "1-00000001", state: "waiting", detail: { attempt: 1, retryInMs: 2 ** 31 - 1 } });
  await tab.recorded.is("waiting");
  const delays = asked.mock.calls.map(({ arguments: [, delay] }) => delay!);
  assert.equal(Math.max(...delays), 2 ** 31 - 1);
  assert.equal(tab.locksAsked, 1);
});

test("a tab that begins where the leader is needs no connection of its own, which it may not get", async (test) => {
  let asked = 0;
  const full = async () => {
    asked += 1;
    return new Response(null, { status: 429, headers: { "Retry-After": "3600" } });
  };
  const tab = new Follower(test, { lastEventId: "7-00000007", fetch: full });
  await tab.recorded.is("waiting");
  // The same position in another log is another place.
  tab.tell({ after: "7-0badbeef", blocks: [{ id: "8-0badbeef", type: "message", data: "0" }] });
  tab.tell({ after: "7-00000007", blocks: [{ id: "8-00000008", type: "message", data: "1" }] });
  await tab.recorded.is("open");
  assert.deepEqual(await tab.recorded.data(1), ["1"]);
  assert.equal(tab.recorded.stream.lastEventId, "8-00000008");
  assert.equal(asked, 1);
});
