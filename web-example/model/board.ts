// The board as a browser knows it: a snapshot, and the events that came before and after it, in any order, as often as they like.
//
// The stream is opened first and the snapshot is fetched second, so nothing falls between the two; what is in both is recognised
// by its revision. Every change of a team has the next revision, so a hole in the numbers is a loss, and is counted.

import type { Job, Notice, Notification, Numbered } from "./events";

/** Numbered as the team's latest change that it contains. */
export interface Snapshot extends Numbered {
  jobs: Job[];
  notices: Notice[];
  notifications: Notification[];
}

export interface Board extends Snapshot {
  /** Whether the numbers of changes can be expected to follow each other: not before the first snapshot, nor after a gap. */
  settled: boolean;
  /** Changes that never came though nobody said so. Always 0, unless something is broken. */
  missing: number;
}

export const KEPT_NOTICES = 20;
export const KEPT_NOTIFICATIONS = 20;

export function boardOf(snapshot: Snapshot): Board {
  return { ...snapshot, settled: false, missing: 0 };
}

export type Change =
  | { type: "job"; job: Job }
  | { type: "notice"; notice: Notice }
  | { type: "notification"; notification: Notification }
  | { type: "gap" }
  | { type: "snapshot"; snapshot: Snapshot; settled: boolean };

export function changed(board: Board, change: Change): Board {
  switch (change.type) {
    case "job":
      return counted(board, change.job, (board) => ({ ...board, jobs: newest([...board.jobs, change.job]) }));
    case "notice":
      return counted(board, change.notice, (board) => ({ ...board, notices: latest([...board.notices, change.notice]) }));
    case "notification":
      return { ...board, notifications: distinct([...board.notifications, change.notification]) };
    case "gap":
      return { ...board, settled: false };
    case "snapshot":
      return withSnapshot({ ...board, settled: change.settled }, change.snapshot);
  }
}

/** What is newer than the snapshot stays; what is older and not in it is gone. */
function withSnapshot(board: Board, snapshot: Snapshot): Board {
  board = inEpoch(board, snapshot.epoch);
  const since = ({ revision }: Numbered) => revision > snapshot.revision;
  return {
    ...board,
    revision: Math.max(board.revision, snapshot.revision),
    jobs: newest([...snapshot.jobs, ...board.jobs.filter(since)]),
    notices: latest([...snapshot.notices, ...board.notices.filter(since)]),
    notifications: distinct([...snapshot.notifications, ...board.notifications]),
  };
}

function counted(before: Board, { epoch, revision }: Numbered, apply: (board: Board) => Board): Board {
  if (epoch < before.epoch) return before;
  const board = inEpoch(before, epoch);
  const missing = board.settled ? Math.max(0, revision - board.revision - 1) : 0;
  return apply({ ...board, revision: Math.max(board.revision, revision), missing: board.missing + missing });
}

/** Where the server has started anew, what it said before means nothing any more. */
function inEpoch(board: Board, epoch: number): Board {
  return epoch === board.epoch ? board : { ...board, epoch, revision: 0, settled: false, jobs: [], notices: [] };
}

function newest(jobs: Job[]): Job[] {
  const byId = new Map<number, Job>();
  for (const job of jobs) {
    const known = byId.get(job.id);
    if (!known || known.revision < job.revision) byId.set(job.id, job);
  }
  return [...byId.values()];
}

function latest(notices: Notice[]): Notice[] {
  const byRevision = new Map(notices.map((notice) => [notice.revision, notice]));
  return [...byRevision.values()].sort((a, b) => b.revision - a.revision).slice(0, KEPT_NOTICES);
}

function distinct(notifications: Notification[]): Notification[] {
  const byId = new Map(notifications.map((notification) => [notification.id, notification]));
  return [...byId.values()].sort((a, b) => b.at - a.at).slice(0, KEPT_NOTIFICATIONS);
}
