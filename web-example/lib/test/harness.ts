/** What the tests stand on: servers that speak raw bytes, a real bridge, a real Chromium, and waiting without sleeping. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import path from "node:path";
import type { TestContext } from "node:test";
import { type BridgeEvent, EventStream, type Gap, type Options, type State, type StateDetail } from "../event-stream";

const DEADLINE_MS = 15_000;

/** The real one, also in tests whose own time stands still. */
const { setTimeout: later } = globalThis;

/** Looks again and again until something is true, and fails at a deadline with what was waited for, as it stands by then. */
export async function until<T>(look: () => T | Promise<T>, what: string | (() => string)): Promise<NonNullable<T>> {
  const deadline = Date.now() + DEADLINE_MS;
  for (;;) {
    const found = await look();
    if (found) return found as NonNullable<T>;
    if (Date.now() >= deadline) assert.fail(`not within ${DEADLINE_MS} ms: ${typeof what === "string" ? what : what()}`);
    await new Promise((resolve) => later(resolve, 5));
  }
}

/** A request as it came in, and the socket to answer on. */
export class Exchange {
  readonly target: string;
  readonly headers: Map<string, string>;
  readonly at = performance.now();
  isGone = false;
  #socket: Socket;

  constructor(head: string, socket: Socket) {
    const [request = "", ...lines] = head.split("\r\n");
    this.target = request.split(" ")[1] ?? "";
    this.headers = new Map(lines.map((line) => [line.split(":", 1)[0]!.toLowerCase(), line.slice(line.indexOf(":") + 1).trim()]));
    this.#socket = socket;
    socket.on("close", () => (this.isGone = true)).on("error", () => {});
  }

  get lastEventId(): string | undefined {
    return this.headers.get("last-event-id");
  }

  /** An answer without a body, or with headers that say how a stream begins. */
  answer(status: number, headers: Record<string, string> = {}, body?: string): this {
    const lines = Object.entries({ Connection: "close", ...(body !== undefined && { "Content-Length": `${body.length}` }), ...headers });
    const end = status === 200 && body === undefined ? "" : (body ?? "");
    this.#socket.write(`HTTP/1.1 ${status} X\r\n${lines.map(([name, value]) => `${name}: ${value}\r\n`).join("")}\r\n${end}`);
    if (status !== 200 || body !== undefined) this.#socket.end();
    return this;
  }

  /** Begins a stream whose body is the rest of the connection, so that nothing stands between these bytes and the client. */
  stream(bytes: string | Uint8Array = "", type = "text/event-stream"): this {
    this.answer(200, { "Content-Type": type });
    return this.send(bytes);
  }

  send(bytes: string | Uint8Array): this {
    if (bytes.length) this.#socket.write(bytes);
    return this;
  }

  /** Sends byte by byte, each in a packet of its own as far as the kernel lets it be. */
  async sendSlowly(bytes: Uint8Array): Promise<void> {
    this.#socket.setNoDelay(true);
    for (const byte of bytes) {
      await new Promise<void>((resolve) => this.#socket.write(Uint8Array.of(byte), () => resolve()));
      await new Promise(setImmediate);
    }
  }

  end(): void {
    this.#socket.end();
  }

  cut(): void {
    this.#socket.resetAndDestroy();
  }
}

/** A server on a socket that answers each request as it is told, and remembers all of them. */
export class Server {
  readonly requests: Exchange[] = [];
  readonly url: string;

  private constructor(port: number) {
    this.url = `http://127.0.0.1:${port}/events`;
  }

  static async start(test: TestContext, answer: (exchange: Exchange, count: number) => void): Promise<Server> {
    const sockets = new Set<Socket>();
    const listener = createServer((socket) => {
      sockets.add(socket.on("close", () => sockets.delete(socket)).on("error", () => {}));
      let head = "";
      socket.on("data", (bytes) => {
        head += bytes.toString("latin1");
        if (!head.includes("\r\n\r\n")) return;
        const exchange = new Exchange(head.split("\r\n\r\n")[0]!, socket);
        head = "";
        server.requests.push(exchange);
        answer(exchange, server.requests.length);
      });
    });
    listener.listen(0, "127.0.0.1");
    await once(listener, "listening");
    const address = listener.address();
    assert.ok(address && typeof address === "object");
    const server = new Server(address.port);
    test.after(() => {
      for (const socket of sockets) socket.destroy();
      listener.close();
    });
    return server;
  }

  async request(count: number): Promise<Exchange> {
    return until(() => this.requests[count - 1], `request ${count}`);
  }
}

/**
 * Answers of a server in this process, for tests whose time stands still: no socket has timers of its own here. Each request is
 * answered when the test says so.
 */
export class Answers {
  readonly requests: { readonly signal: AbortSignal; answer: (response: Response) => void }[] = [];

  readonly fetch: typeof fetch = (_, init) =>
    new Promise((resolve, reject) => {
      const signal = init!.signal!;
      signal.addEventListener("abort", () => reject(signal.reason));
      this.requests.push({ signal, answer: resolve });
    });

  /** Answers the newest request with a stream, and gives what sends on it and returns once all of that was heard. */
  async stream(): Promise<(text: string) => Promise<void>> {
    const { answer } = this.requests.at(-1)!;
    let controller!: ReadableStreamDefaultController<Uint8Array>;
    const body = new ReadableStream<Uint8Array>({ start: (given) => void (controller = given) });
    answer(new Response(body, { headers: { "Content-Type": "text/event-stream" } }));
    await settled();
    return (text) => {
      controller.enqueue(new TextEncoder().encode(text));
      return settled();
    };
  }
}

/** Everything has happened that needs no timer and no socket. */
export function settled(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** A stream and everything that it said. */
export class Recorded {
  readonly events: BridgeEvent[] = [];
  readonly gaps: Gap[] = [];
  readonly states: [State, StateDetail][] = [];
  /** In which order: the ids and types of events, `gap`, and states. */
  readonly order: string[] = [];
  readonly stream: EventStream;

  constructor(test: TestContext, url: string, options: Options = {}) {
    this.stream = new EventStream(url, {
      minRetryMs: 1,
      maxRetryMs: 20,
      ...options,
      onEvent: (event) => {
        this.events.push(event);
        this.order.push(`${event.id} ${event.type}`);
        options.onEvent?.(event);
      },
      onGap: (gap) => {
        this.gaps.push(gap);
        this.order.push("gap");
        options.onGap?.(gap);
      },
      onState: (state, detail) => {
        this.states.push([state, detail]);
        this.order.push(state);
        options.onState?.(state, detail);
      },
    });
    test.after(() => this.stream.close());
  }

  async is(state: State): Promise<StateDetail> {
    await until(() => this.stream.state === state, () => `${state}, after ${this.order.join(", ")}`);
    return this.states.at(-1)![1];
  }

  /** The raw data of this many events. */
  async data(count: number): Promise<string[]> {
    await until(() => this.events.length >= count, () => `${count} events, after ${this.order.join(", ")}`);
    return this.events.map(({ raw }) => raw);
  }

  async id(id: string): Promise<void> {
    await until(() => this.stream.lastEventId === id, () => `the id ${id}, not ${this.stream.lastEventId}`);
  }
}

const PROGRAM = path.resolve(process.env["SSE_BRIDGE"] ?? "../../target/debug/sse-bridge");

/** The real bridge. `dev` has its broker in memory; `serve` checks tokens, and here has no broker at all, which it does not need for that. */
export class Bridge {
  readonly port: number;
  readonly adminPort: number;
  #process: ChildProcess;
  #settings: Record<string, string>;

  private constructor(port: number, adminPort: number, process: ChildProcess, settings: Record<string, string>) {
    this.port = port;
    this.adminPort = adminPort;
    this.#process = process;
    this.#settings = settings;
  }

  static dev(test: TestContext, settings: Record<string, string> = {}, port = 0): Promise<Bridge> {
    return Bridge.#start(test, "dev", { HTTP_BIND: `127.0.0.1:${port}`, ...settings });
  }

  /** With tokens as the login. Where a test connects, nothing listens but the bridge. */
  static serve(test: TestContext, settings: Record<string, string> = {}): Promise<Bridge> {
    return Bridge.#start(test, "serve", {
      AUTH_MODE: "jwt",
      AUTH_JWT_SECRET: randomBytes(32).toString("hex"),
      RABBITMQ_URL: "amqp://guest:guest@127.0.0.1:1/%2F",
      HTTP_BIND: "127.0.0.1:0",
      ADMIN_BIND: "127.0.0.1:0",
      ...settings,
    });
  }

  static async #start(test: TestContext, command: string, settings: Record<string, string>): Promise<Bridge> {
    assert.ok(existsSync(PROGRAM), `${PROGRAM}: build it with cargo build, or name another in SSE_BRIDGE`);
    const child = spawn(PROGRAM, [command], { env: settings, cwd: path.resolve("test"), stdio: ["ignore", "pipe", "pipe"] });
    let said = "";
    test.after(() => {
      child.kill("SIGKILL");
      assert.doesNotMatch(said, /eyJ[\w-]{8,}\.eyJ/, "the bridge wrote a token to its log");
      const secret = settings["AUTH_JWT_SECRET"];
      assert.ok(!secret || !said.includes(secret), "the bridge wrote its secret to its log");
    });
    for (const output of [child.stdout, child.stderr]) output.setEncoding("utf8").on("data", (text: string) => (said += text));
    const bound = await until(() => /"message":"listening".*\n/.exec(said), () => `the bridge listens: ${said}`);
    const [port, adminPort] = ["public", "admin"].map((name) => Number(new RegExp(`"${name}":"127.0.0.1:(\\d+)"`).exec(bound[0])?.[1]));
    return new Bridge(port!, adminPort!, child, settings);
  }

  url(query = "team_id=7"): string {
    return `http://127.0.0.1:${this.port}/events?${query}`;
  }

  /** A token of a user 42 in team 7. */
  token(timeToLive: string): string {
    const run = spawnSync(PROGRAM, ["token", "--user", "42", "--team", "7", "--ttl", timeToLive], { env: this.#settings, encoding: "utf8" });
    assert.equal(run.status, 0, run.stderr);
    return run.stdout.trim();
  }

  async publish(data: unknown, type?: string, topic = "team.7.job.9.status"): Promise<void> {
    const body = JSON.stringify({ topic, data, ...(type && { type }) });
    const answer = await fetch(`http://127.0.0.1:${this.port}/publish`, { method: "POST", body });
    assert.equal(answer.status, 202, await answer.text());
  }

  /** Ends the streams of user 42. Without a broker no other replica hears of it, which the answer says. */
  async revoke(): Promise<void> {
    const answer = await fetch(`http://127.0.0.1:${this.adminPort}/revoke`, { method: "POST", body: '{"user_id":"42"}' });
    assert.equal(answer.status, 503, await answer.text());
  }

  async stop(signal: "SIGTERM" | "SIGKILL"): Promise<void> {
    this.#process.kill(signal);
    if (this.#process.exitCode === null && this.#process.signalCode === null) await once(this.#process, "exit");
  }
}
