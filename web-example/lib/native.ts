/**
 * The browser's own EventSource, for those who want to stay with it, with what it lacks: it is made anew, where it was, after an
 * answer that ends it for good, and when it is silent. It cannot tell which answer that was, nor send headers.
 */
import { backOff, SILENCE_MS } from "./connection";
import type { BridgeEvent, Gap, Options, State } from "./event-stream";

export interface NativeOptions
  extends Pick<Options, "lastEventId" | "onEvent" | "onGap" | "onState" | "parse" | "silenceMs" | "minRetryMs" | "maxRetryMs"> {
  /** The names of the events wanted: EventSource gives none that nobody listens for. `message` is always among them. */
  types?: readonly string[];
  /** Sends cookies to another origin. */
  withCredentials?: boolean;
}

export interface NativeEventStream {
  readonly state: State;
  readonly lastEventId: string;
  reconnect(): void;
  close(): void;
}

/** What EventSource waits for by itself where the server has not said otherwise, about. */
const BASE_MS = 2_000;

export function nativeEventStream(url: string | URL, options: NativeOptions = {}): NativeEventStream {
  const { onEvent, onGap, onState, parse = (data: string) => JSON.parse(data), silenceMs = SILENCE_MS } = options;
  let source: EventSource | undefined;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let state: State = "connecting";
  let lastEventId = options.lastEventId ?? "";
  let attempt = 0;

  function turn(to: State, retryInMs?: number): void {
    state = to;
    onState?.(to, { attempt, ...(retryInMs !== undefined && { retryInMs }) });
  }

  function connect(): void {
    stop();
    const target = new URL(url, globalThis.location?.href);
    // Scripts do not see the checkpoints of the default.
    target.searchParams.set("heartbeat", "event");
    if (lastEventId) target.searchParams.set("last_event_id", lastEventId);
    source = new EventSource(target, { withCredentials: options.withCredentials ?? false });
    source.onopen = () => {
      attempt = 0;
      listen();
      turn("open");
    };
    // While it is CONNECTING it comes back by itself.
    source.onerror = () => (source!.readyState === EventSource.CLOSED ? wait() : turn("connecting"));
    for (const type of new Set(["message", ...(options.types ?? [])])) {
      on(type, (event) => onEvent?.({ id: lastEventId, type, data: parse(event.data, type), raw: event.data }));
    }
    on("bridge.heartbeat", () => {});
    on("bridge.gap", ({ data }) => onGap?.(JSON.parse(data)));
    on("bridge.bye", ({ data }) => JSON.parse(data).reason === "revoked" && close());
    listen();
    turn("connecting");
  }

  function on(type: string, listener: (event: MessageEvent<string>) => void): void {
    source!.addEventListener(type, (event) => {
      lastEventId = event.lastEventId || lastEventId;
      listen();
      listener(event);
    });
  }

  function listen(): void {
    clearTimeout(timer);
    if (silenceMs) timer = setTimeout(wait, silenceMs);
  }

  function wait(): void {
    stop();
    const retryInMs = backOff(BASE_MS, attempt, options);
    attempt += 1;
    timer = setTimeout(connect, retryInMs);
    turn("waiting", retryInMs);
  }

  function stop(): void {
    clearTimeout(timer);
    source?.close();
    source = undefined;
  }

  function close(): void {
    if (state === "closed") return;
    stop();
    turn("closed");
  }

  queueMicrotask(() => state !== "closed" && connect());
  return {
    get state() {
      return state;
    },
    get lastEventId() {
      return lastEventId;
    },
    reconnect: () => state !== "closed" && connect(),
    close,
  };
}

export type { BridgeEvent, Gap };
