/** The keyboard's place on the board: whatever moves or goes there, the focus does not fall out of the page's order. */
import { Board } from "./harness/board";
import { expect, test } from "./harness/fixtures";

test("the focus goes along with a job that is cancelled, is retried, and ends by itself", async ({ page, site }) => {
  const board = await Board.signIn(page, site, "Tomás Reyes", "Borealis");
  const card = board.job(await board.startJob("Monthly report"));
  // From here on it stays where it is for some seconds.
  await expect(card.getByRole("progressbar")).toBeVisible();
  await card.getByRole("button", { name: "Cancel" }).press("Enter");
  await expect(card).toContainText("Cancelled by Tomás Reyes");
  await expect(card).toBeFocused();

  await page.keyboard.press("Tab");
  await expect(card.getByRole("button", { name: "Retry" })).toBeFocused();
  await page.keyboard.press("Enter");
  await expect(card.getByRole("progressbar")).toBeVisible();
  await expect(card).toBeFocused();

  // Nobody does anything: it ends, and the button to cancel it is gone.
  await card.getByRole("button", { name: "Cancel" }).focus();
  await expect(card).toContainText("Done");
  await expect(card).toBeFocused();
});

test("a job that moves does not take the focus from who has left it", async ({ page, site }) => {
  const board = await Board.signIn(page, site, "Tomás Reyes", "Borealis");
  const card = board.job(await board.startJob("Transcode a video"));
  await expect(card.getByRole("progressbar")).toBeVisible();
  await card.getByRole("button", { name: "Cancel" }).focus();
  // Nothing has it.
  await page.getByRole("heading", { level: 1 }).click();
  await expect(card).toContainText("Done");
  await expect(card).not.toBeFocused();
});

test("where more of a column is shown the focus goes to the first of what is new", async ({ page, site }) => {
  const board = await Board.signIn(page, site, "Tomás Reyes", "Borealis");
  const more = board.column("Finished").getByRole("button", { name: /^Show \d+ more in Finished$/ });
  const finished = board.column("Finished").getByRole("article");
  // Until there are enough that have ended. None of them goes on in a later test.
  while (!(await more.isVisible())) {
    const card = board.job(await board.startJob("Monthly report"));
    await expect(card.getByRole("progressbar")).toBeVisible();
    await card.getByRole("button", { name: "Cancel" }).press("Enter");
    await expect(card).toContainText("Cancelled by Tomás Reyes");
  }
  const shown = await finished.count();
  await more.press("Enter");
  await expect(more).toBeHidden();
  await expect(finished.nth(shown)).toBeFocused();
});

test("the button that cuts the connection keeps the focus while it can do nothing", async ({ page, site }) => {
  const board = await Board.signIn(page, site, "Ada Okafor", "Atlas");
  await board.connection.getByRole("button", { name: "Cut the connection" }).press("Enter");
  const cut = board.connection.getByRole("button", { name: /^Cut for/ });
  await expect(cut).toBeDisabled();
  await expect(cut).toBeFocused();
  await board.isLive();
  await expect(board.connection.getByRole("button", { name: "Cut the connection" })).toBeFocused();
});

test("a notice that is not taken stays in its line, and one that is taken goes", async ({ page, site, expectComplaints }) => {
  expectComplaints(/the server responded with a status of 503/);
  const board = await Board.signIn(page, site, "Ada Okafor", "Atlas");
  const line = page.getByRole("textbox", { name: "Tell team Atlas" });
  await page.route("**/api/notices", (route) => route.fulfill({ status: 503, json: { detail: "The bridge is away." } }), { times: 1 });
  await line.fill("Tea is ready");
  await line.press("Enter");
  await expect(page.getByRole("status").getByText("The bridge is away.")).toBeVisible();
  await expect(line).toHaveValue("Tea is ready");
  await line.press("Enter");
  await expect(board.page.getByRole("listitem").getByText("Tea is ready")).toBeVisible();
  await expect(line).toHaveValue("");
});
