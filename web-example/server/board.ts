// The teams' jobs, in this process' memory, and the simulation that moves them on. Every change is first made here and then
// published, so that a snapshot is never behind an event that somebody has seen.
//
// There are no real jobs: a timer moves them. What is real is the way that their events take.

import "server-only";

import { randomUUID } from "node:crypto";

import { KEPT_NOTICES, KEPT_NOTIFICATIONS, type Snapshot } from "@/model/board";
import { KINDS, type Job, type KindId, type Notice, type Notification } from "@/model/events";
import { TEAMS, type Person, type Team } from "./accounts";
import { publish } from "./bridge";

const AT_ONCE = 3;
const MAX_UNFINISHED = 20;
const KEPT_FINISHED = 20;
const TICK_MS = 400;

interface TeamBoard {
  team: Team;
  epoch: number;
  revision: number;
  lastJob: number;
  jobs: Map<number, Job>;
  notices: Notice[];
  owners: Map<number, string>;
}

interface Store {
  boards: Map<string, TeamBoard>;
  notifications: Map<string, Notification[]>;
}

const here = globalThis as { boardStore?: Store };

function store(): Store {
  return (here.boardStore ??= { boards: new Map(TEAMS.map((team) => [team.id, seeded(team)])), notifications: new Map() });
}

function boardOf(teamId: string): TeamBoard {
  const board = store().boards.get(teamId);
  if (!board) throw new Error(`there is no team ${teamId}`);
  return board;
}

export function snapshot(teamId: string, userId: string): Snapshot {
  const board = boardOf(teamId);
  return {
    epoch: board.epoch,
    revision: board.revision,
    jobs: [...board.jobs.values()],
    notices: [...board.notices].reverse(),
    notifications: [...(store().notifications.get(userId) ?? [])].reverse(),
  };
}

/** Queues a job, or says why not. */
export function startJob(team: Team, person: Person, kind: KindId): Job | string {
  const board = boardOf(team.id);
  const unfinished = [...board.jobs.values()].filter((job) => job.state === "queued" || job.state === "running");
  if (unfinished.length >= MAX_UNFINISHED) return `${team.name} has ${MAX_UNFINISHED} jobs waiting. Let some end first.`;
  board.lastJob += 1;
  const job: Job = {
    id: board.lastJob,
    kind,
    title: KINDS[kind].title,
    state: "queued",
    progress: 0,
    step: "Waiting for a free worker",
    startedBy: person.name,
    attempt: 1,
    queuedAt: Date.now(),
    startedAt: null,
    endedAt: null,
    epoch: board.epoch,
    revision: 0,
  };
  board.owners.set(job.id, person.id);
  const queued = change(board, job);
  fillWorkers(board);
  return queued;
}

/** Queues a job again that failed. */
export function retryJob(team: Team, person: Person, id: number): Job | string {
  const board = boardOf(team.id);
  const job = board.jobs.get(id);
  if (!job) return "There is no such job.";
  if (job.state !== "failed") return `${job.title} has not failed.`;
  board.owners.set(id, person.id);
  const queued = change(board, {
    ...job,
    state: "queued",
    progress: 0,
    step: "Waiting for a free worker",
    startedBy: person.name,
    attempt: job.attempt + 1,
    queuedAt: Date.now(),
    startedAt: null,
    endedAt: null,
  });
  fillWorkers(board);
  return queued;
}

/** Ends a job that waits or runs. */
export function cancelJob(team: Team, person: Person, id: number): Job | string {
  const board = boardOf(team.id);
  const job = board.jobs.get(id);
  if (!job) return "There is no such job.";
  if (job.state !== "queued" && job.state !== "running") return `${job.title} has ended already.`;
  return ended(board, job, "failed", `Cancelled by ${person.name}`);
}

export function postNotice(team: Team, from: string, text: string): Notice {
  const board = boardOf(team.id);
  board.revision += 1;
  const notice: Notice = { epoch: board.epoch, revision: board.revision, from, text, at: Date.now() };
  board.notices = [...board.notices, notice].slice(-KEPT_NOTICES);
  publish(`team ${team.id}`, `team.${team.id}.notice`, "team.notice", notice);
  return notice;
}

/** Makes `job` what the team sees from now on. */
function change(board: TeamBoard, job: Job): Job {
  board.revision += 1;
  const changed = { ...job, revision: board.revision };
  board.jobs.set(job.id, changed);
  publish(`team ${board.team.id}`, `team.${board.team.id}.job.${job.id}.status`, "job.status", changed);
  return changed;
}

function fillWorkers(board: TeamBoard): void {
  const jobs = [...board.jobs.values()];
  const free = AT_ONCE - jobs.filter((job) => job.state === "running").length;
  const next = jobs.filter((job) => job.state === "queued").sort((a, b) => a.queuedAt - b.queuedAt || a.id - b.id);
  for (const job of next.slice(0, Math.max(0, free))) {
    const { attempt, id } = change(board, { ...job, state: "running", step: KINDS[job.kind].steps[0], startedAt: Date.now() });
    setTimeout(moveOn, TICK_MS, board, id, attempt);
  }
}

function moveOn(board: TeamBoard, id: number, attempt: number): void {
  const job = board.jobs.get(id);
  if (job?.state !== "running" || job.attempt !== attempt) return; // cancelled meanwhile
  const progress = Math.min(100, job.progress + 3 + Math.floor(Math.random() * 5));
  const { steps } = KINDS[job.kind];
  // Of the kinds, one fails at its first attempt, so that there is something to retry.
  if (job.kind === "feed" && attempt === 1 && progress >= 60) {
    ended(board, { ...job, progress }, "failed", "Row 4,112 has no price");
  } else if (progress === 100) {
    ended(board, { ...job, progress }, "done", "Finished");
  } else {
    change(board, { ...job, progress, step: steps[Math.floor((progress / 100) * steps.length)] ?? job.step });
    setTimeout(moveOn, TICK_MS, board, id, attempt);
  }
}

function ended(board: TeamBoard, job: Job, state: "done" | "failed", step: string): Job {
  const last = change(board, { ...job, state, step, endedAt: Date.now() });
  const finished = [...board.jobs.values()].filter((job) => job.endedAt !== null);
  for (const old of finished.sort((a, b) => (b.endedAt ?? 0) - (a.endedAt ?? 0)).slice(KEPT_FINISHED)) {
    board.jobs.delete(old.id);
    board.owners.delete(old.id);
  }
  notify(board, last, state);
  fillWorkers(board);
  return last;
}

/** Tells whoever started the job, and nobody else. */
function notify(board: TeamBoard, job: Job, outcome: "done" | "failed"): void {
  const userId = board.owners.get(job.id);
  if (userId === undefined) return;
  const text = outcome === "done" ? `${job.title} is done` : `${job.title} failed: ${job.step}`;
  const notification: Notification = { id: randomUUID(), jobId: job.id, outcome, text, at: Date.now() };
  const { notifications } = store();
  notifications.set(userId, [...(notifications.get(userId) ?? []), notification].slice(-KEPT_NOTIFICATIONS));
  publish(`user ${userId}`, `user.${userId}.notification`, "user.notification", notification);
}

/** A board that looks lived in when it is first seen. */
function seeded(team: Team): TeamBoard {
  const now = Date.now();
  const board: TeamBoard = { team, epoch: now, revision: 1, lastJob: 0, jobs: new Map(), notices: [], owners: new Map() };
  const past: [kind: KindId, by: number, minutesAgo: number, seconds: number, failure?: string][] =
    team.id === "atlas"
      ? [["backup", 2, 94, 212], ["build", 0, 61, 48], ["feed", 1, 38, 21, "Row 4,112 has no price"], ["video", 1, 12, 143]]
      : [["report", 0, 120, 96], ["feed", 0, 55, 34], ["backup", 2, 41, 187], ["report", 1, 9, 88, "The ledger of May is locked"]];
  for (const [kind, by, minutesAgo, seconds, failure] of past) {
    const endedAt = now - minutesAgo * 60_000;
    board.lastJob += 1;
    board.jobs.set(board.lastJob, {
      id: board.lastJob,
      kind,
      title: KINDS[kind].title,
      state: failure ? "failed" : "done",
      progress: failure ? 63 : 100,
      step: failure ?? "Finished",
      startedBy: team.members[by]?.name ?? team.name,
      attempt: 1,
      queuedAt: endedAt - seconds * 1000 - 900,
      startedAt: endedAt - seconds * 1000,
      endedAt,
      epoch: board.epoch,
      revision: board.revision,
    });
  }
  const text = team.id === "atlas" ? "Release 4.2 goes out today. Keep builds green." : "Month end: reports first, please.";
  board.notices.push({ epoch: board.epoch, revision: board.revision, from: team.members[0]?.name ?? team.name, text, at: now - 70 * 60_000 });
  return board;
}
