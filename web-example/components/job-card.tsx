// A job: what it is, how far it is, and what can be done with it.

import { memo, useId } from "react";

import type { Job } from "@/model/events";
import { Avatar } from "./avatar";
import { CrossIcon, KindIcon, RetryIcon, StateIcon } from "./icons";
import { ago, duration } from "./times";

export type JobAction = "retry" | "cancel";

interface Props {
  job: Job;
  now: number;
  onAction(job: Job, action: JobAction): void;
}

/** Where a job's card is in the page, for who moves the focus there. */
export function cardId(job: number): string {
  return `job-${job}`;
}

export const JobCard = memo(function JobCard({ job, now, onAction }: Props) {
  const titleId = useId();
  const action: JobAction | null = job.state === "failed" ? "retry" : job.state === "done" ? null : "cancel";
  return (
    <li className={`job job-${job.state}`}>
      <article id={cardId(job.id)} tabIndex={-1} aria-labelledby={titleId}>
        <header>
          <span className="job-kind">
            <KindIcon kind={job.kind} />
          </span>
          <h3 id={titleId}>
            {job.title} <span className="job-number">#{job.id}</span>
          </h3>
          {action && (
            <button className="job-action" type="button" onClick={() => onAction(job, action)} title={action === "retry" ? "Retry" : "Cancel"}>
              {action === "retry" ? <RetryIcon /> : <CrossIcon />}
              <span className="unseen">
                {action === "retry" ? "Retry" : "Cancel"} {job.title} #{job.id}
              </span>
            </button>
          )}
        </header>
        {job.state === "running" && <Progress job={job} labelledBy={titleId} />}
        {(job.state === "queued" || job.state === "failed") && (
          <p className="job-step">
            <StateIcon state={job.state} />
            <span>{job.step}</span>
          </p>
        )}
        <footer>
          {job.state === "done" && (
            <span className="job-done-mark">
              <StateIcon state="done" />
              Done
            </span>
          )}
          <Avatar name={job.startedBy} />
          <span className="job-by">{job.startedBy}</span>
          {job.attempt > 1 && <span>attempt {job.attempt}</span>}
          <span className="job-time">{time(job, now)}</span>
        </footer>
      </article>
    </li>
  );
});

function Progress({ job, labelledBy }: { job: Job; labelledBy: string }) {
  return (
    <div className="job-progress">
      <p>
        <span>{job.step}</span>
        <span className="job-percent">{job.progress} %</span>
      </p>
      <div
        className="track"
        role="progressbar"
        aria-labelledby={labelledBy}
        aria-valuemin={0}
        aria-valuemax={100}
        aria-valuenow={job.progress}
        aria-valuetext={`${job.progress} %, ${job.step}`}
      >
        <div style={{ transform: `scaleX(${job.progress / 100})` }} />
      </div>
    </div>
  );
}

function time(job: Job, now: number): string {
  if (job.endedAt !== null) {
    const took = job.startedAt === null ? "" : `${duration(job.endedAt - job.startedAt)} · `;
    return took + ago(job.endedAt, now);
  }
  return duration(now - (job.startedAt ?? job.queuedAt));
}
