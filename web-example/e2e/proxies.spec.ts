/** The example behind proxies, as far as they are heard: what they say of the browser's request. */
import { Board } from "./harness/board";
import { expect, test } from "./harness/fixtures";

test("behind two proxies that both name a host the page is there, with the one that the browser asked", async ({ page, site }) => {
  await Board.signIn(page, site, "Ada Okafor", "Atlas");
  const answer = await page.request.get(site.origin, { headers: { "X-Forwarded-Host": "board.example, inner.example" } });
  expect(answer.status()).toBe(200);
  expect(await answer.text()).toContain(`http://board.example:${site.bridge.port}/events`);
});
