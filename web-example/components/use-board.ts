// The board's state in the browser, kept by events: a snapshot that came with the page, the stream, and a fresh snapshot
// once the stream has its place and after every gap.

import { useCallback, useEffect, useReducer, useRef, useState } from "react";

import { useEvents, type EventOf } from "@/lib/use-events";
import { boardOf, changed, type Snapshot } from "@/model/board";
import type { BoardEvents, Notification } from "@/model/events";
import { useCable } from "./use-cable";

export type Route = "own" | "direct";

export interface Received {
  id: string;
  type: string;
  about: string;
}

const LOGGED = 8;
const PULSE_SECONDS = 60;

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
  const cable = useCable(share);
  const [received, setReceived] = useState({ count: 0, lastEventId: "", log: [] as Received[] });
  const [counts, setCounts] = useState({ opened: 0, gaps: 0 });
  const [retryAt, setRetryAt] = useState(0);
  const arrivals = useRef(0);

  const refresh = useCallback(
    async (settled: boolean) => {
      try {
        const answer = await fetch("/api/snapshot", { cache: "no-store" });
        if (answer.status === 401) return signInAgain();
        if (!answer.ok) throw new Error(`status ${answer.status}`);
        change({ type: "snapshot", snapshot: (await answer.json()) as Snapshot, settled });
      } catch (error) {
        onProblem(`The board could not be fetched (${error instanceof Error ? error.message : "no answer"}).`);
      }
    },
    [onProblem],
  );

  const stream = useEvents<BoardEvents>(url, {
    // Another route goes on where this one is.
    lastEventId: received.lastEventId,
    credentials: route === "own" ? "same-origin" : "include",
    fetch: cable.fetch,
    // Short waits, so that whoever cuts the connection sees it heal; an application keeps the default.
    maxRetryMs: 3000,
    ...(share !== null && { share }),
    // On the own route the server shows the bridge a fresh token with every connection: to connect again is enough.
    ...(route === "direct" && { headers: renewToken }),
    onExpiring: () => undefined,
    onState: (state, { retryInMs = 0, status }) => {
      setRetryAt(state === "waiting" ? Date.now() + retryInMs : 0);
      // Either the session here is over, which the snapshot will say, or the bridge does not believe this server's tokens.
      if (state === "closed" && status === 401) void refresh(false);
      if (state !== "open") return;
      setCounts(({ opened, gaps }) => ({ opened: opened + 1, gaps }));
      // A stream that goes on after an id has all that happened meanwhile. One without begins now: what was before is fetched.
      if (received.lastEventId === "") void refresh(false);
    },
    onGap: () => {
      setCounts(({ opened, gaps }) => ({ opened, gaps: gaps + 1 }));
      change({ type: "gap" });
      void refresh(true);
    },
    onEvent: (event) => {
      arrivals.current += 1;
      const { id, type } = event;
      setReceived(({ count, log }) => ({
        count: count + 1,
        lastEventId: id,
        log: [{ id, type, about: summary(event) }, ...log].slice(0, LOGGED),
      }));
      switch (event.type) {
        case "job.status":
          return change({ type: "job", job: event.data });
        case "team.notice":
          return change({ type: "notice", notice: event.data });
        case "user.notification":
          change({ type: "notification", notification: event.data });
          return onNotification(event.data);
      }
    },
  });

  // A bridge that was just started may open a stream before it is at the present: with the first id it is. And a server that
  // was started anew has another memory.
  const placed = received.lastEventId !== "";
  useEffect(() => {
    if (placed) void refresh(true);
  }, [placed, board.epoch, refresh]);

  // A hole in the numbers that the bridge did not speak of.
  useEffect(() => {
    if (board.missing > 0) void refresh(true);
  }, [board.missing, refresh]);

  const pulse = usePulse(arrivals);

  return {
    board,
    stream,
    received,
    reconnects: Math.max(0, counts.opened - 1),
    gaps: counts.gaps,
    retryAt,
    cut: cable.cut,
    cutUntil: cable.cutUntil,
    pulse,
  };
}

function summary({ type, data }: EventOf<BoardEvents>): string {
  switch (type) {
    case "job.status":
      return `#${data.id} ${data.state === "running" ? `${data.progress} %` : data.state}`;
    case "team.notice":
      return data.from;
    case "user.notification":
      return `#${data.jobId} ${data.outcome}`;
  }
}

/** A fresh cookie for the bridge before every connection. */
async function renewToken(): Promise<HeadersInit> {
  const answer = await fetch("/api/token", { method: "POST" });
  if (answer.status === 401) signInAgain();
  if (!answer.ok) throw new Error(`no token: status ${answer.status}`);
  return {};
}

/** The session is over. */
function signInAgain(): void {
  location.assign("/sign-in");
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
