// How the stream is: its state, its place, what came, what was lost; and ways to disturb it.

import { useId } from "react";

import type { State } from "@/lib/event-stream";
import { CutIcon, RetryIcon } from "./icons";
import type { Received, Route } from "./use-board";

interface Props {
  status: Status;
  lastEventId: string;
  events: number;
  reconnects: number;
  gaps: number;
  missing: number;
  pulse: number[];
  log: Received[];
  route: Route;
  addresses: Record<Route, string>;
  shared: boolean;
  cutSeconds: number;
  onRoute(route: Route): void;
  onShare(shared: boolean): void;
  onCut(): void;
  onReconnect(): void;
}

export function ConnectionPanel(props: Props) {
  const { status, lastEventId, events, reconnects, gaps, missing, pulse, log, route, addresses, shared, cutSeconds } = props;
  const id = useId();
  // Such buttons are not `disabled`: the focus would be lost, and with it the place of whoever uses the keyboard.
  const isCut = cutSeconds > 0;
  return (
    <section className="panel connection" id="connection" aria-labelledby={`${id}-title`}>
      <header className="connection-head">
        <h2 id={`${id}-title`}>Connection</h2>
        <StatusPill status={status} />
      </header>
      <p className="connection-detail">{status.detail}</p>
      <Pulse counts={pulse} />
      <dl className="figures">
        <Figure name="Last event id" value={lastEventId || "none yet"} wide />
        <Figure name="Events" value={events} />
        <Figure name="Reconnects" value={reconnects} />
        <Figure name="Gaps" value={gaps} />
        <Figure name="Silent losses" value={missing} />
      </dl>
      <div className="buttons">
        <button className="button warn" type="button" onClick={isCut ? undefined : props.onCut} aria-disabled={isCut}>
          <CutIcon />
          {isCut ? `Cut for ${cutSeconds} s more` : "Cut the connection"}
        </button>
        <button className="button" type="button" onClick={isCut ? undefined : props.onReconnect} aria-disabled={isCut}>
          <RetryIcon />
          Reconnect
        </button>
      </div>
      <fieldset className="routes">
        <legend>Route</legend>
        <RouteChoice name={id} value="own" title="Through Next.js" address={addresses.own} chosen={route} onChoose={props.onRoute} />
        <RouteChoice name={id} value="direct" title="Direct to the bridge" address={addresses.direct} chosen={route} onChoose={props.onRoute} />
      </fieldset>
      <label className="switch">
        <input type="checkbox" role="switch" checked={shared} onChange={(event) => props.onShare(event.target.checked)} />
        <span>One connection for all tabs</span>
      </label>
      <details className="log">
        <summary>Latest events</summary>
        {log.length === 0 ? (
          <p className="empty">None yet.</p>
        ) : (
          <ol>
            {log.map(({ id, type, about }) => (
              <li key={id}>
                <code>{id}</code>
                <span>{type}</span>
                <span>{about}</span>
              </li>
            ))}
          </ol>
        )}
      </details>
    </section>
  );
}

export interface Status {
  tone: "live" | "trying" | "down";
  label: string;
  detail: string;
}

interface Circumstances {
  attempt: number;
  retryIn: number;
  refusal: number | undefined;
  reconnects: number;
  losses: number;
}

export function statusOf(state: State, { attempt, retryIn, refusal, reconnects, losses }: Circumstances): Status {
  const why = refusal === undefined ? "" : refusal === 503 ? "The bridge is away (503). " : `The answer was ${refusal}. `;
  switch (state) {
    case "open":
      return { tone: "live", label: "Live", detail: reconnects > 0 && losses === 0 ? "Back again, and nothing was missed." : "Events arrive as they happen." };
    case "connecting":
      return { tone: "trying", label: "Connecting", detail: attempt > 0 ? `Attempt ${attempt + 1} is under way.` : "One moment." };
    case "waiting":
      return { tone: "trying", label: "Reconnecting", detail: `${why}Attempt ${attempt + 1} in ${retryIn} s.` };
    case "paused":
      return { tone: "trying", label: "Paused", detail: "The page is hidden." };
    case "closed":
      return { tone: "down", label: "Closed", detail: refusal === 401 ? "The token was refused (401). Is the secret the same on both sides?" : `${why}It does not try again by itself.` };
  }
}

export function StatusPill({ status }: { status: Status }) {
  return (
    <span className={`pill pill-${status.tone}`}>
      <span className="dot" aria-hidden="true" />
      {status.label}
    </span>
  );
}

function Figure({ name, value, wide = false }: { name: string; value: string | number; wide?: boolean }) {
  return (
    <div className={wide ? "wide" : undefined}>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </div>
  );
}

interface RouteChoiceProps {
  name: string;
  value: Route;
  title: string;
  address: string;
  chosen: Route;
  onChoose(route: Route): void;
}

function RouteChoice({ name, value, title, address, chosen, onChoose }: RouteChoiceProps) {
  return (
    <label className="route">
      <input type="radio" name={name} value={value} checked={chosen === value} onChange={() => onChoose(value)} />
      <span>
        {title}
        <code>{address}</code>
      </span>
    </label>
  );
}

/** The last minute, a bar a second. */
function Pulse({ counts }: { counts: number[] }) {
  const most = Math.max(4, ...counts);
  const inAll = counts.reduce((sum, count) => sum + count, 0);
  return (
    <figure className="pulse">
      <svg viewBox={`0 0 ${counts.length * 5} 40`} preserveAspectRatio="none" aria-hidden="true">
        {counts.map((count, second) => {
          const height = count === 0 ? 1.5 : 3 + (37 * count) / most;
          return <rect key={second} className={count === 0 ? "none" : undefined} x={second * 5} y={40 - height} width={3.4} height={height} rx={1} />;
        })}
      </svg>
      <figcaption>
        <span>Last minute</span>
        <span>{inAll} events</span>
      </figcaption>
    </figure>
  );
}
