// The page of a team: its jobs, its notices, a person's own notifications, and the connection that all of it lives on.

"use client";

import { useCallback, useEffect, useRef, useState } from "react";

import type { Snapshot } from "@/model/board";
import type { Job, KindId } from "@/model/events";
import type { Theme } from "@/model/theme";
import { Account } from "./account";
import { BoardColumns } from "./board-columns";
import { Composer } from "./composer";
import { ConnectionPanel, StatusPill, statusOf } from "./connection-panel";
import { StateIcon, Wordmark } from "./icons";
import { Inbox } from "./inbox";
import type { JobAction } from "./job-card";
import { Notices } from "./notices";
import { ThemeToggle } from "./theme-toggle";
import { useBoard, type Route } from "./use-board";

interface Props {
  person: { id: string; name: string; role: string };
  team: { id: string; name: string };
  initial: Snapshot;
  serverTime: number;
  directUrl: string;
  theme: Theme;
}

interface Toast {
  key: number;
  tone: "done" | "failed";
  text: string;
}

const TOAST_MS = 6000;

export function BoardPage({ person, team, initial, serverTime, directUrl, theme }: Props) {
  const { toasts, show } = useToasts();
  const [route, setRoute] = useState<Route>("own");
  const [shared, setShared] = useState(false);
  const now = useNow(serverTime);

  const addresses = { own: "/api/events", direct: directUrl };
  const audience = new URLSearchParams({ user_id: person.id, team_id: team.id });
  const { board, stream, received, reconnects, gaps, retryAt, cut, cutUntil, pulse } = useBoard({
    initial,
    url: `${addresses[route]}?${audience}`,
    route,
    share: shared ? `${team.id} ${person.id}` : null,
    onNotification: useCallback(({ outcome, text }) => show(outcome, text), [show]),
    onProblem: useCallback((text: string) => show("failed", text), [show]),
  });

  const ask = useCallback(
    async (path: string, body: unknown) => {
      const problem = await post(path, body);
      if (problem) show("failed", problem);
      return !problem;
    },
    [show],
  );
  const act = useCallback((job: Job, action: JobAction) => void ask(`/api/jobs/${job.id}`, { action }), [ask]);

  const cutSeconds = secondsUntil(cutUntil);
  const status = statusOf(stream.state, { attempt: stream.attempt, retryIn: secondsUntil(retryAt), refusal: stream.status, reconnects, losses: gaps + board.missing });
  const counts = countsOf(board.jobs);

  return (
    <div className="board">
      <a className="skip" href="#board">
        Skip to the board
      </a>
      <header className="bar">
        <Wordmark />
        <nav className="bar-tools" aria-label="Tools">
          <a className="pill-link" href="#connection" aria-label={`Connection: ${status.label}`}>
            <StatusPill status={status} />
          </a>
          <Inbox notifications={board.notifications} now={now} />
          <ThemeToggle initial={theme} />
          <Account name={person.name} role={person.role} teamName={team.name} />
        </nav>
      </header>

      <div className="layout">
        <main className="page" id="board" tabIndex={-1}>
          <div className="title">
            <div>
              <h1>Team {team.name}</h1>
              <p>
                {counts.running} running, {counts.queued} queued, {counts.done} done, {counts.failed} failed
              </p>
            </div>
            <Composer onStart={(kind: KindId, count: number) => void ask("/api/jobs", { kind, count })} />
          </div>
          <BoardColumns jobs={board.jobs} live={status.tone === "live"} now={now} onAction={act} />
          <p className="honest">
            The jobs are simulated: this example’s server moves them on with a timer. Their events are real, published to the bridge
            one by one.
          </p>
        </main>

        <aside className="side" aria-label="Connection and notices">
          <ConnectionPanel
            status={status}
            lastEventId={stream.lastEventId}
            events={received.count}
            reconnects={reconnects}
            gaps={gaps}
            missing={board.missing}
            pulse={pulse}
            log={received.log}
            route={route}
            addresses={addresses}
            shared={shared}
            cutSeconds={cutSeconds}
            onRoute={setRoute}
            onShare={setShared}
            onCut={cut}
            onReconnect={stream.reconnect}
          />
          <Notices notices={board.notices} teamName={team.name} now={now} onSend={(text) => ask("/api/notices", { text })} />
        </aside>
      </div>

      <div className="toasts" role="status" aria-live="polite">
        {toasts.map(({ key, tone, text }) => (
          <p key={key} className={`toast outcome-${tone}`}>
            <StateIcon state={tone} />
            {text}
          </p>
        ))}
      </div>
      <p className="unseen" role="status" aria-live="polite">
        {status.tone === "live" ? "Connected" : status.label}
      </p>
    </div>
  );
}

/** What went wrong, in words, or nothing. */
async function post(path: string, body: unknown): Promise<string | null> {
  try {
    const answer = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
    if (answer.ok) return null;
    const problem = (await answer.json().catch(() => ({}))) as { detail?: string };
    return problem.detail ?? `The server answered ${answer.status}.`;
  } catch {
    return "The server cannot be reached.";
  }
}

function countsOf(jobs: Job[]) {
  const counts = { queued: 0, running: 0, done: 0, failed: 0 };
  for (const job of jobs) counts[job.state] += 1;
  return counts;
}

function secondsUntil(time: number): number {
  return time === 0 ? 0 : Math.max(0, Math.ceil((time - Date.now()) / 1000));
}

/** The server's time, each second anew: the first paint in the browser is the server's, word for word. */
function useNow(serverTime: number): number {
  const [now, setNow] = useState(serverTime);
  useEffect(() => {
    const ahead = serverTime - Date.now();
    const timer = setInterval(() => setNow(Date.now() + ahead), 1000);
    return () => clearInterval(timer);
  }, [serverTime]);
  return now;
}

function useToasts() {
  const [toasts, setToasts] = useState<Toast[]>([]);
  const next = useRef(0);
  const show = useCallback((tone: Toast["tone"], text: string) => {
    const key = next.current++;
    setToasts((toasts) => [...toasts, { key, tone, text }].slice(-4));
    setTimeout(() => setToasts((toasts) => toasts.filter((toast) => toast.key !== key)), TOAST_MS);
  }, []);
  return { toasts, show };
}
