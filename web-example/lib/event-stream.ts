/**
 * A client of sse-bridge over `fetch`. Unlike the browser's EventSource it sends headers, survives every answer that is
 * not final, notices a dead link, renews its token without losing its place, and lets all tabs share one connection.
 * This file holds what an application sees: callbacks, the place in the stream, pausing while the page is hidden. How a
 * connection is kept is in `connection.ts`, the wire format in `parser.ts`, sharing in `shared.ts`. No dependencies.
 */
import { Connection, report } from "./connection";
import type { Block } from "./parser";
import { SharedConnection } from "./shared";

/**
 * - `connecting`: a request is on its way;
 * - `open`: events arrive;
 * - `waiting`: the connection failed or ended, and the next one is made in `retryInMs`;
 * - `paused`: the page is hidden, and `pauseWhenHidden` is set;
 * - `closed`: closed by `close()` or the signal, which is for good, or by an answer that will not change by itself
 *   (no right, a wrong request): after that one `reconnect()` tries again.
 */
export type State = "connecting" | "open" | "waiting" | "paused" | "closed";

export interface StateDetail {
  /** How many connections were tried in a row since the last one that opened; 0 while all is well. */
  attempt: number;
  /** `waiting`: how long, in milliseconds. */
  retryInMs?: number;
  /** `waiting`, `closed`: the HTTP status that led here, if it was an answer. */
  status?: number;
  /** `waiting`, `closed`: what went wrong, if it was not a status. Tabs that share another tab's connection do not see it. */
  error?: unknown;
}

export interface BridgeEvent<T = unknown> {
  /** The stream's last event id as of this event: its own, or that of the last one that had one. */
  id: string;
  /** The event's name; `message` where it has none. */
  type: string;
  /** What `parse` made of `raw`. */
  data: T;
  /** The data as it came. */
  raw: string;
}

/** Something was missed: fetch the present state from your own API. */
export interface Gap {
  /** `slow`: this client did not keep up. `expired`: it came back too late. `unknown`: the bridge does not know its last id. */
  reason: "slow" | "expired" | "unknown";
  /** How many events, where that is known. */
  missed: number | null;
}

export interface Options {
  /**
   * Headers of the request, such as `Authorization`. A function is called before every connection, so that each has a
   * fresh token; where it fails, the connection counts as failed and is tried again.
   */
  headers?: HeadersInit | (() => HeadersInit | Promise<HeadersInit>);
  /** Whether cookies go along (`fetch`'s `credentials`): `same-origin` by default, `include` for another origin. */
  credentials?: RequestCredentials;
  /** Where to go on from: the id up to which the page already knows everything. Without one, what comes from now on. */
  lastEventId?: string;
  /** Closes the stream when it aborts. */
  signal?: AbortSignal;
  /** Makes `data` of what came: `JSON.parse` by default. An event that it throws at is reported and not delivered. */
  parse?: (data: string, type: string) => unknown;
  /** Every event of a producer, in order. The bridge's own (`bridge.*`) come to listeners of `on` only. */
  onEvent?(event: BridgeEvent): void;
  /** Events are missing; called before any later event. */
  onGap?(gap: Gap): void;
  onState?(state: State, detail: StateDetail): void;
  /**
   * The login ends in 30 seconds, has ended, or was refused (401, 403): renew what `headers` or the cookie will hold.
   * Once it is done the stream reconnects where it was. It is not called again while it runs. With `share`, only the tab that
   * holds the connection is asked.
   */
  onExpiring?(): void | Promise<void>;
  /** A connection on which nothing was heard for so long is dead: 40,000 by default, 0 for never. More than two heartbeats. */
  silenceMs?: number;
  /** The shortest wait before a new connection: 250 by default. */
  minRetryMs?: number;
  /** The longest, unless the server's `Retry-After` asks for more: 30,000 by default. */
  maxRetryMs?: number;
  /** Lets the connection go while the page is hidden, and goes on where it was when it is shown again. */
  pauseWhenHidden?: boolean;
  /** A `fetch` of one's own. */
  fetch?: typeof fetch;
  /**
   * All streams of this origin with the same name and URL use one connection, whichever tab they are in. Name the user in
   * it: all of them see what one of them may see. Where there are no Web Locks, each has a connection of its own.
   */
  share?: string;
}

type Listener = (event: BridgeEvent) => void;

export class EventStream {
  #state: State = "connecting";
  #lastEventId: string;
  #options: Options;
  #listeners = new Map<string, Set<Listener>>();
  /** None before the first microtask, while paused, and once closed for good. */
  #link: Connection | SharedConnection | undefined;
  #makeLink: () => Connection | SharedConnection;
  #closed = new AbortController();

  /** The first request is made in a microtask: what is closed at once, as React's strict mode does, sends none. */
  constructor(url: string | URL, options: Options = {}) {
    const { lastEventId = "", pauseWhenHidden, share, signal } = options;
    this.#options = options;
    this.#lastEventId = lastEventId;
    const sink = { hear: this.#hear, turn: this.#turn };
    this.#makeLink = () =>
      share && globalThis.navigator?.locks
        ? new SharedConnection(share, url, options, sink, this.#lastEventId)
        : new Connection(url, options, sink, this.#lastEventId);
    const whileOpen = { signal: this.#closed.signal };
    signal?.addEventListener("abort", () => this.close(), whileOpen);
    if (pauseWhenHidden) globalThis.document?.addEventListener("visibilitychange", this.#resume, whileOpen);
    queueMicrotask(() => (signal?.aborted ? this.close() : this.#resume()));
  }

  get state(): State {
    return this.#state;
  }

  /** The id up to which everything was delivered; to be kept where a later page is to go on from here. */
  get lastEventId(): string {
    return this.#lastEventId;
  }

  /** Calls a listener with every event of this name; what it returns takes the listener away again. */
  on(type: string, listener: Listener): () => void {
    const listeners = this.#listeners.get(type) ?? new Set();
    this.#listeners.set(type, listeners.add(listener));
    return () => void listeners.delete(listener);
  }

  /** Connects anew at once, where the stream is: instead of waiting, or after an answer that closed it. Not after `close()`. */
  reconnect(): void {
    this.#link?.connect();
  }

  /** Ends it for good: no callback comes later than `onState("closed")`, and no timer or request is left. */
  close(): void {
    if (this.#closed.signal.aborted) return;
    this.#closed.abort();
    this.#unlink();
    this.#turn("closed", { attempt: 0 });
  }

  /** Connects, or pauses, as the page is seen or not. */
  #resume = (): void => {
    if (this.#state === "closed") return;
    if (this.#options.pauseWhenHidden && globalThis.document?.hidden) {
      this.#unlink();
      this.#turn("paused", { attempt: 0 });
    } else if (!this.#link) {
      this.#link = this.#makeLink();
      this.#link.connect();
    }
  };

  #unlink(): void {
    this.#link?.close();
    this.#link = undefined;
  }

  #turn = (state: State, detail: StateDetail): void => {
    this.#state = state;
    guard(() => this.#options.onState?.(state, detail));
  };

  #hear = (blocks: Block[]): void => {
    for (const { id, type, data } of blocks) {
      // A listener may have closed it.
      if (this.#closed.signal.aborted) return;
      this.#lastEventId = id ?? this.#lastEventId;
      if (data !== undefined) guard(() => this.#dispatch(type, data));
    }
  };

  #dispatch(type: string, raw: string): void {
    const { onEvent, onGap, parse } = this.#options;
    const isOfBridge = type.startsWith("bridge.");
    const data = parse && !isOfBridge ? parse(raw, type) : JSON.parse(raw);
    const event: BridgeEvent = { id: this.#lastEventId, type, data, raw };
    // Each may close it, and so may `parse`: nobody hears of anything after that.
    const call = (action: () => void): void => void (this.#closed.signal.aborted || guard(action));
    if (type === "bridge.gap") call(() => onGap?.(data));
    if (!isOfBridge) call(() => onEvent?.(event));
    for (const listener of [...(this.#listeners.get(type) ?? [])]) call(() => listener(event));
  }
}

/** What a callback throws is reported, as the browser does for listeners of its own, and hurts nobody else. */
function guard(action: () => void): void {
  try {
    action();
  } catch (error) {
    report(error);
  }
}
