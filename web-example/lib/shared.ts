/**
 * One connection for all tabs. The tab that holds a Web Lock leads: it has the connection, and says on a BroadcastChannel what
 * it hears. The others follow. When the leader goes, the browser gives the lock to the next tab, which goes on where it is.
 *
 * Nothing is missing and nothing comes twice, by two rules. All news says which id it follows. A tab that has not come so far
 * catches up on a connection of its own, and returns to following once that has; what a tab has seen it skips. So it does
 * not matter who led when, or in which order messages of two leaders arrive. Ids of the bridge rise, which makes them comparable.
 */
import { Connection, idAfter, LONGEST_MS, SILENCE_MS, type Sink } from "./connection";
import type { Options, State, StateDetail } from "./event-stream";
import type { Block } from "./parser";

/** What a leader says: what came, the id that it follows, and how its connection is. */
interface News {
  blocks: Block[];
  after: string;
  state: State;
  detail: StateDetail;
}

/** What a tab asks of the leader: how it is, or to connect anew. */
type Question = "hello" | "reconnect";

/** The position in an id `<position>-<mark>`. `NaN` where there is none, which is neither before nor behind anything. */
const position = (id: string): number => Number.parseInt(id, 10);

export class SharedConnection {
  #name: string;
  #url: string | URL;
  #options: Options;
  #sink: Sink;
  #channel: BroadcastChannel | undefined;
  /** The last id that this tab has seen. */
  #seen: string;
  #state: State = "connecting";
  #detail: StateDetail = { attempt: 0 };
  #isLeading = false;
  #isClosed = false;
  /** The leader's connection, or that of a tab that catches up. */
  #connection: Connection | undefined;
  /** The bridge has named an id on it: whence this tab is in the same log as the leader. So it is at the very id of the leader. */
  #isConfirmed = false;
  /** The place in the queue for the lock; given up to take the lock away from a leader who says nothing. */
  #place = new AbortController();
  #patience: ReturnType<typeof setTimeout> | undefined;
  #resign = (): void => {};

  constructor(name: string, url: string | URL, options: Options, sink: Sink, lastEventId: string) {
    this.#name = `${name} ${url}`;
    this.#url = url;
    this.#options = options;
    this.#sink = sink;
    this.#seen = lastEventId;
  }

  /** Joins the other tabs; later on, lets the present connection be made anew. */
  connect(): void {
    if (this.#connection) this.#connection.connect();
    else if (this.#channel) this.#ask("reconnect");
    else this.#join();
  }

  close(): void {
    this.#isClosed = true;
    this.#isLeading = false;
    clearTimeout(this.#patience);
    this.#disconnect();
    this.#place.abort();
    this.#resign();
    this.#channel?.close();
  }

  #join(): void {
    this.#channel = new BroadcastChannel(this.#name);
    this.#channel.onmessage = ({ data }: MessageEvent<News | Question>) =>
      typeof data === "string" ? this.#answer(data) : this.#follow(data);
    // An id from elsewhere may be of another log: that is for the bridge to judge.
    if (this.#seen) this.#connect();
    else this.#turn("connecting", this.#detail);
    void this.#queue();
  }

  /** Waits for the lock and leads while it has it, again and again. */
  async #queue(): Promise<void> {
    for (let steal = false; !this.#isClosed; steal = this.#place.signal.aborted) {
      const { signal } = (this.#place = new AbortController());
      this.#wait();
      this.#ask("hello");
      try {
        await navigator.locks.request(this.#name, steal ? { steal } : { signal }, () => this.#lead());
      } catch (error) {
        // Else it was robbed, or is out of patience. A page without an origin has no locks: it is alone.
        if ((error as Error).name !== "AbortError") {
          if (!this.#isClosed && !this.#connection) this.#connect();
          return;
        }
      }
      // Who was robbed keeps its connection until it hears of the new leader.
      this.#isLeading = false;
    }
  }

  /** Until the lock is taken away, or given back. */
  #lead(): Promise<void> | undefined {
    if (this.#isClosed) return;
    clearTimeout(this.#patience);
    this.#isLeading = true;
    const led = new Promise<void>((resolve) => (this.#resign = resolve));
    if (this.#connection) this.#tell([], this.#connection.lastEventId);
    else this.#connect();
    return led;
  }

  #answer(question: Question): void {
    if (!this.#isLeading) return;
    // A page that was just opened is a reason to try again.
    if (question === "reconnect" || this.#state === "closed") this.#connection!.connect();
    else this.#tell([], this.#connection!.lastEventId);
  }

  #follow({ blocks, after, state, detail }: News): void {
    // Who has seen nothing begins here, as a new connection does with its first checkpoint.
    if (!this.#connection && !this.#seen && after) this.#take([{ id: after, type: "message" }]);
    if (after !== this.#seen && !(position(after) <= position(this.#seen))) return void (this.#connection ?? this.#connect());
    if (!this.#isLeading) {
      if (state === "closed") clearTimeout(this.#patience);
      else this.#wait(detail.retryInMs);
      if (this.#connection && !this.#isConfirmed && !(after && after === this.#seen)) return;
      this.#disconnect();
      if (state !== this.#state) this.#turn(state, detail);
    }
    this.#take(blocks);
  }

  #connect(): void {
    this.#isConfirmed = false;
    const hear = (blocks: Block[], after: string): void => {
      this.#isConfirmed ||= blocks.some(({ id }) => id !== undefined);
      this.#tell(blocks, after);
      this.#take(blocks);
    };
    const turn = (state: State, detail: StateDetail): void => {
      this.#turn(state, detail);
      this.#tell([], this.#connection?.lastEventId ?? this.#seen);
    };
    this.#connection = new Connection(this.#url, this.#options, { hear, turn }, this.#seen);
    this.#connection.connect();
  }

  #disconnect(): void {
    this.#connection?.close();
    this.#connection = undefined;
  }

  /** Passes on what this tab has not seen yet. */
  #take(blocks: Block[]): void {
    const after = this.#seen;
    const isNew = (block: Block): boolean => {
      if (block.id !== undefined && position(block.id) <= position(this.#seen)) return false;
      this.#seen = idAfter(block, this.#seen);
      return true;
    };
    this.#sink.hear(blocks.filter(isNew), after);
  }

  #turn(state: State, detail: StateDetail): void {
    this.#state = state;
    this.#detail = detail;
    this.#sink.turn(state, detail);
  }

  #tell(blocks: Block[], after: string): void {
    // An error may hold what cannot be sent to another tab.
    const detail = { ...this.#detail, error: undefined };
    if (this.#isLeading) this.#channel!.postMessage({ blocks, after, state: this.#state, detail } satisfies News);
  }

  #ask(question: Question): void {
    this.#channel!.postMessage(question);
  }

  /** For the leader's next news. It hears of silence first, so it is given more time than its connection. */
  #wait(more = 0): void {
    const { silenceMs = SILENCE_MS } = this.#options;
    clearTimeout(this.#patience);
    if (silenceMs) this.#patience = setTimeout(() => this.#place.abort(), Math.min(1.5 * silenceMs + more, LONGEST_MS));
  }
}
