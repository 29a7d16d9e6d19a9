/** The example, driven as a person would. */
import { type Page } from "@playwright/test";

import { Board } from "./harness/board";
import { BROKEN_LINK, expect, test } from "./harness/fixtures";

/** What Chromium says while the bridge is away and the example answers for it. */
const AWAY = /the server responded with a status of 503/;

test("a job moves for the whole team, its end is told to who started it, and another team sees nothing", async ({ page, site, visitor }) => {
  const ada = await Board.signIn(page, site, "Ada Okafor", "Atlas");
  const jun = await Board.signIn(await visitor(), site, "Jun Park", "Atlas");
  const mira = await Board.signIn(await visitor(), site, "Mira Lindqvist", "Borealis");
  const missed = mira.page.getByRole("article", { name: /^Transcode a video/ });
  const before = await missed.count();

  const job = await ada.startJob("Transcode a video");
  const seen = await Promise.all([ada, jun].map((board) => board.progressOf(job)));
  // All at once: what tells of the end is gone after some seconds.
  await Promise.all([
    expect(ada.page.getByRole("status").getByText("Transcode a video is done")).toBeVisible(),
    ...[ada, jun].map((board) => expect(board.finished(job)).toBeVisible()),
  ]);
  for (const progress of seen) {
    const steps = await progress.jsonValue();
    expect(steps.length).toBeGreaterThan(2);
    expect(steps).toEqual(steps.toSorted((a, b) => a - b));
  }

  await expect(ada.inbox).toHaveAccessibleName("Your notifications, 1 new");
  await ada.inbox.click();
  await expect(ada.page.getByRole("region", { name: "Your notifications" }).getByText("Transcode a video is done")).toBeVisible();
  await expect(jun.inbox).toHaveAccessibleName("Your notifications, 0 new");

  // A notice to Mira's own team is behind all of that in the log: what she has not seen by now never comes.
  await mira.page.getByRole("textbox", { name: "Tell team Borealis" }).fill("Anybody there?");
  await mira.page.keyboard.press("Enter");
  await expect(mira.page.getByText("Anybody there?")).toBeVisible();
  expect(await missed.count()).toBe(before);
  await expect(mira.inbox).toHaveAccessibleName("Your notifications, 0 new");
  for (const board of [ada, jun, mira]) {
    expect(await board.figure("Gaps")).toBe("0");
    expect(await board.figure("Silent losses")).toBe("0");
  }
});

test("a notice reaches the team at once, and nobody of another", async ({ page, site, visitor }) => {
  const ada = await Board.signIn(page, site, "Ada Okafor", "Atlas");
  const sam = await Board.signIn(await visitor(), site, "Sam Carter", "Atlas");
  const samElsewhere = await Board.signIn(await visitor(), site, "Sam Carter", "Borealis");
  await ada.page.getByRole("textbox", { name: "Tell team Atlas" }).fill("Lunch is <b>here</b>");
  await ada.page.getByRole("button", { name: "Send notice" }).click();
  await expect(sam.page.getByText("Lunch is <b>here</b>")).toBeVisible();
  await samElsewhere.page.getByRole("textbox", { name: "Tell team Borealis" }).fill("Not here");
  await samElsewhere.page.keyboard.press("Enter");
  await expect(samElsewhere.page.getByText("Not here")).toBeVisible();
  await expect(samElsewhere.page.getByText("Lunch is")).toHaveCount(0);
});

test("a job that fails says why, can be retried, and one that runs can be cancelled", async ({ page, site }) => {
  const board = await Board.signIn(page, site, "Tomás Reyes", "Borealis");
  const job = await board.startJob("Import a partner feed");
  await expect(board.finished(job)).toContainText("Row 4,112 has no price");
  await board.job(job).getByRole("button", { name: "Retry" }).click();
  await expect(board.job(job)).toContainText("attempt 2");
  await board.job(job).getByRole("button", { name: "Cancel" }).click();
  await expect(board.job(job)).toContainText("Cancelled by Tomás Reyes");
});

test("a cut connection heals by itself with nothing missing", async ({ page, site }) => {
  await page.clock.install();
  const board = await Board.signIn(page, site, "Ada Okafor", "Atlas");
  const job = await board.startJob("Monthly report");
  await expect(board.job(job).getByRole("progressbar")).toBeVisible();
  // A cut lasts 6 seconds. The page's time stands still meanwhile, so that no machine is too slow to look at it.
  await page.clock.pauseAt(await page.evaluate(() => Date.now() + 10_000));
  await board.connection.getByRole("button", { name: "Cut the connection" }).click();
  await expect(board.connection.getByText("Reconnecting", { exact: true })).toBeVisible();
  await expect(board.connection.getByRole("button", { name: /^Cut for/ })).toBeDisabled();
  const progress = () => board.job(job).getByRole("progressbar").getAttribute("aria-valuenow");
  const atCut = await progress();

  // The server has moved on meanwhile, which the page cannot know.
  await expect.poll(async () => (await snapshotJob(page, job)).progress).toBeGreaterThan(Number(atCut));
  expect(await progress()).toBe(atCut);

  await page.clock.fastForward(7_000);
  await page.clock.resume();
  await board.isLive();
  await expect(board.connection.getByText("Back again, and nothing was missed.")).toBeVisible();
  expect(await board.figure("Reconnects")).toBe("1");
  await expect(board.finished(job)).toBeVisible();
  expect(await board.figure("Gaps")).toBe("0");
  expect(await board.figure("Silent losses")).toBe("0");
});

for (const route of ["Through Next.js", "Direct to the bridge"]) {
  test(`while the bridge is killed and started again the page says so, comes back and misses nothing: ${route}`, async ({
    page,
    site,
    expectComplaints,
  }) => {
    expectComplaints(BROKEN_LINK, AWAY);
    const board = await Board.signIn(page, site, "Jun Park", "Atlas");
    await board.connection.getByRole("radio", { name: route }).check();
    await board.isLive();
    const job = await board.startJob("Back up the database");
    await expect(board.job(job).getByRole("progressbar")).toBeVisible();

    await site.bridge.kill();
    await expect(board.connection.getByText("Reconnecting", { exact: true })).toBeVisible();
    await site.bridge.start();
    await board.isLive();
    // At once: each of the two may have to wait for another try to reach the bridge, and the second is gone after some seconds.
    await Promise.all([
      expect(board.finished(job)).toBeVisible(),
      expect(page.getByRole("status").getByText("Back up the database is done")).toBeVisible(),
    ]);
    expect(await board.figure("Gaps")).toBe("0");
    expect(await board.figure("Silent losses")).toBe("0");
    // No script can read what the login consists of.
    expect(await page.evaluate(() => document.cookie)).not.toMatch(/session|token/);
  });
}

test("eight tabs share one connection, and when the one that has it is closed another goes on", async ({ page, context, site }) => {
  test.slow(); // Eight pages, one after the other.
  const boards = [await Board.signIn(page, site, "Mira Lindqvist", "Borealis")];
  const share = (board: Board) => board.connection.getByRole("switch", { name: "One connection for all tabs" }).check();
  await share(boards[0]!);
  for (let number = 2; number <= 8; number += 1) {
    const tab = await context.newPage();
    await tab.goto(site.origin);
    const board = new Board(tab);
    await share(board);
    await board.isLive();
    boards.push(board);
  }
  await expect.poll(() => site.bridge.connections()).toBe(1);
  const [leader, ...followers] = boards;
  const job = await boards[7]!.startJob("Monthly report");
  for (const board of boards) await expect(board.job(job)).toBeVisible();

  await leader!.page.close();
  await expect.poll(() => site.bridge.connections()).toBe(1);
  for (const board of followers) {
    await expect(board.finished(job)).toBeVisible();
    expect(await board.figure("Gaps")).toBe("0");
    expect(await board.figure("Silent losses")).toBe("0");
  }
});

test("the Route Handler passes the stream on as it is, and ends it with its page", async ({ page, site }) => {
  await Board.signIn(page, site, "Sam Carter", "Atlas");
  await expect.poll(() => site.bridge.connections()).toBe(1);
  const stream = await page.evaluateHandle(async () => {
    const request = new AbortController();
    // The answer is kept: a browser may end the stream of one that nobody refers to.
    const answer = await fetch("/api/events", { signal: request.signal });
    return { answer, headers: Object.fromEntries(answer.headers), abort: () => request.abort() };
  });
  await expect.poll(() => site.bridge.connections()).toBe(2);
  const headers = await stream.evaluate(({ headers }) => headers);
  expect(headers).toMatchObject({ "content-type": expect.stringMatching(/^text\/event-stream/), "x-accel-buffering": "no" });
  expect(headers["cache-control"]).toContain("no-transform");
  expect(headers).not.toHaveProperty("content-encoding");
  await stream.evaluate(({ abort }) => abort());
  await expect.poll(() => site.bridge.connections()).toBe(1);
});

test("nobody gets at what is not theirs by asking for it", async ({ page, site, visitor, pages, expectComplaints }) => {
  expectComplaints(/the server responded with a status of 40[13]/, /blocked by CORS policy|net::ERR_FAILED/);
  await Board.signIn(page, site, "Ada Okafor", "Atlas");
  const statusOf = (path: string) => page.evaluate(async (path) => (await fetch(path)).status, path);
  for (const query of ["user_id=jun", "team_id=borealis", "team_id=atlas&team_id=borealis", "all=true", "channel=x", "tenant_id=x"]) {
    expect(await statusOf(`/api/events?${query}`), query).toBe(403);
  }
  const anonymous = await visitor();
  await anonymous.goto(`${site.origin}/sign-in`);
  for (const path of ["/api/events", "/api/snapshot"]) {
    expect(await anonymous.evaluate(async (path) => (await fetch(path)).status, path), path).toBe(401);
  }
  await anonymous.goto(site.origin);
  await expect(anonymous).toHaveURL(`${site.origin}/sign-in`);

  // Another origin's page starts no job with Ada's cookie, though the browser sends it along (the site is the same).
  const before = await jobCount(page);
  const other = await pages();
  const foreign = await page.context().newPage();
  await foreign.goto(other.origin);
  await foreign.evaluate(async (url) => {
    await fetch(url, { method: "POST", mode: "no-cors", credentials: "include", body: JSON.stringify({ kind: "build" }) });
  }, `${site.origin}/api/jobs`);
  expect(await jobCount(page)).toBe(before);
});

/** A job as the server has it. */
function snapshotJob(page: Page, number: number): Promise<{ progress: number }> {
  return page.evaluate(async (number) => {
    const { jobs } = (await (await fetch("/api/snapshot")).json()) as { jobs: { id: number; progress: number }[] };
    return jobs.find(({ id }) => id === number) ?? { progress: 0 };
  }, number);
}

/** How many jobs the server has of the page's team. */
function jobCount(page: Page): Promise<number> {
  return page.evaluate(async () => ((await (await fetch("/api/snapshot")).json()) as { jobs: unknown[] }).jobs.length);
}
