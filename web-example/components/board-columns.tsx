// The jobs, by how far they are.

import { useId, useState } from "react";

import type { Job, JobState } from "@/model/events";
import { StateIcon } from "./icons";
import { JobCard, type JobAction } from "./job-card";

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
  return (
    <div className={live ? "columns" : "columns columns-stale"}>
      {COLUMNS.map((column) => (
        <BoardColumn key={column.title} column={column} jobs={jobs.filter(column.holds).sort(column.before)} {...rest} />
      ))}
    </div>
  );
}

function BoardColumn({ column, jobs, now, onAction }: Omit<Props, "live"> & { column: Column }) {
  const [all, setAll] = useState(false);
  const headingId = useId();
  const shown = all ? jobs : jobs.slice(0, SHOWN_AT_FIRST);
  const hidden = jobs.length - shown.length;
  return (
    <section className={`column column-${column.state}`} aria-labelledby={headingId}>
      <h2 id={headingId}>
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
        <button className="more" type="button" onClick={() => setAll(true)}>
          Show {hidden} more<span className="unseen"> in {column.title}</span>
        </button>
      )}
    </section>
  );
}
