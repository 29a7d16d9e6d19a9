/**
 * One connection at a time, kept for as long as it is wanted: made, listened to, given up when it is silent, made again
 * after a wait, with the last event id and fresh headers. Passes on what it hears, and acts itself only on what concerns
 * the connection: `bridge.expiring` and `bridge.bye`.
 */
import type { Options, State, StateDetail } from "./event-stream";
import { type Block, Parser } from "./parser";

/** Who is told what a connection hears. */
export interface Sink {
  /** Blocks that came together, perhaps none, and the id that they follow. */
  hear(blocks: Block[], after: string): void;
  turn(state: State, detail: StateDetail): void;
}

/** How long nothing may be heard by default: the bridge says something every 15 seconds. */
export const SILENCE_MS = 40_000;
/** Statuses that may be different next time; so may every 5xx. All others are final. */
const TRANSIENT = [408, 425, 429];
/** A timer's longest: `setTimeout` fires at once beyond it. */
export const LONGEST_MS = 2 ** 31 - 1;

/** As the browser reports what a listener throws. */
export function report(error: unknown): void {
  (globalThis.reportError ?? console.error)(error);
}

/**
 * The last event id behind a block. An id that the bridge does not know is replaced by none at all: there, too, the bridge tells of
 * a gap, and it is not compared with the ids that follow.
 */
export function idAfter({ id, type, data }: Block, before: string): string {
  return id ?? (type === "bridge.gap" && data?.includes('"unknown"') ? "unknown" : before);
}

/**
 * Full jitter: anywhere between the shortest wait and one that doubles with each attempt, so that clients that were cut off
 * together do not come back together.
 */
export function backOff(base: number, attempt: number, { minRetryMs = 250, maxRetryMs = 30_000 }: Options): number {
  const ceiling = Math.min(maxRetryMs, base * 2 ** attempt);
  return minRetryMs + Math.random() * Math.max(0, ceiling - minRetryMs);
}

/** Milliseconds, of a header that holds seconds or a date (RFC 9110 §10.2.3). */
function retryAfter(header: string | null): number {
  const seconds = Number(header ?? 0);
  return Math.max(0, Number.isNaN(seconds) ? Date.parse(header!) - Date.now() || 0 : seconds * 1000);
}

export class Connection {
  /** The last event id: where the next connection goes on. */
  lastEventId: string;
  #url: string | URL;
  #options: Options;
  #sink: Sink;
  /** The present request, and with it whether what happens in an older one still counts. */
  #request: AbortController | undefined;
  /** The one timer: silence while there is a request, the wait while there is none. */
  #timer: ReturnType<typeof setTimeout> | undefined;
  #attempt = 0;
  #openedAt = 0;
  /** The server's `retry`; until it has sent one, what the bridge would send. */
  #base = 2_000;
  /** A 401 or 403 was answered with fresh credentials once since the last connection that opened. */
  #renewed = false;
  /** What renews the login now. Whoever needs that joins in: two renewals with one refresh token may end the login. */
  #renewal: Promise<void> | undefined;

  constructor(url: string | URL, options: Options, sink: Sink, lastEventId: string) {
    this.#url = url;
    this.#options = options;
    this.#sink = sink;
    this.lastEventId = lastEventId;
  }

  /** At once, in place of the present connection or wait. */
  connect(): void {
    void this.#connect();
  }

  /** Tells nobody: whoever closes knows. */
  close(): void {
    clearTimeout(this.#timer);
    this.#request?.abort();
    this.#request = undefined;
  }

  async #connect(): Promise<void> {
    this.close();
    const request = (this.#request = new AbortController());
    this.#listen();
    this.#sink.turn("connecting", { attempt: this.#attempt });
    if (request.signal.aborted) return;
    try {
      const response = await this.#ask(request.signal);
      if (request.signal.aborted) return;
      const { status } = response;
      const type = response.headers.get("Content-Type") ?? "no content type";
      if (status === 200 && /^text\/event-stream *(;|$)/i.test(type)) {
        await this.#read(response.body!, request);
      } else if (status === 200) {
        this.#end({ status, error: new Error(`${type} in place of text/event-stream`) });
      } else if (status >= 500 || TRANSIENT.includes(status)) {
        this.#wait({ status }, retryAfter(response.headers.get("Retry-After")));
      } else if ((status === 401 || status === 403) && this.#canRenew && !this.#renewed) {
        await this.#renew();
        this.#renewed = true;
        if (!request.signal.aborted) this.connect();
      } else {
        this.#end({ status });
      }
    } catch (error) {
      // An older request fails because it was given up.
      if (!request.signal.aborted) this.#wait({ error });
    }
  }

  async #ask(signal: AbortSignal): Promise<Response> {
    const { credentials, fetch = globalThis.fetch, headers: given } = this.#options;
    const headers = new Headers(typeof given === "function" ? await given() : given);
    headers.set("Accept", "text/event-stream");
    // The standard sends the id as UTF-8; a header's value is a string of bytes.
    const id = String.fromCharCode(...new TextEncoder().encode(this.lastEventId));
    if (id) headers.set("Last-Event-ID", id);
    return fetch(this.#url, { headers, signal, cache: "no-store", ...(credentials && { credentials }) });
  }

  async #read(body: ReadableStream<Uint8Array>, { signal }: AbortController): Promise<void> {
    this.#attempt = 0;
    this.#renewed = false;
    this.#openedAt = Date.now();
    this.#listen();
    this.#sink.turn("open", { attempt: 0 });
    const parser = new Parser();
    const reader = body.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (signal.aborted) return;
      if (done) return this.#wait({});
      // Any byte is a sign of life: heartbeats are checkpoints or comments, which `fetch`, unlike EventSource, shows.
      this.#listen();
      const blocks = parser.push(value);
      const after = this.lastEventId;
      for (const block of blocks) this.lastEventId = idAfter(block, this.lastEventId);
      this.#base = parser.retry ?? this.#base;
      this.#sink.hear(blocks, after);
      for (const { type, data } of blocks) {
        if (signal.aborted) return;
        const bye = type === "bridge.bye" && JSON.parse(data ?? "{}").reason;
        if (bye === "revoked") return this.#end({ error: new Error("the login was revoked") });
        if (!this.#canRenew) continue;
        // Nothing comes behind it, and the end of the stream must not overtake the renewal.
        if (bye === "expired") return this.#goOn(signal);
        if (type === "bridge.expiring") this.#goOn(signal).catch(report);
      }
    }
  }

  get #canRenew(): boolean {
    return typeof this.#options.headers === "function" || this.#options.onExpiring !== undefined;
  }

  #renew(): Promise<void> {
    const renew = async () => this.#options.onExpiring?.();
    return (this.#renewal ??= renew().finally(() => (this.#renewal = undefined)));
  }

  /** The token ends soon, or has: connects anew once it is renewed. */
  async #goOn(signal: AbortSignal): Promise<void> {
    await this.#renew();
    if (signal.aborted) return;
    // A token that is always about to end must not make a loop without a pause.
    if (Date.now() - this.#openedAt > this.#base) this.connect();
    else this.#wait({});
  }

  /** Begins to wait for the next byte. */
  #listen(): void {
    const { silenceMs = SILENCE_MS } = this.#options;
    clearTimeout(this.#timer);
    if (silenceMs) this.#timer = setTimeout(() => this.#wait({ error: new Error(`silent for ${silenceMs} ms`) }), silenceMs);
  }

  #wait(why: Pick<StateDetail, "status" | "error">, atLeast = 0): void {
    this.close();
    const retryInMs = Math.min(atLeast + backOff(this.#base, this.#attempt, this.#options), LONGEST_MS);
    this.#attempt += 1;
    this.#timer = setTimeout(() => this.connect(), retryInMs);
    this.#sink.turn("waiting", { attempt: this.#attempt, retryInMs, ...why });
  }

  #end(why: Pick<StateDetail, "status" | "error">): void {
    this.close();
    this.#sink.turn("closed", { attempt: this.#attempt, ...why });
  }
}
