// The board's state in the browser, kept by events: a snapshot that came with the page, the stream, and a fresh snapshot
// once the stream has its place and after every gap.

import { useCallback, useEffect, useReducer, useRef, useState } from "react";

import type { BridgeEvent } from "@/lib/event-stream";
import { useEvents } from "@/lib/use-events";
import { boardOf, changed, type Snapshot } from "@/model/board";
import type { BoardEvents, Notification } from "@/model/events";
import { Cable } from "./cable";

export type Route = "own" | "direct";

export interface Received {
  id: string;
  type: string;
  about: string;
}

const LOGGED = 8;
const PULSE_SECONDS = 60;
export const CUT_SECONDS = 6;

interface Options {
  initial: Snapshot;
  /** Where the stream is, same-origin or the bridge's own address. */
  url: string;
  route: Route;
  /** One connection for all tabs that give the same name. */
  share: string | null;
  onNotification(notification: Notification): void;
  onProblem(text: string): void;
}

export function useBoard({ initial, url, route, share, onNotification, onProblem }: Options) {
  const [board, change] = useReducer(changed, initial, boardOf);
  const [cable] = useState(() => new Cable());
  const [cutUntil, setCutUntil] = useState(0);
  const [received, setReceived] = useState({ count: 0, log: [] as Received[] });
  const [connections, setConnections] = useState(0);
  const [retryAt, setRetryAt] = useState(0);
  const [refusal, setRefusal] = useState<number | null>(null);
  const place = useRef("");
  const arrivals = useRef(0);

  const refresh = useCallback(async () => {
    try {
      const answer = await fetch("/api/snapshot", { cache: "no-store" });
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      change({ type: "snapshot", snapshot: (await answer.json()) as Snapshot });
    } catch (error) {
      onProblem(`The board could not be fetched (${error instanceof Error ? error.message : "no answer"}).`);
    }
  }, [onProblem]);

  const note = (event: BridgeEvent, about: string) => {
    place.current = event.id;
    arrivals.current += 1;
    setReceived(({ count, log }) => ({ count: count + 1, log: [{ id: event.id, type: event.type, about }, ...log].slice(0, LOGGED) }));
  };

  const stream = useEvents<BoardEvents>(url, {
    lastEventId: place.current,
    credentials: route === "own" ? "same-origin" : "include",
    fetch: cable.fetch,
    ...(share !== null && { share }),
    // On the own route the server shows the bridge a fresh token with every connection: to connect again is enough.
    ...(route === "direct" && { headers: renewToken }),
    onExpiring: () => undefined,
    onGap: () => {
      change({ type: "gap" });
      void refresh();
    },
    onState: (state, { retryInMs = 0, status }) => {
      if (state === "open") setConnections((count) => count + 1);
      setRetryAt(state === "waiting" ? Date.now() + retryInMs : 0);
      setRefusal(status ?? null);
    },
    on: {
      "job.status": (event) => {
        note(event, `#${event.data.id} ${event.data.state}${event.data.state === "running" ? ` ${event.data.progress} %` : ""}`);
        change({ type: "job", job: event.data });
      },
      "team.notice": (event) => {
        note(event, event.data.from);
        change({ type: "notice", notice: event.data });
      },
      "user.notification": (event) => {
        note(event, `#${event.data.jobId} ${event.data.outcome}`);
        change({ type: "notification", notification: event.data });
        onNotification(event.data);
      },
    },
  });

  // From its first id on the stream has everything: a snapshot that is fetched now leaves no hole before it.
  const placed = stream.lastEventId !== "";
  useEffect(() => {
    if (placed) void refresh();
  }, [placed, refresh]);

  // A hole in the numbers that the bridge did not speak of.
  useEffect(() => {
    if (board.missing > 0) void refresh();
  }, [board.missing, refresh]);

  const pulse = usePulse(arrivals);

  const cut = () => {
    cable.cut(CUT_SECONDS * 1000);
    setCutUntil(Date.now() + CUT_SECONDS * 1000);
  };

  return { board, stream, received, reconnects: Math.max(0, connections - 1), retryAt, refusal, cut, cutUntil, pulse };
}

/** A fresh cookie for the bridge before every connection. */
async function renewToken(): Promise<HeadersInit> {
  const answer = await fetch("/api/token", { method: "POST" });
  if (!answer.ok) throw new Error(`no token: status ${answer.status}`);
  return {};
}

/** How many events came in each of the last seconds. */
function usePulse(arrivals: React.RefObject<number>): number[] {
  const [pulse, setPulse] = useState<number[]>(() => new Array<number>(PULSE_SECONDS).fill(0));
  useEffect(() => {
    const timer = setInterval(() => {
      const came = arrivals.current;
      arrivals.current = 0;
      setPulse((pulse) => [...pulse.slice(1), came]);
    }, 1000);
    return () => clearInterval(timer);
  }, [arrivals]);
  return pulse;
}
