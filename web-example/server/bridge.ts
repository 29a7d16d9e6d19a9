// How events get to the bridge: `POST /publish`, one at a time for each audience, so that they arrive in the order in which they
// happened, and again with the same `message_id` where no answer came, which the bridge recognises.

import "server-only";

import { randomUUID } from "node:crypto";

import { settings } from "./settings";
import { mintPublisher } from "./tokens";

interface Outgoing {
  topic: string;
  type: string;
  data: unknown;
  message_id: string;
}

const MAX_WAITING = 1000;
const PATIENCE_MS = 60_000;

interface Outbox {
  waiting: Outgoing[];
  sending: boolean;
}

const here = globalThis as { boardOutboxes?: Map<string, Outbox> };
const outboxes = (here.boardOutboxes ??= new Map<string, Outbox>());

/** Publishes in the background. `audience` is what keeps its order. */
export function publish(audience: string, topic: string, type: string, data: unknown): void {
  const outbox = outboxes.get(audience) ?? { waiting: [], sending: false };
  outboxes.set(audience, outbox);
  // What is lost here leaves a hole in the numbers of changes: pages notice and fetch the state.
  if (outbox.waiting.length >= MAX_WAITING) outbox.waiting.shift();
  outbox.waiting.push({ topic, type, data, message_id: randomUUID() });
  if (!outbox.sending) void send(outbox);
}

async function send(outbox: Outbox): Promise<void> {
  outbox.sending = true;
  for (let event = outbox.waiting.shift(); event; event = outbox.waiting.shift()) {
    await delivered(event);
  }
  outbox.sending = false;
}

async function delivered(event: Outgoing): Promise<void> {
  const url = new URL("/publish", settings().bridgeUrl);
  const until = Date.now() + PATIENCE_MS;
  for (let waitMs = 250; ; waitMs = Math.min(2 * waitMs, 4000)) {
    const outcome = await attempt(url, event);
    if (outcome === "taken") return;
    if (outcome !== "unreachable" || Date.now() > until) {
      console.error(`The bridge did not take an event of type ${event.type}: ${outcome}`);
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, waitMs));
  }
}

async function attempt(url: URL, event: Outgoing): Promise<string> {
  try {
    const answer = await fetch(url, {
      method: "POST",
      headers: { "Content-Type": "application/json", Authorization: `Bearer ${await mintPublisher()}` },
      body: JSON.stringify(event),
      signal: AbortSignal.timeout(15_000),
      cache: "no-store",
    });
    await answer.body?.cancel();
    if (answer.ok) return "taken";
    return answer.status === 503 || answer.status === 429 ? "unreachable" : `status ${answer.status}`;
  } catch {
    return "unreachable";
  }
}
