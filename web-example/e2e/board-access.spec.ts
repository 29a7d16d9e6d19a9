/** The example for everybody: without a script, by keyboard, in light and dark, on a desktop and on a phone. */
import { expectAccessible, expectToFitTheWidth, tab, tabTo } from "./harness/axe";
import { Board } from "./harness/board";
import { expect, test } from "./harness/fixtures";

test("signing in needs no script, and signing out takes back what the browser was given", async ({ browser, page, site }) => {
  const context = await browser.newContext({ javaScriptEnabled: false });
  try {
    const plain = await context.newPage();
    await plain.goto(site.origin);
    await plain.getByRole("button", { name: "Sign in as Jun Park, team Atlas" }).click();
    await expect(plain.getByRole("heading", { level: 1, name: "Team Atlas" })).toBeVisible();
    await expect(plain.getByRole("article").first()).toBeVisible();
  } finally {
    await context.close();
  }
  const board = await Board.signIn(page, site, "Jun Park", "Atlas");
  await board.connection.getByRole("radio", { name: "Direct to the bridge" }).check();
  const cookies = async () => (await page.context().cookies(`${site.origin}/events`)).map(({ name }) => name).sort();
  await expect.poll(cookies).toEqual(["board_session", "board_token"]);
  await page.getByRole("button", { name: "Account of Jun Park" }).click();
  await page.getByRole("button", { name: "Sign out" }).click();
  await expect(page).toHaveURL(`${site.origin}/sign-in`);
  expect(await cookies()).toEqual([]);
  await page.goto(site.origin);
  await expect(page).toHaveURL(`${site.origin}/sign-in`);
});

test("the theme goes from the system's to light to dark, and is there at once on the next page", async ({ page, site }) => {
  await page.emulateMedia({ colorScheme: "dark" });
  await page.goto(site.origin);
  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const dark = await ground();
  await page.getByRole("button", { name: "Theme: system. Change to light" }).click();
  await expect.poll(ground).not.toBe(dark);
  const light = await ground();
  await page.getByRole("button", { name: "Theme: light. Change to dark" }).click();
  await expect.poll(ground).toBe(dark);
  await page.emulateMedia({ colorScheme: "light" });
  expect(await ground()).toBe(dark);
  await page.reload();
  expect(await ground()).toBe(dark);
  await page.getByRole("button", { name: "Theme: dark. Change to system" }).click();
  await expect.poll(ground).toBe(light);
});

test("all of it works by keyboard, and the focus can always be seen", async ({ page, site }) => {
  await page.goto(site.origin);
  await tabTo(page, /^Sign in as Ada Okafor, team Atlas$/);
  await page.keyboard.press("Enter");
  await expect(page.getByRole("heading", { level: 1, name: "Team Atlas" })).toBeVisible();
  const board = new Board(page);
  await board.isLive();

  await page.reload();
  await board.isLive();
  expect(await tab(page)).toBe("Skip to the board");
  await page.keyboard.press("Enter");
  await expect(page.getByRole("main")).toBeFocused();
  await tabTo(page, /^Kind of job/);
  await page.keyboard.press("t");
  await tabTo(page, /^Start job$/);
  await page.keyboard.press("Enter");
  await expect(page.getByRole("article", { name: /^Transcode a video/ }).getByRole("progressbar").first()).toBeVisible();

  await tabTo(page, /^Cut the connection$/);
  await page.keyboard.press("Space");
  await expect(board.connection.getByText("Reconnecting", { exact: true })).toBeVisible();
  await board.isLive();

  await page.reload();
  await tabTo(page, /^Your notifications/);
  await page.keyboard.press("Enter");
  await expect(page.getByRole("region", { name: "Your notifications" })).toBeVisible();
  await page.keyboard.press("Escape");
  await expect(page.getByRole("region", { name: "Your notifications" })).toBeHidden();
  await expect(board.inbox).toBeFocused();
});

for (const [name, size] of [
  ["a desktop", { width: 1280, height: 800 }],
  ["a phone", { width: 360, height: 740 }],
] as const) {
  for (const colorScheme of ["light", "dark"] as const) {
    test(`nothing serious keeps anybody out, on ${name}, ${colorScheme}`, async ({ page, site }) => {
      // Every part of the page is looked at, three times.
      test.slow();
      await page.setViewportSize(size);
      await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
      await page.goto(site.origin);
      await expectAccessible(page);
      await expectToFitTheWidth(page);
      const board = await Board.signIn(page, site, "Ada Okafor", "Atlas");
      const job = await board.startJob("Monthly report");
      await expect(board.job(job).getByRole("progressbar")).toBeVisible();
      await board.connection.getByText("Latest events").click();
      await expectAccessible(page);
      await expectToFitTheWidth(page);
      await page.screenshot({ path: test.info().outputPath("board.png"), fullPage: true });
      // A job that ends brings a toast, a notification, and a button to try again.
      const cancelled = await board.startJob("Monthly report");
      await board.job(cancelled).getByRole("button", { name: "Cancel" }).click();
      await expect(board.job(cancelled).getByRole("button", { name: "Retry" })).toBeVisible();
      await board.inbox.click();
      await expect(page.getByRole("region", { name: "Your notifications" }).getByText(`#${cancelled}`)).toBeVisible();
      await expectAccessible(page);
      await page.screenshot({ path: test.info().outputPath("inbox.png") });
      // Nothing that was started here goes on in a later test, and tells Ada of its end there.
      await expect(board.job(job)).toContainText("Done");
    });
  }
}
