"use client";
/** `EventStream` as a React hook: connects when the component is mounted, and renders with what the stream says. */
import { useEffect, useMemo, useRef, useSyncExternalStore } from "react";
import { type BridgeEvent, EventStream, type Gap, type Options, type State } from "./event-stream";

/** The events of a map from name to data type, told apart by `type`. Events without a name are called `message`. */
export type EventOf<M extends object> = {
  [Type in keyof M & string]: BridgeEvent<M[Type]> & { readonly type: Type };
}[keyof M & string];

export interface UseEventsOptions<M extends object> extends Omit<Options, "onEvent" | "signal"> {
  /** Every event, in order; `latest` only has what the last one of its name was when React rendered. */
  onEvent?(event: EventOf<M>): void;
}

export interface Events<M extends object> {
  state: State;
  /** How many connections were tried in a row since the last one that opened. */
  attempt: number;
  /** `waiting`: how long this wait is, from its beginning. */
  retryInMs: number | undefined;
  /** The HTTP status that led to `waiting` or `closed`, if it was an answer. */
  status: number | undefined;
  /** What went wrong, if it was not a status. */
  error: unknown;
  /** Moves with every event, and with checkpoints when the next event or change of state renders. */
  lastEventId: string;
  /** What was missed, the newest last, at most 20. */
  gaps: readonly Gap[];
  /** The last event of each name. */
  latest: { readonly [Type in keyof M]?: BridgeEvent<M[Type]> };
  /** Connects anew at once, where the stream is. */
  reconnect(): void;
}

const GAPS_KEPT = 20;

/**
 * The events at `url`; with `null` there is no connection. Another `url`, `share` or `pauseWhenHidden` makes a new stream. All
 * other options may differ with each render: callbacks are the newest, the rest counts when the stream is made.
 *
 * ```tsx
 * type Board = { "job.status": { job: number; state: string } };
 * const { state, latest } = useEvents<Board>("/api/events?team_id=7", { onGap: refetch });
 * ```
 */
export function useEvents<M extends object = Record<string, unknown>>(
  url: string | null,
  options: UseEventsOptions<M> = {},
): Events<M> {
  const newest = useRef(options);
  useEffect(() => {
    newest.current = options;
  });
  const { lastEventId, pauseWhenHidden, share } = options;
  // Where to begin is said once: it is no reason to begin again.
  const store = useMemo(() => new Store<M>(url, newest, lastEventId), [url, share, pauseWhenHidden]);
  return useSyncExternalStore(store.subscribe, store.view, store.view);
}

/** What is rendered, made anew with every change, as React compares by identity. Connected while somebody looks. */
class Store<M extends object> {
  #url: string | null;
  #options: { readonly current: UseEventsOptions<M> };
  #stream: EventStream | undefined;
  #view: Events<M>;

  constructor(url: string | null, options: { readonly current: UseEventsOptions<M> }, lastEventId = "") {
    this.#url = url;
    this.#options = options;
    this.#view = {
      state: url === null ? "closed" : "connecting",
      attempt: 0,
      retryInMs: undefined,
      status: undefined,
      error: undefined,
      lastEventId,
      gaps: [],
      latest: {},
      reconnect: () => this.#stream?.reconnect(),
    };
  }

  view = (): Events<M> => this.#view;

  subscribe = (changed: () => void): (() => void) => {
    if (this.#url === null) return () => {};
    const newest = this.#options;
    const { headers, onExpiring, parse } = newest.current;
    const show = (change: Partial<Events<M>>): void => {
      this.#view = { ...this.#view, lastEventId: stream.lastEventId, ...change };
      changed();
    };
    const stream = new EventStream(this.#url, {
      ...newest.current,
      // Mounted again, by strict mode or an <Activity> that is shown again, it goes on where it was.
      lastEventId: this.#view.lastEventId,
      ...(typeof headers === "function" && { headers: () => valueOf(newest.current.headers) }),
      ...(onExpiring && { onExpiring: () => newest.current.onExpiring?.() }),
      ...(parse && { parse: (data, type) => (newest.current.parse ?? parse)(data, type) }),
      onEvent: (event) => {
        show({ latest: { ...this.#view.latest, [event.type]: event } });
        newest.current.onEvent?.(event as EventOf<M>);
      },
      onGap: (gap) => {
        show({ gaps: [...this.#view.gaps, gap].slice(-GAPS_KEPT) });
        newest.current.onGap?.(gap);
      },
      onState: (state, detail) => {
        // Closed because nobody looks any more: nothing to show.
        if (this.#stream !== stream) return;
        const { attempt, retryInMs, status, error } = detail;
        show({ state, attempt, retryInMs, status, error });
        newest.current.onState?.(state, detail);
      },
    });
    this.#stream = stream;
    return () => {
      // Checkpoints moved it without rendering anything.
      this.#view = { ...this.#view, lastEventId: stream.lastEventId };
      this.#stream = undefined;
      stream.close();
    };
  };
}

function valueOf(headers: Options["headers"]): HeadersInit | Promise<HeadersInit> {
  return typeof headers === "function" ? headers() : (headers ?? {});
}
