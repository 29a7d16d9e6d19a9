// The jobs, by how far they are.

import { useLayoutEffect, useRef, useState, type FocusEvent } from "react";
import { flushSync } from "react-dom";

import type { Job, JobState } from "@/model/events";
import { StateIcon } from "./icons";
import { cardId, JobCard, type JobAction } from "./job-card";

interface Column {
  title: string;
  state: JobState;
  empty: string;
  holds(job: Job): boolean;
  before(a: Job, b: Job): number;
}

const COLUMNS: Column[] = [
  {
    title: "Queued",
    state: "queued",
    empty: "Nothing waits.",
    holds: (job) => job.state === "queued",
    before: (a, b) => a.queuedAt - b.queuedAt || a.id - b.id,
  },
  {
    title: "Running",
    state: "running",
    empty: "All workers are free. Start a job and watch it run.",
    holds: (job) => job.state === "running",
    before: (a, b) => (a.startedAt ?? 0) - (b.startedAt ?? 0) || a.id - b.id,
  },
  {
    title: "Finished",
    state: "done",
    empty: "Nothing has finished yet.",
    holds: (job) => job.state === "done" || job.state === "failed",
    before: (a, b) => (b.endedAt ?? 0) - (a.endedAt ?? 0) || b.id - a.id,
  },
];

const SHOWN_AT_FIRST = 6;

interface Props {
  jobs: Job[];
  /** False while what is shown may be old. */
  live: boolean;
  now: number;
  onAction(job: Job, action: JobAction): void;
}

export function BoardColumns({ jobs, live, ...rest }: Props) {
  const focusMoves = useFocusThatMoves(jobs);
  return (
    <div className={live ? "columns" : "columns columns-stale"} {...focusMoves}>
      {COLUMNS.map((column) => (
        <BoardColumn key={column.title} column={column} jobs={jobs.filter(column.holds).sort(column.before)} {...rest} />
      ))}
    </div>
  );
}

/** A job that gets to another column gets another card. Where the focus was in the old one, it goes to the new one. */
function useFocusThatMoves(jobs: Job[]) {
  const held = useRef<{ id: number; isSeen: boolean }>(undefined);
  useLayoutEffect(() => {
    if (held.current && document.activeElement === document.body) {
      const { id, isSeen } = held.current;
      const now = jobs.find((job) => job.id === id);
      const column = COLUMNS.find((column) => now && column.holds(now));
      // In a long column its card may not be shown.
      const place = document.getElementById(cardId(id)) ?? document.getElementById(column ? headingOf(column) : "board");
      // Whoever pointed at the old card stays there: only who sees the focus wants to see where it goes.
      place?.focus({ preventScroll: !isSeen });
    }
  });
  return {
    onFocus: ({ target }: FocusEvent) => {
      const card = target.closest("article");
      const job = jobs.find(({ id }) => cardId(id) === card?.id);
      held.current = job && { id: job.id, isSeen: target.matches(":focus-visible") };
    },
    // Not told of an element that is taken out of the page with the focus in it: only of one that was left.
    onBlur: ({ target }: FocusEvent) => {
      if (document.activeElement !== target) held.current = undefined;
    },
  };
}

function headingOf({ state }: Column): string {
  return `column-${state}`;
}

function BoardColumn({ column, jobs, now, onAction }: Omit<Props, "live"> & { column: Column }) {
  const [all, setAll] = useState(false);
  const headingId = headingOf(column);
  const shown = all ? jobs : jobs.slice(0, SHOWN_AT_FIRST);
  const hidden = jobs.length - shown.length;

  function showAll() {
    const next = jobs[shown.length];
    flushSync(() => setAll(true));
    // The button is gone, and the focus with it: on to the first of those that it has shown.
    if (next) document.getElementById(cardId(next.id))?.focus();
  }

  return (
    <section className={`column column-${column.state}`} aria-labelledby={headingId}>
      <h2 id={headingId} tabIndex={-1}>
        <StateIcon state={column.state} />
        {column.title} <span className="count">{jobs.length}</span>
      </h2>
      {jobs.length === 0 ? (
        <p className="empty">{column.empty}</p>
      ) : (
        <ul className="jobs">
          {shown.map((job) => (
            <JobCard key={job.id} job={job} now={now} onAction={onAction} />
          ))}
        </ul>
      )}
      {hidden > 0 && (
        <button className="more" type="button" onClick={showAll}>
          Show {hidden} more<span className="unseen"> in {column.title}</span>
        </button>
      )}
    </section>
  );
}
