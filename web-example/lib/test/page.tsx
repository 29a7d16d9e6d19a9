/** What the pages of the browser tests run: the client as an application would have it, and everything that it says kept. */
import { Activity, StrictMode, useEffect, useState } from "react";
import { createRoot, type Root } from "react-dom/client";
import { EventStream, type Options } from "../event-stream";
import { type NativeEventStream, type NativeOptions, nativeEventStream } from "../native";
import { useEvents } from "../use-events";

export interface Said {
  events: string[];
  gaps: string[];
  states: string[];
  errors: string[];
}

type Board = { "job.status": { job: number }; message: number };

const said: Said = { events: [], gaps: [], states: [], errors: [] };
addEventListener("error", ({ message }) => said.errors.push(message));
addEventListener("unhandledrejection", ({ reason }) => said.errors.push(String(reason)));

const keep: Pick<Options, "onEvent" | "onGap" | "onState"> = {
  onEvent: ({ raw }) => said.events.push(raw),
  onGap: ({ reason }) => said.gaps.push(reason),
  onState: (state) => said.states.push(state),
};

let root: Root | undefined;

/** How often React has changed the page. */
let commits = 0;

function Jobs({ first }: { first: string }): React.ReactNode {
  const [url, setUrl] = useState<string | null>(first);
  const [seen, setSeen] = useState<string[]>([]);
  const { state, attempt, gaps, latest, lastEventId, reconnect, status } = useEvents<Board>(url, {
    minRetryMs: 1,
    maxRetryMs: 50,
    onEvent: (event) => {
      // Told apart by its type, the data has the type of the map.
      const text = event.type === "job.status" ? `job ${event.data.job.toFixed()}` : event.data.toFixed();
      setSeen((seen) => [...seen, text]);
    },
    onGap: ({ reason }) => said.gaps.push(reason),
    onState: (state) => said.states.push(state),
  });
  useEffect(() => void (commits += 1));
  return (
    <main>
      <output>{JSON.stringify({ state, attempt, gaps, latest, lastEventId, status, seen })}</output>
      <button onClick={reconnect}>reconnect</button>
      <button onClick={() => setUrl("/events?team_id=8")}>other</button>
      <button onClick={() => setUrl(null)}>none</button>
    </main>
  );
}

const client = {
  said,
  stream: undefined as EventStream | undefined,
  native: undefined as NativeEventStream | undefined,
  open(url: string, options: Options = {}): void {
    client.stream = new EventStream(url, { minRetryMs: 1, maxRetryMs: 50, ...options, ...keep });
  },
  make: (url: string, options: Options): EventStream => new EventStream(url, options),
  openNative(url: string, options: NativeOptions = {}): void {
    client.native = nativeEventStream(url, { minRetryMs: 1, maxRetryMs: 50, ...options, ...keep });
  },
  mount(first: string): void {
    root = createRoot(document.body.appendChild(document.createElement("div")));
    client.show(first, true);
  },
  /** While it is not visible React has taken its effects away, and keeps its state. */
  show(first: string, isVisible: boolean): void {
    root!.render(
      <StrictMode>
        <Activity mode={isVisible ? "visible" : "hidden"}>
          <Jobs first={first} />
        </Activity>
      </StrictMode>,
    );
  },
  commits: (): number => commits,
  unmount: (): void => root?.unmount(),
};

export type Client = typeof client;
declare global {
  var client: Client;
}
globalThis.client = client;
