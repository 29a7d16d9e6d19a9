// What the board's events carry, and the state that a browser builds from them. Shared by server and browser.

export type JobState = "queued" | "running" | "done" | "failed";

/** Every change of a team has a number, the next one. */
export interface Numbered {
  /** When the server's memory began, in which the changes are counted: another one counts from the start. */
  epoch: number;
  /** What has a higher one, in the same epoch, is newer. */
  revision: number;
}

export interface Job extends Numbered {
  id: number;
  kind: KindId;
  title: string;
  state: JobState;
  /** 0 to 100. */
  progress: number;
  /** What it is doing, or how it ended. */
  step: string;
  startedBy: string;
  attempt: number;
  /** Milliseconds since 1970, by the server's clock. */
  queuedAt: number;
  startedAt: number | null;
  endedAt: number | null;
}

export interface Notice extends Numbered {
  from: string;
  text: string;
  at: number;
}

/** For one person only. */
export interface Notification {
  id: string;
  jobId: number;
  outcome: "done" | "failed";
  text: string;
  at: number;
}

/** The names of the events (their AMQP `type`), and what each carries. */
export interface BoardEvents {
  "job.status": Job;
  "team.notice": Notice;
  "user.notification": Notification;
}

export const KINDS = {
  build: { title: "Build the web app", steps: ["Installing packages", "Checking types", "Bundling", "Uploading"] },
  report: { title: "Monthly report", steps: ["Reading ledgers", "Adding up", "Drawing charts", "Writing the PDF"] },
  video: { title: "Transcode a video", steps: ["Probing", "Encoding 1080p", "Encoding 720p", "Packaging"] },
  backup: { title: "Back up the database", steps: ["Taking a snapshot", "Compressing", "Encrypting", "Verifying"] },
  feed: { title: "Import a partner feed", steps: ["Downloading", "Reading rows", "Matching products", "Saving"] },
} as const;

export type KindId = keyof typeof KINDS;

export function isKind(value: unknown): value is KindId {
  return typeof value === "string" && Object.hasOwn(KINDS, value);
}
