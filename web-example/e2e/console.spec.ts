/** The console, driven as a person would: in `dev` at the root, in `serve` on the admin listener, where it only reads. */
import { type Page } from "@playwright/test";

import { expectAccessible, expectToFitTheWidth, tab, tabTo } from "./harness/axe";
import { BROKEN_LINK, expect, test } from "./harness/fixtures";

const isOpen = (page: Page) => expect(page.locator("#state")).toHaveText("open");
const rows = (page: Page) => page.getByRole("region", { name: "List, newest first" }).getByRole("listitem");

test("in dev somebody publishes an event and sees it arrive, whole", async ({ page, dev }) => {
  const bridge = await dev();
  await page.goto(bridge.origin);
  await isOpen(page);
  const form = page.getByRole("form", { name: "Publish" });
  await form.getByLabel("topic").fill("team.7.job.9.status");
  await form.getByLabel("data").fill('{"job": 9, "text": "<b>größe</b> 🚀"}');
  await form.getByLabel("type").fill("job.status");
  await form.getByRole("button", { name: "Publish" }).click();
  await expect(form.getByRole("status")).toContainText("published and confirmed");

  await expect(rows(page)).toHaveCount(1);
  await expect(rows(page)).toContainText("team.7.job.9.status");
  await rows(page).locator("summary").click();
  await expect(rows(page).locator("pre")).toContainText('"<b>größe</b> 🚀"');
  await expect(page.locator("#count-received")).toHaveText("1");
});

test("in dev the filters narrow what is listed, and what nobody gets is said where messages are judged", async ({ page, dev }) => {
  const bridge = await dev();
  await page.goto(`${bridge.origin}/#team_id=7`);
  await expect(page.getByRole("form", { name: "Connect" }).getByLabel("team_id")).toHaveValue("7");
  await isOpen(page);
  const publish = (topic: string) =>
    page.evaluate((topic) => fetch("/publish", { method: "POST", body: JSON.stringify({ topic, data: 1 }) }).then(({ status }) => status), topic);
  for (const topic of ["team.8.note", "user.42.note", "team.7.note"]) expect(await publish(topic)).toBe(202);
  await expect(rows(page)).toHaveCount(1);
  await expect(rows(page)).toContainText("team.7.note");

  await page.getByRole("radio", { name: "judged" }).check();
  await page.getByRole("form", { name: "Connect" }).getByLabel("team_id").fill("");
  await page.getByRole("button", { name: "Apply filters" }).click();
  await publish("team.bad id.note");
  await expect(rows(page).filter({ hasText: "dead letter" })).toContainText("bad_address");
});

test("in dev the page comes back by itself after the bridge was away", async ({ page, dev, expectComplaints }) => {
  expectComplaints(BROKEN_LINK);
  const bridge = await dev();
  await page.goto(bridge.origin);
  await isOpen(page);
  await bridge.kill();
  await expect(page.locator("#state")).toContainText("reconnecting");
  await bridge.start();
  await isOpen(page);
});

test("in serve the console shows what moves, names no body, and has nothing to publish with", async ({ page, serve, produce }) => {
  const bridge = await serve();
  const producer = await produce();
  const requested: string[] = [];
  page.on("request", (request) => requested.push(new URL(request.url()).origin));
  await page.goto(`${bridge.adminOrigin}/console`);
  await expect(page.getByRole("form", { name: "Publish" })).toHaveCount(0);
  await isOpen(page);

  for (const number of [1, 2, 3]) await producer.publish("team.7.note", { number, secret: "body-that-nobody-shows" }, { type: "note.written" });
  await producer.publishText("team.7.note", "this is not JSON");
  await expect(rows(page)).toHaveCount(4);
  await expect(rows(page).filter({ hasText: "dead letter" })).toContainText("not_json");
  await expect(rows(page).filter({ hasText: "note.written" })).toHaveCount(3);
  await expect(page.locator("#figure-dead .value")).toHaveText("1");
  await expect(page.locator("#now-consumed")).not.toHaveText("–");
  await rows(page).first().locator("summary").click();
  expect(await page.content()).not.toContain("body-that-nobody-shows");
  expect(new Set(requested)).toEqual(new Set([bridge.adminOrigin]));
});

test("in serve a filter that is wrong is told beside it, and a good one narrows the tail", async ({ page, serve, produce, expectComplaints }) => {
  expectComplaints(/the server responded with a status of 400/);
  const bridge = await serve();
  const producer = await produce();
  await page.goto(`${bridge.adminOrigin}/console`);
  const filters = page.getByRole("form", { name: "Filters" });
  await filters.getByLabel("attributes").fill("colour=red");
  await page.getByRole("button", { name: "Apply filters" }).click();
  await expect(page.locator("#reason")).toContainText("colour");
  await filters.getByLabel("attributes").fill("");
  await filters.getByLabel("topic").fill("team.*.job.#");
  await page.getByRole("button", { name: "Apply filters" }).click();
  await isOpen(page);
  await producer.publish("team.7.note", 1);
  await producer.publish("team.7.job.9.status", 2);
  await expect(rows(page)).toHaveCount(1);
  await expect(rows(page)).toContainText("team.7.job.9.status");
});

test("the console works by keyboard, and the focus can always be seen", async ({ page, dev }) => {
  const bridge = await dev();
  await page.goto(bridge.origin);
  expect(await tab(page)).toBe("Skip to the events");
  await isOpen(page);
  await tabTo(page, /^Disconnect$/);
  await page.keyboard.press("Enter");
  await expect(page.locator("#state")).toHaveText("closed");
  await page.keyboard.press("Enter");
  await isOpen(page);
  await tabTo(page, /^data/);
  await page.keyboard.press("Control+Enter");
  await expect(rows(page)).toHaveCount(1);
  await tabTo(page, /^List, newest first$/);
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Enter");
  await expect(rows(page).locator("pre")).toBeVisible();
});

for (const [name, size] of [
  ["a desktop", { width: 1280, height: 800 }],
  ["a phone", { width: 360, height: 740 }],
] as const) {
  for (const colorScheme of ["light", "dark"] as const) {
    test(`nothing serious keeps anybody out of the console, on ${name}, ${colorScheme}`, async ({ page, dev, serve, produce }) => {
      await page.setViewportSize(size);
      await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
      const inMemory = await dev();
      await page.goto(inMemory.origin);
      await isOpen(page);
      await page.evaluate(() => fetch("/publish", { method: "POST", body: JSON.stringify({ topic: "team.7.note", data: { a: 1 } }) }));
      await expect(rows(page)).toHaveCount(1);
      await rows(page).locator("summary").click();
      await expectAccessible(page);
      await expectToFitTheWidth(page);
      await page.screenshot({ path: test.info().outputPath("dev.png"), fullPage: true });

      const bridge = await serve();
      const producer = await produce();
      await page.goto(`${bridge.adminOrigin}/console`);
      await isOpen(page);
      await producer.publish("team.7.note", 1, { type: "note.written" });
      await producer.publishText("team.7.note", "this is not JSON");
      await expect(rows(page)).toHaveCount(2);
      await expectAccessible(page);
      await expectToFitTheWidth(page);
      await page.screenshot({ path: test.info().outputPath("serve.png"), fullPage: true });
    });
  }
}
